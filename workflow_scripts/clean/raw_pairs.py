"""Reply pairs as they stand in the file, as the published perplexity evaluation reads them (Sonkar et al. 2024).

Nothing is cleaned and no label is held to the table: of a conversation only its last two replies are parsed, for their
actions. The first turn is instructions and question in one, with no speaker before it, and so it becomes the system
message; the quotation mark and the line break before its question are left out, and nothing else. Pairs that stand
twice count twice.
"""

from typing import Any

from workflow_scripts.clean.fields import Unfit
from workflow_scripts.clean.ledger import Ledger
from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.schemas.row import Opened
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.turns import PAIRED_ACTIONS, Message, check_text, read_turn, split_question
from workflow_scripts.common.tutor_reply import ACTION, parse_python

QUOTED = 'Student: "\nQ'


def read_raw(turns: list[Any], max_chars: int) -> tuple[list[Message], frozenset[str]]:
    """Return turns as messages, in whatever order they speak, and the keys nobody read; Unfit where one is no text."""
    messages, unread = [], frozenset[str]()
    for turn in turns:
        message, missed = read_turn(turn, "tutorbot")
        fault = check_text(message["content"], max_chars)
        if fault and fault.reason != "empty message":
            raise Unfit(*fault)
        messages.append({"role": message["role"], "content": message["content"]})
        unread |= missed
    return messages, unread


def action_of(text: str) -> Any:
    """Return the action of a reply as it stands there; Unfit where the reply is no Python literal with an action."""
    reply = parse_python(text)
    if not isinstance(reply, dict):
        raise Unfit("unparsable reply", text)
    if ACTION not in reply:
        raise Unfit(f"reply lacks '{ACTION}'")
    return reply[ACTION]


def clean_raw_pair(
    opened: Opened, fault: Fault | None, place: dict[str, Any], settings: Settings, ledger: Ledger
) -> dict[str, Any] | None:
    """Return a perplexity pair as it stands in the file, or None after recording why it is none."""
    turns = opened.turns
    ledger.turns_read[place["file"]] += len(turns)
    if not fault and opened.system:
        fault = Fault("system message, which raw pairs have none of")
    if not fault and len(turns) < 3:
        fault = Fault("fewer than 3 messages", str(len(turns)))
    if not fault:
        try:
            messages, unread = read_raw(turns, settings["max_chars"])
            original, altered = (message["content"] for message in messages[-2:])
            actions = action_of(original), action_of(altered)
            if actions not in PAIRED_ACTIONS:
                fault = Fault("actions are not 1 and 2 or 4 and 5", " and ".join(map(str, actions)))
        except Unfit as unfit:
            fault = unfit.fault
    if fault:
        ledger.reject(place, "row", fault, len(turns))
        return None
    first = messages[0]["content"]
    opening = first.replace(QUOTED, "Student: Q") if messages[0]["role"] == "user" else first
    return {
        "place": place,
        "turns": len(turns),
        "question": split_question(first)[0],
        "messages": [{"role": "system", "content": opening}, *messages[1:-2]],
        "original": original,
        "altered": altered,
        "extra": {"original_action": actions[0], "altered_action": actions[1]},
        "unread": opened.unread | unread,
    }
