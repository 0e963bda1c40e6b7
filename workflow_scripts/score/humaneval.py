"""HumanEval (Chen et al. 2021): complete a function from its docstring, and let its tests decide.

Covers pass@k on the 164 problems, the programs run in a sandbox. Not covered: drawing completions, and
choosing the best of several temperatures.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.items import first_turns_by_id, make_cell, write_scores
from workflow_scripts.score.sandbox import SandboxMissing, find_sandbox, run_python

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
NEEDED = ("task_id", "prompt", "test", "entry_point")


def cut_completion(text: str) -> str:
    """Return a completion up to the first stop string: what follows belongs to another function."""
    return text[: min((place for stop in STOPS if (place := text.find(stop)) >= 0), default=len(text))]


def make_program(problem: dict[str, str], completion: str) -> str:
    """Return the program that fails unless the completed function passes its problem's tests."""
    return f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})\n"


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased chance that one of k completions is right, given that `correct` of `samples` are.

    1 - C(n-c, k) / C(n, k), as a product over n-c < i <= n of (1 - k/i), which overflows nowhere
    (Chen et al. 2021, eq. 1).
    """
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def run_programs(programs: Iterable[str], settings: dict, sandbox: str) -> dict[str, bool]:
    """Return whether each distinct program passed, `workers` of them running at a time."""
    distinct = list(dict.fromkeys(programs))

    def passed(program: str) -> bool:
        return run_python(program, settings["timeout_seconds"], settings["memory_mb"], sandbox).passed

    with ThreadPoolExecutor(settings["workers"]) as pool:
        return dict(zip(distinct, pool.map(passed, distinct), strict=True))


def score(problems: list[dict], answers: dict[str, list[str]], settings: dict, sandbox: str) -> list[dict]:
    """Return one pass@k cell for each k in the settings; `answers` holds each task's completions.

    Raises PlumblineError when a task has fewer than k completions.
    """
    ids = [problem["task_id"] for problem in problems]
    for task in ids:
        if len(answers[task]) < max(settings["k"]):
            raise PlumblineError(
                f"{task} has {len(answers[task])} completions, too few for pass@{max(settings['k'])}: "
                "draw more samples, or lower this benchmark's k"
            )
    programs = {
        problem["task_id"]: [
            make_program(problem, cut_completion(text)) for text in answers[problem["task_id"]]
        ]
        for problem in problems
    }
    passed = run_programs((program for task in ids for program in programs[task]), settings, sandbox)
    counts = {task: (len(programs[task]), sum(passed[program] for program in programs[task])) for task in ids}
    return [
        make_cell("all", f"pass@{k}", ids, ids, {"value": [pass_at_k(*counts[task], k) for task in ids]})
        for k in settings["k"]
    ]


def read_problems(path: str, limit: int | None) -> list[dict]:
    """Return a problem file's first `limit` problems (all if None); PlumblineError if one lacks a field."""
    problems = read_jsonl(path)[:limit]
    for number, problem in enumerate(problems, 1):
        missing = [name for name in NEEDED if not isinstance(problem.get(name), str)]
        if missing:
            raise PlumblineError(
                f"{path}: problem {number} lacks {', '.join(missing)}; is this HumanEval.jsonl?"
            )
    if not problems:
        raise PlumblineError(f"{path}: no problems")
    return problems


def main() -> None:
    """Write the pass@k scores of one policy, or why they were refused where no sandbox works."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--problems", required=True, help="HumanEval.jsonl")
    parser.add_argument("--generations", required=True, help="the policy's completions")
    parser.add_argument(
        "--settings", required=True, type=json.loads, help="the benchmark's settings, as JSON"
    )
    parser.add_argument("--output", required=True, help="score file to write")
    args = parser.parse_args()
    problems = read_problems(args.problems, args.settings.get("limit"))
    ids = [problem["task_id"] for problem in problems]
    rows = first_turns_by_id(read_jsonl(args.generations), ids, args.generations)
    answers = {task: [row["text"] for row in samples] for task, samples in rows.items()}
    try:
        sandbox = find_sandbox(args.settings["allow_unsandboxed"])
    except SandboxMissing as error:
        print(f"warning: HumanEval is not scored: {error}", file=sys.stderr)
        write_scores(args.output, "humaneval", [], refused=str(error))
        return
    write_scores(args.output, "humaneval", score(problems, answers, args.settings, sandbox))


if __name__ == "__main__":
    run(main)
