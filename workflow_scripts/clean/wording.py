"""What the words of a row may be: addresses replaced, white space collapsed, phrases and long messages refused."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.schemas.row import Opened
from workflow_scripts.clean.settings import Settings
from workflow_scripts.common.words import split_words

# Up to white space, or what closes a quotation or a link: an address may stand inside a JSON reply.
URL = re.compile(r"""(?:https?://|www\.)[^\s"'<>()\[\]{}\\]+""")


def with_texts(opened: Opened, cleared: Callable[[str], str]) -> Opened:
    """Return a row with every text of its messages, its candidates and its system message put through a function."""

    def cleared_turn(turn: Any) -> Any:
        if not isinstance(turn, dict):
            return turn
        return {key: cleared(value) if isinstance(value, str) else value for key, value in turn.items()}

    turns = [cleared_turn(turn) for turn in opened.turns]
    candidates = opened.candidates and [cleared_turn(candidate) for candidate in opened.candidates]
    system = cleared(opened.system) if isinstance(opened.system, str) else opened.system
    return opened._replace(turns=turns, candidates=candidates, system=system)


def replace_urls(opened: Opened, token: str) -> tuple[Opened, int]:
    """Return a row with `token` for every web address in its messages and candidates, and how many there were."""
    count = 0

    def cleared(text: str) -> str:
        nonlocal count
        # A function, so that a backslash in the token is only that.
        text, found = URL.subn(lambda _: token, text)
        count += found
        return text

    replaced = with_texts(opened, cleared)
    told = count
    # The same addresses once more, in what is kept about the row: not counted.
    meta = {
        key: cleared(value) if isinstance(value, str) else value for key, value in (opened.meta or {}).items()
    }
    return replaced._replace(meta=meta), told


def collapse_whitespace(opened: Opened) -> Opened:
    """Return a row whose texts have one space where white space was, and none at their ends."""
    return with_texts(opened, lambda text: " ".join(text.split()))


def check_wording(texts: Iterable[str], settings: Settings) -> Fault | None:
    """Return what in a row's messages is refused: a phrase of `reject_phrases`, in any case, or too many words."""
    phrases = [(phrase, phrase.casefold()) for phrase in settings["reject_phrases"]]
    longest = settings["max_words"]
    for text in texts:
        folded = text.casefold() if phrases else ""
        for phrase, wanted in phrases:
            if wanted in folded:
                return Fault("refused phrase", phrase)
        if longest is not None and len(words := split_words(text)) > longest:
            return Fault(f"longer than {longest} words", f"{len(words)} words")
    return None
