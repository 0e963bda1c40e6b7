"""How often the table's intervals hold the truth, over trainings and items alike: the table in docs/evaluation.md.

    python -m benchmarks.coverage                    # about ten minutes on one core
    python -m benchmarks.coverage --samples 200      # quicker, and rougher

Studies are simulated whose truth is known: a policy trained with some seeds answers the same items, and each number is
estimated by the table's own functions. "1 seed" is the interval over items that a study of one training has; the others
are over seeds and items. What varies: trainings (by `luck`), groups of items, items in a group, and how a training
does on a group.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from workflow_scripts.report.numbers import markdown_line
from workflow_scripts.report.statistics.cells import Cell
from workflow_scripts.report.statistics.differences import paired_difference
from workflow_scripts.report.statistics.intervals import Interval, interval

SEEDS = (1, 2, 3, 5, 10)
GROUPS, ITEMS = 26, 18  # as many problems, with as many turns each, as the default study's benchmark had
DRAWS = 400  # of the bootstrap of one seed
LABELS = np.array(["a", "b", "c", "f", "g"])
SHARES = np.array([0.35, 0.3, 0.15, 0.12, 0.08])  # of these labels among the gold ones
APART, WITHIN, TOGETHER = 0.5, 0.5, 0.2  # standard deviations of groups, items, and a training on a group


@dataclass(frozen=True)
class World:
    """What is estimated, `truth` of the luck of training, and one simulated study: estimate(random, seeds, luck)."""

    name: str
    truth: Callable[[float], float]
    estimate: Callable[[np.random.Generator, int, float], Interval]


def cell(estimator: str, **columns: np.ndarray) -> Cell:
    """Return a cell of items in groups, from columns (groups, items)."""
    groups, items = next(iter(columns.values())).shape
    names = tuple(f"{group}/{item}" for group in range(groups) for item in range(items))
    of_group = tuple(name.split("/")[0] for name in names)
    bounds = (0.0, 1.0) if estimator == "mean" and columns["value"].dtype == bool else None
    arrays = {name: values.ravel() for name, values in columns.items()}
    if bounds:
        arrays = {"value": arrays["value"].astype(float)}
    return Cell(names, of_group, estimator, arrays, bounds=bounds)


def chances(random: np.random.Generator, middle: float, luck: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return each seed's chance of being right (seeds, groups, items); luck (seeds,) and items are on the log-odds."""
    shape = (len(luck), GROUPS, 1)
    return expit(logit(middle) + luck[:, None, None] + items + random.normal(0, TOGETHER, shape))


def items_of(random: np.random.Generator) -> np.ndarray:
    """Return how much easier items are than others (1, groups, items), on the log-odds."""
    return random.normal(0, APART, (1, GROUPS, 1)) + random.normal(0, WITHIN, (1, GROUPS, ITEMS))


def mean_chance(middle: float, *spreads: float) -> float:
    """Return the mean chance over all that varies, by a fine grid of the normal sum of it."""
    spread = float(np.sqrt(APART**2 + WITHIN**2 + TOGETHER**2 + sum(each**2 for each in spreads)))
    places = np.linspace(-8, 8, 2001)
    weights = np.exp(-(places**2) / 2)
    return float(expit(logit(middle) + spread * places) @ weights / weights.sum())


def accuracy(middle: float) -> World:
    def estimate(random: np.random.Generator, seeds: int, luck: float) -> Interval:
        right = chances(random, middle, random.normal(0, luck, seeds), items_of(random))
        cells = [cell("mean", value=random.random(each.shape) < each) for each in right]
        return interval(cells, DRAWS, 1, bounds=(0.0, 1.0))

    return World(f"accuracy near {middle:g}", lambda luck: mean_chance(middle, luck), estimate)


def difference() -> World:
    before, after = 0.8, 0.86

    def estimate(random: np.random.Generator, seeds: int, luck: float) -> Interval:
        items, parents = items_of(random), random.normal(0, luck, seeds)
        children = parents + random.normal(0, luck / 2, seeds)
        pair = []
        for middle, own in ((after, children), (before, parents)):
            right = chances(random, middle, own, items)
            pair.append([cell("mean", value=random.random(each.shape) < each) for each in right])
        return paired_difference(*pair, DRAWS, 1, bounds=(0.0, 1.0))

    def truth(luck: float) -> float:
        return mean_chance(after, luck, luck / 2) - mean_chance(before, luck)

    return World("difference of accuracies, child and parent", truth, estimate)


def macro_f1() -> World:
    middle = 0.85

    def estimate(random: np.random.Generator, seeds: int, luck: float) -> Interval:
        gold = random.choice(len(LABELS), size=(GROUPS, ITEMS), p=SHARES)
        cells = []
        for right in chances(random, middle, random.normal(0, luck, seeds), items_of(random)):
            other = (gold + random.integers(1, len(LABELS), gold.shape)) % len(LABELS)
            guess = np.where(random.random(gold.shape) < right, gold, other)
            cells.append(cell("macro_f1", gold=LABELS[gold], predicted=LABELS[guess]))
        return interval(cells, DRAWS, 1)

    def truth(luck: float) -> float:
        places = np.linspace(-6, 6, 61)
        weights = np.exp(-(places**2) / 2)
        values = [f1_of(mean_chance(float(expit(logit(middle) + luck * place)))) for place in places]
        return float(np.array(values) @ weights / weights.sum())

    return World("macro-F1 of five labels", truth, estimate)


def f1_of(right: float) -> float:
    """Return the macro-F1 of answers that are right with this chance, and else any other label alike."""
    hits = SHARES * right
    guesses = hits + (1 - SHARES) * (1 - right) / (len(LABELS) - 1)
    return float(np.mean(2 * hits / (SHARES + guesses)))


def perplexity() -> World:
    nats, groups, items = 0.8, 12, 3

    def estimate(random: np.random.Generator, seeds: int, luck: float) -> Interval:
        tokens = random.integers(20, 61, (groups, items)).astype(float)
        shared = nats + random.normal(0, 0.2, (groups, 1)) + random.normal(0, 0.2, (groups, items))
        cells = []
        for own in random.normal(0, luck / 2, seeds):
            per_token = shared + own + random.normal(0, 0.05, (groups, items))
            cells.append(cell("perplexity", nll=per_token * tokens, tokens=tokens))
        return interval(cells, DRAWS, 1)

    return World("perplexity of 36 texts in 12 groups", lambda luck: float(np.exp(nats)), estimate)


WORLDS = (accuracy(0.85), accuracy(0.97), difference(), macro_f1(), perplexity())


def covered(world: World, seeds: int, luck: float, samples: int) -> float:
    """Return the share of simulated studies whose interval holds the truth; one without an interval does not."""
    truth, hits = world.truth(luck), 0
    for number in range(samples):
        found = world.estimate(np.random.default_rng([number, seeds]), seeds, luck)
        hits += found.low is not None and found.low <= truth <= found.high
    return hits / samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000, help="simulated studies for each number")
    parser.add_argument("--lucks", type=float, nargs="+", default=[0.05, 0.4], help="sd between trainings")
    arguments = parser.parse_args()
    heads = ["what is estimated", "luck", *(f"{seeds} seed{'s' if seeds > 1 else ''}" for seeds in SEEDS)]
    print(markdown_line(heads))
    print(markdown_line(["---", "---:", *["---:"] * len(SEEDS)]))
    for world in WORLDS:
        for luck in arguments.lucks:
            shares = [covered(world, seeds, luck, arguments.samples) for seeds in SEEDS]
            print(markdown_line([world.name, f"{luck:g}", *(f"{share:.3f}" for share in shares)]), flush=True)


if __name__ == "__main__":
    main()
