"""A step's main, called in this process as its command line would call it."""

import sys
from collections.abc import Callable


def call(main: Callable[[], None], *flags: object) -> None:
    """Call a step's main with flags, which are made text."""
    kept, sys.argv = sys.argv, ["step", *map(str, flags)]
    try:
        main()
    finally:
        sys.argv = kept
