"""What is trained: a policy whole, or low-rank adapters in its layers, its frozen weights in four bits if asked."""

import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import set_seed

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_policy, precision_of
from workflow_scripts.common.training.settings import PolicyTraining


def without_dropout(model: Any) -> Any:
    """Return a model whose training and evaluation modes say the same: every dropout of it, adapters' too, is 0."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):  # functional dropout, as attention has it
                setattr(module, name, 0.0)
    return model


def shards_weights() -> bool:
    """Return whether this training's processes were started to share the weights, too: by FSDP, or ZeRO stage 3."""
    zero = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") if zero else None
    return stage == "3" or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def load_trainable(
    folder: Path | str, settings: PolicyTraining, seed: int, computing: torch.dtype | None = None
) -> Any:
    """Return the policy to be trained: whole, or with low-rank adapters in its layers (Hu et al. 2021), frozen else.

    The adapters, drawn by `seed`, are set into the policy itself, which keeps its class; `merged` gives the plain
    policy back. With `quantise: nf4` (Dettmers et al. 2023) the frozen weights are held in four bits, which needs CUDA.
    """
    quantise, lora = settings["quantise"], settings["lora"]
    if quantise and not torch.cuda.is_available():
        raise PlumblineError(
            "quantise: nf4 needs a CUDA device, and there is none; leave it out to train LoRA whole"
        )
    if quantise and shards_weights():
        raise PlumblineError(
            "quantise: nf4 needs whole weights on each GPU; train it with parallel: ddp (or zero2), where they are a "
            "quarter"
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
