"""One policy's item scores for one subset and metric: a `Cell`, how it is read and checked, and what several share."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
FIDELITIES = ("paper", "code")
LINEAR = ("mean", "macro_mean")  # estimators that are a weighted mean of their items


@dataclass(frozen=True, eq=False)  # compared as objects, so that what is computed from one can be remembered
class Cell:
    """One policy's item scores for one subset and metric: n items, their n groups, and columns of length n.

    bounds: the least and the most that an item can have, where the metric has such. A "replicates" cell also has its
    value `point` and `replicates` (draws,); None where other items are asked of it than those it was resampled on.
    """

    items: tuple[str, ...]
    groups: tuple[str, ...]
    estimator: str
    columns: dict[str, np.ndarray]
    fidelity: str = "paper"
    point: float = math.nan
    replicates: np.ndarray | None = None
    bounds: tuple[float, float] | None = None


def read_cell(raw: dict, where: str) -> Cell:
    """Return a validated Cell from a score file's cell; `where` opens each message.

    Raises PlumblineError when a key is missing, lengths differ, an item appears twice, a number is not finite, a
    perplexity item has no tokens, a ratio item no positive denominator, a replicates cell no replicates, or bounds
    are not two numbers, the lesser first.
    """
    estimator = raw.get("estimator")
    if estimator not in COLUMNS:
        raise PlumblineError(f"{where}: unknown estimator {estimator!r}; allowed: {', '.join(COLUMNS)}")
    fidelity = raw.get("fidelity", "paper")
    if fidelity not in FIDELITIES:
        raise PlumblineError(f"{where}: unknown fidelity {fidelity!r}; allowed: {', '.join(FIDELITIES)}")
    lists = _read_lists(raw, estimator, where)
    items = _read_items(lists["items"], where)
    arrays = {
        name: (_labels if name in LABEL_COLUMNS else _finite)(lists[name], name, items, where)
        for name in COLUMNS[estimator]
    }
    _check_positive(arrays, estimator, items, where)
    bounds = _read_bounds(raw.get("bounds"), where)
    cell = Cell(items, tuple(map(str, lists["groups"])), estimator, arrays, fidelity, bounds=bounds)
    if estimator != "replicates":
        return cell
    point, replicates = raw.get("point"), raw.get("replicates")
    if not _is_finite(point) or not replicates or not all(map(_is_finite, replicates)):
        raise PlumblineError(
            f"{where}: a replicates cell needs the number 'point' and the list 'replicates' of finite numbers"
        )
    return replace(cell, point=float(point), replicates=np.asarray(replicates, dtype=float))


def _read_lists(raw: dict, estimator: str, where: str) -> dict[str, list]:
    """Return the lists of a raw cell by name, all of one length: items, groups and the estimator's columns."""
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
    return lists


def _read_items(names: list, where: str) -> tuple[str, ...]:
    """Return the names of items, of which there is at least one and none twice."""
    items = tuple(map(str, names))
    if not items:
        raise PlumblineError(f"{where}: no items; a cell without items has no value")
    if len(set(items)) < len(items):
        twice = next(item for number, item in enumerate(items) if item in items[:number])
        raise PlumblineError(f"{where}: item {twice!r} appears twice; a cell has one entry per item")
    return items


def _check_positive(
    arrays: dict[str, np.ndarray], estimator: str, items: tuple[str, ...], where: str
) -> None:
    """Raise PlumblineError for an item that an estimator could only divide by zero for."""
    if estimator == "perplexity" and arrays["tokens"].min() <= 0:
        bad = items[int(arrays["tokens"].argmin())]
        raise PlumblineError(f"{where}: item {bad!r} has no tokens; perplexity needs at least one per item")
    if estimator == "ratio" and arrays["denominator"].min() <= 0:
        bad = items[int(arrays["denominator"].argmin())]
        raise PlumblineError(f"{where}: the denominator of item {bad!r} is not above 0, as a ratio's must be")


def _read_bounds(bounds: object, where: str) -> tuple[float, float] | None:
    """Return the least and the most that an item can have, None where the cell does not say."""
    if bounds is None:
        return None
    two_numbers = isinstance(bounds, list) and list(map(_is_finite, bounds)) == [True, True]
    if not two_numbers or bounds[0] >= bounds[1]:
        raise PlumblineError(f"{where}: bounds is {bounds!r}; it is [the least, the most] an item can have")
    return float(bounds[0]), float(bounds[1])


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
    if len({len(cell.replicates) if can_resample([cell]) else 0 for cell in shared if is_refitted(cell)}) > 1:
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


def is_refitted(cell: Cell) -> bool:
    return cell.estimator == "replicates"


def can_resample(cells: Sequence[Cell]) -> bool:
    """Return whether the cells have an interval: not so if some are replicates of other items than the others."""
    return not any(is_refitted(cell) and cell.replicates is None for cell in cells)


def check_cells(cells: Sequence[Cell]) -> None:
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
