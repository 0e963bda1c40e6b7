"""Start a stage in two thirds of the time: no looking for garbage while it imports its libraries.

What modules define stays to the end, but the collector goes through all of it again and again while torch and
transformers are imported, and once more when Python ends: 4 of 12 seconds here (benchmarks/start.py). So a `python -m`
of ours imports without it, and `errors.run` turns it on for the work itself, which leaves aside what was imported.

transformers imports scikit-learn (and with it pandas and scipy.stats) for assisted generation, and scipy for detectors
of objects. We use neither, so a `python -m` of ours tells it that they are not there: another quarter of the start.
"""

import gc
import sys
from typing import Any

# The modules of transformers that ask whether a library is there, and how they ask.
ASKS = {
    "transformers.generation.candidate_generator": "is_sklearn_available",
    "transformers.loss.loss_for_object_detection": "is_scipy_available",
}


def hold_collector() -> None:
    """Turn the garbage collector off if this is `python -m` on its way to a module of ours."""
    if sys.argv[:1] == ["-m"]:  # until the module is found
        gc.disable()


def begin_collecting() -> None:
    """Turn the garbage collector on, for what is made from here on."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


class LeaveOut:
    """Finds no module; has those of ASKS answered that their library is not there, just before they are imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Return None: the other finders find the module."""
        if fullname in ASKS and (utils := sys.modules.get("transformers.utils")):
            setattr(utils, ASKS[fullname], lambda: False)


def leave_out() -> None:
    """Leave out what transformers imports and we do not use, if this is `python -m` on its way to a module of ours."""
    if sys.argv[:1] == ["-m"]:
        sys.meta_path.insert(0, LeaveOut())
