"""Checkpoints that any number of processes go on with, each holding the whole policy or a share of it.

Weights and moments are in safetensors, by the names of the weights (`pieces`). What is frozen is the parent's and is
not written. Not covered, and gone on with by those alone who wrote them: checkpoints of moments in eight bits.
"""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import set_seed

from workflow_scripts.common.training import zero_pieces
from workflow_scripts.common.training.pieces import Piece, piece_of, read_pieces, write_pieces

FOLDER = "tensors"  # of a checkpoint
SCHEDULER = "scheduler.pt"
PORTABLE = ("adamw_torch", "adamw_torch_fused")  # optimisers


class Portable:
    """What of a Trainer writes and reads its checkpoints; a base before `transformers.Trainer`."""

    def bound_to(self) -> str | None:
        """Return by whom alone this training's checkpoints can be gone on with, None if by any number of processes."""
        kind = str(self.args.optim.value)
        if kind in PORTABLE:
            return None
        how = (
            f" by zero{self.accelerator.state.deepspeed_plugin.zero_stage}"
            if self.is_deepspeed_enabled
            else ""
        )
        return f"{self.args.world_size} processes with {kind}{how}"

    def reshard(self) -> None:
        """Let each process hold its share alone: what a forward pass left whole is not what the optimiser knows."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def own_weights(self) -> dict[str, Piece]:
        """Return {name: what this process holds} of the weights that are trained."""
        self.reshard()
        trained = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        if self.is_deepspeed_enabled:
            optimizer = self.model_wrapped.optimizer
            pieces = {name: zero_pieces.weights_of(weight, optimizer) for name, weight in trained.items()}
        else:
            pieces = {name: piece_of(weight) for name, weight in trained.items()}
        return {f"weights.{name}": piece for name, piece in pieces.items()}

    def own_moments(self) -> dict[str, Piece]:
        """Return {name: what this process holds} of the optimiser's moments and steps, made if not there yet."""
        self.reshard()
        if self.is_deepspeed_enabled:
            state = zero_pieces.moments_of(self.model, self.model_wrapped.optimizer)
        else:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
            flat = StateDictOptions(flatten_optimizer_state_dict=True)
            state = get_optimizer_state_dict(self.model, optimizer, options=flat)
            state = {
                name: piece_of(value) for name, value in state.items() if isinstance(value, torch.Tensor)
            }
        return {f"moments.{name}": piece for name, piece in state.items()}

    def read_weights(self, folder: Path) -> None:
        """Read a checkpoint's weights into the places where they are held; every process has to ask."""
        if not self.is_deepspeed_enabled:
            read_pieces(folder, self.own_weights())
            return
        with zero_pieces.reading(self.model_wrapped.optimizer):
            read_pieces(folder, self.own_weights())

    def _prepare_for_training(self, steps: int, loader: Any, checkpoint: str | None) -> Any:
        if not self.is_deepspeed_enabled or self.bound_to():
            return super()._prepare_for_training(steps, loader, checkpoint)
        prepared = super()._prepare_for_training(
            steps, loader, None
        )  # DeepSpeed would look for its own files
        if checkpoint is not None:
            self._load_from_checkpoint(checkpoint)
            self._load_optimizer_and_scheduler(checkpoint)
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.bound_to():
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.bound_to():
            super()._save_optimizer_and_scheduler(output_dir)
            return
        write_pieces(Path(output_dir, FOLDER), self.own_weights() | self.own_moments())
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint, FOLDER)
        if not folder.is_dir():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        self.read_weights(folder)

    def _load_best_model(self) -> None:
        folder = Path(self.state.best_model_checkpoint, FOLDER)
        if not folder.is_dir():
            super()._load_best_model()
            return
        self.read_weights(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not Path(checkpoint, FOLDER).is_dir():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        read_pieces(Path(checkpoint, FOLDER), self.own_moments())
        stood = torch.load(Path(checkpoint, SCHEDULER), weights_only=True)
        # All groups have one learning rate; DeepSpeed has none for a group without weights.
        alike = ("base_lrs", "_last_lr", "lr_lambdas")
        groups = len(self.optimizer.param_groups)
        self.lr_scheduler.load_state_dict(
            stood | {name: stood[name][:1] * groups for name in alike if name in stood}
        )
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
