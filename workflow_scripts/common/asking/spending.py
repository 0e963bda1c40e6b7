"""What a study may spend on a judge: a journal in which every call is reserved before it is made.

Covers several processes and threads on one budget, and kills: a reservation that nobody settled counts as spent,
because the call may have been billed. Not covered: what the endpoint charges beyond its own count of tokens.
"""

import json
import resource
import threading
import uuid
from pathlib import Path

import filelock

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.shards import Shards

POLL = 0.01  # seconds between two looks at a journal that another process holds


class Spending:
    """The spending of one study on one judge, in dollars; `budget` is its limit, or None.

    A line of the journal is {"ticket", "reserved"} before a call, or {"ticket", "paid"} after it. What a call
    costs at worst is reserved, so the limit holds while calls are in flight.
    """

    def __init__(self, path: Path, budget: float | None):
        self.path = path
        self.budget = budget
        self._changed = threading.Condition()
        self._offset = 0  # bytes of the journal that were read
        self._open: dict[str, float] = {}  # reserved and not settled, by anybody, alive or dead
        self._paid = 0.0
        self._in_flight: set[str] = set()  # the tickets of this process that will still be settled

    def reserve(self, usd: float) -> str:
        """Return a ticket for a call of at most `usd`, which is noted before the call is made.

        Where it does not fit, wait for the calls in flight in this process: they mostly cost less than reserved.
        Raises PlumblineError when it does not fit after that.
        """
        if not usd:
            return ""
        with self._changed:
            while not self._fits(ticket := uuid.uuid4().hex, usd):
                if not self._in_flight:
                    raise PlumblineError(self._refusal(usd))
                self._changed.wait()
            self._in_flight.add(ticket)
            return ticket

    def settle(self, ticket: str, usd: float) -> None:
        """Note what a call really cost; nothing where it was not made."""
        if ticket:
            with self._changed:
                with self._locked():
                    self._append({"ticket": ticket, "paid": usd})
                self._in_flight.discard(ticket)
                self._changed.notify_all()

    def abandon(self, ticket: str) -> None:
        """Leave a reservation as it is: the call failed, but may have been billed."""
        with self._changed:
            self._in_flight.discard(ticket)
            self._changed.notify_all()

    def _fits(self, ticket: str, usd: float) -> bool:
        with self._locked():
            self._read()
            fits = self.budget is None or self._spent() + usd <= self.budget
            if fits:
                self._append({"ticket": ticket, "reserved": usd})
            return fits

    def _spent(self) -> float:
        return self._paid + sum(self._open.values())

    def _refusal(self, usd: float) -> str:
        left = max(0.0, self.budget - self._spent())
        return (
            f"{self.path}: the budget of ${self.budget:g} would be passed: ${self._spent():.6f} is spent "
            f"(${sum(self._open.values()):.6f} of it reserved by calls whose price never came back), "
            f"${left:.6f} is left and the next call may cost ${usd:.6f}; raise budget_usd and run again"
        )

    def _locked(self) -> filelock.BaseFileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.path.with_name(f"{self.path.name}.lock"), poll_interval=POLL)

    def _read(self) -> None:
        """Take in the lines that were added since; a torn one is of a writer killed before its call."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for text in whole.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if "reserved" in line:
                self._open[line["ticket"]] = line["reserved"]
            else:
                self._open.pop(line["ticket"], None)
                self._paid += line["paid"]

    def _append(self, line: dict) -> None:
        with open(self.path, "a+b") as stream:
            if stream.tell():
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(json.dumps(line).encode() + b"\n")


def cost_of(seconds: float, facts: dict, gpus: int = 0) -> dict:
    """Return the cost of a job that asks: seconds, MiB, and `facts`, what the endpoint took.

    The MiB are those of this process, and of those that shared its work.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "wall_seconds": round(seconds, 1),
        "gpu_seconds": round(seconds * gpus, 1),
        "peak_memory_mb": own + Shards.most_memory_mb,
        **facts,
    }
