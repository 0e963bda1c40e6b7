"""Hostile benchmark files: a prompt set that can be written and read again, or a clear error that names the file."""

import json
import random

import pytest

from tests.mutants import line_of, mutant
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl, write_jsonl
from workflow_scripts.generate import prompts
from workflow_scripts.score import humaneval, mbpp
from workflow_scripts.score.judging import forms

EACH = 120
PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": "def f():\n",
    "canonical_solution": "    return 1\n",
    "test": "t",
    "entry_point": "f",
}
TASK = {
    "task_id": 11,
    "text": "Add.",
    "code": "def f(): pass",
    "test_list": ["assert f()"],
    "test_setup_code": "",
    "test_imports": [],
}
QUESTION = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "reference": ["a", "b"]}
ANSWER = {"question_id": 81, "choices": [{"index": 0, "turns": ["4", "5"]}]}
INSTRUCTION = {"instruction": "Why?", "output": "So.", "output_1": "So.", "dataset": "koala"}
JUDGE = {
    "name": "single-v1",
    "system_prompt": "",
    "prompt_template": "{question}",
    "output_format": "[[rating]]",
}

READERS = {
    "humaneval": (PROBLEM, prompts.humaneval_prompts),
    "humaneval problems": (PROBLEM, lambda path: list(humaneval.read_problems(path).values())),
    "mbpp": (TASK, lambda path: prompts.mbpp_prompts(path, [])),
    "mbpp requests": ({"doc": TASK}, lambda path: prompts.mbpp_prompts(path, [])),
    "mbpp problems": (TASK, lambda path: list(mbpp.read_problems(path).values())),
    "mt_bench": (QUESTION, lambda path: prompts.in_turn(prompts.mt_bench_prompts(path))),
    "references": (ANSWER, lambda path: [prompts.read_references(path, {"81": 2})]),
    "alpaca_eval": (INSTRUCTION, prompts.alpaca_eval_prompts),
    "judgements": (INSTRUCTION, lambda path: [prompts.judged_references(path)]),
    "judge prompts": (JUDGE, lambda path: list(forms.read_templates(path).values())),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_hostile_benchmark_file_is_read_or_named_in_a_clear_error(tmp_path, kind):
    rng = random.Random(f"11 {kind}")
    row, read = READERS[kind]
    path, outcomes = tmp_path / "input.jsonl", set()
    for _ in range(EACH):
        line = line_of(mutant(row, rng), rng)
        path.write_bytes((json.dumps(row) + "\n" + line).encode("utf-8", "surrogatepass"))
        try:
            found = read(path)
        except PlumblineError as error:
            assert str(error).startswith(str(path))
            outcomes.add("refused")
            continue
        write_jsonl(tmp_path / "set.jsonl", found)
        assert len(read_jsonl(tmp_path / "set.jsonl")) == len(found) > 0
        outcomes.add("read")
    assert outcomes == {"read", "refused"}
