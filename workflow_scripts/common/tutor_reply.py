"""The tutor's structured reply: its five fields, its label table, and how its text is read and written.

The table is that of Tutorbot-Spock (Sonkar et al., EMNLP 2024 Findings, appendix).
"""

import ast
import json
import warnings
from collections.abc import Callable
from typing import Any

from workflow_scripts.common.words import words_and_signs

EVALUATION = "Evaluation of Student Response"
ACTION = "Action Based on Evaluation"
STATE = "Subproblem State"
SUBPROBLEM = "Subproblem"
SPOKEN = "Tutorbot"

FIELDS = (EVALUATION, ACTION, STATE, SUBPROBLEM, SPOKEN)
LABEL_FIELDS = FIELDS[:3]
LABEL_NAMES = {EVALUATION: "evaluation", ACTION: "action", STATE: "state"}

ACTIONS_AFTER = {
    "a": ("1", "2"),
    "b": ("3",),
    "c": ("4", "5"),
    "d": ("6",),
    "e": ("7",),
    "f": ("8", "9", "10", "11"),
    "g": ("12",),
}
LABELS = {
    EVALUATION: tuple(ACTIONS_AFTER),
    ACTION: tuple(action for actions in ACTIONS_AFTER.values() for action in actions),
    STATE: ("w", "x", "y", "z"),
}

FAILED = ("a", "c")  # evaluations of an attempt that is wrong, or right in part

LONGEST_LABEL = {EVALUATION: 1, ACTION: 2, STATE: 1}  # characters; an action may be missing

LONGEST_LITERAL = 20_000  # characters; above it Python's own parser can need seconds and hundreds of MB


def parse_reply(text: str) -> dict[str, Any] | None:
    """Return the dict a reply's text holds, as JSON or a Python literal; None if it holds anything else."""
    value = parse_literal(text, dict)
    return value if isinstance(value, dict) else None


def parse_literal(text: str, kind: type = list) -> Any:
    """Return the value of a kind that a text holds, as JSON or a Python literal; None if it holds anything else."""
    text = text.strip()
    for parse in (_parse_json, parse_python):
        value = parse(text)
        if isinstance(value, kind):
            return value
    return None


def read_answer(text: str, fidelity: str) -> dict[str, Any] | None:
    """Return the dict that a policy's answer holds, or None where it holds none that can be read.

    "code": Python literals alone, as the published programs read them: JSON's null, true and false are none. "paper":
    JSON too; an answer in which one of the five fields is null says nothing there, and so is no reply.
    """
    if fidelity == "code":
        value = parse_python(text)
        return value if isinstance(value, dict) else None
    reply = parse_reply(text)
    return None if reply is None or any(reply.get(field, "") is None for field in FIELDS) else reply


def is_well_formed(gold: dict | None) -> bool:
    """Tell whether a gold reply can be compared with: five text fields, labels of one character (action: up to two)."""
    if gold is None or not all(isinstance(gold.get(field), str) for field in FIELDS):
        return False
    fewest = {EVALUATION: 1, ACTION: 0, STATE: 1}
    return all(fewest[field] <= len(gold[field]) <= longest for field, longest in LONGEST_LABEL.items())


def label_of(reply: dict | None, field: str, fidelity: str) -> str:
    """Return a reply's label as text, '' where there is none; "paper" strips it, as the pair rule does."""
    if reply is None or reply.get(field) is None:
        return ""
    label = str(reply[field])
    return label.strip() if fidelity == "paper" else label


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {  # by `reply_format`
    "json": lambda reply: json.dumps(reply, ensure_ascii=False),
    "python": str,
}


def solution_of(turn: dict[str, Any]) -> str | None:
    """Return the solution that a reply to a turn (or prompt) could give away, by its row; None without one."""
    solutions, place = turn["meta"].get("solutions") or [], turn["meta"].get("turn", 0)
    return solutions[place] if place < len(solutions) else None


def gives_away(text: str, solution: str) -> bool:
    """Tell whether a text says a solution: its words in a row, whatever their case and the marks between them."""
    said, wanted = (
        [word for word in words_and_signs(part) if word[0].isalnum()] for part in (text, solution)
    )
    length = len(wanted)
    return length > 0 and any(
        said[place : place + length] == wanted for place in range(len(said) - length + 1)
    )


def format_reply(reply: dict[str, Any], reply_format: str) -> str:
    """Return a reply's text as WRITERS has it, the five fields first and in order."""
    ordered = {field: reply[field] for field in FIELDS if field in reply}
    ordered |= {field: value for field, value in reply.items() if field not in ordered}
    return WRITERS[reply_format](ordered)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def parse_python(text: str) -> Any:
    """Return the value of a Python literal, white space around it left out; None if the text is none."""
    text = text.strip()
    if len(text) > LONGEST_LITERAL:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a student's "\d" is data, not a mistake in our source
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
