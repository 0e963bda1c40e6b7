"""Work that can be shared out and loads nothing, for the tests of the processes that share it."""

import os
import signal
from collections.abc import Iterator

from workflow_scripts.common import shards
from workflow_scripts.common.errors import PlumblineError


def end_by(how: str) -> None:
    """Fail with our words or others', be killed, or do nothing."""
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "ours":
        raise PlumblineError("model.safetensors: cannot be read")
    if how == "fail":
        raise ValueError("no such thing")


class Counting:
    """Counts, says what it has been given, fails, or is killed."""

    def __init__(self, how: str = "") -> None:
        end_by(how)

    def numbers(self, end: int, share: tuple[int, int]) -> Iterator[int]:
        yield from range(share[0], end, share[1])

    def seen(self, share: tuple[int, int]) -> Iterator[tuple]:
        yield share[0], os.environ[shards.DEVICES], os.environ[shards.THREADS]

    def end(self, how: str, share: tuple[int, int]) -> Iterator[int]:
        if share[0]:
            end_by(how)
        yield 0

    def size(self, values: list[int], share: tuple[int, int]) -> Iterator[int]:
        yield len(values)
