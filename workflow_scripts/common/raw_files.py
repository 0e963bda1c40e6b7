"""Opening files that others wrote: their text in whatever wrapping it came, or what they are if they hold none.

Read are UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one; and tables: Parquet and Arrow, known by
their content, and tables of text, whose name ends in .csv or .tsv. Each is plain or packed with gzip, bzip2, xz or
zstd. Any other file is named for what its first bytes say it is, with what to do. What unpacks to far more than it is
packed to (a bomb) is refused before it fills the memory.
"""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from workflow_scripts.common.errors import PlumblineError

SIZE_LIMIT = 8 << 30  # bytes a file may unpack to
BOMB_RATIO = 200  # unpacked bytes per packed byte
BOMB_FLOOR = 100 << 20  # bytes: below this, no ratio is suspicious
TABLE_ROWS = 256  # rows of a table in memory at once
HEAD = 4096
DEEP = 100  # levels of JSON that no data need
STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}\n]')

BYTE_ORDER_MARKS = {  # the longer ones first: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
ZSTD = b"\x28\xb5\x2f\xfd"
PARQUET, ARROW, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
TABLES = {PARQUET: "Parquet", ARROW: "Arrow", ARROW_STREAM: "Arrow"}  # by how they begin
SEPARATORS = {".csv": ",", ".tsv": "\t"}  # by the end of a file's name, before that of its packing
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
PLAIN = (".txt", ".text", ".md")  # texts, unless they begin as JSON does
JSON_BEGINS = re.compile(r'[\ufeff\s]*(\{\s*["}]|\[\s*[\[{"])')
CELL_LIMIT = 10_000_000  # characters of a cell: more is a quotation mark that nothing closes
OTHERS = {
    b"PK\x03\x04": "a zip archive or a workbook (.zip, .xlsx): take out the file, or save its table as JSON Lines",
    b"\xd0\xcf\x11\xe0": "an old Office document (.xls): save its table as JSON Lines",
    b"Obj\x01": "an Avro file: write it as Parquet or JSON Lines",
    b"\x89HDF": "an HDF5 file: write it as Parquet or JSON Lines",
    b"ORC": "an ORC table: write it as Parquet or JSON Lines",
    b"SQLite format 3": "an SQLite database: write its table as JSON Lines",
    b"\x93NUMPY": "a NumPy array: write it as JSON Lines",
    b"\x80\x02": "a Python pickle, which could run code and is not opened: write it as JSON Lines",
    b"\x80\x03": "a Python pickle, which could run code and is not opened: write it as JSON Lines",
    b"\x80\x04": "a Python pickle, which could run code and is not opened: write it as JSON Lines",
    b"\x80\x05": "a Python pickle, which could run code and is not opened: write it as JSON Lines",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"Rar!": "a rar archive: unpack it first",
    b"\x04\x22\x4d\x18": "packed with lz4: unpack it first, or pack it with gzip",
    b"%PDF": "a PDF document: write its rows as JSON Lines",
    b"GGUF": "a model (GGUF)",
    b"version https://git-lfs": "a pointer that Git LFS left in place of the file: fetch the file itself",
    b"<!DOCTYPE": "a web page: the download got a page in place of the file",
    b"<!doctype": "a web page: the download got a page in place of the file",
    b"<html": "a web page: the download got a page in place of the file",
}


def other_than_text(head: bytes) -> str | None:
    """Return what a file is whose first bytes are no text of ours, and what to do with it, or None."""
    for magic, name in OTHERS.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive: take out the file"
    # A text may hold a stray null byte, which costs the row it stands in.
    if any(map(head.startswith, BYTE_ORDER_MARKS)) or head.count(0) * 10 < max(len(head), 10):
        return None
    zeros = [head[start::2].count(0) / max(len(head[start::2]), 1) for start in (0, 1)]
    if max(zeros) > 0.3 and min(zeros) < 0.05:
        return "UTF-16 without a byte order mark: convert it to UTF-8"
    return "a binary file: write its rows as JSON Lines"


class _Bounded(io.RawIOBase):
    """A stream of at most so many bytes; PlumblineError when there are more."""

    def __init__(self, stream: BinaryIO, most: int, path: Path | str) -> None:
        self.stream, self.left, self.path = stream, most, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        block = self.stream.read(min(len(buffer), self.left + 1))
        self.left -= len(block)
        if self.left < 0:
            raise PlumblineError(f"{self.path}: unpacks to more than is allowed: too large, or a bomb")
        buffer[: len(block)] = block
        return len(block)


def _unpacked(path: Path | str, raw: BinaryIO, head: bytes) -> io.BufferedReader | BinaryIO:
    """Return the stream of a file's bytes, unpacked if the file is packed."""
    unpack = next((tool for magic, tool in UNPACKERS.items() if head.startswith(magic)), None)
    if head.startswith(ZSTD):
        import pyarrow  # 0.2 s, which all other files would wait for

        inner = pyarrow.input_stream(raw, compression="zstd")
    elif unpack:
        inner = unpack(raw)
    else:
        return raw
    most = min(SIZE_LIMIT, max(BOMB_FLOOR, BOMB_RATIO * Path(path).stat().st_size))
    return io.BufferedReader(_Bounded(inner, most, path))


@contextlib.contextmanager
def open_text(path: Path | str, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """Give a file's text as a stream; all that goes wrong with it is a PlumblineError.

    Its lines are ended by "\\n", or, with the `newline` "", as they are in the file.
    """
    try:
        raw = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise PlumblineError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise PlumblineError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from None
    with raw:
        try:
            packed_head = raw.peek(HEAD)[:HEAD]
            stream = _unpacked(path, raw, packed_head)
            head = stream.peek(HEAD)[:HEAD]
            inside = "" if stream is raw else " inside its packing"
            if kind := table_kind(head):
                raise PlumblineError(
                    f"{path}: is {'an' if kind == 'Arrow' else 'a'} {kind} table{inside}, not text"
                )
            if name := other_than_text(head):
                raise PlumblineError(f"{path}: is no text of UTF-8{inside} but {name}")
            encoding = next(
                (name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8"
            )
            with io.TextIOWrapper(stream, encoding=encoding, newline=newline) as text:
                yield text
        except UnicodeDecodeError as error:
            where, told = _bad_byte(path) or ("", "")
            raise PlumblineError(
                f"{path}{where}: not {error.encoding.upper()} ({error.reason}{told}); convert the file to UTF-8"
            ) from None
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise PlumblineError(
                f"{path}: its packing is damaged or cut off ({error}); fetch it anew"
            ) from None
        except OSError as error:  # of gzip, bzip2 and zstd too, which then has no errno
            raise PlumblineError(f"{path}: cannot be read ({error.strerror or error})") from None


def _bad_byte(path: Path | str) -> tuple[str, str] | None:
    """Return ":<line>" and what stands there, of the first byte that is not UTF-8."""
    with open(path, "rb") as raw:
        stream, offset = _unpacked(path, raw, raw.peek(HEAD)), 0
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f":{number}", f", byte 0x{line[error.start]:02x} at offset {offset + error.start}"
            offset += len(line)
    return None


def read_text(path: Path | str) -> str:
    """Return a file's whole text; PlumblineError if it cannot be read or is none."""
    with open_text(path) as stream:
        return stream.read()


def bare(line: str) -> str:
    """Return a line without its end, and without the mark that a file which was put behind another began with."""
    return line.rstrip("\n").removeprefix("\ufeff")


class TableRow(NamedTuple):
    """A row of a table: its line in a table of text, and its cells by column or why it has none."""

    line: int | None
    cells: dict[str, Any] | None
    fault: str = ""


def table_kind(head: bytes) -> str | None:
    """Return which kind of binary table a file is that begins so, Parquet or Arrow; None for any other file."""
    return next((kind for magic, kind in TABLES.items() if head.startswith(magic)), None)


def binary_table(path: Path | str) -> str | None:
    """Return which kind of binary table a file is, packed or not; None for any other file."""
    try:
        with open(path, "rb") as raw:
            return table_kind(_unpacked(path, raw, raw.peek(HEAD)[:HEAD]).peek(HEAD)[:HEAD])
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError):  # who opens it says what is wrong
        return None


def suffix_of(path: Path | str) -> str:
    """Return the end of a file's name in small letters, before that of its packing: .jsonl of rows.jsonl.gz."""
    return next((end for part in reversed(Path(path).suffixes) if (end := part.lower()) not in PACKED), "")


def separator_of(path: Path | str) -> str | None:
    """Return what stands between the cells of a table of text, by the end of its name; None for any other file."""
    return SEPARATORS.get(suffix_of(path))


def begins_as_json(path: Path | str) -> bool:
    """Tell whether a text begins as an object of JSON does, or a list of them."""
    with open_text(path) as stream:
        return JSON_BEGINS.match(stream.read(HEAD)) is not None


def is_table(path: Path | str) -> bool:
    """Tell whether a file is a table: Parquet, Arrow, or one of text that does not begin as JSON does."""
    if binary_table(path):
        return True
    if separator_of(path) is None:
        return False
    with open_text(path) as stream:
        return not stream.read(HEAD).lstrip("\ufeff \t\r\n").startswith(("{", "["))


def is_plain(path: Path | str) -> bool:
    """Tell whether a file is plain text, by the end of its name and by how it begins."""
    return suffix_of(path) in PLAIN and not begins_as_json(path)


def read_table(path: Path | str, columns: Sequence[str] = ()) -> Iterator[TableRow]:
    """Yield the rows of a table (see is_table), a few in memory at a time; PlumblineError if it is damaged or a bomb.

    The cells of a table of text are texts. Its first row names its columns, unless `columns` does. A row of another
    number of cells than there are columns has none, but why.
    """
    if kind := binary_table(path):
        yield from (TableRow(None, cells) for cells in _read_binary(path, kind))
    else:
        yield from _read_csv(path, separator_of(path) or ",", columns)


def _read_csv(path: Path | str, separator: str, named: Sequence[str]) -> Iterator[TableRow]:
    csv.field_size_limit(CELL_LIMIT)
    with open_text(path, newline="") as stream:
        rows = csv.reader(stream, delimiter=separator, strict=True)
        columns = list(named)
        while True:
            line = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                told = str(error)
                if not columns or "unexpected end of data" in told or "field larger" in told:
                    raise PlumblineError(
                        f"{path}:{line}: no table of text ({told}): a quotation mark that is opened in the row of this "
                        "line is never closed, or the file is no such table"
                    ) from None
                yield TableRow(line, None, told)
                continue
            if not cells:
                continue  # an empty line
            if not columns:
                columns = _columns_of(cells, f"{path}:{line}")
            elif len(cells) != len(columns):
                yield TableRow(line, None, f"{len(cells)} cells for {len(columns)} columns")
            else:
                yield TableRow(line, dict(zip(columns, cells, strict=True)))


def _columns_of(cells: list[str], where: str) -> list[str]:
    """Return the names of a table's columns; one without a name, as an index may be, is called by its number."""
    names = [name.strip().removeprefix("\ufeff") or f"column {place}" for place, name in enumerate(cells, 1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlumblineError(
            f"{where}: two columns are called {', '.join(map(repr, twice))}; rename one of them"
        )
    return names


def _read_binary(path: Path | str, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet or Arrow table; a packed one is unpacked into the memory whole."""
    import pyarrow

    left = min(SIZE_LIMIT, max(BOMB_FLOOR, BOMB_RATIO * Path(path).stat().st_size))
    try:
        with open(path, "rb") as raw:
            stream = _unpacked(path, raw, raw.peek(HEAD)[:HEAD])
            plain = raw if stream is raw else io.BytesIO(stream.read())
            for batch in (_parquet_batches if kind == "Parquet" else _arrow_batches)(plain):
                left -= batch.nbytes
                if left < 0:
                    raise PlumblineError(f"{path}: unpacks to more than is allowed: too large, or a bomb")
                for start in range(0, batch.num_rows, TABLE_ROWS):
                    yield from batch.slice(start, TABLE_ROWS).to_pylist()
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        told = str(error).partition("\n")[0][:200]
        raise PlumblineError(f"{path}: the {kind} table is damaged ({told}); fetch it anew") from None


def _parquet_batches(stream: BinaryIO) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(stream) as table:
        yield from table.iter_batches(batch_size=TABLE_ROWS)


def _arrow_batches(stream: BinaryIO) -> Iterator[Any]:
    """Yield the record batches of an Arrow file, or of a stream, as the `datasets` library writes it."""
    import pyarrow.ipc

    head = stream.read(len(ARROW))
    stream.seek(0)
    if head != ARROW:
        with pyarrow.ipc.open_stream(stream) as batches:
            yield from batches
        return
    with pyarrow.ipc.open_file(stream) as table:
        for place in range(table.num_record_batches):
            yield table.get_batch(place)


def why_not_json(error: ValueError | RecursionError) -> str:
    """Return what `json.loads` found wrong with a text."""
    if isinstance(error, json.JSONDecodeError):
        return f"column {error.colno}: {error.msg}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def line_of_depth(text: str) -> int:
    """Return the line, from 1, in which a JSON text is first nested more than DEEP levels."""
    depth, line = 0, 1
    for found in STRUCTURE.finditer(text):
        mark = found.group()
        depth += (mark in "[{") - (mark in "]}")
        line += mark.count("\n")
        if depth > DEEP:
            break
    return line


def parse_json(text: str, path: Path | str, line: int = 1) -> Any:
    """Return the value of a JSON text that begins in a line of a file; PlumblineError, with the line, if it has none.

    Refused too is half of a surrogate pair, which JSON can spell and no file can hold.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        raise PlumblineError(f"{where}: not JSON ({why_not_json(error)})") from None
    except UnicodeEncodeError:
        raise PlumblineError(
            f"{path}:{line}: holds half of a surrogate pair (\\ud…); mend the text"
        ) from None
    except RecursionError as error:
        where = f"{path}:{line + line_of_depth(text) - 1}"
        raise PlumblineError(f"{where}: not JSON ({why_not_json(error)})") from None
    except ValueError as error:
        raise PlumblineError(f"{path}:{line}: not JSON ({why_not_json(error)})") from None
    return value


def field(row: dict[str, Any], name: str, where: str, kind: str = "text") -> Any:
    """Return a field of a row that others wrote; PlumblineError if it is missing or of another kind.

    A kind is text, texts (a list of one or more), a name (text or a whole number), a list or an object.
    """
    if name not in row:
        raise PlumblineError(f"{where} has no {name!r} (it has {', '.join(row)})")
    value = row[name]
    fits = {
        "text": isinstance(value, str),
        "texts": isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value),
        "name": isinstance(value, str | int) and not isinstance(value, bool),
        "list": isinstance(value, list) and bool(value),
        "object": isinstance(value, dict),
    }
    if not fits[kind]:
        wanted = {"texts": "a list of texts", "name": "a text or a whole number"}.get(kind, kind)
        raise PlumblineError(f"{where}: {name!r} must be {wanted}, not {type(value).__name__}")
    return value
