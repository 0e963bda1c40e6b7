"""A training's settings as `transformers.TrainingArguments` takes them."""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import Precision, precision_of
from workflow_scripts.common.training.batches import split_batch, step_text
from workflow_scripts.common.training.reporting import Reporting
from workflow_scripts.common.training.settings import Training
from workflow_scripts.common.training.tracking import Tracking, followed
from workflow_scripts.common.training.watching import Watching, since_best


def training_arguments(
    settings: Training, work: Path, seed: int, evaluate: bool, watching: Watching | None = None
) -> dict[str, Any]:
    """Return the keyword arguments of `transformers.TrainingArguments` for a method's settings.

    Steps are optimiser steps of `batch_size` rows, however many processes share them (the log says how); `warmup` is a
    share of them. To keep the best checkpoint is to keep that of the best watched value, or, where nothing is watched,
    of the lowest validation loss, so every validation saves one. evaluate: there are rows to validate on.
    """
    on_cpu = not torch.cuda.is_available()
    if not on_cpu and processes.count() == 1 and torch.cuda.device_count() > 1:
        raise PlumblineError(
            f"one process sees {torch.cuda.device_count()} GPUs, and would train on all of them at a larger batch; "
            "run it through common.launch --parallel ddp, or set CUDA_VISIBLE_DEVICES to one"
        )
    refuse_float16(settings["precision"])
    rows, passes = split_batch(settings["batch_size"], settings["per_device_batch"], processes.count())
    if processes.number() == 0:
        print(step_text(rows, passes, processes.count()), flush=True)
    best = settings["keep"] == "best"
    validated = evaluate or watching is not None
    if best and not validated:
        raise PlumblineError(
            "keep: best needs validation rows or a watch to choose by, and this run has neither"
        )
    name, way = chosen_by(watching)
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
        "adam_beta1": settings["adam_beta1"],
        "adam_beta2": settings["adam_beta2"],
        "adam_epsilon": settings["adam_epsilon"],
        "optim": "adamw_torch" if on_cpu else settings["optimizer"],
        "bf16": precision_of(settings["precision"]) == torch.bfloat16,
        "fp16": precision_of(settings["precision"]) == torch.float16,
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "use_cpu": on_cpu,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": settings["log_every"],
        "logging_nan_inf_filter": False,  # it would log a loss that is no number as the mean of those before
        "eval_strategy": "steps" if validated else "no",
        "eval_steps": settings["evaluate_every"],
        "save_strategy": "steps",
        "save_steps": settings["evaluate_every"] if best else settings["checkpoint_every"],
        "save_total_limit": 2,
        "load_best_model_at_end": best,
        "metric_for_best_model": name if best else None,
        "greater_is_better": way == "max" if best else None,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


def refuse_float16(precision: Precision) -> None:
    """Raise PlumblineError where float16 is asked for and its small gradients could not be kept by scaling the loss."""
    if precision != "float16":
        return
    if not torch.cuda.is_available():
        raise PlumblineError(
            "precision: float16 needs a CUDA device, and there is none; auto takes what this machine computes in"
        )
    if any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("DEEPSPEED", "FSDP")):
        raise PlumblineError(
            "precision: float16 is for parallel: ddp; where weights or gradients are shared out, take bfloat16"
        )


def spared_warmup(steps: int, warmup: float, schedule: str) -> float:
    """Return the share of its steps that a training warms up in: never all of them; none of one alone, and it is said.

    A warm-up of any length begins at the learning rate 0, so the only step would leave the parent's weights as they
    are.
    """
    if not warmup or schedule == "constant" or math.ceil(steps * warmup) < steps:
        return warmup
    if steps > 1:
        return (steps - 1.5) / steps  # rounded up, as it is: all but the last
    print(
        "warning: all rows make one optimiser step, which a warm-up would leave at the learning rate 0: it is trained "
        "without; give it more steps (a smaller batch_size or pack_tokens, more epochs)",
        file=sys.stderr,
        flush=True,
    )
    return 0.0


def chosen_by(watching: Watching | None) -> tuple[str, str]:
    """Return (what a Trainer calls the number that the best checkpoint has the best of, which way that is)."""
    return ("eval_loss", "min") if watching is None else ("eval_watch", watching["best"])


class Patience(TrainerCallback):
    """Ends a training after so many validations without a better one.

    The library's own would count anew where a killed run goes on.
    """

    def __init__(self, patience: int, name: str, way: str) -> None:
        self.patience, self.name, self.way = patience, name, way

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        values = [entry[self.name] for entry in state.log_history if self.name in entry]
        if since_best(values, self.way) >= self.patience:
            control.should_training_stop = True


def callbacks_of(arguments: argparse.Namespace) -> list[TrainerCallback]:
    """Return what looks on while a Trainer works: it is stopped after `patience` validations, told of and tracked."""
    patience = arguments.settings["patience"]
    stops: list[TrainerCallback] = [Patience(patience, *chosen_by(arguments.watch))] if patience else []
    return [*stops, Reporting(), *([Tracking(arguments.curve, arguments.settings)] if followed() else [])]
