"""From one raw row to one conversation: what each source schema calls things, and which turns are kept.

Covers the tutoring schema of Tutorbot-Spock, its perplexity pairs, chat rows ("messages") and Alpaca rows.
Everything here is pure: a row goes in; messages, faults and notes come out; nothing raises on bad data.
"""

import unicodedata
from collections import Counter
from typing import Any, NamedTuple

from workflow_scripts.clean.reading import Fault
from workflow_scripts.common.tutor_reply import (
    ACTION,
    FIELDS,
    LABEL_FIELDS,
    LABELS,
    format_reply,
    parse_reply,
)

ROLES = {
    "tutorbot": ("from", "value", {"human": "user", "gpt": "assistant"}),
    "messages": ("role", "content", {"user": "user", "assistant": "assistant"}),
}

# The altered reply gives the solution where the original left the work to the student.
PAIRED_ACTIONS = {("1", "2"), ("4", "5")}

Message = dict[str, str]


class Turns(NamedTuple):
    """The good messages from the start of a conversation, and what stopped the reading."""

    messages: list[Message]
    fault: Fault | None
    notes: Counter


def check_text(text: Any, max_chars: int) -> Fault | None:
    """Return what makes a message's text unusable, or None."""
    if not isinstance(text, str):
        return Fault("text is not a string", type(text).__name__)
    if len(text) > max_chars:
        return Fault(f"longer than {max_chars} characters", f"{len(text)} characters")
    if not text.strip():
        return Fault("empty message")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return Fault("lone surrogate", f"at character {error.start}")
    return None


def read_turns(turns: list, schema: str, settings: dict[str, Any]) -> Turns:
    """Return a conversation's messages up to its first unusable turn, tutor replies cleaned."""
    role_key, text_key, names = ROLES[schema]
    messages: list[Message] = []
    notes: Counter = Counter()
    for place, turn in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        fault = _check_turn(turn, role_key, text_key, names, expected, settings["max_chars"])
        if fault:
            return Turns(messages, fault, notes)
        text = turn[text_key]
        if schema == "tutorbot" and expected == "assistant":
            text, fault, replaced = clean_reply(text, settings)
            if fault:
                return Turns(messages, fault, notes)
            notes.update(replaced)
        messages.append({"role": expected, "content": text})
    return Turns(messages, None, notes)


def _check_turn(
    turn: Any, role_key: str, text_key: str, names: dict[str, str], expected: str, max_chars: int
) -> Fault | None:
    if not isinstance(turn, dict):
        return Fault("turn is not an object", type(turn).__name__)
    for key in (role_key, text_key):
        if key not in turn:
            return Fault(f"missing field '{key}'")
    role = turn[role_key]
    if not isinstance(role, str) or role not in names:
        return Fault("unknown role", str(role))
    if names[role] != expected:
        return Fault("roles do not alternate", f"{role} where the {expected} speaks")
    return check_text(turn[text_key], max_chars)


def clean_reply(text: str, settings: dict[str, Any]) -> tuple[str, Fault | None, Counter]:
    """Return a tutor reply's cleaned text, what is wrong with it, and how many "N/A" labels were replaced.

    The format `raw` checks the reply but keeps its text as it came.
    """
    reply = parse_reply(text)
    if reply is None:
        return "", Fault("unparsable reply", text), Counter()
    reply = {field: value for field, value in reply.items() if field not in settings["drop_fields"]}
    notes: Counter = Counter()
    for field in FIELDS:
        if field not in reply:
            return "", Fault(f"reply lacks '{field}'"), Counter()
    for field in LABEL_FIELDS:
        label = _label(reply[field])
        if label == "N/A" and field in settings["replace_na"]:
            label = settings["replace_na"][field]
            notes[f"N/A replaced in '{field}'"] += 1
        if label not in LABELS[field]:
            return "", Fault(f"label not in the table of '{field}'", str(reply[field])), Counter()
        reply[field] = label
    for field, value in reply.items():
        if not isinstance(field, str) or not isinstance(value, str):
            return "", Fault("reply field is not text", str(field)), Counter()
        if (fault := check_text(value, len(value))) and fault.reason != "empty message":
            return "", fault, Counter()
        if (fault := check_text(field, len(field))) and fault.reason != "empty message":
            return "", fault, Counter()
    if settings["reply_format"] == "raw":
        return text, None, notes
    return format_reply(reply, settings["reply_format"]), None, notes


def _label(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip()
    # A label written as a bare number means the same; True is an int to Python but no label.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 100 else None


def split_question(text: str) -> tuple[str, bool]:
    """Return the question behind the source's instructions, and whether the marker "Student:" was there.

    The instructions end with "Student:" before the last "Q." that begins a line; `\\nQ.` becomes `Q.`.
    """
    end = text.rfind("\nQ.")
    marker = text.rfind("Student:", 0, end if end >= 0 else len(text))
    if marker < 0:
        return text, False
    return text[marker + len("Student:") :].lstrip(' "\n\r\t').replace("\nQ.", "Q."), True


def problem_key(question: str) -> str:
    """Return a question's text normalised for comparison, without its facts, "Q." mark, case and spacing."""
    return text_key(question.split("Facts:")[0].strip().removeprefix("Q."))


def text_key(text: str) -> str:
    """Return a text normalised for comparison: compatibility forms, case and spacing left out."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def group_of(question: str, conversation_id: str, group_by: str) -> str:
    """Return the key that keeps a conversation on one side of every split."""
    if group_by == "conversation":
        return conversation_id
    return problem_key(question) if group_by == "problem" else text_key(question)


def alpaca_turns(row: dict[str, Any]) -> tuple[list, Fault | None]:
    """Return an instruction row as two chat turns; its input, if any, follows after an empty line."""
    for key in ("instruction", "output"):
        if key not in row:
            return [], Fault(f"missing field '{key}'")
    extra = row.get("input") or ""
    if not isinstance(row["instruction"], str) or not isinstance(extra, str):
        return [], Fault("text is not a string", "instruction or input")
    asked = f"{row['instruction']}\n\n{extra}" if extra.strip() else row["instruction"]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}], None


def actions_of(original: str, altered: str) -> tuple[str, str]:
    """Return the action labels of two replies that have already been checked."""
    labels = [_label((parse_reply(text) or {}).get(ACTION)) or "" for text in (original, altered)]
    return labels[0], labels[1]
