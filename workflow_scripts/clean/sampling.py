"""Which raw rows of a file are read at all, where only a sample of them is wanted.

Rows are drawn as pandas draws them (`DataFrame.sample` with a whole number as random_state), from those that pandas
finds something in (`dropna`): so a source's own sample of its file is found again, row for row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workflow_scripts.clean.ledger import Ledger
from workflow_scripts.clean.reading import RawRow, read_rows
from workflow_scripts.clean.selecting import ends_with
from workflow_scripts.clean.settings import Sample, Settings

# What pandas takes for an empty cell of a table.
EMPTY = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null|".split(
        "|"
    )
)


def is_empty(value: Any) -> bool:
    """Tell whether a cell holds nothing, as pandas sees it."""
    return value is None or (isinstance(value, str) and value in EMPTY)


def empty_column(row: RawRow, columns: list[str]) -> str | None:
    """Return the first of the columns that a row holds nothing in; None if there is none, or the row is no object."""
    if row.fault or not isinstance(row.value, dict):
        return None
    return next((column for column in columns if is_empty(row.value.get(column))), None)


def draw(count: int, rule: Sample) -> list[int]:
    """Return the places of the rows drawn from `count`, in the order drawn; all of them where fewer are there."""
    wanted = count if rule["rows"] is None else min(rule["rows"], count)
    return np.random.RandomState(rule["seed"]).choice(count, size=wanted, replace=False).tolist()


def read_sample(path: Path | str, settings: Settings, ledger: Ledger) -> Iterator[RawRow]:
    """Yield a file's rows: all of them, or a sample, in the order drawn.

    A row that cannot be read is never drawn; it comes first, to be rejected with its reason. How many rows were not
    drawn, and how many had nothing in a column, is noted in the ledger. The file is read twice, so that only what is
    drawn is ever in memory.
    """
    rule = settings["sample"]
    columns = next((names for file, names in settings["columns"].items() if ends_with(str(path), file)), [])
    reading = (path, settings["max_chars"], columns, settings["sample_by"])
    if rule is None:
        yield from read_rows(*reading)
        return
    places = []
    for place, row in enumerate(read_rows(*reading)):
        if row.fault:
            yield row
        elif (column := empty_column(row, rule["columns"])) is not None:
            ledger.notes[f"rows left out with nothing in '{column}'"] += 1
        else:
            places.append(place)
    drawn = {places[index]: order for order, index in enumerate(draw(len(places), rule))}
    ledger.notes["rows not drawn"] += len(places) - len(drawn)
    again = enumerate(read_rows(*reading))
    rows = (row for place, row in again if place in drawn)
    ordered = zip(sorted(drawn), rows, strict=True)
    yield from (row for _, row in sorted(ordered, key=lambda item: drawn[item[0]]))
