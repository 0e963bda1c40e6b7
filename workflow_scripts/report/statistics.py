"""Estimates, intervals, paired differences and Holm's correction: pure functions on item scores.

One draw of the cluster bootstrap says how often each group of items was drawn: two turns of one problem stand or fall
together. Every estimator but one is a function of sums over items, so the sums of each group, times how often it was
drawn, give all draws in one matrix product. The exception brings its own replicates: a value that each draw has to
fit again (a length-controlled win rate). Where every item is its own group this is the plain item bootstrap.

At the edge of a scale the bootstrap has no width: draws of groups that all agree agree, too. So what has bounds has an
interval of its own, one rule per kind:

| kind | interval |
|---|---|
| one group | none: nothing says how groups differ |
| a rate, every item 0 or 1 and its own group | Wilson's score interval |
| means (of strata, too) of items that have bounds | Korn & Graubard's; see korn_graubard, also where groups agree |
| what its own refits tell (replicates) | percentiles of the replicates |
| all else: F1, BLEU, perplexity, lengths, rewards | percentiles of the bootstrap; none where all draws are equal |

Covered besides: paired bootstrap differences, McNemar's exact test, the difference a study could have seen; all over
items, conditional on the seeds that were trained. Not covered: the variance between training seeds (it needs more of
them than a study has), BCa or studentised intervals.
"""

import functools
import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from scipy.special import betaincinv, stdtrit

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
MOST_COUNTS = 2**29  # bytes that all draws of one set of groups may hold: 38 000 draws of 14 000 groups
MARGIN = 2  # times the draws that Holm's correction needs at least, so that the least p-value is not the only one to pass
ALIKE = 0.01  # of a scale: items that differ by less agree
LINEAR = ("mean", "macro_mean")  # estimators that are a weighted mean of their items
ONE_GROUP = "one group: no interval"
ALL_EQUAL = "all values equal: no interval"
NOT_FINITE = "draws that are not finite: no interval"


@dataclass(frozen=True, eq=False)  # compared as objects, so that what is computed from one can be remembered
class Cell:
    """One policy's item scores for one subset and metric: n items, their n groups, and columns of length n.

    bounds: the least and the most that an item can have, where the metric has such. A "replicates" cell also has its value `point` and `replicates` (draws,); None where other items are asked of it
    than those it was resampled on.
    """

    items: tuple[str, ...]
    groups: tuple[str, ...]
    estimator: str
    columns: dict[str, np.ndarray]
    fidelity: str = "paper"
    point: float = math.nan
    replicates: np.ndarray | None = None
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the metric's own unit; where it has none, low and high are None.

    method: wilson, korn_graubard, bootstrap, replicates, or "" without an interval; note: why there is none, or what to
    know about it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    method: str = ""
    note: str = ""


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with its interval, its two-sided p-value and its bootstrap standard error.

    least_p_value: the least that the p-value could have been, by so many draws, replicates or groups; limit: which.
    """

    p_value: float = 1.0
    least_p_value: float = 1.0
    limit: str = ""
    standard_error: float = 0.0


def read_cell(raw: dict, where: str) -> Cell:
    """Return a validated Cell from a score file's cell; `where` opens each message.

    Raises PlumblineError when a key is missing, lengths differ, an item appears twice, a number is not finite,
    a perplexity item has no tokens, a ratio item no positive denominator, a replicates cell no replicates, or bounds are
    not two numbers, the lesser first.
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
    bounds = raw.get("bounds")
    if bounds is not None:
        if (
            not isinstance(bounds, list)
            or list(map(_is_finite, bounds)) != [True, True]
            or bounds[0] >= bounds[1]
        ):
            raise PlumblineError(
                f"{where}: bounds is {bounds!r}; it is [the least, the most] an item can have"
            )
        bounds = (float(bounds[0]), float(bounds[1]))
    cell = Cell(items, tuple(map(str, lists["groups"])), estimator, arrays, fidelity, bounds=bounds)
    if estimator != "replicates":
        return cell
    point, replicates = raw.get("point"), raw.get("replicates")
    if not _is_finite(point) or not replicates or not all(map(_is_finite, replicates)):
        raise PlumblineError(
            f"{where}: a replicates cell needs the number 'point' and the list 'replicates' of finite numbers"
        )
    return replace(cell, point=float(point), replicates=np.asarray(replicates, dtype=float))


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


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

    mean, ratio: Σ value / n, Σ numerator / Σ denominator. perplexity: exp(Σ nll / Σ tokens), nll in nats; infinite where
    that is above 709.
    """
    if cell.estimator in ("mean", "ratio"):
        return totals[:, 0] / totals[:, 1]
    if cell.estimator == "perplexity":
        with np.errstate(over="ignore"):
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
    return _are_rates(cells) and all(len(set(cell.groups)) == len(cell.items) for cell in cells)


def _are_rates(cells: Sequence[Cell]) -> bool:
    return all(
        cell.estimator in LINEAR and bool(np.isin(cell.columns["value"], (0.0, 1.0)).all()) for cell in cells
    )


def bounds_of(cells: Sequence[Cell]) -> tuple[float, float] | None:
    """Return the least and the most that an item of these cells can have, None where that is not known.

    What the scorer says of all of them, if no value is outside; else 0 and 1 where every item is one of the two. Ask it
    of all policies' cells at once, as is_plain_rate.
    """
    said = {cell.bounds for cell in cells}
    if any(cell.estimator not in LINEAR for cell in cells):
        return None
    if len(said) == 1 and (bounds := said.pop()):
        inside = (
            bounds[0] <= cell.columns["value"].min() <= cell.columns["value"].max() <= bounds[1]
            for cell in cells
        )
        return bounds if all(inside) else None
    return (0.0, 1.0) if _are_rates(cells) else None


def interval(
    cells: Sequence[Cell],
    draws: int,
    seed: int,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Return the estimate and its interval, by the rules at the head; `cells` are one policy's seeds on the same items.

    bounds: see bounds_of. Percentile intervals are a little narrow below about 20 groups, and where so few groups
    cannot speak as clearly as `confidence` asks (see paired_difference) a note says so. Raises ValueError when items
    differ (see shared_items).
    """
    _check_cells(cells)
    value = point_estimate(cells)
    if len(set(cells[0].groups)) < 2:
        return Interval(value, note=ONE_GROUP)
    if bounds:
        items = np.mean([cell.columns["value"] for cell in cells], axis=0)
        if (
            bounds == (0, 1)
            and is_plain_rate(cells)
            and np.isin(items, bounds).all()
            and cells[0].estimator == "mean"
        ):
            return Interval(value, *wilson(int(items.sum()), len(items), confidence), method="wilson")
        return Interval(value, *korn_graubard(cells[0], items, bounds, confidence), method="korn_graubard")
    samples = _averaged(cells, draws, seed)
    if not np.isfinite(samples).all():
        return Interval(value, note=NOT_FINITE)
    if np.ptp(samples) <= ROUNDING * max(1.0, abs(value)):
        return Interval(value, note=ALL_EQUAL)
    method = "replicates" if _is_refitted(cells[0]) else "bootstrap"
    return Interval(
        value,
        *_percentiles(samples, confidence),
        method=method,
        note=_few_groups(cells[0].groups, confidence),
    )


def _few_groups(groups: Sequence[str], confidence: float) -> str:
    count = len(set(groups))
    if _least_of_coins(count) <= 1 - confidence:
        return ""
    return f"{count} groups: the interval is narrower than {100 * confidence:g} %"


def _least_of_coins(groups: int) -> float:
    """Return the two-sided p-value of so many coins that fall alike: groups of any size speak no more clearly."""
    return 2.0 ** (1 - groups) if groups else 1.0


def korn_graubard(
    cell: Cell, items: np.ndarray, bounds: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float]:
    """Return Korn and Graubard's interval of a weighted mean of bounded items (1998, Survey Methodology 24, 193-201).

    items (items,): the cell's values, or their means over seeds. On the scale from 0 to 1 a mean p whose variance over G
    groups is v (linearised) is worth p (1 - p) / v independent trials; these, shrunk by the square of t's quotient at
    n - 1 and G - 1 degrees of freedom, have Clopper and Pearson's interval. So it stays inside the bounds, is
    wider towards the middle, and allows for few groups.

    Where all groups agree (or all items, to a hundredth of the scale: a reward model's 0.9999 is a 1 for this), v says
    nothing of what else there may be, nor of how items of a group hang together. Then at most a share q
    of all groups can be another, and what these have is within the bounds: from p (1 - q) to p (1 - q) + q, with
    Clopper and Pearson's q for none of as many trials as there are effective groups, (Σ w)² / Σ w², w a group's weight
    (Kish 1965, §11.7): the rule of three, at 0 and 1 their own interval.
    """
    low, high = bounds
    weights, centres = _weights(cell, items)
    of_group = np.unique(np.asarray(cell.groups, dtype=str), return_inverse=True)[1]
    groups, tail = int(of_group.max()) + 1, (1 - confidence) / 2
    rate = (float(weights @ items) - low) / (high - low)
    rate = round(rate) if abs(rate - round(rate)) < ROUNDING else rate  # 0 and 1 are ends, not nearly so
    apart = np.bincount(of_group, weights * (items - centres) / (high - low))
    variance = groups / (groups - 1) * float(apart @ apart)
    if variance <= ROUNDING**2 or np.ptp(items - centres) < ALIKE * (high - low):
        unseen = _unseen(np.bincount(of_group, weights), tail)
        ends = rate * (1 - unseen), rate * (1 - unseen) + unseen
    else:
        shrunk = (stdtrit(len(items) - 1, 1 - tail) / stdtrit(groups - 1, 1 - tail)) ** 2
        trials = rate * (1 - rate) / variance * shrunk
        hits = rate * trials
        ends = betaincinv(hits, trials - hits + 1, tail), betaincinv(hits + 1, trials - hits, 1 - tail)
    return low + (high - low) * max(0.0, float(ends[0])), low + (high - low) * min(1.0, float(ends[1]))


def _weights(cell: Cell, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each item's weight in a linear estimator, and the mean of its stratum, both (items,)."""
    if cell.estimator == "mean":
        return np.full(len(items), 1 / len(items)), np.full(len(items), items.mean())
    of_stratum = np.unique(cell.columns["stratum"], return_inverse=True)[1]
    sizes = np.bincount(of_stratum)
    return (1 / (len(sizes) * sizes))[of_stratum], (np.bincount(of_stratum, items) / sizes)[of_stratum]


def _unseen(weights: np.ndarray, tail: float) -> float:
    """Return the largest share of groups that can be otherwise where none was seen, from the groups' weights."""
    return 1 - tail ** (float(weights @ weights) / float(weights.sum()) ** 2)


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
    bounds: tuple[float, float] | None = None,
) -> Difference:
    """Return `first` minus `second` on the same items under the same draws, with interval and p-value.

    The p-value is 2 (1 + #) / (draws + 1), # the draws on the rarer side of zero (zeros count on both sides), at
    most 1. Groups that do not differ say nothing, and D that do, of any size, cannot speak more clearly than D coins that
    fall alike (as the sign test has it): so it is at least 2^(1-D), and where that is above 1 - confidence, the interval
    reaches to zero. Where no draw differs from another, items with bounds have the interval that
    korn_graubard gives groups that agree, as each difference lies within the bounds' own; all else has none. Raises
    ValueError when items differ (see shared_items).
    """
    _check_cells([*first, *second])
    value = point_estimate(first) - point_estimate(second)
    scale = ROUNDING * max(1.0, abs(point_estimate(first)))
    value = 0.0 if abs(value) < scale else value
    with np.errstate(invalid="ignore"):  # of two that are infinite
        samples = _averaged(first, draws, seed) - _averaged(second, draws, seed)
    if not np.isfinite(samples).all():
        return Difference(value, note=f"difference: {NOT_FINITE}")
    samples[np.abs(samples) < scale] = 0.0
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    groups = len(set(first[0].groups))
    drawn = f"{len(samples)} {'replicates' if _is_refitted(first[0]) else 'draws'}"
    least, limit = max((2 / (len(samples) + 1), drawn), (_least_of_coins(groups), f"{groups} groups"))
    coins = _least_of_coins(_groups_apart(first, second))
    p_value = min(1.0, max(2 * (1 + rarer) / (len(samples) + 1), coins))
    known = {"p_value": p_value, "least_p_value": min(1.0, least), "limit": limit}
    known["standard_error"] = float(samples.std())
    if groups < 2:
        return Difference(value, note=ONE_GROUP, **known)
    if np.ptp(samples) <= scale:
        known["standard_error"] = 0.0
        if not bounds:
            note = (
                "all differences equal: no interval of them"
                if value
                else "no item differs: no interval of the difference"
            )
            return Difference(value, note=note, **known)
        width = bounds[1] - bounds[0]
        weights, _ = _weights(first[0], np.zeros(len(first[0].items)))
        weights = np.bincount(np.unique(first[0].groups, return_inverse=True)[1], weights)
        unseen = _unseen(weights, (1 - confidence) / 2)
        middle, reach = value * (1 - unseen), width * unseen
        low, high = max(-width, middle - reach), min(width, middle + reach)
        return Difference(value, low, high, method="korn_graubard", **known)
    low, high = _percentiles(samples, confidence)
    if coins > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    method = "replicates" if _is_refitted(first[0]) else "bootstrap"
    return Difference(value, low, high, method=method, **known)


def _groups_apart(first: Sequence[Cell], second: Sequence[Cell]) -> int:
    """Return how many groups have an item that is not the same on both sides; of refits, all groups."""
    if _is_refitted(first[0]):
        return len(set(first[0].groups))
    apart = np.zeros(len(first[0].items), dtype=bool)
    for name in COLUMNS[first[0].estimator]:
        ours, theirs = ([cell.columns[name] for cell in side] for side in (first, second))
        if name in LABEL_COLUMNS:
            apart |= np.any([ours[0] != other for other in [*ours, *theirs]], axis=0)
        else:
            ours, theirs = np.mean(ours, axis=0), np.mean(theirs, axis=0)
            apart |= np.abs(ours - theirs) > ROUNDING * np.maximum(1.0, np.abs(ours))
    return len(set(np.asarray(first[0].groups, dtype=str)[apart]))


def draws_for(comparisons: int, draws: int, confidence: float) -> int:
    """Return how many draws let a p-value pass Holm's correction over so many comparisons: `draws`, or more.

    The least p-value of B draws is 2 / (B + 1), and the first of m is held to (1 - confidence) / m.
    """
    return max(draws, math.ceil(MARGIN * 2 * comparisons / (1 - confidence)))


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
