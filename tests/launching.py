"""Trainings in processes of their own on this machine's CPUs, as jobs start them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT

deepspeed = pytest.mark.skipif(
    not (Path(sys.prefix) / "deepspeed").is_dir(), reason="DeepSpeed is not installed (make deepspeed)"
)

four_bits = pytest.mark.skipif(
    not (Path(sys.prefix) / "four-bits").is_dir(), reason="bitsandbytes is not installed (make four-bits)"
)


def command_of(module: str, flags: list[str], parallel: str | None = "ddp", processes: int = 2) -> list[str]:
    """Return the command of a training on some processes, or on one without the launcher where `parallel` is None."""
    if parallel is None:
        return [sys.executable, "-m", module, *flags]
    launch = ["workflow_scripts.common.launch", "--gpus", "0", "--parallel", parallel]
    launch += ["--processes", str(processes), "--"]
    if parallel == "fsdp":
        launch.append("tests.fsdp_on_cpu")
    return [sys.executable, "-m", *launch, module, *flags]


def run(command: list[str], *beside: Path) -> subprocess.CompletedProcess:
    """Run a training to its end, whatever that is; it finds the packages of the folders `beside`, too."""
    places = os.pathsep.join(map(str, (ROOT, *beside)))
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900
    )


def train(command: list[str], *beside: Path) -> str:
    """Run a training, which has to succeed; return what it printed."""
    done = run(command, *beside)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return done.stdout


def norms_of(printed: str) -> list[float]:
    """Return the gradient norms of a run's steps, which Adam would hide."""
    lines = [line for line in printed.splitlines() if "'grad_norm'" in line]
    return [float(line.split("'grad_norm': '")[1].split("'")[0]) for line in lines]
