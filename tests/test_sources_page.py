"""docs/sources.md keeps its word: 63 rows; tests that it names are there and never skipped, studies have no mistake."""

import ast
import re

import pytest

from tests.sources_page import NAMED, PAGE, never_skipped
from tests.workflow import ROOT
from workflow_scripts.study import check

WANTED = [
    f"{part}{n}" for part, count in (("A", 17), ("B", 18), ("C", 12), ("D", 16)) for n in range(1, count + 1)
]
CELLS = re.compile(r"(?<!\\)\|")


def rows():
    """Return {id: (what, shown by)} of the page's tables."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in CELLS.split(line)[1:-1]]
        if cells and re.fullmatch(r"[A-D]\d+", cells[0]):
            assert cells[0] not in found, f"{cells[0]} stands twice"
            found[cells[0]] = (cells[1], cells[2])
    return found


ROWS = rows()
STUDIES = sorted(set(re.findall(r"studies/[\w-]+\.yaml", PAGE.read_text())))


def test_the_page_has_the_63_rows_of_the_sources_once_each():
    assert list(ROWS) == WANTED


@pytest.mark.parametrize("name", WANTED)
def test_a_row_names_what_shows_it_or_says_why_not(name):
    what, shown = ROWS[name]
    assert what
    assert re.search(r"`(tests/|make )", shown) or shown.startswith("Not here: "), shown


def test_every_test_that_is_named_exists():
    for named in NAMED:
        file, _, test = named.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        assert test in {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)}, named


@pytest.mark.parametrize(
    ("name", "outcome", "told"),
    [
        (NAMED[0], "skipped", "failed"),
        (f"{NAMED[0]}[a case]", "skipped", "failed"),
        (NAMED[0], "passed", "passed"),
        ("tests/test_x.py::test_y", "skipped", "skipped"),
    ],
)
def test_a_named_test_that_is_skipped_fails_wherever_it_runs(name, outcome, told):
    report = pytest.TestReport(name, ("", 0, ""), {}, outcome, "there is no sandbox", "setup")
    never_skipped(report)
    assert report.outcome == told


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_that_is_named_has_no_mistake(name):
    right, said = check.report(ROOT / name)
    assert right, said
