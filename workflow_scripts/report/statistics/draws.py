"""One draw of the cluster bootstrap says how often each group of items was drawn: a cell's estimate in every draw."""

import functools
import hashlib
import math

import numpy as np

from workflow_scripts.report.statistics.cells import Cell
from workflow_scripts.report.statistics.estimators import estimates, item_sums

BLOCK = 2**21  # numbers that a block of draws may hold at once: 16 MiB as floats
MOST_COUNTS = 2**29  # bytes that all draws of one set of groups may hold: 38 000 draws of 14 000 groups
# Times the draws that Holm's correction needs at least, so that the least p-value is not the only one to pass.
MARGIN = 2


def seed_of(seed: int, *names: str) -> int:
    """Return a 64-bit seed from a study seed and names, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256("\x1f".join([str(seed), *names]).encode()).digest()[:8], "big")


@functools.lru_cache(
    maxsize=2
)  # policies come one after another and share their draws, clean items beside all items
def group_draws(count: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each of `count` groups is in each draw (draws, count), whole groups drawn with replacement.

    Davison & Hinkley 1997, §3.8. Small integers, as 14 000 items of 20 000 draws would be 2 GB of floats: that a group
    is drawn 256 times of at least 256 has no chance to be seen. Fewer draws where they would be more than MOST_COUNTS.
    """
    draws = max(1, min(draws, MOST_COUNTS // count))
    random = np.random.default_rng(seed)
    counts = np.empty((draws, count), dtype=np.uint8)
    rows = max(1, BLOCK // count)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        chosen = random.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
        counts[start : start + size] = np.bincount(chosen.ravel(), minlength=size * count).reshape(
            size, count
        )
    counts.setflags(write=False)
    return counts


@functools.lru_cache(maxsize=128)  # a policy's draws serve its interval, and the baseline's every difference
def bootstrap(cell: Cell, draws: int, seed: int) -> np.ndarray:
    """Return the estimate of each cluster-bootstrap draw (draws,), or the cell's own replicates.

    Groups are taken in sorted order, so a draw does not depend on the order of the items.
    """
    if cell.estimator == "replicates":
        return cell.replicates
    names, of_item = np.unique(np.asarray(cell.groups, dtype=str), return_inverse=True)
    own = item_sums(cell)
    sums = np.zeros((len(names), own.shape[1]))
    np.add.at(sums, of_item, own)
    counts = group_draws(len(names), draws, seed)
    rows = max(1, BLOCK // len(names))
    blocks = [counts[start : start + rows].astype(float) @ sums for start in range(0, len(counts), rows)]
    samples = estimates(cell, np.concatenate(blocks))
    samples.setflags(write=False)
    return samples


def draws_for(comparisons: int, draws: int, confidence: float) -> int:
    """Return how many draws let a p-value pass Holm's correction over so many comparisons: `draws`, or more.

    The least p-value of B draws is 2 / (B + 1), and the first of m is held to (1 - confidence) / m.
    """
    return max(draws, math.ceil(MARGIN * 2 * comparisons / (1 - confidence)))


def percentiles(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)
