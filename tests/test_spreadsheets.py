"""No table of a study runs anything where it is opened, and it is read as it was written."""

import csv
import io

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report.spreadsheets import FORMULA, csv_text, read_csv, write_csv

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''@x",
    "-",
    "=",
    "-inf days",
    "\n=1",
    "＝1+1",
    "＠SUM(A1)",
]
PLAIN = [
    "-0.25",
    "+3",
    "1e-05",
    "-inf",
    "it's",
    "'tis",
    "''",
    "",
    "a=b",
    "0.5 @ 3",
    'mine, "yours"',
    "two\nlines",
]


@pytest.mark.parametrize("field", [*FORMULAS, *PLAIN])
def test_a_field_is_read_as_it_was_written(tmp_path, field):
    write_csv(tmp_path / "t.csv", ["name", "value"], [[field, "1"]])
    assert read_csv(tmp_path / "t.csv") == [{"name": field, "value": "1"}]


def as_written(field: str) -> str:
    [_, [written, _]] = csv.reader(io.StringIO(csv_text(["name", "value"], [[field, "1"]]), newline=""))
    return written


@pytest.mark.parametrize("field", FORMULAS)
def test_no_field_that_a_spreadsheet_would_run_stands_bare(field):
    assert not as_written(field).startswith(FORMULA)


@pytest.mark.parametrize("field", PLAIN)
def test_numbers_and_plain_words_are_written_as_they_are(field):
    assert as_written(field) == field


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PlumblineError, match="no such file"):
        read_csv(tmp_path / "none.csv")
