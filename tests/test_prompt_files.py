"""A study whose prompts stand in files of this machine is told before it runs what the run would say of them."""

from pathlib import Path

import pytest

from tests.plans import config_of
from tests.studies import put
from workflow_scripts.common.files import write_jsonl
from workflow_scripts.study import machine
from workflow_scripts.study.checking import check_study

ASKED = {"prompt": "Say it.", "constraints": [{"rule": "no_commas"}]}
QUESTION = {"question_id": 1, "category": "writing", "turns": ["Say it.", "Again."]}
PROGRAM = {
    "task_id": "a/1",
    "prompt": "def f():\n",
    "canonical_solution": "    pass\n",
    "test": "def check(f):\n    f()\n",
    "entry_point": "f",
}
# A good row of each kind whose prompts stand in a file, the key that names the file, and what else it is given.
KINDS = {
    "rule_checks": (ASKED, "file", {}),
    "mt_bench": (QUESTION, "questions", {"judge": "reward"}),
    "alpaca_eval": ({"instruction": "Say it.", "output": "It."}, "prompts", {"judge": "reward"}),
    "humaneval": (PROGRAM, "file", {"source": "own"}),
}


def asking(kind: str, rows: list[dict], folder: Path, **more) -> dict:
    """Return a study with a benchmark `own` that asks such rows."""
    path, (_, key, given) = folder / "asked.jsonl", KINDS[kind]
    write_jsonl(path, rows)
    benchmark = {"kind": kind, key: str(path), "max_new_tokens": 16} | given | more
    config = config_of("config.yaml")
    if "source" in given:
        places = [{"file": {"files": {"asked.jsonl": str(path)}}}]
        config = put(config, "sources.own", {"files": {"asked.jsonl": None}, "places": places})
        benchmark[key] = "asked.jsonl"
    return put(config, "benchmarks.own", benchmark)


def found(config: dict) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts) about the benchmark `own` of a study."""
    seen = machine.seen(check_study(config))
    return tuple([line for line in lines if line.startswith("benchmarks.own.")] for lines in seen)


def said(kind: str, rows: list[dict], folder: Path, **more) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts) about a benchmark that asks such rows."""
    return found(asking(kind, rows, folder, **more))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_cannot_be_made_are_a_mistake_with_the_row(tmp_path, kind):
    row, key, _ = KINDS[kind]
    assert said(kind, [row], tmp_path) == ([], [])
    (line,), _ = said(kind, [{"q": "Say it.", "a": "It."}], tmp_path)
    assert line.startswith(f"benchmarks.own.{key}: {tmp_path}/asked.jsonl: row 1")
    (line,), _ = said(kind, [], tmp_path)
    assert "holds no prompts" in line


def test_ids_that_repeat_and_categories_that_are_in_no_question_are_mistakes(tmp_path):
    (line,), _ = said("mt_bench", [QUESTION, QUESTION], tmp_path)
    assert line.endswith("ids repeat")
    (line,), _ = said("mt_bench", [QUESTION], tmp_path, temperatures={"poetry": 0.7})
    assert "no question" in line and "poetry" in line


def test_a_file_that_another_place_may_give_instead_is_a_warning(tmp_path):
    config = asking("humaneval", [{"q": "Say it."}], tmp_path)
    elsewhere = {"https": {"files": {"asked.jsonl": "https://example.org/asked.jsonl"}}}
    config["sources"]["own"]["places"].insert(0, elsewhere)
    wrong, (line,) = found(config)
    assert wrong == [] and line.startswith("benchmarks.own.file: ") and "row 1" in line


def test_keys_of_prompts_that_nobody_reads_are_a_warning(tmp_path):
    wrong, (line,) = said("rule_checks", [ASKED | {"note": "mine"}], tmp_path)
    assert wrong == [] and "'note' is not read (in 1 of 1 rows)" in line
