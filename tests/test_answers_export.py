"""Answers in the shapes of the sources' own files: column for column, and what cannot be exported is said."""

import csv
import json
from pathlib import Path

import pytest

from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_jsonl
from workflow_scripts.report import answers

ASKED = [
    {"role": "system", "content": "Tutor."},
    {"role": "user", "content": "Q. Why?"},
    {"role": "assistant", "content": "{'State': 'x'}"},
    {"role": "user", "content": "No idea."},
]


def prompt(name: str, messages: list[dict], reference: str | None, **more: object) -> dict:
    row = {"id": name, "group": name, "messages": messages, "followups": [], "meta": {}}
    return row | {"reference": reference and [reference]} | more


def study(folder: Path, prompts: list[dict], texts: dict[str, list[str]], rewards: list[dict] = ()) -> Path:
    """Write a finished study's answers of tiny.sft to one benchmark; return its folder."""
    cell = folder / "policies/tiny.sft/seed-1"
    write_jsonl(folder / "prompts/asked.jsonl", prompts)
    rows = [
        {"id": name, "sample": sample, "turn": 0, "text": text, "finish_reason": "stop"}
        for name, said in texts.items()
        for sample, text in reversed(list(enumerate(said)))
    ]
    write_jsonl(cell / "generations/asked.jsonl", rows)
    if rewards:
        write_jsonl(cell / "rewards/asked.jsonl", rewards)
    return folder


def export(folder: Path, shape: str, policy: str = "tiny.sft") -> Path:
    output = folder / f"{shape}.out"
    flags = [folder, "--policy", policy, "--benchmark", "asked", "--shape", shape, "--output", output]
    call(answers.main, *map(str, flags))
    return output


def test_the_file_of_raschkas_chapter_has_its_four_columns(tmp_path):
    parts = {"instruction": "Rewrite in past tense.", "input": "She runs."}
    asked = [{"role": "user", "content": "Rewrite in past tense.\n\nShe runs."}]
    prompts = [prompt("a", asked, "She ran.", meta=parts), prompt("b", asked[:1], None)]
    folder = study(tmp_path, prompts, {"b": ["Ok"], "a": ["  She was running.\n"]})
    assert json.loads(export(folder, "alpaca").read_text()) == [
        parts | {"output": "She ran.", "model_response": "She was running."},
        {"instruction": asked[0]["content"], "input": "", "output": "", "model_response": "Ok"},
    ]


def test_the_file_of_leftover_lunch_has_prefix_suffix_and_reward_of_each_sample(tmp_path):
    rewards = [{"id": f"a/{n}", "rewards": {"final_reward": value}} for n, value in ((1, 0.25), (0, 0.5))]
    folder = study(tmp_path, [prompt("a", ASKED[1:], None)], {"a": ["One", "Two"]}, rewards)
    rows = [json.loads(line) for line in export(folder, "rewarded").read_text().splitlines()]
    prefix = "<|prompter|>Q. Why?<|assistant|>{'State': 'x'}<|prompter|>No idea.<|assistant|>"
    assert rows == [
        {"prefix": prefix, "suffix": "One", "reward": 0.5},
        {"prefix": prefix, "suffix": "Two", "reward": 0.25},
    ]


def test_the_file_of_tutorbot_has_prompt_response_and_gpt(tmp_path):
    folder = study(
        tmp_path,
        [prompt("a", ASKED, '{"State": "y"}'), prompt("b", ASKED[:2], '{"State": "x"}')],
        {"a": ['{"State": "z"}'], "b": ["no dict"]},
    )
    with open(export(folder, "responses"), newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    first = "System: Tutor.\nStudent: Q. Why?\nTutorbot: {'State': 'x'}\nStudent: No idea.\n\nTutorbot:"
    assert rows == [
        {"prompt": first, "response": "{'State': 'z'}", "gpt": "{'State': 'y'}"},
        {
            "prompt": "System: Tutor.\nStudent: Q. Why?\n\nTutorbot:",
            "response": "no dict",
            "gpt": "{'State': 'x'}",
        },
    ]


def test_what_cannot_be_exported_is_said(tmp_path):
    folder = study(tmp_path, [prompt("a", ASKED, None)], {})
    with pytest.raises(PlumblineError, match="no answer to 'a'"):
        export(folder, "alpaca")
    with pytest.raises(PlumblineError, match=r"rewards/asked\.jsonl: no such file"):
        export(folder, "rewarded")
    with pytest.raises(PlumblineError, match="no such file"):
        export(folder, "alpaca", policy="nobody")
    study(folder, [prompt("a", ASKED, None, followups=["And?"])], {"a": ["x"]})
    with pytest.raises(PlumblineError, match="prompt a: only answers to one turn"):
        export(folder, "alpaca")
