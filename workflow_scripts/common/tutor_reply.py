"""The tutor's structured reply: its five fields, its label table, and how its text is read and written.

The table is that of Tutorbot-Spock (Sonkar et al., EMNLP 2024 Findings, appendix).
"""

import ast
import json
import warnings
from collections.abc import Callable
from typing import Any

EVALUATION = "Evaluation of Student Response"
ACTION = "Action Based on Evaluation"
STATE = "Subproblem State"
SUBPROBLEM = "Subproblem"
SPOKEN = "Tutorbot"

FIELDS = (EVALUATION, ACTION, STATE, SUBPROBLEM, SPOKEN)
LABEL_FIELDS = FIELDS[:3]

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

LONGEST_LITERAL = 20_000  # characters; above it Python's own parser can need seconds and hundreds of MB


def parse_reply(text: str) -> dict[str, Any] | None:
    """Return the dict a reply's text holds, as JSON or a Python literal; None if it holds anything else."""
    value = parse_literal(text, dict)
    return value if isinstance(value, dict) else None


def parse_literal(text: str, kind: type = list) -> Any:
    """Return the value of a kind that a text holds, as JSON or a Python literal; None if it holds anything else."""
    text = text.strip()
    for parse in (_parse_json, _parse_python):
        value = parse(text)
        if isinstance(value, kind):
            return value
    return None


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {  # by `reply_format`
    "json": lambda reply: json.dumps(reply, ensure_ascii=False),
    "python": str,
}


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


def _parse_python(text: str) -> Any:
    if len(text) > LONGEST_LITERAL:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a student's "\d" is data, not a mistake in our source
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
