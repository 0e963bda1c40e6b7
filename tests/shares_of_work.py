"""Work that can be shared out and loads nothing, for the tests of the processes that share it."""

import os
import signal
from collections.abc import Iterator

from workflow_scripts.common import shards


class Counting:
    """Counts, says what it has been given, fails, or is killed."""

    def numbers(self, end: int, share: tuple[int, int]) -> Iterator[int]:
        yield from range(share[0], end, share[1])

    def seen(self, share: tuple[int, int]) -> Iterator[tuple]:
        yield share[0], os.environ[shards.DEVICES], os.environ[shards.THREADS]

    def fail(self, share: tuple[int, int]) -> Iterator[int]:
        if share[0]:
            raise ValueError("no such thing")
        yield 0

    def killed(self, share: tuple[int, int]) -> Iterator[int]:
        if share[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        yield 0
