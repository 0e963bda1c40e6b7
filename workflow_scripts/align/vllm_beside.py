"""vLLM beside a training: it draws the answers that the training learns from, by the weights that the training has.

vLLM wants an environment of its own, so it is a process of its own (`vllm_process`), one for each process of the
training, on the same GPU. Weights are handed over as files, in the machine's memory where there is room: one process of
a machine writes them, all of its engines read them. Not covered: policies whose weights are held in four bits.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import precision_of
from workflow_scripts.common.place import ROOT
from workflow_scripts.common.shards import DEVICES, visible_devices
from workflow_scripts.common.training.streaming import is_shared, whole_weights, write_shared

ENGINE = "workflow_scripts.align.vllm_process"  # by name: what it imports is in another environment
PYTHON = "PLUMBLINE_VLLM"  # vLLM's Python, as the rules know it; "" where there is none
MEMORY = Path("/dev/shm")
PREFIX = "plumbline-weights-"
LOCK = "in-use.lock"
LARGEST_SEED = 2**63 - 1
# Nats a token between engine and training, in 32 bits and in 16: more is no rounding, but other weights.
APART = {torch.float32: 0.05, torch.bfloat16: 0.5, torch.float16: 0.5}
# What tells a process which of a job's it is: vLLM would take itself for one of them.
OF_THE_JOB = (
    "RANK",
    "LOCAL_",
    "WORLD_SIZE",
    "MASTER_",
    "GROUP_",
    "ROLE_",
    "TORCHELASTIC_",
    "ACCELERATE_",
    "FSDP_",
)


class Drawn(NamedTuple):
    """A drawn answer: its tokens, and the log-probability of each by the engine."""

    tokens: list[int]
    logps: list[float]


def python_of_vllm() -> str:
    """Return the Python that has vLLM; PlumblineError where there is none."""
    found = os.environ.get(PYTHON, str(ROOT / ".venv-vllm" / "bin" / "python"))
    if not found or not Path(found).exists():
        raise PlumblineError(
            "engine: vllm: a training needs vLLM in .venv-vllm, which is not here: make gpu (or make .venv-vllm/ready "
            "for its CPU build); conda's environments do not have both. Or leave `engine` out"
        )
    return found


def own_environment() -> dict[str, str]:
    """Return the environment of this process's engine: its GPU alone, nothing of the job that it is a part of, and none
    of the packages that DeepSpeed brings for the training.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_JOB)}
    brought = str(Path(sys.prefix) / "deepspeed")
    places = [place for place in kept.get("PATH", "").split(os.pathsep) if not place.startswith(brought)]
    kept["PATH"] = os.pathsep.join([str(Path(python_of_vllm()).parent), *places])
    kept["PYTHONPATH"] = str(ROOT)
    if torch.cuda.is_available():
        kept[DEVICES] = visible_devices()[torch.cuda.current_device()]
    return kept


def is_held(lock: Path) -> bool:
    """Tell whether a training that is running, here or in another container, holds a lock."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def left_behind(where: Path) -> None:
    """Remove the folders of trainings that were killed together with their engines; another user's stay."""
    for lock in where.glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError):
            if not is_held(lock):
                shutil.rmtree(lock.parent, ignore_errors=True)


def room_of_job(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the bytes of memory that this job may still take: what lies in the machine's memory counts as its own.

    It is infinite where the kernel's control groups (version 2) set no limit, or cannot be read.
    """
    room = math.inf
    with contextlib.suppress(OSError, ValueError):
        place = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
        group = groups / place.lstrip("/")
        for each in (group, *group.parents):
            if not each.is_relative_to(groups) or not (each / "memory.max").is_file():
                continue
            most = (each / "memory.max").read_text().strip()
            if most != "max":
                room = min(room, int(most) - int((each / "memory.current").read_text()))
    return room


def folder_for(model: Any, dtype: torch.dtype) -> tuple[Path, Any]:
    """Return a new folder for a policy's weights, and the file that says it is in use for as long as it is open.

    It is in the machine's memory where the weights fit twice, else on its disk.
    """
    size = sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters()) * dtype.itemsize
    roomy = os.access(MEMORY, os.W_OK) and min(shutil.disk_usage(MEMORY).free, room_of_job()) > 2 * size
    where = MEMORY if roomy else Path(tempfile.gettempdir())
    left_behind(where)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=where))
    file = (folder / f"new-{LOCK}").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    (folder / f"new-{LOCK}").rename(folder / LOCK)  # it is never seen unlocked
    return folder, file


class VllmBeside:
    """vLLM's engine of this process, and the folder by which it is handed the policy's weights."""

    def __init__(self, tokenizer: Any, settings: Any, ends: list[int]) -> None:
        python_of_vllm()
        self.tokenizer, self.dtype = tokenizer, precision_of(settings["precision"])
        self.asked = {
            "ends": ends,
            "stop": settings.get("stop", []),
            "context": settings["max_prompt_tokens"] + settings["max_new_tokens"],
            "precision": settings["precision"],
            "max_new_tokens": settings["max_new_tokens"],
            "temperature": settings["temperature"],
            "top_p": settings["top_p"],
            "gpu_memory_share": settings["gpu_memory_share"],
            "trust_remote_code": settings["trust_remote_code"],
        }
        self.process: subprocess.Popen | None = None
        self.folder: Path | None = None
        self.held: Any = None  # the file that says the folder is in use
        self.first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # of this machine's processes

    def hand_over(self, model: Any) -> None:
        """Give the engine the weights that a policy has now; every process of the training has to ask."""
        if self.folder is None:
            own, self.held = folder_for(model, self.dtype) if self.first else (None, None)
            places = processes.gathered(own and str(own))
            self.folder = Path(next(filter(None, reversed(places[: processes.number() + 1]))))
        processes.gathered(None)  # all engines have read the weights before these
        if self.first:
            write_shared(model, self.folder, dtype=self.dtype)
            if self.process is None:
                self.tokenizer.save_pretrained(self.folder)
        elif is_shared(model):
            for _ in whole_weights(model):
                pass  # they are being written
        processes.gathered(None)  # they are written
        if self.process is None:
            self.start()
        else:
            self.ask({"reload": True})

    def start(self) -> None:
        """Start the engine on the weights in the folder."""
        command = [python_of_vllm(), "-m", ENGINE, "--model", str(self.folder)]
        command += ["--asked", json.dumps(self.asked), *(["--own"] if self.first else [])]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=own_environment(),
        )
        self.ask({})  # it is loaded

    def ask(self, words: dict) -> list[dict]:
        """Return the engine's reply; PlumblineError where it has ended."""
        assert self.process is not None and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(words) + "\n")
            self.process.stdin.flush()
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply.endswith("\n"):
            status = self.process.wait()
            if self.first:  # it may have had no time to
                shutil.rmtree(str(self.folder), ignore_errors=True)
            raise PlumblineError(
                f"vLLM, which answers for this training, has ended with status {status}: see what it said above; run "
                "again to go on from the last checkpoint"
            )
        return json.loads(reply)

    def sample(self, prompts: list[list[int]]) -> list[Drawn]:
        """Return an answer to each prompt, its draws fixed by torch's own random numbers."""
        seeds = torch.randint(LARGEST_SEED, (len(prompts),)).tolist()
        return [Drawn(**each) for each in self.ask({"prompts": prompts, "seeds": seeds})]

    def refuse_other_weights(self, gap: float) -> None:
        """Raise PlumblineError where engine and training differ by so much, nats a token, that it is no rounding."""
        told = self.asked["temperature"] != 1  # of the nucleus, whose tokens are likelier by up to 1 / top_p
        if gap > APART[self.dtype] - (math.log(self.asked["top_p"]) if told else 0.0):
            raise PlumblineError(
                f"vLLM does not answer as the policy would: they differ by {gap:.2f} nats a token on its own answers, "
                "which is no rounding; leave engine: vllm out, and tell us of the model"
            )

    def close(self) -> None:
        """End the engine; it removes the folder."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


def gap_between(drawn: list[list[float]], logps: list[torch.Tensor]) -> list[float]:
    """Return by how many nats a token, in the mean, engine and training differ on each answer, (answers,).

    drawn, logps: the engine's and the training's log-probabilities of the answers' tokens.
    """
    return [
        fmean(abs(one - other) for one, other in zip(answer, own.tolist(), strict=True))
        for answer, own in zip(drawn, logps, strict=True)
    ]


def beside(online: Any, settings: Any) -> VllmBeside | None:
    """Return the engine that is to answer for a training; None where it answers itself."""
    return VllmBeside(online.tokenizer, settings, online.ends) if settings["engine"] == "vllm" else None
