"""Errors a user can act on, shown without a traceback."""

import sys
from collections.abc import Callable


class PlumblineError(Exception):
    """Something a user can mend: the message says what was wrong, where, and what to do."""


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`; a PlumblineError ends the process with status 1 and its message alone."""
    try:
        main()
    except PlumblineError as error:
        sys.exit(f"error: {error}")
