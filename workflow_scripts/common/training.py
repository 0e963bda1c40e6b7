"""What every training step shares: loading (LoRA, 4-bit), arguments, resuming from the last whole checkpoint, curves, costs.

Resumable state lives in a work folder named by a fingerprint of settings, data, parent and code: the same
fingerprint resumes, another starts afresh. A checkpoint counts once its `trainer_state.json`, written last, parses; it
is resumed by as many processes, sharing in the same manner, as wrote it.

Many processes share the rows of a step (`split_batch`, `ProcessShare`) and, by envs/accelerate, weights, gradients and
AdamW's two moments: 4 bytes a parameter each, 16 in all, since the weights that are trained are always held in 32 bits,
and bfloat16 is only computed in. Low-rank adapters need the 4 bytes of the weights, and 16 for each of their own.
Each process reads all weights at first, into the machine's memory, and ZeRO puts them onto its GPU before it shares
them out: a policy has to fit there once in 32 bits, alone. Not covered: weights that no single GPU could ever hold
(DeepSpeed's zero.Init), tensor and sequence parallelism.
"""

import argparse
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch.distributed.tensor import DTensor
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from workflow_scripts.common.chat_template import save_chat_template, with_own_end
from workflow_scripts.common.diverged import OWN, Diverged, add_note_flag, hand_on
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import (
    digest,
    finished_folder,
    read_json,
    sha256_of,
    write_json,
    write_manifest,
)
from workflow_scripts.common.models import load_policy, precision_of
from workflow_scripts.common.shared_store import refuse_full_store

LARGEST = torch.finfo(torch.float32).max ** 0.5  # 1.8e19: what can be squared
# What a Trainer logs, and what the curve calls it.
CURVE = {
    "loss": "train_loss",
    "grad_norm": "grad_norm",
    "eval_loss": "validation_loss",
    "eval_accuracy": "validation_accuracy",
    "margin": "margin",
    "accuracy": "accuracy",
    "kl": "kl",
    "clipped_share": "clipped_share",
    "reward": "reward",
    "entropy": "entropy",
    "completions/mean_length": "response_tokens",
    "clip_ratio/region_mean": "clipped_share",
    "completions/clipped_ratio": "unfinished",
    "texts_cut": "texts_cut",
    "learning_rate": "learning_rate",
}
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


def process_count() -> int:
    """Return how many processes share this training, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shards_weights() -> bool:
    """Return whether this training's processes were started to share the weights themselves: by FSDP, or ZeRO stage 3."""
    zero = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") if zero else None
    return stage == "3" or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def split_batch(batch_size: int, per_device_batch: int, processes: int) -> tuple[int, int]:
    """Return (rows of a forward pass, passes of a step on each process): their product, on all processes, is batch_size.

    A pass takes the most rows up to per_device_batch that divide a process's share, so that all passes are of one size.
    PlumblineError where the processes cannot share a step evenly.
    """
    share, left = divmod(batch_size, processes)
    if left:
        fewer = max(count for count in range(1, processes) if batch_size % count == 0)
        fits = [str(each * processes) for each in (share, share + 1) if each]
        raise PlumblineError(
            f"batch_size {batch_size}: {processes} processes cannot share so many rows evenly; take {fewer} of them, or "
            f"set batch_size to {' or '.join(fits)}"
        )
    rows = max(size for size in range(1, min(per_device_batch, share) + 1) if share % size == 0)
    return rows, share // rows


def step_text(rows: int, passes: int, processes: int) -> str:
    """Return how an optimiser step is made up, for the log."""
    return (
        f"a step: {rows * passes * processes} rows = {processes} process{'es' * (processes > 1)} "
        f"× {passes} pass{'es' * (passes > 1)} of {rows}"
    )


class ProcessShare(BatchSampler):
    """The rows of one process's forward passes: of every `batch_size` rows that a sampler gives, this process's part.

    A step is cut into passes of `rows`. What is left at the end of an epoch is a smaller step, shared as evenly as may
    be and no row twice; where a process has fewer passes to make of it than another, it is given empty ones, for all
    have to pass together.
    """

    def __init__(self, sampler: Sampler, batch_size: int, rows: int, processes: int, process: int) -> None:
        self.sampler, self.batch_size, self.rows = sampler, batch_size, rows
        self.processes, self.process, self.drop_last = processes, process, False

    def passes(self, count: int) -> int:
        """Return how many passes every process makes of a step of `count` rows."""
        return math.ceil(math.ceil(count / self.processes) / self.rows)

    def __len__(self) -> int:
        full, left = divmod(len(self.sampler), self.batch_size)
        return full * self.passes(self.batch_size) + self.passes(left)

    def __iter__(self) -> Iterator[list[int]]:
        for step in BatchSampler(self.sampler, self.batch_size, drop_last=False):
            first, end = (len(step) * each // self.processes for each in (self.process, self.process + 1))
            own = step[first:end]
            for number in range(self.passes(len(step))):
                yield own[number * self.rows : (number + 1) * self.rows]


def share_steps(
    loader: DataLoader, arguments: TrainingArguments, collate: Callable[[list], Any]
) -> DataLoader:
    """Return a Trainer's training loader with the rows of each step shared out by `ProcessShare`, in its sampler's order.

    As it stands the loader would fill up the last step of an epoch with rows from its start, as many as there are
    processes to fill: another step than one process makes. `collate` is given [] where a process has nothing left.
    """
    rows, processes = arguments.per_device_train_batch_size, arguments.world_size
    size = rows * processes * arguments.gradient_accumulation_steps
    theirs = loader.batch_sampler
    sampler = (theirs.batch_sampler if isinstance(theirs, BatchSamplerShard) else theirs).sampler
    share = ProcessShare(sampler, size, rows, processes, arguments.process_index)
    return DataLoaderShard(loader.dataset, device=loader.device, batch_sampler=share, collate_fn=collate)


def without_dropout(model: Any) -> Any:
    """Return a model whose training and evaluation modes say the same: every dropout of it, adapters' too, is 0."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):  # functional dropout, as attention has it
                setattr(module, name, 0.0)
    return model


def training_arguments(settings: dict, work: Path, seed: int, evaluate: bool) -> dict[str, Any]:
    """Return the keyword arguments of `transformers.TrainingArguments` for a method's settings.

    Steps are optimiser steps of `batch_size` rows, however many processes share them (the log says how); `warmup` is a
    share of them. To keep the best checkpoint is to keep that of the lowest validation loss, so every validation saves one.
    """
    on_cpu = not torch.cuda.is_available()
    if not on_cpu and process_count() == 1 and torch.cuda.device_count() > 1:
        raise PlumblineError(
            f"one process sees {torch.cuda.device_count()} GPUs, and would train on all of them at a larger batch; "
            "run it through common.launch --parallel ddp, or set CUDA_VISIBLE_DEVICES to one"
        )
    rows, passes = split_batch(settings["batch_size"], settings["per_device_batch"], process_count())
    if os.environ.get("RANK", "0") == "0":
        print(step_text(rows, passes, process_count()), flush=True)
    best = settings["keep"] == "best"
    if best and not evaluate:
        raise PlumblineError("keep: best needs validation rows to choose by, and this run has none")
    return {
        "output_dir": str(work),
        "num_train_epochs": settings["epochs"],
        "max_steps": settings["max_steps"] or -1,
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": settings["per_device_batch"],
        "gradient_accumulation_steps": passes,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["schedule"],
        "warmup_steps": settings["warmup"],
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "adam_beta2": settings["adam_beta2"],
        "optim": "adamw_torch" if on_cpu else settings["optimizer"],
        "bf16": precision_of(settings["precision"]) == torch.bfloat16,
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "use_cpu": on_cpu,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": settings["log_every"],
        "logging_nan_inf_filter": False,  # it would log a loss that is no number as the mean of those before
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": settings["evaluate_every"],
        "save_strategy": "steps",
        "save_steps": settings["evaluate_every"] if best else settings["checkpoint_every"],
        "save_total_limit": 2,
        "load_best_model_at_end": best,
        "metric_for_best_model": "eval_loss" if best else None,
        "greater_is_better": False if best else None,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


def spared_warmup(steps: int, warmup: float, schedule: str) -> float:
    """Return the share of its steps that a training warms up in: none of one step alone, and that is said.

    A warm-up of any length begins at the learning rate 0, so the only step would leave the parent's weights as they are.
    """
    if steps > 1 or not warmup or schedule == "constant":
        return warmup
    print(
        "warning: all rows make one optimiser step, which a warm-up would leave at the learning rate 0: it is trained without; "
        "give it more steps (a smaller batch_size or pack_tokens, more epochs)",
        file=sys.stderr,
        flush=True,
    )
    return 0.0


def callbacks_of(settings: dict) -> list[TrainerCallback]:
    """Return what stops a run after `patience` validations without a lower loss, if it is to be stopped."""
    return [EarlyStoppingCallback(settings["patience"])] if settings["patience"] else []


def load_trainable(
    folder: Path | str, settings: dict, seed: int, computing: torch.dtype | None = None
) -> Any:
    """Return the policy to be trained: whole, or with low-rank adapters in its layers (Hu et al. 2021), frozen else.

    The adapters, drawn by `seed`, are set into the policy itself, which keeps its class; `merged` gives the plain policy
    back. With
    `quantise: nf4` (Dettmers et al. 2023) the frozen weights are held in four bits, which needs CUDA.
    """
    quantise, lora = settings["quantise"], settings["lora"]
    if quantise and not torch.cuda.is_available():
        raise PlumblineError(
            "quantise: nf4 needs a CUDA device, and there is none; leave it out to train LoRA whole"
        )
    if quantise and shards_weights():
        raise PlumblineError(
            "quantise: nf4 needs whole weights on each GPU; train it with parallel: ddp (or zero2), where they are a quarter"
        )
    more = {}
    if quantise:
        more["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}  # each process onto its own GPU
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision_of(settings["precision"]),
        )
    computing = computing or precision_of(settings["precision"])
    model = load_policy(folder, trust_remote_code=settings["trust_remote_code"], computing=computing, **more)
    if quantise:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=settings["gradient_checkpointing"]
        )
    if lora:
        config = LoraConfig(
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=lora["targets"],
            task_type="CAUSAL_LM",
        )
        if isinstance(lora["targets"], list) and "lm_head" in lora["targets"]:
            raise PlumblineError(
                "lora.targets: an adapter on lm_head would be left out of the loss; take it out"
            )
        set_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise PlumblineError(f"lora.targets {lora['targets']}: {error}") from None
        model = adapted.get_base_model()
        model.adapted = [adapted]  # in a list: a module would become a part of its own part
        if quantise:
            model._hf_peft_config_loaded = True  # so that Trainer knows the four-bit weights have adapters
        if settings["gradient_checkpointing"]:
            model.enable_input_require_grads()
    return model


def merged(model: Any) -> Any:
    """Return a trained policy as it is saved: adapters added into the weights they adapt."""
    adapted: list[PeftModel] = model.__dict__.get("adapted", [])
    return adapted[0].merge_and_unload() if adapted else model


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest whole checkpoint of a work folder; what a kill left half-written is removed."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            whole.append((json.loads((folder / "trainer_state.json").read_text())["global_step"], folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder)
    return max(whole)[1] if whole else None


def work_folder(base: Path, inputs: list[Path], settings: dict, seed: int, code: dict[str, str]) -> Path:
    """Return base/<fingerprint>, making it, and remove the folders of other fingerprints: their state is stale.

    Of many processes the first of each machine alone removes.
    """
    contents = [sha256_of(path) for path in inputs]
    fingerprint = digest({"inputs": contents, "settings": settings, "seed": seed, "code": code})[:16]
    for other in base.glob("*") if os.environ.get("LOCAL_RANK", "0") == "0" else ():
        if other.name != fingerprint:
            shutil.rmtree(other, ignore_errors=True)  # another node's first process may do so too
    folder = base / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def curve_of(history: list[dict]) -> list[dict]:
    """Return the loss curve of a Trainer's log: rows of step, train_loss, validation_loss and what else CURVE names."""
    rows = []
    for entry in history:
        row = {new: round(float(entry[old]), 6) for old, new in CURVE.items() if old in entry}
        if "grad_norm" in row:  # whether it is 0 matters, and it may be tiny
            row["grad_norm"] = float(f"{entry['grad_norm']:.6g}")
        if set(row) - {"learning_rate", "grad_norm"}:
            rows.append({"step": entry["step"], **row})
    return rows


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
        finite = {"the loss is": trainer.finite_loss, "the gradient is": trainer.finite_gradient}
        trainer.refuse(finite | {"weights are": weights}, ahead=1)


class Shared:
    """What a Trainer that many processes share needs beside; the first of its bases.

    A training that is not finite ends here: `Finiteness` looks at each step, `log` at what is logged, validation among
    it, and `train` at what the policy says in the end.

    A checkpoint counts as whole by the first process's last file, so all others have to have written theirs before.
    Under FSDP our losses use the LM head's weight without calling the head: it has to be a part of the outermost unit,
    which is whole from the forward pass to the end of the backward one (accelerate would make it a unit of its own).
    """

    whose = OWN  # training, in the note of a divergence

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.started = time.monotonic()
        self.rate = 0.0  # of the last step
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

    def refuse(self, finite: dict[str, torch.Tensor], ahead: int = 0) -> None:
        """Raise Diverged, on all processes, for the first of {"the loss is": whether it is finite} that any finds false.

        ahead: how many steps further than it has counted the training is.
        """
        broken = torch.stack([~each.to(self.args.device) for each in finite.values()]).long()
        if self.args.world_size > 1:
            broken = self.accelerator.reduce(broken, "sum")
        for name, count in zip(finite, broken.tolist(), strict=True):
            if count:
                curve = curve_of(self.state.log_history)
                raise Diverged(self.state.global_step + ahead, self.rate, name, self.whose, curve)

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        numbers = {name: torch.tensor(logs[old]).isfinite() for old, name in LOGGED.items() if old in logs}
        if numbers:  # the means over all processes: each has them
            self.refuse(numbers)
        super().log(logs, *arguments, **named)

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
        hidden = {"get_input_embeddings": lambda: None, "get_output_embeddings": lambda: None}
        self.model.__dict__.update(hidden)
        prepared = super()._prepare_for_training(*arguments, **named)
        for name in hidden:
            del self.model.__dict__[name]
        return prepared

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # The Trainer notes a best checkpoint whose folder is there: before any process has written to it, if in shards.
        Path(self.args.output_dir, f"checkpoint-{self.state.global_step}").mkdir(exist_ok=True)
        self.accelerator.wait_for_everyone()
        self.state.log_history.append({"step": self.state.global_step, "seconds": self.seconds()})
        super()._save_checkpoint(model, trial)

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
        checkpoint = last_checkpoint(work)
    if checkpoint:
        history = read_json(checkpoint / "trainer_state.json")["log_history"]
        trainer.started -= max((entry.get("seconds", 0.0) for entry in history), default=0.0)
        if trainer.is_world_process_zero():
            print(f"resuming from {checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # DeepSpeed has taken its engine apart by now; of it, the weights that are saved have to do (save_trained).
    if getattr(trainer.accelerator.state, "deepspeed_plugin", None) is None:
        with trainer.compute_loss_context_manager():  # the last step's, or the best one's, weights
            said = says_numbers(trainer.model_wrapped.eval(), trainer.model.config, trainer.args.device)
        trainer.refuse({"what it says is": said})
    return time.monotonic() - trainer.started


def settle(model: Any, weights: dict[str, torch.Tensor]) -> Any:
    """Return a policy whose shards are replaced by whole weights, by name: an ordinary module, no longer to be trained."""
    unset_hf_deepspeed_config()  # or what is saved next would be gathered from processes that have ended
    for name, weight in weights.items():
        owner, _, own = name.rpartition(".")
        parameters = model.get_submodule(owner)._parameters
        if own in parameters:
            parameters[own] = torch.nn.Parameter(weight, requires_grad=False)
    model.tie_weights()
    return model


def whole_policy(trainer: Trainer) -> Any:
    """Return a trained policy with all its weights: to the first process; every process has to ask."""
    model, state = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.state
    plugin = getattr(state, "deepspeed_plugin", None)
    if not (trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)):
        return model
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return settle(model, weights) if trainer.is_world_process_zero() else model


def save_trained(
    trainer: Trainer, tokenizer: Any, arguments: Any, work: Path, seconds: float, **facts: Any
) -> None:
    """Write model folder, curve, cost and last the manifest; then drop the work folder. One process writes."""
    trainer.accelerator.wait_for_everyone()
    model = whole_policy(trainer)
    if not trainer.is_world_process_zero():
        return
    if not are_finite(
        model.parameters()
    ):  # as ZeRO gathered them: while it trains, no process can look at them
        raise Diverged(trainer.state.global_step, trainer.rate, "weights are", trainer.whose)
    if trainer.args.load_best_model_at_end:
        facts["best_step"] = trainer.state.best_global_step
    save_policy(
        model,
        tokenizer,
        arguments,
        work,
        curve=curve_of(trainer.state.log_history),
        seconds=seconds,
        processes=trainer.args.world_size,
        steps=trainer.state.global_step,
        **facts,
    )


def write_policy(model: Any, folder: Path, settings: dict) -> None:
    """Write a trained policy: its weights with the adapters added in, or, `lora.merge: false`, PEFT's own files and
    what ends its answers.

    The latter name their base model by the folder it was loaded from, which is relative to the working directory.
    """
    if not settings.get("lora") or settings["lora"].get("merge", True):
        merged(model).save_pretrained(folder)
        return
    [adapted] = model.adapted
    adapted.save_pretrained(folder, save_embedding_layers=False)
    model.generation_config.save_pretrained(folder)
    (folder / "README.md").unlink()  # a card that says nothing but PEFT's version
    config = read_json(folder / "adapter_config.json")
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set, written in another order by every process
    write_json(folder / "adapter_config.json", config)


def save_policy(
    model: Any,
    tokenizer: Any,
    arguments: Any,
    work: Path,
    *,
    curve: list[dict],
    seconds: float,
    processes: int = 1,
    tokens: float = 0,
    template: dict | None = None,
    **facts: Any,
) -> None:
    """Write a trained policy's model folder, curve, cost and last its manifest with `facts`; drop the work folder.

    `template` is what it was trained to speak: its chat template, whose end the generation settings then know. Without
    one the parent's are kept.
    """
    if template:
        own = model.generation_config
        own.eos_token_id = with_own_end(template, tokenizer, own.eos_token_id)
    with finished_folder(arguments.output) as folder:
        write_policy(model, folder, arguments.settings)
        tokenizer.save_pretrained(folder)
        if template:
            save_chat_template(folder, template)
    refuse_full_store([arguments.output])
    write_json(arguments.curve, curve)
    write_json(arguments.cost, cost_of(seconds, processes, tokens))
    write_manifest(arguments.manifest, [arguments.output], **facts)
    shutil.rmtree(work, ignore_errors=True)


def cost_of(seconds: float, processes: int, tokens: float | None = None) -> dict:
    """Return what a training took: seconds, GPU seconds, tokens where they were counted, MiB, threads, processes."""
    gpus = processes if torch.cuda.is_available() else 0
    counted = {} if tokens is None else {"tokens": int(tokens)}
    return {
        "wall_seconds": round(seconds, 1),
        "gpu_seconds": round(seconds * gpus, 1),
        **counted,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "threads": int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())),
        "processes": processes,
    }


def run_training(main: Callable[[], None]) -> None:
    """Call a training's `main` as `errors.run` does; with --note-divergence, a divergence is written down, status 0.

    Of several processes, which all come to it at the same step, the first writes.
    """

    def noting() -> None:
        started = time.monotonic()
        try:
            main()
        except Diverged as error:
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            parser.add_argument("--note-divergence", action="store_true")
            for name in ("manifest", "curve", "cost", "output", "work"):
                parser.add_argument(f"--{name}", type=Path)
            flags, _ = parser.parse_known_args()
            if not flags.note_divergence:
                raise
            print(f"error: {error}. The study goes on without it.", file=sys.stderr, flush=True)
            if os.environ.get("RANK", "0") == "0":
                if flags.work:
                    shutil.rmtree(flags.work, ignore_errors=True)
                if flags.cost:
                    processes = int(os.environ.get("WORLD_SIZE", "1"))
                    write_json(flags.cost, cost_of(time.monotonic() - started, processes))
                hand_on(error.note, [flags.output, flags.curve, flags.manifest], error.curve)

    run(noting)


def add_training_flags(parser: Any) -> None:
    """Add the flags every training step has."""
    parser.add_argument("--parent", type=Path, required=True, help="model folder to start from")
    parser.add_argument("--parent-manifest", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="the run's settings, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for resumable state")
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--curve", type=Path, required=True)
    parser.add_argument("--cost", type=Path, required=True)
    add_note_flag(parser)


def counts_of(manifest: Path) -> dict:
    """Return the `counts` of a manifest."""
    return read_json(manifest).get("counts", {})


def template_of(manifest: Path) -> dict | None:
    """Return the template that rows were written in, as their manifest says."""
    return read_json(manifest).get("template")
