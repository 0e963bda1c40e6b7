"""MBPP's programs, from a file of problems to pass@k, with problems of our own in a sandbox."""

import json
import sys

import pytest

from tests.generation import SAMPLING
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.generate import calibrate, prompts
from workflow_scripts.score import mbpp

SETTINGS = {
    "form": "completion",
    "k": [1],
    "timeout_seconds": 20.0,
    "memory_mb": 512,
    "allow_unsandboxed": False,
    "workers": 2,
}
PROBLEMS = [
    {
        "task_id": 12,
        "text": "Write a function to double a number.",
        "code": "import math\r\ndef double(x):\r\n    return math.prod([2, x])",
        "test_list": ["assert double(2) == 4", "assert double(-1) == -2", "assert double(0) == 0"],
        "test_setup_code": "",
    },
    {
        "task_id": 13,
        "text": "Write a class with a value, and a function to find the value of a node.",
        "code": "class Node:\r\n    def __init__(self, value):\r\n        self.value = value\r\n"
        "def find(node):\r\n    return node.value",
        "test_list": ["assert find(root) == 7"],
        "test_setup_code": "root = Node(7)\r\n",
    },
    {
        "task_id": 14,
        "prompt": "Write a function to name the type of a path.",
        "code": "def kind(path):\n    return type(path).__name__",
        "test_list": ["assert kind(fractions.Fraction(1, 2)) == 'Fraction'"],
        "test_imports": ["import fractions"],
    },
]


def call(monkeypatch, main, *flags):
    monkeypatch.setattr(sys, "argv", ["step", *map(str, flags)])
    main()


def score(monkeypatch, tmp_path, answer_of=None, problems=PROBLEMS, settings=SETTINGS, **sampling):
    """Return the scores of the canonical code, or of what answer_of makes of each of its generations."""
    write_jsonl(tmp_path / "problems.jsonl", problems)
    asked = ["--prompts", tmp_path / "set.json"]
    flags = [
        "--kind",
        "mbpp",
        "--input",
        tmp_path / "problems.jsonl",
        "--sampling",
        json.dumps(SAMPLING | sampling),
    ]
    call(
        monkeypatch,
        prompts.main,
        *flags,
        "--output",
        tmp_path / "set.jsonl",
        "--manifest",
        tmp_path / "set.json",
    )
    gold = [
        "--policy",
        "gold",
        "--output",
        tmp_path / "answers.jsonl",
        "--manifest",
        tmp_path / "answers.json",
    ]
    call(monkeypatch, calibrate.main, *asked, *gold)
    if answer_of:
        rows = read_jsonl(tmp_path / "answers.jsonl")
        write_jsonl(tmp_path / "answers.jsonl", [row | {"text": answer_of(row)} for row in rows])
    settings = json.dumps(settings | {"file": str(tmp_path / "problems.jsonl")})
    flags = ["--prompts", tmp_path / "set.jsonl", "--generations", tmp_path / "answers.jsonl"]
    flags += ["--settings", settings]
    call(monkeypatch, mbpp.main, *flags, "--output", tmp_path / "scores.json")
    return read_json(tmp_path / "scores.json")


@pytest.mark.usefixtures("found_sandbox")
def test_canonical_code_passes_with_what_its_tests_set_up(monkeypatch, tmp_path):
    scores = score(monkeypatch, tmp_path)
    (cell,) = scores["cells"]
    assert scores["benchmark"] == "mbpp"
    assert (cell["subset"], cell["metric"], cell["items"]) == (
        "all",
        "pass@1",
        ["MBPP/12", "MBPP/13", "MBPP/14"],
    )
    assert cell["columns"]["value"] == [1.0, 1.0, 1.0]


@pytest.mark.usefixtures("found_sandbox")
def test_every_test_of_a_problem_must_hold(monkeypatch, tmp_path):
    wrong = {
        "MBPP/12": "def double(x):\n    return 4 if x == 2 else -2",  # the third test fails
        "MBPP/13": "",
        "MBPP/14": "def kind(path):\n    return 'Fraction'\n[DONE]\nraise ValueError",
    }
    (cell,) = score(monkeypatch, tmp_path, lambda row: wrong[row["id"]])["cells"]
    assert cell["columns"]["value"] == [0.0, 0.0, 1.0]


@pytest.mark.usefixtures("found_sandbox")
def test_samples_and_temperatures_count_as_in_humaneval(monkeypatch, tmp_path):
    def answer_of(row):
        right = row["id"].endswith("@0.8") and row["sample"] == 0
        return "def double(x):\n    return 2 * x" if right else "double = 0"

    settings = SETTINGS | {"k": [1, 2]}
    cells = score(
        monkeypatch, tmp_path, answer_of, PROBLEMS[:1], settings, samples=2, temperatures=[0.1, 0.8]
    )["cells"]
    found = {(cell["subset"], cell["metric"]): cell["columns"]["value"] for cell in cells}
    assert found == {
        ("T=0.1", "pass@1"): [0.0],
        ("T=0.1", "pass@2"): [0.0],
        ("T=0.8", "pass@1"): [0.5],
        ("T=0.8", "pass@2"): [1.0],
        ("best", "pass@1"): [0.5],
        ("best", "pass@2"): [1.0],
    }


@pytest.mark.usefixtures("found_sandbox")
def test_requests_that_wrap_the_rows_score_alike(monkeypatch, tmp_path):
    plain = score(monkeypatch, tmp_path)
    assert score(monkeypatch, tmp_path, problems=[{"doc": row, "idx": 0} for row in PROBLEMS]) == plain


@pytest.mark.parametrize("stop", mbpp.STOPS)
def test_a_program_ends_where_its_answer_goes_on_to_something_else(stop):
    problem = {"test_list": ["assert f() == 1"]}
    program = mbpp.make_program(problem, f"def f():\n    return 1{stop} f() == 2")
    assert (program.code, program.names, program.tests.strip()) == (
        "def f():\n    return 1",
        ("f",),
        "assert f() == 1",
    )


def test_the_engine_stops_where_the_scorer_cuts():
    assert list(mbpp.STOPS) == prompts.STOPS["mbpp"]


def test_problems_without_tests_are_refused_not_passed(monkeypatch, tmp_path):
    with pytest.raises(PlumblineError, match="row 1: 'test_list' must be a list of texts"):
        score(monkeypatch, tmp_path, problems=[PROBLEMS[0] | {"test_list": []}])
