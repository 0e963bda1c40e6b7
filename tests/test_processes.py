"""Two processes (gloo, on this CPU) train the weights that one does with the same rows a step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import (
    ROOT,
    align_flags,
    conversations,
    pairs,
    preference_settings,
    settings_of,
    sft_flags,
    write_reference,
    write_tokens,
)
from workflow_scripts.common.files import read_json

STEPS = 3


def run(module: str, flags: list[str], processes: int) -> None:
    """Run a training step in fresh processes, as a job would."""
    launch = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    command = [sys.executable, "-m", *(launch if processes > 1 else []), module, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def trained(module: str, flags_of: object, folder: Path, processes: int, **settings: object) -> dict:
    """Return the weights of a run whose step takes four rows, however many processes share them."""
    folder.mkdir()
    per_process = 4 // processes
    flags = flags_of(settings | {"per_device_batch": per_process, "max_steps": STEPS}, folder)
    run(module, flags, processes)
    assert read_json(folder / "manifest.json")["steps"] == STEPS
    assert read_json(folder / "cost.json")["processes"] == processes
    return load_file(folder / "model" / "model.safetensors")


def assert_equal(one: dict, two: dict, start: dict) -> None:
    """Hold two trainings to the same weights, to what the order of float32 sums may change, far from the start."""
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    apart = max((one[name] - two[name]).abs().max().item() for name in one)
    assert moved > 1e-3
    assert apart < moved / 100


@pytest.fixture(scope="module")
def start(tiny_model) -> dict[str, torch.Tensor]:
    return load_file(tiny_model / "model.safetensors")


def test_two_processes_align_as_one_does(tiny_model, tmp_path, start):
    stored = write_reference(tiny_model, pairs(12), tmp_path / "reference")

    def flags_of(settings: dict, folder: Path) -> list[str]:
        return align_flags(tiny_model, stored, preference_settings(**settings), folder)

    one, two = (
        trained("workflow_scripts.align.dpo", flags_of, tmp_path / f"by-{count}", count) for count in (1, 2)
    )
    assert_equal(one, two, start)


@pytest.mark.parametrize("loss_norm", ["token", "example"])
def test_two_processes_fine_tune_as_one_does(tiny_model, tmp_path, start, loss_norm):
    tokens = write_tokens(tiny_model, conversations(12), conversations(2), tmp_path / "tokens")

    def flags_of(settings: dict, folder: Path) -> list[str]:
        own = {"pack_tokens": None, "loss_norm": loss_norm, "neftune_alpha": None, "kl": None}
        return sft_flags(tiny_model, tokens, settings_of(**own, **settings), folder)

    one, two = (
        trained("workflow_scripts.sft.train", flags_of, tmp_path / f"by-{count}", count) for count in (1, 2)
    )
    assert_equal(one, two, start)
