"""Passages of a file, one list of texts: what is embedded and what is written into rows are the same ones.

Of a table (csv, tsv, Parquet) or of rows of JSON a column is taken; any other file is a text whose paragraphs have
blank lines between them. What is left out is counted, by why: passages that are no text, shorter ones than
`min_chars`, those of rows whose columns do not begin as `starts` says, and repeats. Nothing numbers them anew
afterwards: the published code of CLASS (Sonkar et al. 2023) leaves short paragraphs out of its index and not out of
the list that it looks numbers up in, so that every later passage is found under another's number.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.raw_files import bare, is_table, open_text

ROWS = (".json", ".jsonl")


class Passage(NamedTuple):
    """A passage: its text, and where it stands in its file: its row, of a text the line it begins in, from 1."""

    place: int
    text: str


class Passages(NamedTuple):
    """The passages of a file, and how many were left out, by why."""

    kept: list[Passage]
    left_out: Counter


def read_passages(
    path: Path | str, column: str | None, starts: Mapping[str, str], min_chars: int
) -> Passages:
    """Return the passages of a file; PlumblineError if it has no such column, or none is left."""
    if column is None and (is_table(path) or Path(path).suffix.lower() in ROWS):
        raise PlumblineError(f"{path}: holds rows; say in retrieve.column which column holds the passages")
    found = paragraphs(path) if column is None else cells(path, column, starts)
    kept: list[Passage] = []
    left_out: Counter = Counter()
    seen: set[str] = set()
    for place, text, fault in found:
        if not fault and len(text) < min_chars:
            fault = "shorter than min_chars"
        elif not fault and text in seen:
            fault = "repeated"
        if fault:
            left_out[fault] += 1
        else:
            seen.add(text)
            kept.append(Passage(place, text))
    if not kept:
        told = ", ".join(f"{why} ({count})" for why, count in left_out.items()) or "it is empty"
        raise PlumblineError(f"{path}: holds no passage: {told}")
    return Passages(kept, left_out)


def paragraphs(path: Path | str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, text, "") of each paragraph of a text, its lines joined by spaces."""
    with open_text(path) as stream:
        lines: list[str] = []
        for number, line in enumerate([*map(bare, stream), ""], 1):
            if line.strip():
                lines.append(line.strip())
            elif lines:
                yield number - len(lines), " ".join(lines), ""
                lines = []


def cells(path: Path | str, column: str, starts: Mapping[str, str]) -> Iterator[tuple[int, str, str]]:
    """Yield (row, text, why it is left out or "") of each row."""
    rows = read_jsonl(path)
    for name in (column, *starts):
        if rows and not any(name in row for row in rows):
            raise PlumblineError(f"{path}: has no column {name!r} (it has {', '.join(rows[0])})")
    for place, row in enumerate(rows, 1):
        text = row.get(column)
        others = [name for name, begin in starts.items() if not str(row.get(name)).startswith(begin)]
        if others:
            yield place, "", f"{others[0]} does not begin with {starts[others[0]]!r}"
        elif not isinstance(text, str) or not text.strip():
            yield place, "", "no text"
        else:
            yield place, text.strip(), ""
