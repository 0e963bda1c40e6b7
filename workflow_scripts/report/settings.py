"""Settings from the command line, or from standard input where a large study makes them longer than an argument may be.

Here is also the shape of what several scripts of the report are handed.
"""

import sys
from collections.abc import Callable
from typing import Any

from typing_extensions import TypedDict

from workflow_scripts.common.settings import settings_of


class Bar(TypedDict):
    """One group of bars: a cell of results.csv for every policy."""

    benchmark: str
    subset: str
    metric: str


class Curve(TypedDict):
    """The loss curve of a policy or a reward model, in `file`."""

    policy: str
    seed: int
    file: str


class Hyper(TypedDict):
    """What trainings were told. runs: {run: {"method", "policies": [...], "changed": {key: value}}}, changed what the
    study says otherwise than by default; defaults: {method: {key: value}}.
    """

    runs: dict[str, dict[str, Any]]
    defaults: dict[str, dict[str, Any]]


def read_settings(kind: Any) -> Callable[[str], Any]:
    """Return what reads a --settings flag as a dict of the TypedDict `kind`: JSON, or `-` for standard input.

    Linux takes 128 KiB in one argument.
    """
    read = settings_of(kind)
    return lambda text: read(sys.stdin.read() if text == "-" else text)
