"""Which engine answers, and how many of them share the work."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workflow_scripts.common.answering import Answer, Engine
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.shards import Shards, shares_for, visible_devices

ENGINES = {
    "transformers": "workflow_scripts.generate.engine",
    "vllm": "workflow_scripts.generate.vllm_engine",
}
CLASSES = {"transformers": "TransformersEngine", "vllm": "VllmEngine"}


def load_engine(model: Path, settings: dict) -> Engine:
    """Return the engine of the settings with a policy loaded."""
    name = settings["engine"]["name"]
    made = getattr(importlib.import_module(ENGINES[name]), CLASSES[name])
    engine: Engine = made(model, load_tokenizer(model), settings)
    return engine


def engine_of(model: Path, settings: dict, shards: int) -> "Engine | SharedEngine":
    """Return what answers: an engine, or, for more than one share, as many as there are GPUs for."""
    devices = visible_devices()
    count = shares_for(shards, len(devices))
    return SharedEngine(model, settings, count, devices) if count > 1 else load_engine(model, settings)


class SharedEngine:
    """Several engines that answer as one, each in a process of its own: in the batches of one, so with its answers."""

    def __init__(self, model: Path, settings: dict, count: int, devices: list[str]) -> None:
        self.shards = Shards(load_engine, (model, settings), count, devices)

    @property
    def peak_memory_mb(self) -> int:
        """What the processes took at most, added up, MiB."""
        return self.shards.peak_memory_mb

    def until(self, enough: Callable[[float], bool], *asked: Any) -> Iterator[list[tuple[int, Answer]]]:
        """Yield batches as they come; else as an engine does. Once it is enough, what is begun still comes."""
        return self.shards.ask("batches", *asked, enough=enough)
