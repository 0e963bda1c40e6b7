"""A training that is killed on its way and run again: how it is killed, and what it must end with."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.tiny import ROOT, is_whole
from workflow_scripts.common.files import sha256_of
from workflow_scripts.common.training.checkpoints import last_checkpoint

STEPS, KILL_AFTER = 16, 6  # a checkpoint every 2 steps
RESUMED = {"max_steps": STEPS, "epochs": STEPS, "checkpoint_every": 2, "per_device_batch": 2}


def kill_once_checkpointed(module: str, flags: list[str], work: Path, after: int = KILL_AFTER) -> None:
    """Start a training step as a process of its own and kill -9 it once it has written the checkpoint of a step."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.halting", str(after), module, *flags]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not any(map(is_whole, work.glob(f"*/checkpoint-{after}/trainer_state.json"))):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -9


def leave_a_half_written_checkpoint(work: Path) -> Path:
    """Add what a kill in the middle of a save leaves: a newer checkpoint without its last file."""
    newest = last_checkpoint(next(work.iterdir()))
    half = newest.parent / f"checkpoint-{STEPS - 1}"
    shutil.copytree(newest, half, ignore=shutil.ignore_patterns("trainer_state.json"))
    return half


def hold_resumed_to_unbroken(resumed: Path, unbroken: Path, work: Path, printed: str) -> None:
    """Hold a resumed run to the bytes of an unbroken one, and to having resumed."""
    assert "resuming from" in printed
    assert 0 < printed.count("{'loss'") <= STEPS - KILL_AFTER  # and not from the start again
    assert sha256_of(resumed / "model.safetensors") == sha256_of(unbroken / "model.safetensors")
    assert (resumed.parent / "manifest.json").read_text() == (unbroken.parent / "manifest.json").read_text()
    assert (resumed.parent / "curve.json").read_text() == (unbroken.parent / "curve.json").read_text()
    assert not list(work.iterdir())  # finished: nothing left to resume
    assert sorted(path.name for path in resumed.iterdir()) == sorted(path.name for path in unbroken.iterdir())
    assert not (resumed / "training_args.bin").exists()
