"""Processes that share out a job's work: each loads the same, on its own part of the GPUs, and does its share.

What a share is, the work itself says: `method(..., share=(k, n))` yields what the k-th of n does, so that together they
do what one alone does with `share=(0, 1)`, to the byte, whatever n is, where each has as many GPUs and threads as that
one. Not covered: shares on several machines, and work that moves from a slow one to a fast one.
"""

import atexit
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from workflow_scripts.common.errors import PlumblineError

DEVICES, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


def parts_of(devices: list[str], count: int) -> list[list[str]]:
    """Return the devices of each of `count` shares: as many each, in their order; what is left over nobody has."""
    each = len(devices) // count
    return [devices[number * each : (number + 1) * each] for number in range(count)]


def shares_for(asked: int, devices: int) -> int:
    """Return how many processes share the work of a job that has so many devices: one each at most, on the CPU any."""
    return max(1, min(asked, devices) if devices else asked)


def visible_devices() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get(DEVICES)
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def own_environment(devices: list[str], threads: int) -> dict[str, str]:
    """Return what a share's process has in its environment: its devices, if there are any, and its threads."""
    return {DEVICES: ",".join(devices), THREADS: str(threads)}


def without_end(_: float) -> bool:
    """Say that it is not enough yet, however long the last item took."""
    return False


def work(connection: Connection, load: Callable[..., Any], arguments: tuple, share: tuple[int, int]) -> None:
    """Load what is to work, then do what is asked for, item by item, until nobody asks any more.

    After each item it is told whether to go on with the next.
    """
    try:
        loaded = load(*arguments)
        connection.send(("loaded", None))
        while True:
            method, values = connection.recv()
            began = time.monotonic()
            for item in getattr(loaded, method)(*values, share=share):
                connection.send(("item", (item, time.monotonic() - began)))
                if not connection.recv():
                    break
                began = time.monotonic()
            connection.send(("done", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
    except (EOFError, KeyboardInterrupt):  # who asked has ended
        return
    except BaseException as error:
        ours = isinstance(error, PlumblineError)
        try:
            connection.send(("failed", str(error) if ours else f"{type(error).__name__}: {error}"))
        except OSError:  # who asked has ended
            return
        if not ours:
            raise


class Shards:
    """`count` processes that each hold `load(*arguments)`, on equal parts of `devices`: to be asked, and closed.

    They are all loaded once this is made; PlumblineError where one fails or is ended, then or later.

    load: a function of a module, given as it is; arguments: what can be sent to another process. peak_memory_mb: what
    they took at most, added up, MiB; most_memory_mb: of all that this process has had.
    """

    most_memory_mb = 0

    def __init__(self, load: Callable[..., Any], arguments: tuple, count: int, devices: list[str]) -> None:
        context = get_context("spawn")  # a copy of a process that has used torch would be none that can
        threads = max(1, int(os.environ.get(THREADS) or os.cpu_count() or 1) // count)
        before = {name: os.environ.get(name) for name in (DEVICES, THREADS)}
        self.peak_memory_mb = 0
        self.workers: list[tuple[Any, Connection]] = []
        atexit.register(self.close)  # before multiprocessing waits for them without end
        try:
            for number, own in enumerate(parts_of(devices, count)):
                here, there = context.Pipe()
                os.environ |= own_environment(own, threads)
                process = context.Process(target=work, args=(there, load, arguments, (number, count)))
                process.start()
                there.close()
                self.workers.append((process, here))
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        where = f"on {len(devices) // count} of {len(devices)} GPUs each" if devices else "on the CPU"
        print(f"{count} processes share the work, {where}", file=sys.stderr, flush=True)
        for worker in self.workers:
            self._hear(*worker)

    def ask(self, method: str, *values: Any, enough: Callable[[float], bool] = without_end) -> Iterator[Any]:
        """Yield what all shares together do, as it comes.

        After each item `enough` is told the seconds it took; once it says so, no process begins another, and what they
        are at still comes.
        """
        busy = {connection: process for process, connection in self.workers}
        ending, peak = False, 0
        try:
            for connection, process in busy.items():
                self._tell(process, connection, (method, values))
            while busy:
                for connection in wait(list(busy)):
                    process = busy[connection]
                    kind, value = self._hear(process, connection)
                    if kind == "item":
                        item, seconds = value
                        yield item
                        ending = enough(seconds) or ending
                        self._tell(process, connection, not ending)
                    else:
                        peak += value
                        del busy[connection]
        finally:
            if busy:  # nobody listens to what they are at
                self.close()
        self.peak_memory_mb = max(self.peak_memory_mb, peak)
        Shards.most_memory_mb = max(Shards.most_memory_mb, peak)

    def _hear(self, process: Any, connection: Connection) -> tuple[str, Any]:
        """Return what a process says next."""
        try:
            kind, value = connection.recv()
        except (EOFError, OSError):
            process.join()
            raise PlumblineError(
                f"one of the {len(self.workers)} processes that share the work was ended by "
                f"{ended_by(process.exitcode)}; run again to go on from here"
            ) from None
        if kind == "failed":
            raise PlumblineError(f"one of the processes that share the work failed: {value}")
        return kind, value

    def _tell(self, process: Any, connection: Connection, words: Any) -> None:
        """Send a process what it waits for; where it has ended, raise what it said at last."""
        try:
            connection.send(words)
        except OSError:
            self._hear(process, connection)
            raise

    def close(self) -> None:
        """End the processes."""
        for process, connection in self.workers:
            connection.close()
            process.join(5)
            if process.is_alive():
                process.terminate()
        self.workers = []


def ended_by(status: int | None) -> str:
    """Return how a process ended, in words: the signal if one ended it (Python has those as negative numbers)."""
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
