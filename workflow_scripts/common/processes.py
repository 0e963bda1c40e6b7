"""The processes that a job was started as: which of them this one is, and what the others have found."""

import os
from typing import Any


def number() -> int:
    """Return which of the job's processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """Return how many processes share the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def gathered(value: Any) -> list[Any]:
    """Return what each process has, in their order; every process has to ask, and they have met before."""
    if count() == 1:
        return [value]
    import torch.distributed as dist  # here: who asks only which process it is may be without torch

    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values
