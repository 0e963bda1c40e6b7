"""Which engine answers, and how many of them share the work."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workflow_scripts.common.answering import Answer
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.shards import Shards, shares_for, visible_devices

ENGINES = {
    "transformers": "workflow_scripts.generate.engine",
    "vllm": "workflow_scripts.generate.vllm_engine",
}
CLASSES = {"transformers": "TransformersEngine", "vllm": "VllmEngine"}


def nothing(_: int = 1) -> None:
    """Do nothing before a batch."""


def load_engine(model: Path, settings: dict, before_batch: Callable[..., None] = nothing) -> Any:
    """Return the engine of the settings with a policy loaded."""
    name = settings["engine"]["name"]
    made = getattr(importlib.import_module(ENGINES[name]), CLASSES[name])
    engine = made(model, load_tokenizer(model), settings)
    engine.before_batch = before_batch
    return engine


def engine_of(model: Path, settings: dict, shards: int, before_batch: Callable[..., None] = nothing) -> Any:
    """Return what answers: an engine, or, for more than one share, as many as there are GPUs for."""
    devices = visible_devices()
    count = shares_for(shards, len(devices))
    if count == 1:
        return load_engine(model, settings, before_batch)
    return SharedEngine(model, settings, count, devices, before_batch)


class SharedEngine:
    """Several engines that answer as one, each in a process of its own: in the batches of one, so with its answers."""

    def __init__(
        self, model: Path, settings: dict, count: int, devices: list[str], before_batch: Callable[..., None]
    ) -> None:
        self.count, self.before_batch = count, before_batch
        self.shards = Shards(load_engine, (model, settings), count, devices)

    @property
    def peak_memory_mb(self) -> int:
        """What the processes took at most, added up, MiB."""
        return self.shards.peak_memory_mb

    def answer(
        self, prompts: list[list[int]], sampling: dict, end: str, seed: int, missing: list[bool]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the prompt, answer) as they come, in whole batches; else as an engine does."""
        self.before_batch()
        for each in self.shards.ask("answer", prompts, sampling, end, seed, missing):
            yield each
            self.before_batch(sampling["batch_size"] * self.count)  # so many answers are being made
