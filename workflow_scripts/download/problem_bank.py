"""The bank of problems that simulated rows are about: question, topic, facts, and sub-problems with their answers."""

from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl

Problem = dict[str, Any]


def load_problems(path: Path | str) -> list[Problem]:
    """Return the bank's problems; PlumblineError naming file and row if one lacks what a dialogue needs."""
    problems = read_jsonl(path)
    needed = {"question", "answer", "hint", "incorrect", "feedback", "partial", "partial_missing"}
    for number, problem in enumerate(problems, 1):
        if not isinstance(problem, dict):
            raise PlumblineError(f"{path}: row {number} is not an object")
        missing = {"id", "topic", "question", "facts", "subproblems"} - set(problem)
        if missing or not problem["subproblems"] or not problem["facts"]:
            lacking = ", ".join(sorted(missing)) or "facts or subproblems"
            raise PlumblineError(f"{path}: row {number} lacks {lacking}")
        for step in problem["subproblems"]:
            if absent := ", ".join(sorted(needed - set(step))):
                raise PlumblineError(f"{path}: row {number} has a sub-problem without {absent}")
    if not problems:
        raise PlumblineError(f"{path}: holds no problems")
    return problems
