"""What intervals cover whose number of seeds was chosen: two stages, and looking after every seed, in a made-up world.

A seed's value is normal with a known variance; the items, the same for all seeds, add one normal error to every mean.
`python -m benchmarks.stopping` prints the table of docs/evaluation.md, in half a minute.
"""

from typing import NamedTuple

import numpy as np

from workflow_scripts.report.statistics.stopping import FirstSeeds, half_width, seeds_needed
from workflow_scripts.report.statistics.two_level import Spread

UNTIL, AT_MOST, GROUPS, CONFIDENCE = 0.02, 10, 200, 0.95


class Covered(NamedTuple):
    """Shares of worlds, and means over them."""

    two_stage: float
    ordinary: float
    """The interval of the same seeds by the variance of all of them."""
    peeking: float
    """The ordinary interval after the first seed with which it is narrow enough."""
    seeds: float
    narrow: float
    """Of those two-stage intervals that had not to stop at the most seeds: how many are as narrow as asked."""


def ordinary(values: np.ndarray, shared: float) -> float:
    """Return half the width of the table's interval, by the variance of all seeds."""
    spread = Spread(((values.var(ddof=1) / len(values), len(values) - 1), (shared, GROUPS - 1)))
    return spread.quantile((1 + CONFIDENCE) / 2) * spread.standard_error


def covered(deviation: float, items: float, first: int, worlds: int, seed: int = 0) -> Covered:
    """Simulate: seeds with a standard deviation, items that leave a standard error; the truth is 0."""
    random = np.random.default_rng(seed)
    hits, counts, narrow = np.zeros(3), [], []
    for _ in range(worlds):
        values, error = random.normal(0, deviation, AT_MOST), random.normal(0, items)
        # The error of the items is estimated, too: its variance by that of GROUPS groups.
        shared = items**2 * random.chisquare(GROUPS - 1) / (GROUPS - 1)
        stage = FirstSeeds(values[:first].var(ddof=1), shared, first, GROUPS)
        needed = seeds_needed(stage, UNTIL, CONFIDENCE)
        count = int(min(needed, AT_MOST))
        half = half_width(stage, count, CONFIDENCE)
        if needed <= AT_MOST:
            narrow.append(half <= UNTIL)
        looked = next(
            (n for n in range(first, AT_MOST) if ordinary(values[:n], shared) <= UNTIL),
            AT_MOST,
        )
        hits += [
            abs(values[:count].mean() + error) <= half,
            abs(values[:count].mean() + error) <= ordinary(values[:count], shared),
            abs(values[:looked].mean() + error) <= ordinary(values[:looked], shared),
        ]
        counts.append(count)
    shares = hits / worlds
    return Covered(*map(float, shares), float(np.mean(counts)), float(np.mean(narrow or [True])))


def main() -> None:
    """Print the table."""
    print(
        "| seeds' sd | items' error | first | seeds, mean | two stages | variance of all | look after each |"
    )
    print("|---|---|---|---|---|---|---|")
    for first in (3, 5):
        for deviation, items in ((0.005, 0.0), (0.01, 0.0), (0.02, 0.0), (0.04, 0.0), (0.01, 0.007)):
            found = covered(deviation, items, first, 20_000)
            cells = [f"{deviation:g}", f"{items:g}", str(first), f"{found.seeds:.1f}"]
            cells += [f"{100 * share:.1f} %" for share in found[:3]]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
