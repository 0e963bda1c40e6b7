"""Run a module as `python -m MODULE ARGS` would, but never outlive the process that started it.

torchrun, which `accelerate launch` runs on, starts each worker in a session of its own and without the descriptors that
hold leases; were it killed, they would go on with devices that are no longer theirs. Linux only: elsewhere they do.

A worker whose module came to its end leaves at once, with status 0. The threads by which libraries talk to the other
processes (gloo, NCCL, DeepSpeed) may still run while Python is taken apart around them, and end the process by a
signal: a training whose weights were written, and with it those of the other workers, would count as failed.

torchrun has Python hand on each piece of a line as it comes. The workers share one log, so here a line is written as
one piece.
"""

import atexit
import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum)


def leave() -> None:
    """End this process here and now, with status 0 and with what it printed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def write_whole_lines() -> None:
    """Write each printed line at once, so that another process's can't come between its words and its end."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=False)


def main() -> None:
    die_with_parent()
    write_whole_lines()
    if os.getppid() == 1:  # it ended before we could say so
        sys.exit("error: the launcher of this process has ended")
    came_to_its_end = False
    # What is registered first is called last: when all that others want to do at the end has been done.
    atexit.register(lambda: came_to_its_end and leave())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    came_to_its_end = True


if __name__ == "__main__":
    main()
