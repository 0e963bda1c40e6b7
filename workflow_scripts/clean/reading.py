"""Reading raw dataset files, in any state: a JSON array, JSON Lines, one object, a table (csv, tsv, Parquet, Arrow), or
plain text."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.raw_files import (
    bare,
    is_plain,
    is_table,
    line_of_depth,
    open_text,
    read_table,
    why_not_json,
)
from workflow_scripts.common.tutor_reply import parse_literal

LABELS = ("label", "kto_tag")  # what says of an answer whether it is good
TURNS = ({"role", "content"}, {"from", "value"})  # keys by which an object is a message
FIRST_CHARS = 1 << 22  # of a list of JSON, in which its first rows are looked for
SampleBy = Literal["line", "paragraph", "document"]  # what a row of plain text is


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


def read_rows(
    path: Path | str, max_chars: int, columns: Sequence[str] = (), sample_by: SampleBy = "line"
) -> Iterator[RawRow]:
    """Yield the rows of a JSON array, of JSON Lines, of a table, or of plain text; a bad line is a row with a fault.

    A file that is one object written over several lines is one row. One line, or one table's few rows, is in memory
    at a time, but for an array. `columns` are those of a table of text whose first row does not name them. A row of
    plain text is {"text"}: a line, a paragraph (empty lines set them apart) or the document, as `sample_by` says;
    empty ones are none.

    PlumblineError, with the place, if the whole file is missing, empty, no text, or a broken array.
    """
    if is_table(path):
        found = _read_table(path, columns)
    elif is_plain(path):
        found = _read_plain(path, max_chars, sample_by)
    else:
        found = _read_text(path, max_chars)
    first = next(found, None)
    if first is None:
        raise PlumblineError(f"{path}: holds no rows; check that the download is complete")
    yield first
    yield from found


def read_first(
    path: Path | str, most: int, max_chars: int, columns: Sequence[str] = (), sample_by: SampleBy = "line"
) -> list[RawRow]:
    """Return the first rows of a file, as `read_rows` does; of a large list of JSON no more is read than they need."""
    if not is_table(path) and not is_plain(path):
        with open_text(path) as stream:
            text = stream.read(FIRST_CHARS).lstrip("\ufeff \t\r\n")
        if len(text) > FIRST_CHARS // 2 and text.startswith("["):
            values = list(itertools.islice(_values_of(text), most))
            if values:
                return [RawRow(index, None, value, None) for index, value in enumerate(values)]
    return list(itertools.islice(read_rows(path, max_chars, columns, sample_by), most))


def _values_of(text: str) -> Iterator[Any]:
    """Yield the values of a JSON list's beginning, as far as they are whole."""
    decoder, place = json.JSONDecoder(object_pairs_hook=_object), 1
    while True:
        while place < len(text) and text[place] in ", \t\r\n":
            place += 1
        try:
            value, place = decoder.raw_decode(text, place)
        except (RecursionError, ValueError):
            return
        yield value


def _read_table(path: Path | str, columns: Sequence[str]) -> Iterator[RawRow]:
    for index, row in enumerate(read_table(path, columns)):
        fault = Fault("broken row of the table", row.fault) if row.cells is None else None
        of_text = row.cells is not None and row.line is not None
        cells = {name: _told(name, cell) for name, cell in row.cells.items()} if of_text else row.cells
        yield RawRow(index, row.line, cells, fault)


def truth(column: str, value: Any) -> Any:
    """Return what stands under a column, of a label that is spelt in a text whether it is true."""
    spelt = column in LABELS and isinstance(value, str) and value.lower() in ("true", "false")
    return value.lower() == "true" if spelt else value


def _told(column: str, cell: str) -> Any:
    """Return a cell of a table of text: its text, but the messages or the truth of a label that it spells."""
    if isinstance(told := truth(column, cell), bool):
        return told
    value = parse_literal(cell) if cell.startswith("[") and cell.endswith("]") else None
    spelt = bool(value) and all(isinstance(turn, dict) for turn in value)
    return value if spelt and all(any(keys <= turn.keys() for keys in TURNS) for turn in value) else cell


def _read_plain(path: Path | str, max_chars: int, sample_by: SampleBy) -> Iterator[RawRow]:
    with open_text(path) as stream:
        for index, (number, text) in enumerate(_samples(map(bare, stream), sample_by)):
            long = Fault(f"longer than {max_chars} characters", f"{len(text)} characters")
            yield RawRow(index, number, {"text": text}, long if len(text) > max_chars else None)


def _samples(lines: Iterable[str], sample_by: SampleBy) -> Iterator[tuple[int, str]]:
    """Yield (line of its beginning, text) of each line, paragraph or document that says something."""
    start, held = 0, []
    for number, line in enumerate(lines, 1):
        if line.strip():
            start = start or number
            held.append(line)
        elif sample_by == "document" and held:
            held.append(line)
        if held and (sample_by == "line" or (sample_by == "paragraph" and not line.strip())):
            yield start, "\n".join(held)
            start, held = 0, []
    if held:
        yield start, "\n".join(held).rstrip("\n")


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
