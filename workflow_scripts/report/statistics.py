"""Estimates, bootstrap intervals, paired differences and Holm's correction: pure functions on item scores.

One draw of the cluster bootstrap is a row of non-negative counts, one per item; every estimator is a function of
weighted sums of item columns, so one matrix product gives all draws. An item's weight depends on its group alone:
two turns of one problem stand or fall together. Where every item is its own group this is the plain item bootstrap.

Covered: percentile intervals over items, conditional on the seeds that were trained. Not covered: the variance
between training seeds (it needs more of them than a study has), BCa or studentised intervals.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow_scripts.common.errors import PlumblineError

COLUMNS = {
    "mean": ("value",),
    "ratio": ("numerator", "denominator"),
    "perplexity": ("nll", "tokens"),
    "macro_f1": ("gold", "predicted"),
}
FIDELITIES = ("paper", "code")
# Differences below this, relative to the estimate, are rounding of the matrix product and count as none.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Cell:
    """One policy's item scores for one subset and metric: n items, their n groups, and columns of length n."""

    items: tuple[str, ...]
    groups: tuple[str, ...]
    estimator: str
    columns: dict[str, np.ndarray]
    fidelity: str = "paper"


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval, in the metric's own unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with its interval and its two-sided bootstrap p-value."""

    p_value: float


def read_cell(raw: dict, where: str) -> Cell:
    """Return a validated Cell from a score file's cell; `where` opens each message.

    Raises PlumblineError when a key is missing, lengths differ, an item appears twice, a number is not finite,
    a perplexity item has no tokens, or a ratio item no positive denominator.
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
    convert = _labels if estimator == "macro_f1" else _finite
    arrays = {name: convert(lists[name], name, items, where) for name in COLUMNS[estimator]}
    if estimator == "perplexity" and arrays["tokens"].min() <= 0:
        bad = items[int(arrays["tokens"].argmin())]
        raise PlumblineError(f"{where}: item {bad!r} has no tokens; perplexity needs at least one per item")
    if estimator == "ratio" and arrays["denominator"].min() <= 0:
        bad = items[int(arrays["denominator"].argmin())]
        raise PlumblineError(f"{where}: the denominator of item {bad!r} is not above 0, as a ratio's must be")
    return Cell(items, tuple(map(str, lists["groups"])), estimator, arrays, fidelity)


def _finite(values: list, name: str, items: tuple[str, ...], where: str) -> np.ndarray:
    for item, value in zip(items, values, strict=True):
        if not isinstance(value, int | float) or not math.isfinite(value):
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


@functools.lru_cache(maxsize=1)  # the policies of one cell come one after another and share their draws
def bootstrap_weights(groups: tuple[str, ...], draws: int, seed: int) -> np.ndarray:
    """Return cluster-bootstrap weights (draws, items): how often each item's group was drawn.

    G groups are drawn with replacement from the G distinct ones (Davison & Hinkley 1997, §3.8: whole clusters).
    Groups are taken in sorted order, so an item's weights do not depend on the order of the items.
    """
    names, of_item = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    count = len(names)
    chosen = np.random.default_rng(seed).integers(0, count, size=(draws, count))
    chosen += np.arange(draws)[:, None] * count
    counts = np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count)
    weights = counts[:, of_item].astype(float)
    weights.setflags(write=False)
    return weights


def mean(weights: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return weighted means (draws,) of `value` (items,) under `weights` (draws, items)."""
    return weights @ value / weights.sum(axis=1)


def ratio(weights: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return Σ numerator / Σ denominator per draw (draws,), from items (items,) under `weights` (draws, items)."""
    return weights @ numerator / (weights @ denominator)


def perplexity(weights: np.ndarray, nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return exp(Σ nll / Σ tokens) per draw (draws,); nll in nats summed over an item's tokens."""
    return np.exp(weights @ nll / (weights @ tokens))


def macro_f1(
    weights: np.ndarray, gold: np.ndarray, predicted: np.ndarray, fidelity: str = "paper"
) -> np.ndarray:
    """Return macro-F1 per draw (draws,) from weighted counts, F1 = 2 tp / (2 tp + fp + fn).

    gold, predicted: labels (items,), '' for an answer that did not parse. paper: the mean over the labels that are
    gold in the draw, so '' only lowers recall. code: as the published evaluation computes it, the
    mean over the sorted labels of gold and predictions without the first one, which is '' only if some answer
    did not parse, else a real label; 0 where no label is left (there it has no number).
    """
    labels = np.unique(np.concatenate([gold, predicted]))
    is_gold, is_predicted = gold[:, None] == labels, predicted[:, None] == labels
    columns = np.hstack([is_gold & is_predicted, is_gold, is_predicted]).astype(float)
    hits, golds, guesses = np.split(weights @ columns, 3, axis=1)
    f1 = 2 * hits / np.maximum(golds + guesses, 1e-300)
    if fidelity == "paper":
        counted = golds > 0
    else:
        seen = golds + guesses > 0
        counted = seen & (np.cumsum(seen, axis=1) > 1)
    return (f1 * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)


def estimates(cells: Sequence[Cell], weights: np.ndarray) -> np.ndarray:
    """Return the estimate of each draw (draws,), averaged over `cells`: one policy's seeds on the same items.

    For a mean this equals the mean of the seed-averaged items.
    """
    return np.mean([_estimate(cell, weights) for cell in cells], axis=0)


def _estimate(cell: Cell, weights: np.ndarray) -> np.ndarray:
    if cell.estimator == "mean":
        return mean(weights, cell.columns["value"])
    if cell.estimator == "ratio":
        return ratio(weights, cell.columns["numerator"], cell.columns["denominator"])
    if cell.estimator == "perplexity":
        return perplexity(weights, cell.columns["nll"], cell.columns["tokens"])
    return macro_f1(weights, cell.columns["gold"], cell.columns["predicted"], cell.fidelity)


def point_estimate(cells: Sequence[Cell]) -> float:
    """Return the estimate on the items as they are (all weights one)."""
    return float(estimates(cells, np.ones((1, len(cells[0].items))))[0])


def shared_items(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells reduced to the items that all of them have, in the order of the first: possibly none.

    Judged benchmarks leave out the answers whose verdict failed, so policies can differ in their items. Raises
    PlumblineError for an item that is in two groups, as it is then not one item.
    """
    common = set.intersection(*(set(cell.items) for cell in cells))
    items = tuple(item for item in cells[0].items if item in common)
    reduced = [_reduced(cell, items) for cell in cells]
    for cell in reduced[1:]:
        for item, group, other in zip(items, reduced[0].groups, cell.groups, strict=True):
            if group != other:
                raise PlumblineError(f"item {item!r} is in group {group!r} once and in {other!r} once")
    return reduced


def _reduced(cell: Cell, items: tuple[str, ...]) -> Cell:
    if cell.items == items:
        return cell
    place = {item: number for number, item in enumerate(cell.items)}
    order = [place[item] for item in items]
    groups = tuple(cell.groups[number] for number in order)
    columns = {name: values[order] for name, values in cell.columns.items()}
    return Cell(items, groups, cell.estimator, columns, cell.fidelity)


def _check_items(cells: Sequence[Cell]) -> None:
    if not cells[0].items or any(cell.items != cells[0].items for cell in cells):
        raise ValueError("cells need the same items in one order, and at least one: use shared_items")


def interval(cells: Sequence[Cell], draws: int, seed: int, confidence: float = 0.95) -> Interval:
    """Return the estimate and its percentile bootstrap interval; `cells` are one policy's seeds on the same items.

    One group, or items that are all equal, give an interval of no width. A percentile interval is a
    little narrow when groups are few (below about 20). Raises ValueError when items differ (see shared_items).
    """
    _check_items(cells)
    samples = estimates(cells, bootstrap_weights(cells[0].groups, draws, seed))
    low, high = _percentiles(samples, confidence)
    return Interval(point_estimate(cells), low, high)


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
    _check_items([*first, *second])
    weights = bootstrap_weights(first[0].groups, draws, seed)
    value = point_estimate(first) - point_estimate(second)
    scale = ROUNDING * max(1.0, abs(point_estimate(first)))
    samples = estimates(first, weights) - estimates(second, weights)
    samples[np.abs(samples) < scale] = 0.0
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    floor = 2.0 ** (1 - len(set(first[0].groups)))
    p_value = min(1.0, max(2 * (1 + rarer) / (draws + 1), floor))
    low, high = _percentiles(samples, confidence)
    return Difference(0.0 if abs(value) < scale else value, low, high, p_value)


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
