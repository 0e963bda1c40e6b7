"""Estimates, intervals, paired differences and Holm's correction: pure functions on item scores.

One draw of the cluster bootstrap says how often each group of items was drawn: two turns of one problem stand or fall
together. Every estimator but one is a function of sums over items, so the sums of each group, times how often it was
drawn, give all draws in one matrix product. The exception brings its own replicates: a value that each draw has to
fit again (a length-controlled win rate). Where every item is its own group this is the plain item bootstrap.

Covered: percentile intervals, Wilson's for plain rates, paired bootstrap differences, McNemar's exact test, the
difference a study could have seen; all over items, conditional on the seeds that were trained. Not covered: the
variance between training seeds (it needs more of them than a study has), BCa or studentised intervals.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np

from workflow_scripts.common.errors import PlumblineError

COLUMNS = {
    "mean": ("value",),
    "ratio": ("numerator", "denominator"),
    "perplexity": ("nll", "tokens"),
    "macro_mean": ("value", "stratum"),
    "corpus_bleu": ("m1", "m2", "m3", "m4", "t1", "t2", "t3", "t4", "sys", "ref"),
    "macro_f1": ("gold", "predicted"),
    "f1": ("gold", "predicted"),
    "matthews": ("gold", "predicted"),
    "replicates": ("value",),
}
LABEL_COLUMNS = ("gold", "predicted", "stratum")
POSITIVE = "1"  # the label whose F1 a binary task reports
FIDELITIES = ("paper", "code")
# Differences below this, relative to the estimate, are rounding and count as none: models compute in seven digits.
ROUNDING = 1e-9
BLOCK = 2**21  # numbers that a block of draws may hold at once: 16 MiB as floats


@dataclass(frozen=True, eq=False)  # compared as objects, so that what is computed from one can be remembered
class Cell:
    """One policy's item scores for one subset and metric: n items, their n groups, and columns of length n.

    A "replicates" cell also has its value `point` and `replicates` (draws,); None where other items are asked of it
    than those it was resampled on.
    """

    items: tuple[str, ...]
    groups: tuple[str, ...]
    estimator: str
    columns: dict[str, np.ndarray]
    fidelity: str = "paper"
    point: float = math.nan
    replicates: np.ndarray | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the metric's own unit; method is bootstrap, wilson or replicates."""

    value: float
    low: float
    high: float
    method: str = field(default="bootstrap", kw_only=True)


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with its interval, its two-sided bootstrap p-value and its bootstrap standard error."""

    p_value: float
    standard_error: float


def read_cell(raw: dict, where: str) -> Cell:
    """Return a validated Cell from a score file's cell; `where` opens each message.

    Raises PlumblineError when a key is missing, lengths differ, an item appears twice, a number is not finite,
    a perplexity item has no tokens, a ratio item no positive denominator, or a replicates cell no replicates.
    """
    estimator = raw.get("estimator")
    if estimator not in COLUMNS:
        raise PlumblineError(f"{where}: unknown estimator {estimator!r}; allowed: {', '.join(COLUMNS)}")
    fidelity = raw.get("fidelity", "paper")
    if fidelity not in FIDELITIES:
        raise PlumblineError(f"{where}: unknown fidelity {fidelity!r}; allowed: {', '.join(FIDELITIES)}")
    columns = raw.get("columns")
    if not isinstance(columns, dict):
        raise PlumblineError(
            f"{where}: 'columns' must map {', '.join(COLUMNS[estimator])} to lists, not {columns!r}"
        )
    lists = {"items": raw.get("items"), "groups": raw.get("groups")}
    lists |= {name: columns.get(name) for name in COLUMNS[estimator]}
    for name, values in lists.items():
        if not isinstance(values, list):
            raise PlumblineError(f"{where}: a {estimator} cell needs the list {name!r}")
        if len(values) != len(lists["items"]):
            raise PlumblineError(
                f"{where}: {name!r} has {len(values)} entries for {len(lists['items'])} items"
            )
    items = tuple(map(str, lists["items"]))
    if not items:
        raise PlumblineError(f"{where}: no items; a cell without items has no value")
    if len(set(items)) < len(items):
        twice = next(item for number, item in enumerate(items) if item in items[:number])
        raise PlumblineError(f"{where}: item {twice!r} appears twice; a cell has one entry per item")
    arrays = {
        name: (_labels if name in LABEL_COLUMNS else _finite)(lists[name], name, items, where)
        for name in COLUMNS[estimator]
    }
    if estimator == "perplexity" and arrays["tokens"].min() <= 0:
        bad = items[int(arrays["tokens"].argmin())]
        raise PlumblineError(f"{where}: item {bad!r} has no tokens; perplexity needs at least one per item")
    if estimator == "ratio" and arrays["denominator"].min() <= 0:
        bad = items[int(arrays["denominator"].argmin())]
        raise PlumblineError(f"{where}: the denominator of item {bad!r} is not above 0, as a ratio's must be")
    cell = Cell(items, tuple(map(str, lists["groups"])), estimator, arrays, fidelity)
    if estimator != "replicates":
        return cell
    point, replicates = raw.get("point"), raw.get("replicates")
    if not _is_finite(point) or not replicates or not all(map(_is_finite, replicates)):
        raise PlumblineError(
            f"{where}: a replicates cell needs the number 'point' and the list 'replicates' of finite numbers"
        )
    return replace(cell, point=float(point), replicates=np.asarray(replicates, dtype=float))


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _finite(values: list, name: str, items: tuple[str, ...], where: str) -> np.ndarray:
    for item, value in zip(items, values, strict=True):
        if not _is_finite(value):
            raise PlumblineError(
                f"{where}: {name} of item {item!r} is {value!r}; every item needs a finite number "
                "(an answer that is missing or does not parse scores 0)"
            )
    return np.asarray(values, dtype=float)


def _labels(values: list, name: str, items: tuple[str, ...], where: str) -> np.ndarray:
    for item, value in zip(items, values, strict=True):
        if not isinstance(value, str):
            raise PlumblineError(
                f"{where}: {name} of item {item!r} is {value!r}; labels are strings ('' for an answer "
                "that does not parse)"
            )
    return np.asarray(values, dtype=str)


def seed_of(seed: int, *names: str) -> int:
    """Return a 64-bit seed from a study seed and names, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256("\x1f".join([str(seed), *names]).encode()).digest()[:8], "big")


def item_sums(cell: Cell) -> np.ndarray:
    """Return the numbers (items, sums) whose totals over items an estimator is a function of (see estimates)."""
    columns = [cell.columns[name] for name in COLUMNS[cell.estimator]]
    if cell.estimator == "mean":
        return np.column_stack([columns[0], np.ones(len(cell.items))])
    if cell.estimator == "macro_mean":
        value, stratum = columns
        inside = (stratum[:, None] == np.unique(stratum)).astype(float)
        return np.hstack([inside * value[:, None], inside])
    if cell.estimator in ("macro_f1", "f1", "matthews"):
        labels = np.array([POSITIVE]) if cell.estimator == "f1" else np.unique(np.concatenate(columns))
        gold, predicted = (column[:, None] == labels for column in columns)
        return np.hstack([gold & predicted, gold, predicted]).astype(float)
    return np.column_stack(columns)


def estimates(cell: Cell, totals: np.ndarray) -> np.ndarray:
    """Return the estimate (draws,) of each row of totals (draws, sums): item_sums added up over a draw's items.

    mean, ratio: Σ value / n, Σ numerator / Σ denominator. perplexity: exp(Σ nll / Σ tokens), nll in nats.
    """
    if cell.estimator in ("mean", "ratio"):
        return totals[:, 0] / totals[:, 1]
    if cell.estimator == "perplexity":
        return np.exp(totals[:, 0] / totals[:, 1])
    if cell.estimator == "macro_mean":
        return _macro_mean(*np.split(totals, 2, axis=1))
    if cell.estimator == "corpus_bleu":
        return _corpus_bleu(totals[:, :4], totals[:, 4:8], totals[:, 8], totals[:, 9])
    if cell.estimator == "matthews":
        return _matthews(*np.split(totals, 3, axis=1))
    if cell.estimator == "f1":
        return _f1(*totals.T)
    return _macro_f1(*np.split(totals, 3, axis=1), cell.fidelity)


def _macro_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of the strata's means (draws,); a stratum of which a draw has no item is no part of it."""
    return (values / np.maximum(counts, 1)).sum(axis=1) / (counts > 0).sum(axis=1)


def _corpus_bleu(
    matches: np.ndarray, ngrams: np.ndarray, system: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Return BLEU-4 in percent (draws,) from n-grams matched and counted (draws, 4) and lengths in tokens (draws,).

    100 BP exp(mean log precision), BP = min(1, exp(1 - reference / system)); 0 where no n-gram of some length matches:
    there is no smoothing (Papineni et al. 2002, §2.3).
    """
    brevity = np.exp(np.minimum(0.0, 1.0 - reference / np.maximum(system, 1e-300)))
    precisions = np.maximum(matches, 1e-300) / np.maximum(ngrams, 1.0)
    return np.where((matches > 0).all(axis=1), 100.0 * brevity * np.exp(np.log(precisions).mean(axis=1)), 0.0)


def _f1(hits: np.ndarray, golds: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return F1 = 2 tp / (2 tp + fp + fn) from counts of any shape, 0 where a label is neither gold nor guessed."""
    return 2 * hits / np.maximum(golds + guesses, 1e-300)


def _macro_f1(hits: np.ndarray, golds: np.ndarray, guesses: np.ndarray, fidelity: str) -> np.ndarray:
    """Return macro-F1 (draws,) from counts (draws, labels); the label '' is an answer that did not parse.

    paper: the mean over the labels that are gold in the draw, so '' only lowers recall. code: as the published
    evaluation computes it, the mean over the sorted labels of gold and predictions without the first one, which is
    '' only if some answer did not parse, else a real label; 0 where no label is left (there it has no number).
    """
    if fidelity == "paper":
        counted = golds > 0
    else:
        seen = golds + guesses > 0
        counted = seen & (np.cumsum(seen, axis=1) > 1)
    return (_f1(hits, golds, guesses) * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)


def _matthews(hits: np.ndarray, golds: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return Matthews' correlation (draws,) from counts (draws, labels), 0 where one side has one label alone.

    For any number of labels (Gorodkin 2004, eq. 8): (c n - Σ p t) / sqrt((n² - Σ p²)(n² - Σ t²)), c the items right,
    p and t how often a label is predicted and true.
    """
    right, count = hits.sum(axis=1), golds.sum(axis=1)
    above = right * count - (golds * guesses).sum(axis=1)
    below = (count**2 - (golds**2).sum(axis=1)) * (count**2 - (guesses**2).sum(axis=1))
    return np.where(below > 0, above / np.sqrt(np.where(below > 0, below, 1.0)), 0.0)


@functools.lru_cache(
    maxsize=3
)  # policies come one after another and share their draws, clean items beside all items
def group_draws(count: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each of `count` groups is in each draw (draws, count), whole groups drawn with replacement.

    Davison & Hinkley 1997, §3.8. Small integers, as 14 000 items of 20 000 draws would be 2 GB of floats: that a group
    is drawn 256 times of at least 256 has no chance to be seen.
    """
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
    blocks = [counts[start : start + rows].astype(float) @ sums for start in range(0, draws, rows)]
    samples = estimates(cell, np.concatenate(blocks))
    samples.setflags(write=False)
    return samples


def _averaged(cells: Sequence[Cell], draws: int, seed: int) -> np.ndarray:
    """Return each draw's estimate (draws,) averaged over `cells`: one policy's seeds on the same items."""
    return np.mean([bootstrap(cell, draws, seed) for cell in cells], axis=0)


def point_estimate(cells: Sequence[Cell]) -> float:
    """Return the estimate on the items as they are, averaged over `cells`: one policy's seeds.

    For a mean this equals the mean of the seed-averaged items.
    """
    return float(np.mean([_point(cell) for cell in cells]))


def _point(cell: Cell) -> float:
    if cell.estimator == "replicates":
        return cell.point
    return float(estimates(cell, item_sums(cell).sum(axis=0, keepdims=True))[0])


def shared_items(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells reduced to the items that all of them have, in the order of the first: possibly none.

    Judged benchmarks leave out the answers whose verdict failed, so policies can differ in their items. Replicates
    that are not all of the same items, or not equally many, are lost (see can_resample). Raises PlumblineError for an
    item that is in two groups, as it is then not one item.
    """
    common = set.intersection(*(set(cell.items) for cell in cells))
    items = tuple(item for item in cells[0].items if item in common)
    shared = [reduced(cell, items) for cell in cells]
    for cell in shared[1:]:
        if cell.groups == shared[0].groups:
            continue
        for item, group, other in zip(items, shared[0].groups, cell.groups, strict=True):
            if group != other:
                raise PlumblineError(f"item {item!r} is in group {group!r} once and in {other!r} once")
    if (
        len({len(cell.replicates) if can_resample([cell]) else 0 for cell in shared if _is_refitted(cell)})
        > 1
    ):
        return [replace(cell, replicates=None) for cell in shared]
    return shared


def reduced(cell: Cell, items: tuple[str, ...]) -> Cell:
    """Return the cell with these of its items alone, in this order; a replicates cell keeps its value and no more."""
    if cell.items == items:
        return cell
    place = {item: number for number, item in enumerate(cell.items)}
    order = [place[item] for item in items]
    return replace(
        cell,
        items=items,
        groups=tuple(cell.groups[number] for number in order),
        columns={name: values[order] for name, values in cell.columns.items()},
        replicates=None,
    )


def _is_refitted(cell: Cell) -> bool:
    return cell.estimator == "replicates"


def can_resample(cells: Sequence[Cell]) -> bool:
    """Return whether the cells have an interval: not so if some are replicates of other items than the others."""
    return not any(_is_refitted(cell) and cell.replicates is None for cell in cells)


def _check_cells(cells: Sequence[Cell]) -> None:
    if not cells[0].items or any(cell.items != cells[0].items for cell in cells):
        raise ValueError("cells need the same items in one order, and at least one: use shared_items")
    if not can_resample(cells):
        raise ValueError("cells whose replicates are of other items have no interval: ask can_resample")


def is_plain_rate(cells: Sequence[Cell]) -> bool:
    """Return whether every item of every cell is 0 or 1 and its own group: counts of a binomial.

    Ask it of all policies' cells at once: one policy's lengths may happen to be all 0.
    """
    return all(
        cell.estimator == "mean"
        and bool(np.isin(cell.columns["value"], (0.0, 1.0)).all())
        and len(set(cell.groups)) == len(cell.items)
        for cell in cells
    )


def interval(
    cells: Sequence[Cell], draws: int, seed: int, confidence: float = 0.95, plain_rate: bool = False
) -> Interval:
    """Return the estimate and its interval; `cells` are one policy's seeds on the same items.

    It is Wilson's for a plain rate (see is_plain_rate; not where seeds are averaged to shares), else the percentiles
    of the bootstrap. One group, or items that are all equal, give a percentile interval of no width, and few
    groups (below about 20) one that is a little narrow. Raises ValueError when items differ (see shared_items).
    """
    _check_cells(cells)
    value = point_estimate(cells)
    if plain_rate:
        values = np.mean([cell.columns["value"] for cell in cells], axis=0)
        if np.isin(values, (0.0, 1.0)).all():
            return Interval(value, *wilson(int(values.sum()), len(values), confidence), method="wilson")
    low, high = _percentiles(_averaged(cells, draws, seed), confidence)
    return Interval(value, low, high, method="replicates" if _is_refitted(cells[0]) else "bootstrap")


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a rate (Wilson 1927): it has a width even where no trial, or each, succeeds."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, shrunk = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrunk
    half = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) / shrunk
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    first: Sequence[Cell],
    second: Sequence[Cell],
    draws: int,
    seed: int,
    confidence: float = 0.95,
) -> Difference:
    """Return `first` minus `second` on the same items under the same draws, with interval and p-value.

    The p-value is 2 (1 + #) / (draws + 1), # the draws on the rarer side of zero (zeros count on both sides), at
    most 1. G groups of any size cannot speak more clearly than G coins that fall alike, so it is at least 2^(1-G):
    with one group it is 1. Raises ValueError when items differ (see shared_items).
    """
    _check_cells([*first, *second])
    value = point_estimate(first) - point_estimate(second)
    scale = ROUNDING * max(1.0, abs(point_estimate(first)))
    samples = _averaged(first, draws, seed) - _averaged(second, draws, seed)
    samples[np.abs(samples) < scale] = 0.0
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    floor = 2.0 ** (1 - len(set(first[0].groups)))
    p_value = min(1.0, max(2 * (1 + rarer) / (len(samples) + 1), floor))
    low, high = _percentiles(samples, confidence)
    method = "replicates" if _is_refitted(first[0]) else "bootstrap"
    return Difference(
        0.0 if abs(value) < scale else value, low, high, p_value, float(samples.std()), method=method
    )


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


def _percentiles(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values in the order given (Holm 1979): family-wise error without assumptions."""
    count = len(p_values)
    order = np.argsort(np.asarray(p_values, dtype=float), kind="stable")
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(
        1.0, np.maximum.accumulate(np.asarray(p_values)[order] * (count - np.arange(count)))
    )
    return [float(value) for value in adjusted]
