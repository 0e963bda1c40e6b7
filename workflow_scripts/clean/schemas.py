"""From turns to messages: what each style of turn calls things, which turns are kept, and what groups a row.

Covers the structured replies of Tutorbot-Spock and the plain turns of all other formats (see `formats`).
Everything here is pure: turns go in; messages, faults and notes come out; nothing raises on bad data.
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
    "sharegpt": (
        "from",
        "value",
        {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant"},
    ),
    "oasst1": ("role", "text", {"prompter": "user", "assistant": "assistant"}),
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


def read_turns(turns: list, style: str, settings: dict[str, Any]) -> Turns:
    """Return a conversation's messages up to its first unusable turn, tutor replies cleaned."""
    role_key, text_key, names = ROLES[style]
    messages: list[Message] = []
    notes: Counter = Counter()
    for place, turn in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        fault = _check_turn(turn, role_key, text_key, names, expected, settings["max_chars"])
        if fault:
            return Turns(messages, fault, notes)
        text = turn[text_key]
        if style == "tutorbot" and expected == "assistant":
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


def check_ranked(
    system: str | None, prompt: list[Message], candidates: list[dict], settings: dict[str, Any]
) -> Fault | None:
    """Return what makes a ranked row unusable: any text of it, or a prompt that does not lead up to a reply.

    A reply that lost may say nothing.
    """
    for text in [*(message["content"] for message in prompt), *(reply["content"] for reply in candidates)]:
        silent = text == "" and candidates[0]["content"]
        if not silent and (fault := check_text(text, settings["max_chars"])):
            return fault
    if system and (fault := check_text(system, settings["max_chars"])):
        return fault
    if not prompt:
        return Fault("no prompt")
    for place, message in enumerate(reversed(prompt)):
        if message["role"] != (expected := ("user", "assistant")[place % 2]):
            return Fault("roles do not alternate", f"{message['role']} where the {expected} speaks")
    if len(prompt) + 1 < settings["min_messages"]:
        return Fault(f"fewer than {settings['min_messages']} messages", str(len(prompt) + 1))
    return None


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


def actions_of(original: str, altered: str) -> tuple[str, str]:
    """Return the action labels of two replies that have already been checked."""
    labels = [_label((parse_reply(text) or {}).get(ACTION)) or "" for text in (original, altered)]
    return labels[0], labels[1]
