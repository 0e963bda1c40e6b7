"""Waiting for what another process does, with a limit that no busy machine needs."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Return when a condition holds; AssertionError if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)
