"""Fixtures shared by the tests. Nothing here imports torch before a test asks for a model."""

import os
import signal
from pathlib import Path

import pytest

# A shell's background job, as a test run may be, ignores interrupts, and what it starts would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a tiny random Llama in safetensors with its own fast tokenizer."""
    from tests.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
