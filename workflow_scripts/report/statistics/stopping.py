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

shared: what S seeds have in common when G groups of items are drawn anew, the mean covariance of their bootstrap draws.
Not covered: seeds that are far from normal (one of ten that collapses), and the interval of a difference.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from workflow_scripts.report.statistics.cells import Cell, can_resample
from workflow_scripts.report.statistics.draws import bootstrap
from workflow_scripts.report.statistics.estimators import point_estimate


class Spread(NamedTuple):
    """What the first seeds of a policy say of chance.

    variance: of their estimates around their mean, one seed's; shared: what the choice of the items alone adds to the
    mean of any number of seeds; both in the unit of the estimate, squared. seeds and groups are how many they are of.
    """

    variance: float
    shared: float
    seeds: int
    groups: int


def spread_of(cells: Sequence[Cell], draws: int, seed: int) -> Spread:
    """Return the spread of a policy's first seeds; cells: one for each, at least two, on the same items.

    Where the draws cannot be compared (refits on other items), or there is one group, items count for nothing. `shared`
    is not finite where a draw's estimate is not.
    """
    estimates = [point_estimate([cell]) for cell in cells]
    groups = len(set(cells[0].groups))
    shared = 0.0
    if groups > 1 and can_resample(cells):
        covariance = np.cov([bootstrap(cell, draws, seed) for cell in cells])
        count = len(cells)
        between = (covariance.sum() - np.trace(covariance)) / (count * (count - 1))
        found = float(between) * groups / (groups - 1)  # a draw of G groups varies by (G - 1) / G of it
        shared = 0.0 if found < 0 else found
    return Spread(float(np.var(estimates, ddof=1)), shared, len(cells), groups)


def t_quantile(degrees: int, confidence: float) -> float:
    """Return the two-sided quantile of Student's t."""
    return float(stdtrit(degrees, (1 + confidence) / 2))


def of_items(spread: Spread, confidence: float) -> float:
    """Return half the width that the interval keeps with any number of seeds: what the items alone leave open."""
    return t_quantile(max(1, spread.groups - 1), confidence) * math.sqrt(spread.shared)


def half_width(spread: Spread, seeds: int, confidence: float) -> float:
    """Return half the width of the interval of the mean over so many seeds, the first ones among them."""
    of_seeds = t_quantile(spread.seeds - 1, confidence) * math.sqrt(spread.variance / seeds)
    return math.hypot(of_seeds, of_items(spread, confidence))


def seeds_needed(spread: Spread, until: float, confidence: float) -> float:
    """Return how many seeds make half the width of the interval at most `until`: at least the first ones.

    Infinite where the items alone are wider than that.
    """
    room = until**2 - of_items(spread, confidence) ** 2
    if room <= 0:
        return math.inf
    needed = t_quantile(spread.seeds - 1, confidence) ** 2 * spread.variance / room
    return max(spread.seeds, math.ceil(needed))
