"""How far an estimate may lie from the truth over two kinds of chance at once: trainings (seeds) and groups of items.

Every seed of a policy is scored on the same items, so seeds and groups are crossed, as readers and cases are where
radiologists read the same films. The variance of the mean over S seeds is then (Obuchowski & Rockette 1995, Commun.
Stat. Simul. Comput. 24, 285-308, eq. 5; Dorfman, Berbaum & Metz 1992)

    s² / S  +  max(0, c)

s² the variance of the seeds' estimates, which holds what a seed alone and a seed with a group contribute, and c the
mean covariance of two seeds' estimates over the groups, which is what the items contribute to all seeds alike. c comes
from leaving out one group at a time, which is exact for means; for refits ("replicates") from their own draws.

The two parts have S - 1 and G - 1 degrees of freedom. The half width is t times the root of the sum, t the mean of the
two parts' quantiles weighted by the parts: Cochran's approximation (1964, Biometrics 20, 191-195) to the Behrens-Fisher
distribution. With two seeds that differ it is as wide as a t of one degree of freedom asks, 12.7 standard errors, and
where seeds hardly differ it is that of the items. benchmarks/coverage.py measures how often it holds the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from workflow_scripts.report.statistics.cells import Cell, is_refitted
from workflow_scripts.report.statistics.estimators import (
    estimates,
    is_logarithmic,
    item_sums,
    point_estimate,
    seed_estimates,
)

LEAST_LOG_P = -100.0  # ten to this is the smallest p-value that is told from 0


@dataclass(frozen=True)
class Spread:
    """The variance of an estimate as parts that have degrees of freedom of their own: [(variance, df)]."""

    parts: tuple[tuple[float, int], ...]

    @property
    def standard_error(self) -> float:
        return float(np.sqrt(sum(variance for variance, _ in self.parts)))

    def quantile(self, below: float) -> float:
        """Return Cochran's weighted t that this share lies below, in standard errors."""
        return self._weighted(lambda df: stdtrit(df, below))

    def _weighted(self, of_df: Callable[[int], float]) -> float:
        """Return the mean over the parts that are not 0 of what depends on their degrees of freedom."""
        parts = [(variance, df) for variance, df in self.parts if variance > 0]
        return float(sum(variance * of_df(df) for variance, df in parts) / sum(part for part, _ in parts))

    def p_value(self, difference: float) -> float:
        """Return the two-sided p-value of a difference: that of the widest interval that leaves out 0."""
        distance = abs(difference) / self.standard_error

        def beyond(log_p: float) -> float:
            return -self._weighted(lambda df: stdtrit(df, 10**log_p / 2)) - distance

        if beyond(LEAST_LOG_P) <= 0:
            return 10**LEAST_LOG_P
        return min(1.0, 10 ** float(brentq(beyond, LEAST_LOG_P, 0.0)))


def spread_of(cells: Sequence[Cell]) -> Spread:
    """Return the spread of the mean of two or more seeds' estimates on the same items of two or more groups."""
    return _spread(*_resampled(cells), len(set(cells[0].groups)))


def spread_of_difference(first: Sequence[Cell], second: Sequence[Cell], paired: bool) -> Spread:
    """Return the spread of the mean of `first` minus that of `second`, all on the same items of two or more groups.

    paired: the seeds of both are the same, in one order. Else, and not where one side is a single policy that has no
    seeds, the luck of both sides adds up: s² / S of each, with its own degrees of freedom.
    """
    groups = len(set(first[0].groups))
    ours, our_draws, scale = _resampled(first)
    theirs, their_draws, _ = _resampled(second)
    if paired or min(len(first), len(second)) == 1:
        return _spread(ours - theirs, our_draws - their_draws, scale, groups)
    covariance = _covariance(np.vstack([our_draws, their_draws]), scale)
    count = len(first)
    shared = _off_diagonal(covariance[:count, :count]) + _off_diagonal(covariance[count:, count:])
    shared -= 2 * float(covariance[:count, count:].mean())
    luck = [(float(own.var(ddof=1)) / len(own), len(own) - 1) for own in (ours, theirs)]
    return Spread((*luck, (max(0.0, shared), groups - 1)))


def _spread(values: np.ndarray, draws: np.ndarray, scale: float, groups: int) -> Spread:
    """Return the spread of the mean of `values` (seeds,), whose draws over groups are `draws` (seeds, draws)."""
    count = len(values)
    shared = _off_diagonal(_covariance(draws, scale))
    return Spread(((float(values.var(ddof=1)) / count, count - 1), (max(0.0, shared), groups - 1)))


def _covariance(draws: np.ndarray, scale: float) -> np.ndarray:
    apart = draws - draws.mean(axis=1, keepdims=True)
    return scale * apart @ apart.T


def _off_diagonal(covariance: np.ndarray) -> float:
    count = len(covariance)
    return float(covariance.sum() - np.trace(covariance)) / (count * (count - 1))


def _resampled(cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return seeds' estimates (seeds,), each with one group left out at a time (seeds, groups), and what turns sums of
    squares of the latter into variances: (G - 1) / G for the jackknife.

    Of refits the draws are their replicates. What is averaged as logarithms (perplexity) is linearised at its mean, in
    its own unit.
    """
    groups = len(set(cells[0].groups))
    values = seed_estimates(cells)
    if is_refitted(cells[0]):
        draws = np.stack([cell.replicates for cell in cells])
        scale = groups / (groups - 1) / max(1, draws.shape[1] - 1)
    else:
        draws = np.stack([leave_one_out(cell) for cell in cells])
        scale = (groups - 1) / groups
    if is_logarithmic(cells[0]):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            middle = point_estimate(cells)
            values, draws = (middle * (1 + np.log(each) - np.log(middle)) for each in (values, draws))
    return values, draws, scale


def leave_one_out(cell: Cell) -> np.ndarray:
    """Return the estimate without each group in turn (groups,), the groups in sorted order."""
    names, of_item = np.unique(np.asarray(cell.groups, dtype=str), return_inverse=True)
    own = item_sums(cell)
    sums = np.zeros((len(names), own.shape[1]))
    np.add.at(sums, of_item, own)
    return estimates(cell, own.sum(axis=0) - sums)
