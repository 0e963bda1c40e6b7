"""The rows that the benchmarks train on and ask, dialogues over the bundled problems, each made by rule; and the steps.

They have the shape and the lengths of a tutoring study's (a worksheet, then one past exchange and an answer) and depend
on no study, so that a benchmark measures the same rows whatever the default study is made of. How each step is set
says `study.yaml`, by way of the plan, as the workflow would hand it on.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from workflow_scripts.align import pair_reference
from workflow_scripts.common.code import ROOT
from workflow_scripts.common.files import read_jsonl, write_jsonl
from workflow_scripts.common.training.machine import VARIABLE
from workflow_scripts.common.turns import turns_of
from workflow_scripts.plan import resources, training
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.sft import tokenise
from workflow_scripts.study.checking import load_study

PROBLEMS = ROOT / "data/bundled/biology_problems.jsonl"
STUDY = ROOT / "benchmarks/study.yaml"
BASE = "base"


def benchmarks_plan() -> Plan:
    """Return the plan of the benchmarks' study; the machine's keys go where trainings look for them."""
    plan = plan_of(load_study(STUDY))
    os.environ[VARIABLE] = resources.machine_keys(plan)
    return plan


def call(main: Callable[[], None], *flags: object) -> float:
    """Run a step's main as its command line would; return its seconds."""
    kept, sys.argv = sys.argv, ["step", *map(str, flags)]
    started = time.perf_counter()
    try:
        main()
    finally:
        sys.argv = kept
    return time.perf_counter() - started


def reply(evaluation: str, action: str, spoken: str) -> str:
    """Return a tutor's reply in its form."""
    form = {"Evaluation of Student Response": evaluation, "Action Based on Evaluation": action}
    return json.dumps(form | {"Subproblem State": "x", "Tutorbot": spoken})


def dialogue(problem: dict, number: int) -> list[dict]:
    """Return the messages of one dialogue: a worksheet, then one, two or all of its steps, as `number` has it."""
    steps = problem["subproblems"]
    questions = " ".join(step["question"] for step in steps)
    posed = f"Q. {problem['question']} Facts: {' '.join(problem['facts'])} Steps: {questions}"
    said = [("user", posed), ("assistant", reply("g", "12", f"Begin with this: {steps[0]['question']}"))]
    for step in steps[: 1 + number % len(steps)]:
        said += [("user", f"Maybe {step['incorrect']}"), ("assistant", reply("a", "1", step["hint"]))]
        said += [("user", step["answer"]), ("assistant", reply("b", "3", "That is right."))]
    messages = [{"role": role, "content": text} for role, text in said]
    return [{"role": "system", "content": "Tutor the student."}, *messages]


def conversations(count: int) -> list[dict]:
    """Return so many rows of a cleaned dataset."""
    problems, rows = read_jsonl(PROBLEMS), []
    for number in range(count):
        problem = problems[number % len(problems)]
        messages = dialogue(problem, number + number // len(problems))
        rows.append({"id": f"d{number}", "group": problem["id"], "messages": messages, "meta": {}})
    return rows


def turns(count: int) -> list[dict]:
    """Return so many turns, with one past exchange each, as prompts or answers are made of."""
    return [turn for row in conversations(count) for turn in turns_of(row, 1)][:count]


def pairs(count: int) -> list[dict]:
    """Return so many preference pairs: a turn's reply, and that of the next turn with another label."""
    found, asked = [], turns(count + 1)
    for turn, other in pairwise(asked):
        losing = other["reference"].replace('State": "x"', 'State": "w"')
        texts = {"messages": turn["messages"], "chosen": turn["reference"], "rejected": losing}
        found.append({"id": turn["id"], "split": "train"} | texts)
    return found


def rewarded(count: int) -> list[dict]:
    """Return so many annotated replies, with rewards between 0 and 1."""
    return [
        turn | {"rewards": {"final_reward": number % 7 / 6}, "meta": {"rank": 0}}
        for number, turn in enumerate(turns(count))
    ]


def tokens_for_sft(plan: Plan, model: Path, folder: Path, count: int) -> Path:
    """Write the token rows of so many dialogues; return their parquet."""
    write_jsonl(folder / "dialogues.jsonl", conversations(count))
    flags = ["--splits", f"train={folder}/dialogues.jsonl", "--tokenizer", model]
    flags += ["--settings", training.tokens_settings(plan, "base.sft"), "--output", folder / "tokens"]
    call(tokenise.main, *flags, "--manifest", folder / "tokens.json")
    return folder / "tokens/train.parquet"


def refer_to_pairs(plan: Plan, model: Path, folder: Path, rows: list[dict]) -> tuple[Path, float]:
    """Write what a model says of pairs; return the parquet, with its manifest beside it, and the seconds."""
    write_jsonl(folder / "pairs.jsonl", rows)
    flags = ["--parent", model, "--pairs", folder / "pairs.jsonl"]
    flags += ["--settings", training.reference_settings(plan, "mistakes", BASE)]
    flags += ["--output", folder / "pairs.parquet", "--rejected", folder / "pairs.rejected"]
    seconds = call(pair_reference.main, *flags, "--manifest", folder / "pairs.json")
    return folder / "pairs.parquet", seconds
