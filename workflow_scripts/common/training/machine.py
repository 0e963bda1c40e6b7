"""The keys of a training that say how it runs on its machine, and alter no result beyond rounding.

The rules hand them over in the environment, where they make nothing stale; in the settings stands whose they are,
`machine_of`. A training that was killed starts anew where they have changed: its checkpoints were made with others. By
hand they may stand among the settings themselves.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from workflow_scripts.common.errors import PlumblineError

VARIABLE = "PLUMBLINE_MACHINE"  # [[{key: value}, [names of the trainings that have these]] …] as JSON
NAME = "machine_of"


def with_machine(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return what reads a training's settings, for argparse's `type`: with the keys of its machine put into them."""

    def whole(text: str) -> Any:
        try:
            settings = json.loads(text)
        except ValueError:
            return read(text)
        name = settings.pop(NAME, None) if isinstance(settings, dict) else None
        return read(text if name is None else json.dumps(settings | machine_keys(name)))

    return whole


def machine_keys(name: str) -> dict[str, Any]:
    """Return the keys that the environment has for a training; PlumblineError where it has none."""
    for keys, names in json.loads(os.environ.get(VARIABLE, "[]")):
        if name in names:
            return keys
    raise PlumblineError(
        f"settings.{NAME}: ${VARIABLE} says nothing of {name}; it is set where the workflow starts a job, and by hand "
        "its keys stand in the settings"
    )
