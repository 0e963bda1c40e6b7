"""What the words of a row may be: addresses replaced, phrases and long messages refused."""

import re
from collections.abc import Iterable
from typing import Any

from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.schemas.row import Opened
from workflow_scripts.clean.settings import Settings

# Up to white space, or what closes a quotation or a link: an address may stand inside a JSON reply.
URL = re.compile(r"""(?:https?://|www\.)[^\s"'<>()\[\]{}\\]+""")


def replace_urls(opened: Opened, token: str) -> tuple[Opened, int]:
    """Return a row with `token` for every web address in its messages and candidates, and how many there were."""
    count = 0

    def cleared(value: Any) -> Any:
        nonlocal count
        if isinstance(value, str):
            # A function, so that a backslash in the token is only that.
            value, found = URL.subn(lambda _: token, value)
            count += found
        return value

    def cleared_turn(turn: Any) -> Any:
        return {key: cleared(value) for key, value in turn.items()} if isinstance(turn, dict) else turn

    turns = [cleared_turn(turn) for turn in opened.turns]
    candidates = opened.candidates and [cleared_turn(candidate) for candidate in opened.candidates]
    replaced = opened._replace(turns=turns, candidates=candidates, system=cleared(opened.system))
    told = count
    # The same addresses once more, in what is kept about the row: not counted.
    return replaced._replace(meta=cleared_turn(opened.meta)), told


def check_wording(texts: Iterable[str], settings: Settings) -> Fault | None:
    """Return what in a row's messages is refused: a phrase of `reject_phrases`, in any case, or too many words."""
    phrases = [(phrase, phrase.casefold()) for phrase in settings["reject_phrases"]]
    longest = settings["max_words"]
    for text in texts:
        folded = text.casefold() if phrases else ""
        for phrase, wanted in phrases:
            if wanted in folded:
                return Fault("refused phrase", phrase)
        if longest is not None and len(words := text.split()) > longest:
            return Fault(f"longer than {longest} words", f"{len(words)} words")
    return None
