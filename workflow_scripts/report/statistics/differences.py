"""Two policies on the same items: their paired difference, tests of it, and what could have been seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from workflow_scripts.report.statistics.cells import COLUMNS, LABEL_COLUMNS, Cell, check_cells, is_refitted
from workflow_scripts.report.statistics.draws import averaged_draws, percentiles
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.report.statistics.intervals import (
    NOT_FINITE,
    ONE_GROUP,
    ROUNDING,
    Interval,
    item_weights,
    least_of_coins,
    unseen_share,
)


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with its interval, its two-sided p-value and its bootstrap standard error.

    least_p_value: the least that the p-value could have been, by so many draws, replicates or groups; limit: which.
    """

    p_value: float = 1.0
    least_p_value: float = 1.0
    limit: str = ""
    standard_error: float = 0.0


def paired_difference(
    first: Sequence[Cell],
    second: Sequence[Cell],
    draws: int,
    seed: int,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Difference:
    """Return `first` minus `second` on the same items under the same draws, with interval and p-value.

    The p-value is 2 (1 + #) / (draws + 1), # the draws on the rarer side of zero (zeros count on both sides), at most
    1. Groups that do not differ say nothing, and D that do, of any size, cannot speak more clearly than D coins that
    fall alike (as the sign test has it): so it is at least 2^(1-D), and where that is above 1 - confidence, the
    interval reaches to zero. Where no draw differs from another, items with bounds have the interval that
    korn_graubard gives groups that agree, as each difference lies within the bounds' own; all else has none. Raises
    ValueError when items differ (see shared_items).
    """
    check_cells([*first, *second])
    value = point_estimate(first) - point_estimate(second)
    scale = ROUNDING * max(1.0, abs(point_estimate(first)))
    value = 0.0 if abs(value) < scale else value
    with np.errstate(invalid="ignore"):  # of two that are infinite
        samples = averaged_draws(first, draws, seed) - averaged_draws(second, draws, seed)
    if not np.isfinite(samples).all():
        return Difference(value, note=f"difference: {NOT_FINITE}")
    samples[np.abs(samples) < scale] = 0.0
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    groups = len(set(first[0].groups))
    drawn = f"{len(samples)} {'replicates' if is_refitted(first[0]) else 'draws'}"
    least, limit = max((2 / (len(samples) + 1), drawn), (least_of_coins(groups), f"{groups} groups"))
    coins = least_of_coins(_groups_apart(first, second))
    p_value = min(1.0, max(2 * (1 + rarer) / (len(samples) + 1), coins))
    known = {"p_value": p_value, "least_p_value": min(1.0, least), "limit": limit}
    known["standard_error"] = float(samples.std())
    if groups < 2:
        return Difference(value, note=ONE_GROUP, **known)
    if np.ptp(samples) <= scale:
        known["standard_error"] = 0.0
        return _all_alike(first[0], value, confidence, bounds, known)
    low, high = percentiles(samples, confidence)
    if coins > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    method = "replicates" if is_refitted(first[0]) else "bootstrap"
    return Difference(value, low, high, method=method, **known)


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


def _groups_apart(first: Sequence[Cell], second: Sequence[Cell]) -> int:
    """Return how many groups have an item that is not the same on both sides; of refits, all groups."""
    if is_refitted(first[0]):
        return len(set(first[0].groups))
    apart = np.zeros(len(first[0].items), dtype=bool)
    for name in COLUMNS[first[0].estimator]:
        ours = [cell.columns[name] for cell in first]
        theirs = [cell.columns[name] for cell in second]
        if name in LABEL_COLUMNS:
            apart |= np.any([ours[0] != other for other in [*ours, *theirs]], axis=0)
        else:
            ours, theirs = np.mean(ours, axis=0), np.mean(theirs, axis=0)
            apart |= np.abs(ours - theirs) > ROUNDING * np.maximum(1.0, np.abs(ours))
    return len(set(np.asarray(first[0].groups, dtype=str)[apart]))


def minimum_detectable(standard_error: float, confidence: float = 0.95, power: float = 0.8) -> float:
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
