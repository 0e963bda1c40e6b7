"""Start a stage in two thirds of the time: no looking for garbage while it imports its libraries.

What modules define stays to the end, but the collector goes through all of it again and again while torch and
transformers are imported, and once more when Python ends: 4 of 12 seconds here (benchmarks/start.py). So a `python -m`
of ours imports without it, and `errors.run` turns it on for the work itself, which leaves aside what was imported.
"""

import gc
import sys


def hold_collector() -> None:
    """Turn the garbage collector off if this is `python -m` on its way to a module of ours."""
    if sys.argv[:1] == ["-m"]:  # until the module is found
        gc.disable()


def begin_collecting() -> None:
    """Turn the garbage collector on, for what is made from here on."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
