"""How far a job is: lines of JSON in a small file beside its log, for whoever looks on while it works.

`logs/train_sft/tiny.sft-1.log` has `logs/train_sft/tiny.sft-1.progress.jsonl` beside it. A job finds the place by
itself: its rule sends what it says, its standard error, to its log. Where that is no log (by hand, in a test) nothing
is written; `PLUMBLINE_PROGRESS` names a file, which the launcher sets, since workers on other nodes have no log of
their own. So no rule, no setting and no digest knows of it, and nothing reads it but those who look on. A file that
cannot be written is not: no job fails by it, and nothing that it makes is another.

A line: {"time": seconds since 1970, "rule", "name" (those of the log), "stage": what is under way, "done", "total",
"unit": of what}, and what there is to say: "loss", "reward", "validation_loss", "tokens" and "usd" so far.
"""

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from workflow_scripts.common import processes

VARIABLE = "PLUMBLINE_PROGRESS"
ENDING = ".progress.jsonl"
LOG = ".log"
OFTEN, SELDOM = (
    1.0,
    30.0,
)  # seconds between two lines: of a job that has just begun, and of one that takes hours
LINES = (
    300  # while these are written a line comes as often as it may; from then on it waits a share of the time
)

_begun: set[Path] = (
    set()
)  # the files that this process has written to; what stands in another is of an earlier run

Batch = TypeVar("Batch", bound=Sequence)


def beside(log: Path | str) -> Path:
    """Return the file of a job's progress by its log."""
    return Path(str(log).removesuffix(LOG) + ENDING)


def log_beside(progress: Path) -> Path:
    """Return the log beside which a file of progress is."""
    return Path(str(progress).removesuffix(ENDING) + LOG)


def progress_file() -> Path | None:
    """Return where this process tells its progress: None where it has no log, or is not the first of several."""
    if processes.number() > 0:
        return None
    if named := os.environ.get(VARIABLE):
        return Path(named)
    try:
        log = os.readlink(f"/proc/self/fd/{sys.__stderr__.fileno()}")
    except (OSError, ValueError, AttributeError):  # no Linux, or no standard error
        return None
    return beside(log) if log.endswith(LOG) and f"{os.sep}logs{os.sep}" in log else None


class Progress:
    """What one stage of a job tells of itself; threads may share it.

    done: what stood finished before it began, say in the checkpoint that it goes on from. total: None where nobody
    knows.
    """

    def __init__(self, stage: str, unit: str, total: int | None, done: int = 0) -> None:
        self.path = progress_file()
        self.stage, self.unit, self.total, self.done = stage, unit, total, done
        self.facts: dict[str, float] = {}
        self.began, self.written = time.monotonic(), -math.inf
        self.lock = threading.Lock()
        self.at(done)

    def at(self, done: int, **facts: float | None) -> None:
        """Tell that so much is done; `facts` are kept until others of their names come. No number is left out."""
        with self.lock:
            self.done = done
            self.facts |= {
                name: value for name, value in facts.items() if value is not None and math.isfinite(value)
            }
            self._tell()

    def add(self, count: int = 1, **sums: float) -> None:
        """Tell that so much more is done; `sums`, say tokens, are added to those before."""
        with self.lock:
            self.done += count
            for name, value in sums.items():
                self.facts[name] = self.facts.get(name, 0) + value
            self._tell()

    def _tell(self) -> None:
        """Append a line, unless the last one was a moment ago; the last of all always is."""
        if self.path is None:
            return
        now = time.monotonic()
        pause = min(SELDOM, max(OFTEN, (now - self.began) / LINES))
        if now - self.written < pause and (self.total is None or self.done < self.total):
            return
        self.written = now
        facts = {name: float(f"{value:.6g}") for name, value in self.facts.items()}
        row: dict[str, Any] = {"time": round(time.time(), 1), "rule": self.path.parent.name}
        row |= {"name": self.path.name.removesuffix(ENDING), "stage": self.stage}
        row |= {"done": self.done, "total": self.total, "unit": self.unit} | facts
        with contextlib.suppress(OSError):
            with open(self.path, "a" if self.path in _begun else "w", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            _begun.add(self.path)


def counted(batches: Iterable[Batch], stage: str, unit: str, total: int) -> Iterator[Batch]:
    """Yield batches, and tell of each when the next is asked for: by then it has been worked on."""
    progress = Progress(stage, unit, total)
    for batch in batches:
        yield batch
        progress.add(len(batch))
