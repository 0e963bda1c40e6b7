"""What every training step shares: arguments, resuming from the last whole checkpoint, curves, costs.

Resumable state lives in a work folder named by a fingerprint of settings, data, parent and code: the same
fingerprint resumes, another starts afresh. A checkpoint counts once its `trainer_state.json`, written last, parses.
"""

import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from workflow_scripts.common.files import (
    digest,
    finished_folder,
    read_json,
    sha256_of,
    write_json,
    write_manifest,
)
from workflow_scripts.common.models import precision_of


def training_arguments(settings: dict, work: Path, seed: int, evaluate: bool) -> dict[str, Any]:
    """Return the keyword arguments of `transformers.TrainingArguments` for a method's settings.

    Steps are optimiser steps; `warmup` is a share of them; batch size = per_device_batch × accumulate × processes.
    """
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(work),
        "num_train_epochs": settings["epochs"],
        "max_steps": settings["max_steps"] or -1,
        "per_device_train_batch_size": settings["per_device_batch"],
        "per_device_eval_batch_size": settings["per_device_batch"],
        "gradient_accumulation_steps": settings["accumulate"],
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
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": settings["evaluate_every"],
        "save_strategy": "steps",
        "save_steps": settings["checkpoint_every"],
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


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
    """Return base/<fingerprint>, making it, and remove the folders of other fingerprints: their state is stale."""
    contents = [sha256_of(path) for path in inputs]
    fingerprint = digest({"inputs": contents, "settings": settings, "seed": seed, "code": code})[:16]
    for other in base.glob("*"):
        if other.name != fingerprint:
            shutil.rmtree(other)
    folder = base / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def curve_of(history: list[dict]) -> list[dict]:
    """Return the loss curve of a Trainer's log: rows of step, train_loss, validation_loss and any reward margins."""
    names = {
        "loss": "train_loss",
        "eval_loss": "validation_loss",
        "eval_accuracy": "validation_accuracy",
        "margin": "margin",
        "accuracy": "accuracy",
        "learning_rate": "learning_rate",
    }
    rows = []
    for entry in history:
        row = {new: round(float(entry[old]), 6) for old, new in names.items() if old in entry}
        if set(row) - {"learning_rate"}:
            rows.append({"step": entry["step"], **row})
    return rows


def train(trainer: Trainer, work: Path) -> float:
    """Train, resuming if a checkpoint is there; return the wall seconds of this process."""
    started = time.monotonic()
    checkpoint = last_checkpoint(work)
    if checkpoint:
        print(f"resuming from {checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return time.monotonic() - started


def save_trained(
    trainer: Trainer, tokenizer: Any, arguments: Any, work: Path, seconds: float, **facts: Any
) -> None:
    """Write model folder, curve, cost and last the manifest; then drop the work folder."""
    if not trainer.is_world_process_zero():
        return
    with finished_folder(arguments.output) as folder:
        trainer.save_model(str(folder))
        tokenizer.save_pretrained(folder)
        for needless in ("training_args.bin",):  # a pickle, and nobody reads it
            (folder / needless).unlink(missing_ok=True)
    write_json(arguments.curve, curve_of(trainer.state.log_history))
    write_json(
        arguments.cost,
        {
            "wall_seconds": round(seconds, 1),
            "gpu_seconds": round(seconds * torch.cuda.device_count(), 1) if torch.cuda.is_available() else 0,
            "tokens": int(facts.pop("tokens", 0)),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "threads": int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())),
        },
    )
    write_manifest(arguments.manifest, [arguments.output], steps=trainer.state.global_step, **facts)
    shutil.rmtree(work, ignore_errors=True)


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


def counts_of(manifest: Path) -> dict:
    """Return the `counts` of a manifest."""
    return read_json(manifest).get("counts", {})
