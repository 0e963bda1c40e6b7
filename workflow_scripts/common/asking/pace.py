"""When the next request may be sent: a rate limit shared by every process that asks one endpoint, and pauses.

Not covered: an endpoint's limits on tokens per minute; it answers 429 to those, and that makes a pause.
"""

import threading
import time
from pathlib import Path

import filelock

POLL = 0.01  # seconds between two looks at a file that another process holds


class Pace:
    """Starts of requests at least 60 / `per_minute` seconds apart, or as they come where it is None.

    The file at `path` holds the time of the last start in seconds since the epoch, for all processes. A start is
    taken only when it is due, so a process that dies leaves no gap.
    """

    def __init__(self, path: Path, per_minute: float | None):
        self.path = path
        self.interval = 60 / per_minute if per_minute else 0.0
        self._resume = 0.0  # on this process's monotonic clock

    def hold(self, seconds: float) -> None:
        """Let no request of this process start for so long."""
        self._resume = max(self._resume, time.monotonic() + seconds)

    def wait(self, halt: threading.Event) -> None:
        """Return when a request may start, or as soon as `halt` is set."""
        while not halt.is_set():
            delay = self._resume - time.monotonic()
            if delay <= 0:
                delay = self._take() if self.interval else 0.0
            if delay <= 0:
                return
            halt.wait(delay)

    def _take(self) -> float:
        """Take the next start and return 0, or the seconds until it is due."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.path.with_name(f"{self.path.name}.lock"), poll_interval=POLL):
            now = time.time()
            try:
                elapsed = now - float(self.path.read_text())
            except (FileNotFoundError, ValueError):
                elapsed = self.interval
            if 0 <= elapsed < self.interval:  # below 0 the clock was set back, and the file means nothing
                return self.interval - elapsed
            self.path.write_text(f"{now!r}\n")
            return 0.0
