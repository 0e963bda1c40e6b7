"""Two policies on the same items: their paired difference, tests of it, and what could have been seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from workflow_scripts.report.statistics.cells import COLUMNS, LABEL_COLUMNS, Cell, check_cells, is_refitted
from workflow_scripts.report.statistics.draws import bootstrap, percentiles
from workflow_scripts.report.statistics.estimators import SCALES, point_estimate
from workflow_scripts.report.statistics.intervals import (
    NOT_FINITE,
    ONE_GROUP,
    ROUNDING,
    Interval,
    item_weights,
    least_of_coins,
    unseen_share,
)
from workflow_scripts.report.statistics.two_level import spread_of_difference

POWER = 0.8


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with its interval, its two-sided p-value and the smallest that could have been detected.

    least_p_value: the least that the p-value could have been, by so many draws, replicates or groups; limit: which, ""
    where nothing limits it. detectable: the smallest true difference that a two-sided test at 1 - confidence finds
    with 80 % power; 0 where no draw differs from another.
    """

    p_value: float = 1.0
    least_p_value: float = 1.0
    limit: str = ""
    detectable: float = 0.0


def paired_difference(
    first: Sequence[Cell],
    second: Sequence[Cell],
    draws: int,
    seed: int,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
    same_seeds: bool = True,
) -> Difference:
    """Return `first` minus `second` on the same items, with interval and p-value.

    Of one cell on each side they are over groups, given these trainings: both have the same draws. The p-value is
    2 (1 + #) / (draws + 1), # the draws on the rarer side of zero (zeros count on both sides), at most
    1. Groups that do not differ say nothing, and D that do, of any size, cannot speak more clearly than D coins that
    fall alike (as the sign test has it): so it is at least 2^(1-D), and where that is above 1 - confidence, the
    interval reaches to zero. Where a side has several seeds, all is over seeds and groups (see two_level): paired by
    seed where same_seeds says that both sides have the same ones in one order.

    Where no draw differs from another, items with bounds have the interval that
    korn_graubard gives groups that agree, as each difference lies within the bounds' own; all else has none. Raises
    ValueError when items differ (see shared_items).
    """
    check_cells([*first, *second])
    ours, theirs = point_estimate(first), point_estimate(second)
    scale = ROUNDING * max(1.0, abs(ours))
    value = ours - theirs
    value = 0.0 if abs(value) < scale else value
    groups = len(set(first[0].groups))
    if groups < 2:
        return Difference(value, note=ONE_GROUP)
    if len(first) > 1 or len(second) > 1:
        paired = same_seeds and len(first) == len(second)
        return _over_seeds(first, second, paired, value, confidence, bounds)
    with np.errstate(invalid="ignore"):  # of two that are infinite
        samples = bootstrap(first[0], draws, seed) - bootstrap(second[0], draws, seed)
    if not np.isfinite(samples).all():
        return Difference(value, note=f"difference: {NOT_FINITE}")
    samples[np.abs(samples) < scale] = 0.0
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    drawn = f"{len(samples)} {'replicates' if is_refitted(first[0]) else 'draws'}"
    least, limit = max((2 / (len(samples) + 1), drawn), (least_of_coins(groups), f"{groups} groups"))
    coins = least_of_coins(_groups_apart(first[0], second[0]))
    p_value = min(1.0, max(2 * (1 + rarer) / (len(samples) + 1), coins))
    known = {"p_value": p_value, "least_p_value": min(1.0, least), "limit": limit}
    if np.ptp(samples) <= scale:
        return _all_alike(first[0], value, confidence, bounds, known)
    low, high = percentiles(samples, confidence)
    if coins > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    method = "replicates" if is_refitted(first[0]) else "bootstrap"
    known["detectable"] = minimum_detectable(float(samples.std()), confidence)
    return Difference(value, low, high, method=method, **known)


def _over_seeds(
    first: Sequence[Cell],
    second: Sequence[Cell],
    paired: bool,
    value: float,
    confidence: float,
    bounds: tuple[float, float] | None,
) -> Difference:
    """Return a difference whose interval is over seeds and groups; of what has a scale it keeps within its width."""
    spread = spread_of_difference(first, second, paired)
    error = spread.standard_error
    if not math.isfinite(error):
        return Difference(value, note=f"difference: {NOT_FINITE}")
    if error <= ROUNDING * max(1.0, abs(value)):
        return _all_alike(first[0], value, confidence, bounds, {})
    half = spread.quantile(0.5 + confidence / 2) * error
    low, high = value - half, value + half
    if scale := bounds or SCALES.get(first[0].estimator):
        width = scale[1] - scale[0]
        low, high = max(-width, low), min(width, high)
    detectable = half + spread.quantile(POWER) * error
    p_value = spread.p_value(value)
    return Difference(
        value, low, high, method="two_level_t", p_value=p_value, least_p_value=0.0, detectable=detectable
    )


def _all_alike(
    cell: Cell, value: float, confidence: float, bounds: tuple[float, float] | None, known: dict
) -> Difference:
    """Return a difference of which no draw differs from another; `cell` has its items and groups.

    known: what Difference has beside value and interval. See paired_difference for its interval, if any.
    """
    if not bounds:
        note = "no item differs: no interval of the difference"
        if value:
            note = "all differences equal: no interval of them"
        return Difference(value, note=note, **known)
    width = bounds[1] - bounds[0]
    weights, _ = item_weights(cell, np.zeros(len(cell.items)))
    weights = np.bincount(np.unique(cell.groups, return_inverse=True)[1], weights)
    unseen = unseen_share(weights, (1 - confidence) / 2)
    middle, reach = value * (1 - unseen), width * unseen
    low, high = max(-width, middle - reach), min(width, middle + reach)
    return Difference(value, low, high, method="korn_graubard", **known)


def _groups_apart(first: Cell, second: Cell) -> int:
    """Return how many groups have an item that is not the same on both sides; of refits, all groups."""
    if is_refitted(first):
        return len(set(first.groups))
    return len(set(np.asarray(first.groups, dtype=str)[items_apart(first, second)]))


def items_apart(first: Cell, second: Cell) -> np.ndarray:
    """Return which items (n,) are not the same on both sides, by more than rounding of sums."""
    apart = np.zeros(len(first.items), dtype=bool)
    for name in COLUMNS[first.estimator]:
        ours, theirs = first.columns[name], second.columns[name]
        if name in LABEL_COLUMNS:
            apart |= ours != theirs
        else:
            apart |= np.abs(ours - theirs) > ROUNDING * np.maximum(1.0, np.abs(ours))
    return apart


def minimum_detectable(standard_error: float, confidence: float = 0.95, power: float = POWER) -> float:
    """Return the smallest true difference that a two-sided test at 1 - confidence finds with this power.

    (z of 1 - (1 - confidence) / 2 plus z of the power) times the standard error: 2.80 of them by default.
    """
    normal = NormalDist()
    return (normal.inv_cdf(0.5 + confidence / 2) + normal.inv_cdf(power)) * standard_error


def mcnemar(first: Cell, second: Cell) -> float:
    """Return the exact two-sided p-value that the items on which two plain rates disagree are a fair coin's.

    McNemar 1947; the binomial in whole numbers. Same items in one order, each 0 or 1 and its own group.
    """
    better = int((first.columns["value"] > second.columns["value"]).sum())
    worse = int((first.columns["value"] < second.columns["value"]).sum())
    tosses = better + worse
    ways = total = 1  # of no success; then of one more each
    for successes in range(min(better, worse)):
        ways = ways * (tosses - successes) // (successes + 1)
        total += ways
    return min(1.0, 2 * total / 2**tosses)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values in the order given (Holm 1979): family-wise error without assumptions."""
    count = len(p_values)
    order = np.argsort(np.asarray(p_values, dtype=float), kind="stable")
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(
        1.0, np.maximum.accumulate(np.asarray(p_values)[order] * (count - np.arange(count)))
    )
    return [float(value) for value in adjusted]
