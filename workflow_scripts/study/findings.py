"""What there is to say about a value of a study: certainly wrong (a mistake), or in doubt (a warning)."""

from collections.abc import Iterable
from typing import NamedTuple


class Finding(NamedTuple):
    """What is to be said about a value of the study: certainly wrong, or in doubt."""

    certain: bool
    text: str


def wrong(path: str, text: str) -> Finding:
    """Return a mistake: the run would fail, or a number be wrong."""
    return Finding(True, f"{path}: {text}")


def doubt(path: str, text: str) -> Finding:
    """Return a warning."""
    return Finding(False, f"{path}: {text}")


def sorted_out(found: Iterable[Finding]) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts), each as text."""
    found = list(found)
    return [item.text for item in found if item.certain], [item.text for item in found if not item.certain]
