"""CSV files that no spreadsheet runs: how every table of a study is written and read.

A spreadsheet takes a field that begins with = + - or @ (wide or not) for a formula, and names in our tables can come
from files of others (a category of questions, the id of an item, a judge's words). Such a field is written behind an
apostrophe, which spreadsheets take for "text follows", and read without it. Numbers are left as they are.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import finished_file

FORMULA = (*"=+-@\t\r\n", *"＝＋－＠")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def guarded(field: str) -> str:
    """Return a field as it is written: behind an apostrophe where a spreadsheet would run it."""
    text = field.lstrip("'")
    return f"'{field}" if text.startswith(FORMULA) and not is_number(field) else field


def unguarded(field: str) -> str:
    """Return a field as it was before it was written."""
    return field[1:] if field.startswith("'") and field.lstrip("'").startswith(FORMULA) else field


def csv_text(columns: list[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table as CSV with Unix line ends."""
    out = io.StringIO(newline="")
    plain = csv.writer(out, lineterminator="\n")
    quoted = csv.writer(
        out, lineterminator="\n", quoting=csv.QUOTE_ALL
    )  # a bare \r ends the line for most readers
    for row in (columns, *rows):
        fields = [guarded(field) for field in row]
        (quoted if any("\r" in field for field in fields) else plain).writerow(fields)
    return out.getvalue()


def write_csv(path: Path, columns: list[str], rows: Iterable[Iterable[str]]) -> None:
    """Write a table as CSV, atomically."""
    with finished_file(path) as temporary:
        temporary.write_text(csv_text(columns, rows), encoding="utf-8", newline="")


def number_text(value: float | int | bool | str) -> str:
    """Return a CSV field: floats with six significant digits, booleans as true/false, the rest as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(0.0 if abs(value) < 1e-12 else value, ".6g")
    return str(value)


def write_table(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write rows as CSV, atomically."""
    write_csv(path, columns, ([number_text(row.get(column, "")) for column in columns] for row in rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return a CSV file's rows as text; PlumblineError when there is no such file."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return [
                {
                    column: unguarded(field) if isinstance(field, str) else field
                    for column, field in row.items()
                }
                for row in csv.DictReader(stream)
            ]
    except FileNotFoundError:
        raise PlumblineError(f"{path}: no such file") from None
