"""Checkpoints that any number of processes go on with, each holding the whole policy or a share of it.

Weights and moments are in safetensors, by the names of the weights: torch's distributed checkpoints, which know of each
tensor which part is in which file. A process writes what it holds and reads what it will hold. What is frozen is the
parent's and is not written. Not covered, and gone on with by those alone who wrote them: DeepSpeed's own checkpoints,
and those of moments in eight bits.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import set_seed

FOLDER = "tensors"  # of a checkpoint
SCHEDULER = "scheduler.pt"
PORTABLE = ("adamw_torch", "adamw_torch_fused")  # optimisers
AT_ONCE = 2**30  # bytes of a file: a process holds them once more as it writes


def files_of(tensors: dict[str, torch.Tensor], largest: int = AT_ONCE) -> dict[str, int]:
    """Return {name: the number of its file, from 1}: so many that no file has more bytes, of several tensors."""
    numbers, number, size = {}, 1, 0
    for name, tensor in tensors.items():
        own = tensor.numel() * tensor.itemsize
        if size and size + own > largest:
            number, size = number + 1, 0
        numbers[name], size = number, size + own
    return numbers


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors, shared or whole, by name; every process has to ask, with the same names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*")
        writer = HuggingFaceStorageWriter(str(folder), files_of(tensors), save_distributed=True)
        dcp.save(dict(tensors), storage_writer=writer)


def read_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Read tensors in their places, each process its parts; every process has to ask. All have to be in the files."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=".*single process.*")
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


class Portable:
    """What of a Trainer writes and reads its checkpoints; a base before `transformers.Trainer`."""

    def bound_to(self) -> str | None:
        """Return by whom alone this training's checkpoints can be gone on with, None if by any number of processes."""
        if self.is_deepspeed_enabled:
            return f"{self.args.world_size} processes by zero{self.accelerator.state.deepspeed_plugin.zero_stage}"
        kind = str(self.args.optim.value)
        return None if kind in PORTABLE else f"{self.args.world_size} processes with {kind}"

    def reshard(self) -> None:
        """Let each process hold its share alone: what a forward pass left whole is not what the optimiser knows."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def own_weights(self) -> dict[str, torch.Tensor]:
        """Return {name: this process's share} of the weights that are trained, in the place where they are held."""
        self.reshard()
        return {
            f"weights.{name}": weight
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }

    def own_moments(self) -> dict[str, torch.Tensor]:
        """Return {name: this process's share} of the optimiser's moments and steps, which are made if not there yet."""
        self.reshard()
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        flat = StateDictOptions(flatten_optimizer_state_dict=True)
        state = get_optimizer_state_dict(self.model, optimizer, options=flat)
        return {f"moments.{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.bound_to():
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.bound_to():
            super()._save_optimizer_and_scheduler(output_dir)
            return
        write_tensors(Path(output_dir, FOLDER), self.own_weights() | self.own_moments())
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint, FOLDER)
        if not folder.is_dir():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        read_tensors(folder, self.own_weights())

    def _load_best_model(self) -> None:
        folder = Path(self.state.best_model_checkpoint, FOLDER)
        if not folder.is_dir():
            super()._load_best_model()
            return
        read_tensors(folder, self.own_weights())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not Path(checkpoint, FOLDER).is_dir():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        read_tensors(Path(checkpoint, FOLDER), self.own_moments())
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER), weights_only=True))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        count, index = self.args.world_size, self.args.process_index
        wrote = len(list(Path(checkpoint).glob("rng_state*.pth")))
        if wrote == count:
            super()._load_rng_state(checkpoint)
            return
        # Numbers that no process has drawn: the steps so far are in them, that none is drawn twice.
        set_seed((self.args.seed + 1_000_003 * self.state.global_step + index) % 2**32)
