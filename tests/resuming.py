"""A training that is killed on its way and run again: how it is killed, and what it must end with."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.launching import command_of
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


def started_by(folder: Path) -> list[psutil.Process]:
    """Return the processes that have a folder among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def kill_all_once_checkpointed(
    module: str, flags: list[str], parallel: str | None, folder: Path, processes: int = 2, after: int = 2
) -> None:
    """Start a training of several processes and kill -9 them all once they have written the checkpoint of a step.

    Its work folder is `folder`/work, and nobody else's arguments name the folder.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    halted = command_of("tests.halting", [str(after), module, *flags], parallel, processes)
    with subprocess.Popen(
        halted, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as job:
        deadline = time.monotonic() + 240
        while not any(map(is_whole, folder.glob(f"work/*/checkpoint-{after}/trainer_state.json"))):
            assert job.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for process in started_by(folder):
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with the one that had started it
                process.kill()
    while started_by(folder):
        time.sleep(0.05)


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
