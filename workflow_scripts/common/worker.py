"""Run a module as `python -m MODULE ARGS` would, but never outlive the process that started it.

torchrun, which `accelerate launch` runs on, starts each worker in a session of its own and without the descriptors that
hold leases; were it killed, they would go on with devices that are no longer theirs. Linux only: elsewhere this is
`python -m`.
"""

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


if __name__ == "__main__":
    die_with_parent()
    if os.getppid() == 1:  # it ended before we could say so
        sys.exit("error: the launcher of this process has ended")
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
