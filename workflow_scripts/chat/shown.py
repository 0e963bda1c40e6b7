"""How a reply is shown: a tutor's as the student would see it, its labels apart, and nothing that a terminal obeys."""

import unicodedata
from typing import NamedTuple

from workflow_scripts.common.tutor_reply import LABEL_FIELDS, LABEL_NAMES, SPOKEN, SUBPROBLEM, read_answer

KEPT = ("\n", "\t")
JOINERS = ("\u200c", "\u200d")  # Persian is spelled with the one, some emoji with the other
CLOSINGS = ("", '"}', "'}", "}", '": ""}', "': ''}")  # what may be all that an unfinished reply lacks


class Shown(NamedTuple):
    """A reply as a person sees it: what is said aloud, and beside it what a tutor's reply holds in other fields."""

    said: str
    labels: tuple[tuple[str, str], ...] = ()

    def beside(self) -> str:
        """Return the labels in one line."""
        return " · ".join(f"{name} {value}" for name, value in self.labels)


def printable(text: str) -> str:
    """Return a text whose control characters are seen and not obeyed, nor turn the order of what is read."""
    return "".join(
        each
        if each in KEPT or unicodedata.category(each) not in ("Cc", "Cf") or each in JOINERS
        else seen(each)
        for each in text
    )


def seen(character: str) -> str:
    """Return how a character that cannot be seen is written: ESC is ␛, others by their number."""
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else f"\\u{ord(character):04x}"


def shown(text: str, whole: bool = True) -> Shown:
    """Return how a reply is shown; of one that is not `whole` yet, as far as it goes.

    A structured reply that says nothing aloud yet is shown as nothing; one that never parses, as it is.
    """
    if not text.lstrip().startswith("{"):
        return Shown(printable(text))
    for closing in CLOSINGS[: 1 if whole else None]:
        reply = read_answer(text + closing, "paper")
        if reply is not None:
            break
    else:
        return Shown(printable(text) if whole else "")
    if whole and SPOKEN not in reply:
        return Shown(printable(text))
    labels = [(LABEL_NAMES[field], str(reply[field])) for field in LABEL_FIELDS if reply.get(field)]
    if reply.get(SUBPROBLEM):
        labels.append(("subproblem", str(reply[SUBPROBLEM])))
    return Shown(
        printable(str(reply.get(SPOKEN, ""))),
        tuple((name, " ".join(printable(value).split())) for name, value in labels),
    )
