"""Reading raw dataset files, in any state: a JSON array, JSON Lines, one object, or a table (csv, tsv, Parquet)."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.raw_files import (
    bare,
    is_table,
    line_of_depth,
    open_text,
    read_table,
    why_not_json,
)


class Fault(NamedTuple):
    """Why a row or a turn is rejected: a short reason that can be counted, and what was seen."""

    reason: str
    detail: str = ""


class RawRow(NamedTuple):
    """One row of a raw file: its place, and its value or why it has none."""

    index: int  # from 0
    line: int | None  # from 1; None in a JSON array or a Parquet table
    value: Any
    fault: Fault | None
    unread: frozenset[str] = frozenset()  # of a part: keys of the whole row that no part was made from


class GivenTwice:
    """What stands in place of a value whose key its object has twice: of a type that no field may have."""


def load_json(text: str) -> Any:
    """Return what `json.loads` does, but with GivenTwice where it would drop the first of two values."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        found |= {key: GivenTwice() for key, count in counts.items() if count > 1}
    return found


def read_rows(path: Path | str, max_chars: int, columns: Sequence[str] = ()) -> Iterator[RawRow]:
    """Yield the rows of a JSON array, of JSON Lines, or of a table; a bad line is a row with a fault.

    A file that is one object written over several lines is one row. One line, or one table's few rows, is in memory
    at a time, but for an array. `columns` are those of a table of text whose first row does not name them.

    PlumblineError, with the place, if the whole file is missing, empty, no text, or a broken array.
    """
    found = _read_table(path, columns) if is_table(path) else _read_text(path, max_chars)
    first = next(found, None)
    if first is None:
        raise PlumblineError(f"{path}: holds no rows; check that the download is complete")
    yield first
    yield from found


def _read_table(path: Path | str, columns: Sequence[str]) -> Iterator[RawRow]:
    for index, row in enumerate(read_table(path, columns)):
        fault = Fault("broken row of the table", row.fault) if row.cells is None else None
        yield RawRow(index, row.line, row.cells, fault)


def _read_text(path: Path | str, max_chars: int) -> Iterator[RawRow]:
    with open_text(path) as stream:
        lines = ((number, line) for number, line in enumerate(map(bare, stream), 1) if line.strip())
        number, line = next(lines, (1, ""))
        if line.lstrip().startswith("["):
            yield from _read_array(path, "\n" * (number - 1) + line + "\n" + stream.read())
            return
        if line.lstrip().startswith("{") and _read_line(0, number, line, len(line)).fault:
            # No JSON Lines, unless a broken one comes first.
            rest = list(lines)
            if (whole := _read_object("\n".join([line, *(text for _, text in rest)]))) is not None:
                yield RawRow(0, number, whole, None)
                return
            lines = iter(rest)
        if line:
            yield _read_line(0, number, line, max_chars)
        for index, (number, line) in enumerate(lines, 1):
            yield _read_line(index, number, line, max_chars)


def _read_array(path: Path | str, text: str) -> Iterator[RawRow]:
    try:
        values = load_json(text)
    except json.JSONDecodeError as error:
        raise PlumblineError(
            f"{path}:{error.lineno}:{error.colno}: broken JSON array ({error.msg}); mend the file, "
            "or write one JSON object per line so that only the broken ones are lost"
        ) from None
    except (RecursionError, ValueError) as error:
        line = f":{line_of_depth(text)}" if isinstance(error, RecursionError) else ""
        raise PlumblineError(f"{path}{line}: not readable as JSON ({why_not_json(error)})") from None
    for index, value in enumerate(values):
        yield RawRow(index, None, value, None)


def _read_object(text: str) -> dict | None:
    try:
        return load_json(text)
    except (RecursionError, ValueError):
        return None


def _read_line(index: int, number: int, line: str, max_chars: int) -> RawRow:
    if len(line) > max_chars:
        fault = Fault(f"longer than {max_chars} characters", f"{len(line)} characters")
        return RawRow(index, number, None, fault)
    try:
        return RawRow(index, number, load_json(line), None)
    except (RecursionError, ValueError) as error:
        return RawRow(index, number, None, Fault("not JSON", why_not_json(error)))
