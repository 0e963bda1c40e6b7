"""From turns to messages: what each style of turn calls things, which turns are kept, and what groups a row.

Covers the structured replies of Tutorbot-Spock and the plain turns of all other schemas (see `schemas`).
Everything here is pure: turns go in; messages, faults and notes come out; nothing raises on bad data.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from workflow_scripts.clean.fields import Fields, Unfit, holds, shown
from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.settings import Settings
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

SYSTEM_ROLES = ("system", "developer")
# A turn that calls a tool or answers for one: by its speaker, by a key that says something, by a part of its text.
TOOL_ROLES = (
    *(
        "tool",
        "tool_call",
        "tool_calls",
        "tool_response",
        "tool_result",
        "tool-response",
        "observation",
        "ipython",
    ),
    *("function", "function_call", "function_response", "function-call", "function-response"),
)
TOOL_KEYS = ("tool_calls", "tool_call", "function_call", "tool_call_id", "tool_responses")
TOOL_PARTS = ("tool_use", "tool_result", "tool_call", "function_call", "tool_calls", "tool")
TOOLS = "calls a tool"

# The altered reply gives the solution where the original left the work to the student.
PAIRED_ACTIONS = {("1", "2"), ("4", "5")}

EMPTY = Fault("empty message")
RAW = "raw"  # the `reply_format` that leaves replies as they are

Message = dict[str, Any]  # {"role", "content"}, and "learn": False where the message is context alone


class Turns(NamedTuple):
    """The good messages from the start of a conversation, what stopped the reading, and the keys nobody read."""

    messages: list[Message]
    fault: Fault | None
    notes: Counter
    unread: frozenset[str]


def check_text(text: Any, max_chars: int) -> Fault | None:
    """Return what makes a message's text unusable, or None."""
    if not isinstance(text, str):
        return Fault("text is not a string", type(text).__name__)
    if len(text) > max_chars:
        return Fault(f"longer than {max_chars} characters", f"{len(text)} characters")
    if not text.strip():
        return EMPTY
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return Fault("lone surrogate", f"at character {error.start}")
    return None


def read_turns(turns: list, style: str, settings: Settings) -> Turns:
    """Return a conversation's messages up to its first unusable turn, tutor replies cleaned."""
    messages: list[Message] = []
    notes: Counter = Counter()
    unread: frozenset[str] = frozenset()
    for place, turn in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        try:
            message, missed = read_turn(turn, style)
        except Unfit as unfit:
            return Turns(messages, unfit.fault, notes, unread)
        fault = check_text(message["content"], settings["max_chars"])
        if message["role"] == "assistant" and settings["empty_replies"] == "keep" and fault == EMPTY:
            fault = None
        if message["role"] != expected:
            fault = Fault("roles do not alternate", f"{message['role']} where the {expected} speaks")
        if style == "tutorbot" and expected == "assistant" and not fault:
            message["content"], fault, replaced = clean_reply(message["content"], settings)
            if not fault:
                notes.update(replaced)
        if fault:
            return Turns(messages, fault, notes, unread)
        messages.append(message)
        unread |= missed
    return Turns(messages, None, notes, unread)


def read_turn(turn: Any, style: str) -> tuple[Message, frozenset[str]]:
    """Return a raw turn as a message, its text not yet checked, and which of its keys nobody read.

    Raises Unfit if it is none; with the reason TOOLS if it calls a tool or is what one returned, for a conversation
    without its calls is another one.
    """
    if not isinstance(turn, dict):
        raise Unfit("turn is not an object", type(turn).__name__)
    role_key, text_key, names = ROLES[style]
    fields = Fields(turn, "turn")
    if tool := tool_of(turn, role_key, text_key):
        raise Unfit(TOOLS, tool)
    role, text = fields.raw(role_key), fields.raw(text_key)
    if not isinstance(role, str) or role not in names:
        raise Unfit("unknown role", shown(role))
    message = {"role": names[role], "content": text} | ({} if is_learned(fields) else {"learn": False})
    return message, fields.unread


def tool_of(turn: dict[str, Any], role_key: str, text_key: str) -> str:
    """Return what in a turn calls a tool or answers for one, or an empty text."""
    role, text = turn.get(role_key), turn.get(text_key)
    if role in TOOL_ROLES:
        return f"a turn of '{role}'"
    if found := [key for key in TOOL_KEYS if holds(turn.get(key))]:
        return f"'{found[0]}' of a turn"
    parts = [part.get("type") for part in text if isinstance(part, dict)] if isinstance(text, list) else []
    return "a part of a turn's text" if any(kind in TOOL_PARTS for kind in parts) else ""


def is_learned(fields: Fields) -> bool:
    """Tell whether a turn is to be learned: `weight` 0, or `train`, `training` or `loss` false, say that it is not.

    Raises Unfit for a weight between, which no objective here can give a turn.
    """
    weight = fields.get("weight")
    if weight is not None and weight not in (0, 1):
        raise Unfit("weight is neither 0 nor 1", shown(weight))
    asked = [key for key in ("train", "training", "loss") if isinstance(fields.value.get(key), bool)]
    return all([weight != 0, *(fields.raw(key) for key in asked)])


def joined_text(text: Any) -> Any:
    """Return a text that came as a list of parts of type text as one text; anything else as it is."""
    if not isinstance(text, list) or not text:
        return text
    parts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in text
    ]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else text


def split_system(turns: list, style: str, max_chars: int) -> tuple[str | None, list, frozenset[str]]:
    """Return the system message that a conversation opens on, the turns after it, and its keys that nobody read.

    One that says nothing is none, wherever it stands. Raises Unfit if it is no usable text.
    """
    role_key, text_key, _ = ROLES[style]
    turns = [turn for turn in turns if not is_system(turn, role_key) or holds(turn.get(text_key))]
    if not turns or not is_system(turns[0], role_key):
        return None, turns, frozenset()
    fields = Fields(turns[0], "turn")
    fields.raw(role_key)
    is_learned(fields)
    return system_text(fields.get(text_key), max_chars), turns[1:], fields.unread


def is_system(turn: Any, role_key: str) -> bool:
    """Tell whether a raw turn is a system message."""
    return isinstance(turn, dict) and turn.get(role_key) in SYSTEM_ROLES


def system_text(text: Any, max_chars: int) -> str | None:
    """Return a system message; None if it says nothing; Unfit if it is no usable text."""
    if not holds(text):
        return None
    if fault := check_text(text, max_chars):
        raise Unfit(*fault)
    return text


def check_ranked(
    system: str | None, prompt: list[Message], candidates: list[dict], settings: Settings
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


def clean_reply(text: str, settings: Settings) -> tuple[str, Fault | None, Counter]:
    """Return a tutor reply's cleaned text, what is wrong with it, and how many "N/A" labels were replaced.

    The format RAW checks the reply but keeps its text as it came.
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
    if settings["reply_format"] == RAW:
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


GROUPS: dict[str, Callable[[str, str], str]] = {  # by `group_by`: (question, conversation's id) → group
    "problem": lambda question, conversation_id: problem_key(question),
    "question": lambda question, conversation_id: text_key(question),
    "conversation": lambda question, conversation_id: conversation_id,
}


def group_of(question: str, conversation_id: str, group_by: str) -> str:
    """Return the key that keeps a conversation on one side of every split."""
    return GROUPS[group_by](question, conversation_id)


def actions_of(original: str, altered: str) -> tuple[str, str]:
    """Return the action labels of two replies that have already been checked."""
    labels = [_label((parse_reply(text) or {}).get(ACTION)) or "" for text in (original, altered)]
    return labels[0], labels[1]
