"""Plain texts, which language modelling learns: rows of one message, whose role is `text`, and no question."""

from typing import Any

from workflow_scripts.clean.ledger import Ledger
from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.schemas.row import Opened
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.turns import check_text, text_key
from workflow_scripts.clean.wording import check_wording
from workflow_scripts.common.files import digest


def clean_text(
    opened: Opened, fault: Fault | None, place: dict[str, Any], settings: Settings, ledger: Ledger
) -> dict[str, Any] | None:
    """Return a kept text, or None after recording the reason; texts equal but for case and spacing are one group."""
    turns = len(opened.turns)
    ledger.turns_read[place["file"]] += turns
    text = opened.turns[0]["content"] if turns else None
    fault = fault or check_text(text, settings["max_chars"]) or check_wording([text], settings)
    if fault:
        ledger.reject(place, "row", fault, turns)
        return None
    return {
        "place": place,
        "turns": turns,
        "question": digest(text_key(text)),
        "messages": opened.turns,
        "extra": opened.meta or {},
        "unread": opened.unread,
    }
