"""Snakemake's head, which plans all jobs of a study, made to do so in fewer CPU seconds.

Nearly all that it makes while it plans stays to its end, and the collector would look through it again and again: it is
to look seldom. Which rules make a file is looked up once, not once for every job that reads it. And what a resource's
`evaluate` takes is told once, where Snakemake would read its signature three times for each resource of each job.
`benchmarks/planning.py` measures them; a Snakemake that is built otherwise plans as it does.
"""

import functools
import gc
import inspect
from typing import Any

SELDOM = 100_000, 50, 1000  # objects made, collections of the young, collections of the older


def plan_quickly() -> None:
    """Have this process collect seldom, and Snakemake not look up again what it knows."""
    gc.set_threshold(*SELDOM)
    try:
        from snakemake.common import overwrite_function_params
        from snakemake.output_index import OutputIndex
        from snakemake.resources import Resource

        own, taken = OutputIndex.match_producers, inspect.signature(Resource.evaluate).parameters
    except (ImportError, AttributeError):
        return
    overwrite_function_params(Resource.evaluate, {name: taken[name] for name in taken if name != "self"})
    if hasattr(own, "__wrapped__"):
        return

    @functools.wraps(own)
    def match_producers(index: Any, targetfile: str) -> Any:
        known = vars(index).setdefault("producers", {})
        if targetfile not in known:
            known[targetfile] = own(index, targetfile)
        return known[targetfile]

    OutputIndex.match_producers = match_producers
