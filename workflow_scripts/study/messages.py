"""What messages about a study share: values shown on one line, the nearest known name, the list of mistakes."""

import difflib
from collections.abc import Iterable
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.study.basics import CONTROL

LONGEST = 80  # characters of a value, or of a key, that a message shows
MANY = 40  # names that a message lists


def shown(value: Any) -> str:
    """Return a value as a message shows it: on one line, and not all of it if it is long."""
    if isinstance(value, int) and abs(value) >= 10**LONGEST:
        return "a number of many digits"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def named(key: Any) -> str:
    """Return a key as a path shows it: as it is, unless it could not be read."""
    text = str(key)
    return text if text.isprintable() and len(text) <= LONGEST else shown(text)


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(name)[:LONGEST], list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """Return the sentence for a name that is not there, with the nearest one that is."""
    known = list(known)
    listed = ", ".join(map(named, known[:MANY])) or "none"
    more = f" and {len(known) - MANY} more" if len(known) > MANY else ""
    return f"no {what} is called {shown(name)}{nearest(name, known)} (there are: {listed}{more})"


def mistakes(origin: str, lines: list[str]) -> PlumblineError:
    """Return the error that lists every mistake once."""
    lines = [CONTROL.sub(lambda found: repr(found[0])[1:-1], line) for line in dict.fromkeys(lines)]
    listing = "\n".join(f"  {line}" for line in lines)
    counted = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return PlumblineError(f"{origin} has {counted}:\n{listing}")
