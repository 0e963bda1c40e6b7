"""Files that others wrote are read in any wrapping they come in, or named for what they are; none fills the memory."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from tests.cleaning import cleaning
from workflow_scripts.clean import clean
from workflow_scripts.common import raw_files
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.common.raw_files import TableRow, is_table, read_table

ROWS = [{"instruction": f"Näme gas {n}.", "output": "Oxygen.\u2028"} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TEXT = LINES.encode()


def zstd(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


def table(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()


def arrow(rows):
    stream, found = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(stream, found.schema) as writer:
        writer.write_table(found)
    return stream.getvalue()


def cleaned(path):
    rules = cleaning(schema="alpaca")
    clean.clean_files([str(path)], rules, str(path.parent / "clean"), str(path.parent / "manifest.json"))
    return read_jsonl(path.parent / "clean" / "train.jsonl")


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        b"\xef\xbb\xbf" + TEXT,
        LINES.encode("utf-16"),
        LINES.encode("utf-32"),
        LINES.replace("\n", "\r\n").encode(),
        b"\n \n" + TEXT,
        json.dumps(ROWS, indent=1).encode(),
        b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
        gzip.compress(TEXT),
        gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:]),
        gzip.compress(b"\xef\xbb\xbf" + TEXT),
        bz2.compress(TEXT),
        lzma.compress(TEXT),
        zstd(TEXT),
    ],
    ids="plain mark utf-16 utf-32 crlf blank array array-mark gzip gzips gzip-mark bzip2 xz zstd".split(),
)
def test_a_file_is_read_alike_in_every_encoding_and_packing(tmp_path, data):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    assert read_jsonl(path) == ROWS
    assert len(cleaned(path)) == 3


def test_a_mark_in_front_of_each_part_of_a_joined_file_is_no_fault(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"\ufeff{line}\n" for line in LINES.split("\n")[:3]))
    assert read_jsonl(path) == ROWS and len(cleaned(path)) == 3


def test_a_parquet_table_is_read_and_its_empty_columns_say_nothing(tmp_path):
    path = tmp_path / "rows.parquet"
    table(path, [row | {"history": [], "system": None, "tools": ""} for row in ROWS])
    assert [row["instruction"] for row in read_jsonl(path)] == [row["instruction"] for row in ROWS]
    assert len(cleaned(path)) == 3
    assert read_json(tmp_path / "manifest.json")["notes"] == {}


def test_a_table_of_dates_and_bytes_ends_in_rejections(tmp_path):
    path = tmp_path / "rows.parquet"
    day = pyarrow.scalar(1, pyarrow.timestamp("s")).as_py()
    table(path, [{"instruction": "Why?", "output": "So.", "at": day, "raw": b"\xff"}])
    assert len(cleaned(path)) == 1
    table(path, [{"instruction": b"\xff", "output": day}])
    with pytest.raises(PlumblineError, match="text is not a string"):
        cleaned(path)


def make_zip(path):
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("xl/workbook.xml", "x")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (make_zip, "workbook"),
        (lambda path: path.write_bytes(pickle.dumps(ROWS)), "pickle"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + bytes(90)), "SQLite"),
        (lambda path: path.write_bytes(b"ARROW1\x00\x00" + bytes(90)), "Arrow"),
        (lambda path: path.write_bytes(b"%PDF-1.7\n"), "PDF"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html>"), "web page"),
        (lambda path: path.write_bytes(b"version https://git-lfs\noid sha256:00\n"), "Git LFS"),
        (lambda path: path.write_bytes(LINES.encode("utf-16-le")), "UTF-16 without a byte order mark"),
        (lambda path: path.write_bytes(bytes([7, 0, 0, 1]) * 99), "binary"),
        (lambda path: path.write_bytes(gzip.compress(TEXT)[:-20]), "damaged or cut off"),
        (
            lambda path: path.write_bytes(gzip.compress(TEXT * 99)[:40] + b"\x00" * 40),
            "damaged|cannot be read",
        ),
        (lambda path: path.write_bytes(zstd(TEXT)[:-9]), "damaged|cannot be read|not JSON"),
        (lambda path: path.write_bytes(table(path, ROWS)[:-9]), "Parquet table is damaged"),
        (lambda path: path.write_bytes(gzip.compress(table(path, ROWS)[:-9])), "Parquet table is damaged"),
        (lambda path: path.write_bytes(arrow(ROWS)[:-40]), "Arrow table is damaged"),
    ],
)
def test_a_file_that_is_no_text_is_named_for_what_it_is(tmp_path, data, name):
    path = tmp_path / "rows.jsonl"
    data(path)
    for read in (read_jsonl, cleaned):
        with pytest.raises(PlumblineError, match=f"^{path}.*({name})"):
            read(path)


def test_a_file_that_unpacks_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "BOMB_FLOOR", 1 << 20)
    path = tmp_path / "rows.jsonl"
    for pack in (gzip.compress, bz2.compress, lzma.compress, zstd):
        path.write_bytes(pack(b" " * (4 << 20)))
        for read in (read_jsonl, cleaned):
            with pytest.raises(PlumblineError, match="unpacks to more than is allowed"):
                read(path)
    table(path, [{"instruction": "x" * 1000, "output": "y"}] * 4000)
    for read in (read_jsonl, cleaned):
        with pytest.raises(PlumblineError, match="unpacks to more than is allowed"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": ' + "[" * 5000, "rows.jsonl:2: not JSON .nested too deeply"),
        ('{"a": 1}\n{"a": ' + "9" * 5000 + "}", "rows.jsonl:2: not JSON"),
        ('{"a": 1}\n{"a": "\\ud800"}', "rows.jsonl:2: holds half of a surrogate pair"),
        ('{"a": 1}\n[1, 2]', "rows.jsonl:2: a row must be an object"),
        ('[{"a": 1},\n 3]', "rows.jsonl: row 2: a row must be an object"),
    ],
)
def test_what_json_can_spell_and_no_row_can_be_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(PlumblineError, match=message):
        read_jsonl(path)


def test_a_stray_null_byte_costs_its_row_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXT + b'{"instruction": "a\x00", "output": "b"}\n')
    assert len(cleaned(path)) == 3
    with pytest.raises(PlumblineError, match=r"rows.jsonl:4: not JSON"):
        read_jsonl(path)


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"a": "\U0001f600"}]


# --- tables of text ---------------------------------------------------------------------------------------------------

CSV = 'instruction,input,output\r\n"Näme, please,\na ""gas"".",,Oxygen.\r\n\r\nWhy?,it,So.\r\n'
CELLS = [
    {"instruction": 'Näme, please,\na "gas".', "input": "", "output": "Oxygen."},
    {"instruction": "Why?", "input": "it", "output": "So."},
]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.csv", CSV.encode()),
        ("rows.CSV", b"\xef\xbb\xbf" + CSV.encode()),
        ("rows.csv", CSV.encode("utf-16")),
        ("rows.csv.gz", gzip.compress(CSV.encode())),
        ("rows.v2.csv.zst", zstd(CSV.encode())),
        ("rows.csv", CSV.replace("\r\n", "\n").encode()),
        (
            "rows.tsv",
            CSV.replace(",,", "\t\t")
            .replace("tion,input,", "tion\tinput\t")
            .replace("?,it,", "?\tit\t")
            .encode(),
        ),
    ],
    ids="plain mark utf-16 gzip zstd lines tabs".split(),
)
def test_a_table_of_text_is_read_by_its_name_in_every_encoding_and_packing(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    assert read_jsonl(path) == CELLS
    assert {row["meta"]["instruction"] for row in cleaned(path)} == {row["instruction"] for row in CELLS}


def test_a_row_of_a_table_knows_its_line_and_a_broken_one_costs_itself_alone(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(CSV.replace("\r\n", "\n") + 'a,b\n"a"b,c,d\nWho?,,Me.\na,b,c,d\n')
    found = list(read_table(path))
    assert found[:2] == [TableRow(2, CELLS[0]), TableRow(5, CELLS[1])]
    assert [(row.line, row.fault) for row in found[2:] if row.cells is None] == [
        (6, "2 cells for 3 columns"),
        (7, "',' expected after '\"'"),
        (9, "4 cells for 3 columns"),
    ]
    assert len(cleaned(path)) == 3
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["rejected"] == {"row: broken row of the table": {"entries": 3, "turns": 0}}
    with pytest.raises(PlumblineError, match=r"rows.csv:6: 2 cells for 3 columns; mend the row"):
        read_jsonl(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,2\n3,"x\n' + "4,5\n" * 9, r"rows.csv:3: .*never closed"),
        ("a,b,a\n1,2,3\n", r"rows.csv:1: two columns are called 'a'; rename"),
        ("", "holds no rows"),
        ("a,b\n", "holds no rows"),
        ('"a', r"rows.csv:1: no table of text"),
    ],
)
def test_a_table_that_is_none_says_why_and_where(tmp_path, text, message):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(PlumblineError, match=message):
        cleaned(tmp_path / "rows.csv")


def test_a_table_in_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "rows.csv").write_bytes(CSV.encode("latin-1"))
    with pytest.raises(PlumblineError, match=r"rows.csv:2: not UTF-8 .*byte 0xe4"):
        read_jsonl(tmp_path / "rows.csv")


def test_a_cell_without_end_fills_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "CELL_LIMIT", 1000)
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n"' + "x" * 5000)
    with pytest.raises(PlumblineError, match=r"rows.csv:3: .*field larger than field limit"):
        list(read_table(tmp_path / "rows.csv"))
    monkeypatch.setattr(raw_files, "CELL_LIMIT", 10_000_000)  # which csv keeps for the whole process
    (tmp_path / "rows.csv").write_text("a,b\n1," + "x" * 200_000)
    assert len(read_jsonl(tmp_path / "rows.csv")[0]["b"]) == 200_000


def test_a_column_without_a_name_is_called_by_its_number(tmp_path):
    (tmp_path / "rows.csv").write_text(",instruction,output\n0,Why?,So.\n")
    assert read_jsonl(tmp_path / "rows.csv") == [{"column 1": "0", "instruction": "Why?", "output": "So."}]


def test_json_in_a_file_called_csv_is_json_and_so_is_a_table_called_json_no_table(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\n" + TEXT)
    assert read_jsonl(tmp_path / "rows.csv") == ROWS
    (tmp_path / "rows.json").write_text(CSV)
    assert not is_table(tmp_path / "rows.json")
    table(tmp_path / "really.csv", ROWS)
    assert read_jsonl(tmp_path / "really.csv") == ROWS
