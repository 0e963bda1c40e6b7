"""What every Trainer of ours is: shared by many processes, resumed where it was, ended where it is no longer finite."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from workflow_scripts.common.diverged import OWN, Diverged
from workflow_scripts.common.files import read_json
from workflow_scripts.common.time_limit import TimeLimit
from workflow_scripts.common.training.arguments import spared_warmup
from workflow_scripts.common.training.checkpoints import last_checkpoint, stand_of
from workflow_scripts.common.training.curve import curve_of
from workflow_scripts.common.training.handing_over import HandingOver
from workflow_scripts.common.training.portable import Portable
from workflow_scripts.common.training.sharding import head_in_outermost
from workflow_scripts.common.training.watching import Watch

# What of it has to be finite, in the words of a refusal.
LOGGED = {
    "loss": "the loss is",
    "grad_norm": "the gradient is",
    "eval_loss": "the validation loss is",
    "margin": "the margin is",
    "kl": "the KL is",
    "reward": "the reward is",
    "entropy": "the entropy is",
}

LARGEST = torch.finfo(torch.float32).max ** 0.5  # 1.8e19: what can be squared


def are_finite(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return whether all weights, or this process's shards of them, are finite and below LARGEST, ().

    Norms in a model square what it computes with: weights above that make all it says 0 or no number.
    """
    own = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights)
    own = [weight.detach() for weight in own if weight.numel() and weight.is_floating_point()]
    largest = torch._foreach_norm(own, float("inf")) if own else [torch.zeros(())]
    return torch.stack([each.float() <= LARGEST for each in largest]).all()  # no number is below anything


def says_numbers(model: Any, config: Any, device: torch.device) -> torch.Tensor:
    """Return whether a model's outputs for a few tokens are finite, (), in the autocast that the caller has it in.

    `config` is the model's own: one that is wrapped for several processes hides it.
    """
    ids = torch.arange(min(8, config.get_text_config().vocab_size), device=device)
    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False).logits.isfinite().all()


class Finiteness(TrainerCallback):
    """Ends a training after the step, and before the checkpoint, that made something of it not finite.

    All processes learn of it together, by one sum a step, and raise Diverged at the same place.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        trainer = self.trainer
        trainer.rate = trainer._get_learning_rate()
        weights = are_finite(weight for weight in trainer.model.parameters() if weight.requires_grad)
        trainer.see_scaled_step()
        finite = {"the loss is": trainer.finite_loss, "the gradient is": trainer.finite_gradient}
        trainer.refuse(finite | {"weights are": weights}, ahead=1)


class Shared(Portable):
    """What a Trainer that many processes share needs beside; the first of its bases.

    A training that is not finite ends here: `Finiteness` looks at each step, `log` at what is logged, validation among
    it, and `train` at what the policy says in the end.

    A checkpoint counts as whole by the first process's last file, so all others have to have written theirs before.
    In float16 the loss is scaled up so that small gradients are not lost; a step whose gradient overflows is skipped,
    and the next is scaled less: that is counted and no divergence, until the loss would have to be scaled down.
    """

    whose = OWN  # training, in the note of a divergence

    def __init__(self, *arguments: Any, watch: Watch | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if getattr(self.model, "is_quantized", False):
            # TRL has rounded the adapters to bfloat16, which loses small steps.
            for trained in filter(lambda weight: weight.requires_grad, self.model.parameters()):
                trained.data = trained.data.float()
        self.watch = watch
        self.started = time.monotonic()
        self.learned = [0, 0]  # rows and tokens, of this process since they were last added to
        self.learned_before = [0, 0]  # those of all processes
        self.rate = 0.0  # of the last step
        self.saving = 0.0  # seconds of the last checkpoint
        self.skipped, self.skips = (
            0,
            False,
        )  # steps whose gradient overflowed when scaled; whether the last was one
        self.finite_loss = self.finite_gradient = torch.tensor(True, device=self.args.device)
        self.add_callback(Finiteness(self))

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **named)
        self.finite_loss = self.finite_loss & loss.isfinite()
        return loss

    def _get_grad_norm(self, *arguments: Any, **named: Any) -> Any:
        norm = super()._get_grad_norm(*arguments, **named)
        if norm is not None:
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self.finite_gradient = torch.as_tensor(norm, device=self.args.device).isfinite()
        return norm

    def see_scaled_step(self) -> None:
        """Count a step that was skipped because its scaled gradient was not finite, and let it pass."""
        scaler = self.accelerator.scaler
        self.skips = scaler is not None and self.accelerator.optimizer_step_was_skipped
        if self.skips:
            self.skipped += 1
            self.finite_gradient = torch.tensor(scaler.get_scale() >= 1, device=self.args.device)

    def refuse(self, finite: dict[str, torch.Tensor], ahead: int = 0) -> None:
        """Raise Diverged, on all processes, for the first of {"the loss is": is it finite} that any finds to be false.

        ahead: how many steps further than it has counted the training is.
        """
        broken = torch.stack([~each.to(self.args.device) for each in finite.values()]).long()
        if self.args.world_size > 1:
            broken = self.accelerator.reduce(broken, "sum")
        for name, count in zip(finite, broken.tolist(), strict=True):
            if count:
                curve = curve_of(self.state.log_history)
                raise Diverged(self.state.global_step + ahead, self.rate, name, self.whose, curve)

    def count(self, rows: int, tokens: int) -> None:
        """Count what this process learns from in a step."""
        self.learned = [self.learned[0] + rows, self.learned[1] + tokens]

    def learned_from(self) -> dict[str, int]:
        """Return the rows and tokens that all processes have learned from so far; every process has to ask."""
        own = torch.tensor([self.learned], dtype=torch.long, device=self.args.device)
        added = self.accelerator.gather(own).sum(0).tolist()
        self.learned = [0, 0]
        self.learned_before = [before + more for before, more in zip(self.learned_before, added, strict=True)]
        return dict(zip(("rows", "tokens"), self.learned_before, strict=True))

    def looked(self) -> dict[str, float]:
        """Return what a look at the policy's answers says, {} where nothing is watched; every process has to ask."""
        if self.watch is None:
            return {}
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        shared = self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        numbers, answers = self.watch.look(
            self.accelerator.unwrap_model(self.model_wrapped),
            self.state.global_step,
            self.compute_loss_context_manager,
            self.args.world_size,
            self.args.process_index,
            synced=shared,
        )
        if answers:
            self.state.log_history.append({"step": self.state.global_step, "answers": answers})
        return {f"eval_{name}": value for name, value in numbers.items()}

    def tell(self, metrics: dict[str, float]) -> dict[str, float]:
        """Log what a validation found, and a look at the answers with it; return it all, as `evaluate` does."""
        metrics = metrics | self.looked()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if self.skips:
            logs.pop("grad_norm", None)  # of a step that was not taken
        if "loss" in logs:
            logs |= self.learned_from()
        numbers = {name: torch.tensor(logs[old]).isfinite() for old, name in LOGGED.items() if old in logs}
        if numbers:  # the means over all processes: each has them
            self.refuse(numbers)
        super().log(logs, *arguments, **named)

    def create_optimizer(self, *arguments: Any, **named: Any) -> Any:
        self.reshard()  # or the optimiser would take what a forward pass left whole for the weights
        return super().create_optimizer(*arguments, **named)

    def create_scheduler(self, num_training_steps: int, *arguments: Any, **named: Any) -> Any:
        schedule = str(self.args.lr_scheduler_type.value)
        self.args.warmup_steps = spared_warmup(num_training_steps, self.args.warmup_steps, schedule)
        return super().create_scheduler(num_training_steps, *arguments, **named)

    def seconds(self) -> float:
        """Return the wall seconds of this training so far, those before it was resumed with them."""
        return time.monotonic() - self.started

    def _prepare_for_training(self, *arguments: Any, **named: Any) -> Any:
        if not self.is_fsdp_enabled:
            return super()._prepare_for_training(*arguments, **named)
        if not isinstance(self.model, FSDPModule):  # a policy that is shared out only here
            with head_in_outermost(self.model):
                return super()._prepare_for_training(*arguments, **named)

        def as_it_is(model: Any, optimizer: Any) -> tuple[Any, Any]:
            self.accelerator._models.append(model)
            return model, self.accelerator.prepare_optimizer(optimizer)

        self.accelerator.prepare = as_it_is
        try:
            return super()._prepare_for_training(*arguments, **named)
        finally:
            del self.accelerator.prepare

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # The Trainer notes a best checkpoint whose folder is there: before any process has written to it, if in shards.
        Path(self.args.output_dir, f"checkpoint-{self.state.global_step}").mkdir(exist_ok=True)
        self.accelerator.wait_for_everyone()
        began = time.monotonic()
        stand = {"seconds": self.seconds(), "skipped": self.skipped, "bound_to": self.bound_to()}
        stand |= self.learned_from()
        self.state.log_history.append({"step": self.state.global_step} | stand)
        super()._save_checkpoint(model, trial)
        self.saving = time.monotonic() - began

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()


def finish_sharding(trainer: Trainer) -> None:
    """Fill in what envs/accelerate leaves open for ZeRO: the precision, and what depends on the policy.

    DeepSpeed's own bfloat16 would hold and save the weights themselves in 16 bits. Here they stay in 32, as with one
    process, and what is computed (and, for linear layers, sent around) in bfloat16 is torch's autocast, by DeepSpeed.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is None:
        return
    config = plugin.deepspeed_config
    if trainer.args.bf16:
        config["bf16"] = {"enabled": False}
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if plugin.zero_stage == 3:
        # "auto": by the width of the policy; DeepSpeed's own numbers would leave small policies unsharded.
        sizes = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
        config["zero_optimization"] |= dict.fromkeys(sizes, "auto")


def train(trainer: Trainer, work: Path) -> float:
    """Train, resuming if a checkpoint is there; return the wall seconds, those up to that checkpoint with them."""
    trainer.started = time.monotonic()
    finish_sharding(trainer)
    with (
        trainer.accelerator.main_process_first()
    ):  # one alone removes what is half-written, before any other looks
        checkpoint = last_checkpoint(work, trainer.bound_to())
    limit = TimeLimit(work)
    limit.recall()
    if limit.job:
        trainer.add_callback(HandingOver(trainer, limit))
    if checkpoint:
        stood = stand_of(read_json(checkpoint / "trainer_state.json"))
        trainer.started -= stood["seconds"]
        trainer.skipped = stood["skipped"]
        trainer.learned_before = [stood["rows"], stood["tokens"]]
        if trainer.is_world_process_zero():
            print(f"resuming from {checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # DeepSpeed has taken its engine apart by now; of it, the weights that are saved have to do (save_trained).
    if getattr(trainer.accelerator.state, "deepspeed_plugin", None) is None:
        with trainer.compute_loss_context_manager():  # the last step's, or the best one's, weights
            said = says_numbers(trainer.model_wrapped.eval(), trainer.model.config, trainer.args.device)
        trainer.refuse({"what it says is": said})
    return time.monotonic() - trainer.started
