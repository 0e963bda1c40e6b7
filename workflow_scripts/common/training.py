"""What every training step shares: loading (LoRA, 4-bit), arguments, resuming from the last whole checkpoint, curves, costs.

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
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, set_seed

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import (
    digest,
    finished_folder,
    read_json,
    sha256_of,
    write_json,
    write_manifest,
)
from workflow_scripts.common.models import load_policy, precision_of

# What a Trainer logs, and what the curve calls it.
CURVE = {
    "loss": "train_loss",
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
    "learning_rate": "learning_rate",
}


def training_arguments(settings: dict, work: Path, seed: int, evaluate: bool) -> dict[str, Any]:
    """Return the keyword arguments of `transformers.TrainingArguments` for a method's settings.

    Steps are optimiser steps; `warmup` is a share of them; batch size = per_device_batch × accumulate × processes.
    To keep the best checkpoint is to keep that of the lowest validation loss, so every validation saves one.
    """
    on_cpu = not torch.cuda.is_available()
    best = settings["keep"] == "best"
    if best and not evaluate:
        raise PlumblineError("keep: best needs validation rows to choose by, and this run has none")
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
        "save_steps": settings["evaluate_every"] if best else settings["checkpoint_every"],
        "save_total_limit": 2,
        "load_best_model_at_end": best,
        "metric_for_best_model": "eval_loss" if best else None,
        "greater_is_better": False if best else None,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


def callbacks_of(settings: dict) -> list[TrainerCallback]:
    """Return what stops a run after `patience` validations without a lower loss, if it is to be stopped."""
    return [EarlyStoppingCallback(settings["patience"])] if settings["patience"] else []


def load_trainable(folder: Path | str, settings: dict, seed: int) -> Any:
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
    more = {}
    if quantise:
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision_of(settings["precision"]),
        )
    model = load_policy(folder, trust_remote_code=settings["trust_remote_code"], **more)
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
            shutil.rmtree(other)
    folder = base / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def curve_of(history: list[dict]) -> list[dict]:
    """Return the loss curve of a Trainer's log: rows of step, train_loss, validation_loss and what else CURVE names."""
    rows = []
    for entry in history:
        row = {new: round(float(entry[old]), 6) for old, new in CURVE.items() if old in entry}
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
    """Write model folder, curve, cost and last the manifest; then drop the work folder. One process writes."""
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    if trainer.args.load_best_model_at_end:
        facts["best_step"] = trainer.state.best_global_step
    processes = trainer.args.world_size
    save_policy(
        merged(trainer.accelerator.unwrap_model(trainer.model)),
        tokenizer,
        arguments,
        work,
        curve=curve_of(trainer.state.log_history),
        seconds=seconds,
        processes=processes,
        steps=trainer.state.global_step,
        **facts,
    )


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
    **facts: Any,
) -> None:
    """Write a trained policy's model folder, curve, cost and last its manifest with `facts`; drop the work folder."""
    with finished_folder(arguments.output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_json(arguments.curve, curve)
    gpus = (
        max(torch.cuda.device_count() if processes == 1 else processes, 1) if torch.cuda.is_available() else 0
    )
    write_json(
        arguments.cost,
        {
            "wall_seconds": round(seconds, 1),
            "gpu_seconds": round(seconds * gpus, 1),
            "tokens": int(tokens),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "threads": int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())),
            "processes": processes,
        },
    )
    write_manifest(arguments.manifest, [arguments.output], **facts)
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
