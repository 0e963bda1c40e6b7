"""Reading raw dataset files: a JSON array, JSON Lines or one JSON object, from anywhere, in any state."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError


class Fault(NamedTuple):
    """Why a row or a turn is rejected: a short reason that can be counted, and what was seen."""

    reason: str
    detail: str = ""


class RawRow(NamedTuple):
    """One row of a raw file: its place, and its value or why it has none."""

    index: int  # from 0
    line: int | None  # from 1; None in a JSON array
    value: Any
    fault: Fault | None


def read_rows(path: Path | str, max_chars: int) -> list[RawRow]:
    """Return the rows of a JSON array or JSON Lines file; a bad line is a row with a fault.

    A file that is one object written over several lines is one row.

    PlumblineError, with the place, if the whole file is missing, empty, not UTF-8, or a broken array.
    """
    text = _decode(path)
    if not text.strip():
        raise PlumblineError(f"{path}: holds no rows; check that the download is complete")
    if text.lstrip().startswith("["):
        return _read_array(path, text)
    if (whole := _read_object(text)) is not None:
        return [RawRow(0, 1, whole, None)]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_read_line(index, number, line, max_chars) for index, (number, line) in enumerate(lines)]


def _decode(path: Path | str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PlumblineError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise PlumblineError(
            f"{path}:{line}: not UTF-8 ({error.reason}, {byte}); convert the file to UTF-8"
        ) from None


def _read_array(path: Path | str, text: str) -> list[RawRow]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlumblineError(
            f"{path}:{error.lineno}:{error.colno}: broken JSON array ({error.msg}); mend the file, "
            "or write one JSON object per line so that only the broken ones are lost"
        ) from None
    except (RecursionError, ValueError) as error:
        raise PlumblineError(f"{path}: not readable as JSON ({error})") from None
    if not values:
        raise PlumblineError(f"{path}: holds no rows; check that the download is complete")
    return [RawRow(index, None, value, None) for index, value in enumerate(values)]


def _read_object(text: str) -> dict | None:
    if not text.lstrip().startswith("{") or "\n" not in text.strip():
        return None
    try:
        return json.loads(text)  # of JSON Lines this fails at the end of the first line
    except (RecursionError, ValueError):
        return None


def _read_line(index: int, number: int, line: str, max_chars: int) -> RawRow:
    if len(line) > max_chars:
        fault = Fault(f"longer than {max_chars} characters", f"{len(line)} characters")
        return RawRow(index, number, None, fault)
    try:
        return RawRow(index, number, json.loads(line), None)
    except json.JSONDecodeError as error:
        return RawRow(index, number, None, Fault("not JSON", f"column {error.colno}: {error.msg}"))
    except (RecursionError, ValueError) as error:
        return RawRow(index, number, None, Fault("not JSON", str(error)))
