"""Processes that share out a job's work: each loads the same, on its own part of the GPUs, and does its share.

What a share is, the work itself says: `method(..., share=(k, n))` yields what the k-th of n does, so that together they
do what one alone does with `share=(0, 1)`, to the byte, whatever n is, where each has as many GPUs and threads as that
one. Not covered: shares on several machines, and work that moves from a slow one to a fast one.
"""

import atexit
import os
import resource
import sys
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


def work(connection: Connection, load: Callable[..., Any], arguments: tuple, share: tuple[int, int]) -> None:
    """Load what is to work, then do what is asked for, item by item, until nobody asks any more."""
    try:
        loaded = load(*arguments)
        while True:
            method, values = connection.recv()
            for item in getattr(loaded, method)(*values, share=share):
                connection.send(("item", item))
            connection.send(("done", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
    except (EOFError, KeyboardInterrupt):  # who asked has ended
        return
    except BaseException as error:
        connection.send(("failed", f"{type(error).__name__}: {error}"))
        raise


class Shards:
    """`count` processes that each hold `load(*arguments)`, on equal parts of `devices`: to be asked, and closed.

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

    def ask(self, method: str, *values: Any) -> Iterator[Any]:
        """Yield what all shares together do, as it comes; PlumblineError where one fails or is ended."""
        for _, connection in self.workers:
            connection.send((method, values))
        busy = {connection: process for process, connection in self.workers}
        peak = 0
        while busy:
            for connection in wait(list(busy)):
                try:
                    kind, value = connection.recv()
                except EOFError:
                    busy[connection].join()
                    raise PlumblineError(
                        f"one of the {len(self.workers)} processes that share the work was ended by "
                        f"{ended_by(busy[connection].exitcode)}; run again to go on from here"
                    ) from None
                if kind == "failed":
                    raise PlumblineError(f"one of the processes that share the work failed: {value}")
                if kind == "item":
                    yield value
                else:
                    peak += value
                    del busy[connection]
        self.peak_memory_mb = max(self.peak_memory_mb, peak)
        Shards.most_memory_mb = max(Shards.most_memory_mb, peak)

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
