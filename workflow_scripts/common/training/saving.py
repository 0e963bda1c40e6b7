"""Writing what a training made: the policy, its curve, its cost and last its manifest."""

import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from workflow_scripts.common.chat_template import save_chat_template, with_own_end
from workflow_scripts.common.cut_weights import own_part
from workflow_scripts.common.files import finished_folder, read_json, write_json, write_manifest
from workflow_scripts.common.shared_store import refuse_full_store
from workflow_scripts.common.time_limit import handed_over
from workflow_scripts.common.training.curve import curve_of
from workflow_scripts.common.training.loading import merged
from workflow_scripts.common.training.settings import Training
from workflow_scripts.common.training.streaming import is_shared, whole, whole_weights, write_shared
from workflow_scripts.common.training.trainer import are_finite
from workflow_scripts.common.training.watching import watched_facts


def settle(model: Any, weights: dict[str, torch.Tensor]) -> Any:
    """Return a policy whose shards are replaced by whole weights, by name: an ordinary module, not to be trained."""
    for name, weight in weights.items():
        owner, _, own = name.rpartition(".")
        parameters = model.get_submodule(owner)._parameters
        if own in parameters:
            parameters[own] = torch.nn.Parameter(weight, requires_grad=False)
    model.tie_weights()
    return model


def whole_policy(trainer: Trainer, alone: bool) -> Any:
    """Return a trained policy with all its weights: to the first process; every process has to ask.

    One that processes share stays shared: it is put together as it is written, and of adapters that are kept alone
    there are but few.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_shared(model):
        return model
    few = {name: weight for name, weight in model.named_parameters() if alone and weight.requires_grad}
    unset_hf_deepspeed_config()  # or what is saved next would be gathered from processes that have ended
    return settle(model, {name: whole(weight) for name, weight in few.items()}) if few else model


def save_trained(
    trainer: Trainer, tokenizer: Any, arguments: Any, work: Path, seconds: float, **facts: Any
) -> None:
    """Write model folder, curve, cost and last the manifest; then drop the work folder. One process writes."""
    trainer.accelerator.wait_for_everyone()
    alone = keeps_adapters(arguments.settings)
    trainer.refuse(
        {"weights are": are_finite(map(own_part, trainer.model.parameters()))}
    )  # each looks at its share
    model = whole_policy(trainer, alone)
    if not trainer.is_world_process_zero():
        for _ in whole_weights(model) if is_shared(model) and not alone else ():
            pass  # they are being written
        return
    if trainer.args.load_best_model_at_end:
        facts["best_step"] = trainer.state.best_global_step
    if trainer.skipped:
        say_skipped(trainer.skipped, trainer.state.global_step)
        facts["skipped_steps"] = trainer.skipped
    curve = curve_of(trainer.state.log_history)
    facts |= watched_facts(trainer.watch, curve, facts.get("best_step"))
    save_policy(
        model,
        tokenizer,
        arguments,
        work,
        curve=curve,
        seconds=seconds,
        processes=trainer.args.world_size,
        steps=trainer.state.global_step,
        **facts,
    )


def say_skipped(skipped: int, steps: int) -> None:
    """Warn of steps that taught nothing, as their gradients overflowed in float16."""
    text = f"warning: float16: {skipped} of {steps} steps were skipped, as their scaled gradients overflowed"
    print(text, file=sys.stderr, flush=True)


def keeps_adapters(settings: Training) -> bool:
    """Return whether a training's adapters are kept alone; a reward model's settings know of no adapters."""
    lora = settings.get("lora")
    return lora is not None and not lora["merge"]


def write_policy(model: Any, folder: Path, settings: Training) -> None:
    """Write a trained policy: its weights with the adapters added in, or, `lora.merge: false`, PEFT's own files and
    what ends its answers.

    The latter name their base model by its folder, relative to their own: see `models.adapter_base`.
    """
    if not keeps_adapters(settings):
        if is_shared(model):
            write_shared(model, folder)
            return
        merged(model).save_pretrained(folder)
        return
    [adapted] = model.adapted
    adapted.save_pretrained(folder, save_embedding_layers=False)
    model.generation_config.save_pretrained(folder)
    (folder / "README.md").unlink()  # a card that says nothing but PEFT's version
    config = read_json(folder / "adapter_config.json")
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set, written in another order by every process
    base = os.path.abspath(config["base_model_name_or_path"])
    config["base_model_name_or_path"] = os.path.relpath(base, os.path.abspath(folder))
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
    times = handed_over(work)
    write_json(arguments.cost, cost_of(seconds, processes, tokens) | ({"hand_overs": times} if times else {}))
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
