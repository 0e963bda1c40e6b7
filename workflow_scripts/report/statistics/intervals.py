"""An estimate with its interval, by the rules at the head of the package."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import betaincinv, stdtrit

from workflow_scripts.report.statistics.cells import Cell, check_cells, is_plain_rate, is_refitted
from workflow_scripts.report.statistics.draws import bootstrap, percentiles
from workflow_scripts.report.statistics.estimators import SCALES, is_logarithmic, point_estimate
from workflow_scripts.report.statistics.two_level import spread_of

# Differences below this, relative to the estimate, are rounding and count as none: models compute in seven digits.
ROUNDING = 1e-9
ALIKE = 0.01  # of a scale: items that differ by less agree
LARGEST_EXPONENT = 700.0  # of e, that a float can hold
ONE_GROUP = "one group: no interval"
ALL_EQUAL = "all values equal: no interval"
NOT_FINITE = "draws that are not finite: no interval"


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the metric's own unit; where it has none, low and high are None.

    method: wilson, korn_graubard, bootstrap or replicates over groups of items; of several seeds two_level_t,
    two_level_log_t or two_level_korn_graubard over seeds and groups; "" without an interval. note: why there is none,
    or what to know about it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    method: str = ""
    note: str = ""


def interval(
    cells: Sequence[Cell],
    draws: int,
    seed: int,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Return the estimate and its interval, by the rules at the head of the package.

    cells: one policy's seeds on the same items; of several the interval is over seeds and groups, of one over groups
    alone, given that training. bounds: see bounds_of. Percentile intervals are a little narrow
    below about 20 groups, and where so few groups cannot speak as clearly as `confidence` asks (see
    paired_difference) a note says so. Raises ValueError when items differ (see shared_items).
    """
    check_cells(cells)
    value = point_estimate(cells)
    if len(set(cells[0].groups)) < 2:
        return Interval(value, note=ONE_GROUP)
    if len(cells) > 1:
        return _over_seeds(cells, value, confidence, bounds)
    cell = cells[0]
    if bounds:
        items = cell.columns["value"]
        binary = bounds == (0, 1) and bool(np.isin(items, bounds).all())
        if binary and is_plain_rate(cells) and cell.estimator == "mean":
            return Interval(value, *wilson(int(items.sum()), len(items), confidence), method="wilson")
        return Interval(value, *korn_graubard(cell, items, bounds, confidence), method="korn_graubard")
    samples = bootstrap(cell, draws, seed)
    if not np.isfinite(samples).all():
        return Interval(value, note=NOT_FINITE)
    if np.ptp(samples) <= ROUNDING * max(1.0, abs(value)):
        return Interval(value, note=ALL_EQUAL)
    method = "replicates" if is_refitted(cell) else "bootstrap"
    return Interval(
        value, *percentiles(samples, confidence), method=method, note=_few_groups(cell.groups, confidence)
    )


def _over_seeds(
    cells: Sequence[Cell], value: float, confidence: float, bounds: tuple[float, float] | None
) -> Interval:
    """Return the interval of several seeds' mean over seeds and groups (see two_level).

    What has a scale keeps to it, as Korn and Graubard's does (see korn_graubard); a perplexity's is symmetric in nats.
    Where no seed and no group differs, items with bounds have the interval of groups that agree: that trainings may
    come out otherwise, too, is what such data cannot rule out, and is not in it.
    """
    spread = spread_of(cells)
    error = spread.standard_error
    if not math.isfinite(error):
        return Interval(value, note=NOT_FINITE)
    scale = bounds or SCALES.get(cells[0].estimator)
    agree = error <= ROUNDING * max(1.0, abs(value))
    if bounds and (
        agree or np.ptp([cell.columns["value"] for cell in cells]) < ALIKE * (bounds[1] - bounds[0])
    ):
        ends = _where_groups_agree(cells[0], value, bounds, confidence)
        return Interval(value, *ends, method="two_level_korn_graubard")
    if agree:
        return Interval(value, note=ALL_EQUAL)
    quantile = spread.quantile(0.5 + confidence / 2)
    if is_logarithmic(cells[0]):
        factor = math.exp(min(quantile * error / value, LARGEST_EXPONENT))
        return Interval(value, value / factor, value * factor, method="two_level_log_t")
    if scale and scale[0] < value < scale[1]:
        low, high = scale
        rate, width = (value - low) / (high - low), high - low
        items = len(cells[0].items)
        shrunk = (stdtrit(items - 1, 0.5 + confidence / 2) / quantile) ** 2
        ends = _beta_ends(rate, rate * (1 - rate) / (error / width) ** 2 * shrunk, (1 - confidence) / 2)
        return Interval(value, low + width * ends[0], low + width * ends[1], method="two_level_korn_graubard")
    half = quantile * error
    return Interval(value, value - half, value + half, method="two_level_t")


def _few_groups(groups: Sequence[str], confidence: float) -> str:
    count = len(set(groups))
    if least_of_coins(count) <= 1 - confidence:
        return ""
    return f"{count} groups: the interval is narrower than {100 * confidence:g} %"


def least_of_coins(groups: int) -> float:
    """Return the two-sided p-value of so many coins that fall alike: groups of any size speak no more clearly."""
    return 2.0 ** (1 - groups) if groups else 1.0


def korn_graubard(
    cell: Cell, items: np.ndarray, bounds: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float]:
    """Return Korn and Graubard's interval of a weighted mean of bounded items (1998, Survey Methodology 24, 193-201).

    items (items,): the cell's values, or their means over seeds. On the scale from 0 to 1 a mean p whose variance
    over G groups is v (linearised) is worth p (1 - p) / v independent trials; these, shrunk by the square of t's
    quotient at n - 1 and G - 1 degrees of freedom, have Clopper and Pearson's interval. So it stays inside the
    bounds, is wider towards the middle, and allows for few groups.

    Where all groups agree (or all items, to a hundredth of the scale: a reward model's 0.9999 is a 1 for this), v says
    nothing of what else there may be, nor of how items of a group hang together. Then at most a share q
    of all groups can be another, and what these have is within the bounds: from p (1 - q) to p (1 - q) + q, with
    Clopper and Pearson's q for none of as many trials as there are effective groups, (Σ w)² / Σ w², w a group's weight
    (Kish 1965, §11.7): the rule of three, at 0 and 1 their own interval.
    """
    low, high = bounds
    weights, centres = item_weights(cell, items)
    of_group = np.unique(np.asarray(cell.groups, dtype=str), return_inverse=True)[1]
    groups, tail = int(of_group.max()) + 1, (1 - confidence) / 2
    value = float(weights @ items)
    rate = _on_unit(value, bounds)
    apart = np.bincount(of_group, weights * (items - centres) / (high - low))
    variance = groups / (groups - 1) * float(apart @ apart)
    if variance <= ROUNDING**2 or np.ptp(items - centres) < ALIKE * (high - low):
        return _where_groups_agree(cell, value, bounds, confidence)
    shrunk = (stdtrit(len(items) - 1, 1 - tail) / stdtrit(groups - 1, 1 - tail)) ** 2
    ends = _beta_ends(rate, rate * (1 - rate) / variance * shrunk, tail)
    return low + (high - low) * ends[0], low + (high - low) * ends[1]


def _on_unit(value: float, bounds: tuple[float, float]) -> float:
    """Return a value on the scale from 0 to 1; 0 and 1 are ends, not nearly so."""
    rate = (value - bounds[0]) / (bounds[1] - bounds[0])
    return float(round(rate)) if abs(rate - round(rate)) < ROUNDING else rate


def _beta_ends(rate: float, trials: float, tail: float) -> tuple[float, float]:
    """Return Clopper and Pearson's ends of a rate of so many trials, which need not be whole."""
    hits = rate * trials
    low, high = betaincinv(hits, trials - hits + 1, tail), betaincinv(hits + 1, trials - hits, 1 - tail)
    return max(0.0, float(low)), min(1.0, float(high))


def _where_groups_agree(
    cell: Cell, value: float, bounds: tuple[float, float], confidence: float
) -> tuple[float, float]:
    """Return the interval of a mean of items whose groups agree, by the share of groups that may be otherwise."""
    low, high = bounds
    weights, _ = item_weights(cell, np.zeros(len(cell.items)))
    of_group = np.unique(np.asarray(cell.groups, dtype=str), return_inverse=True)[1]
    unseen = unseen_share(np.bincount(of_group, weights), (1 - confidence) / 2)
    least = _on_unit(value, bounds) * (1 - unseen)
    return low + (high - low) * max(0.0, least), low + (high - low) * min(1.0, least + unseen)


def item_weights(cell: Cell, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each item's weight in a linear estimator, and the mean of its stratum, both (items,)."""
    if cell.estimator == "mean":
        return np.full(len(items), 1 / len(items)), np.full(len(items), items.mean())
    of_stratum = np.unique(cell.columns["stratum"], return_inverse=True)[1]
    sizes = np.bincount(of_stratum)
    return (1 / (len(sizes) * sizes))[of_stratum], (np.bincount(of_stratum, items) / sizes)[of_stratum]


def unseen_share(weights: np.ndarray, tail: float) -> float:
    """Return the largest share of groups that can be otherwise where none was seen, from the groups' weights."""
    return 1 - tail ** (float(weights @ weights) / float(weights.sum()) ** 2)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a rate (Wilson 1927): it has a width even where no trial, or each, succeeds."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, shrunk = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrunk
    half = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) / shrunk
    return max(0.0, centre - half), min(1.0, centre + half)
