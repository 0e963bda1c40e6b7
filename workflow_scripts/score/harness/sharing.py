"""Processes that share what the harness asks of a policy: each loads it, and answers every n-th of its batches.

The batches are those that one process would make, so the answers are too. Each process knows all requests and, in the
end, all answers; the first one alone writes. Not shared, since the harness asks for it batch by batch: what
a policy thinks of long texts (`loglikelihood_rolling`).
"""

import os
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from lm_eval.models import huggingface
from lm_eval.models.utils import Collator

from workflow_scripts.common.processes import count, gathered, number


def device() -> str:
    """Return where this process has its policy."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return f"{kind}:{os.environ.get('LOCAL_RANK', '0')}" if kind == "cuda" else kind


class SharedCollator(Collator):
    """The harness's own batches, of which a process gets its own, and puts all answers together in the end."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.own: list[int] = []  # places of this process's requests in the order of the batches

    def get_batched(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        begin = 0
        for place, batch in enumerate(super().get_batched(*arguments, **named)):
            if place % count() == number():
                self.own += range(begin, begin + len(batch))
                yield batch
            begin += len(batch)

    def get_original(self, newarr: list) -> list:
        asked = self._reorder_indices  # by contexts: of what was answered here; else of all, batch by batch
        own = asked if self._group_by == "contexts" else [asked[place] for place in self.own]
        found: dict[int, Any] = dict(chain(*gathered(list(zip(own, newarr, strict=True)))))
        return [found[place] for place in range(self._size)]


def share_out() -> None:
    """Let this process and the others that were started with it meet, and the harness share out its batches."""
    if count() > 1:
        dist.init_process_group("gloo")
        huggingface.Collator = SharedCollator
