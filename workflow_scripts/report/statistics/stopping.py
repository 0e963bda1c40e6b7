"""How many seeds an interval takes: fixed once, from the first ones, by Stein's two-stage procedure.

Whoever looks after every seed and stops where the interval happens to be narrow stops where the seeds happen to agree,
and an interval made of these covers less than it says. So there is one look: the first S seeds have a mean and a
variance, and of these the variance alone says how many seeds n there are to be. Of normal seeds the mean of all n does
not depend on the variance of the first S, so the mean ± t(S-1) s / √n covers at the level it names whatever n was
chosen, where s² is the variance of the first S and stays so: Stein 1945, "A two-sample test for a linear hypothesis
whose power is independent of the variance", Annals of Mathematical Statistics 16, 243-258.

More seeds answer the same items, whose choice is the other part of chance and does not shrink. The two are added as
Banerjee 1960, "Approximate confidence interval for linear functions of means of k populations when the population
variances are not equal", Sankhya 22, 357-358, adds independent means: each variance by the square of its own t. That
covers at least at the level, however the two variances compare:

    half width² = t(S-1)² s² / n + t(G-1)² shared

The variances are those of the table's intervals (see two_level). Where all seeds have been run, the table takes the
variance of all; that interval is not this one, and covers a little less, as the number of seeds hung on a part of them
(benchmarks/stopping.py measures by how much).

Not covered: seeds that are far from normal (one of ten that collapses), and the interval of a difference.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from workflow_scripts.report.statistics.cells import Cell
from workflow_scripts.report.statistics.two_level import spread_of


class FirstSeeds(NamedTuple):
    """What the first seeds of a policy say of chance, in the unit of their estimates, squared.

    variance: of one seed's estimate; shared: what the choice of the items adds to the mean of any number of seeds;
    seeds and groups are how many they are of.
    """

    variance: float
    shared: float
    seeds: int
    groups: int


def first_seeds_of(cells: Sequence[Cell]) -> FirstSeeds:
    """Return what the first seeds say; cells: one for each, two or more, on the same items of two or more groups."""
    (of_seeds, _), (of_items, _) = spread_of(cells).parts
    return FirstSeeds(of_seeds * len(cells), of_items, len(cells), len(set(cells[0].groups)))


def t_quantile(degrees: int, confidence: float) -> float:
    """Return the two-sided quantile of Student's t."""
    return float(stdtrit(degrees, (1 + confidence) / 2))


def items_alone(first: FirstSeeds, confidence: float) -> float:
    """Return half the width that the interval keeps with any number of seeds: what the items alone leave open."""
    return t_quantile(first.groups - 1, confidence) * math.sqrt(first.shared)


def half_width(first: FirstSeeds, seeds: int, confidence: float) -> float:
    """Return half the width of the interval of the mean over so many seeds, the first ones among them."""
    of_seeds = t_quantile(first.seeds - 1, confidence) * math.sqrt(first.variance / seeds)
    return math.hypot(of_seeds, items_alone(first, confidence))


def seeds_needed(first: FirstSeeds, until: float, confidence: float) -> float:
    """Return how many seeds make half the width of the interval at most `until`: at least the first ones.

    Infinite where the items alone are wider than that.
    """
    room = until**2 - items_alone(first, confidence) ** 2
    if room <= 0:
        return math.inf
    needed = t_quantile(first.seeds - 1, confidence) ** 2 * first.variance / room
    return max(first.seeds, math.ceil(needed))
