"""What is trained: a policy whole, or low-rank adapters in its layers, its frozen weights in four bits if asked."""

import math
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from transformers import set_seed

from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import adapter_base, changes_tied_head, load_policy, precision_of
from workflow_scripts.common.training.settings import Lora, PolicyTraining
from workflow_scripts.common.training.sharding import kind_to_share, load_shared, uses_fsdp
from workflow_scripts.common.training.zero import load_cut, uses_zero3

OURS_ON_CPUS = torch.library.Library("bitsandbytes", "IMPL", "CPU")


def set_dropout(model: Any, share: float) -> list[str]:
    """Let every dropout of a model drop this share while it trains; return their names, each once.

    A dropout is a module of torch's, or a number that a layer has under a name with "drop" in it, as attention has
    (Llama's attention_dropout). What leaves out whole layers (OPT's layerdrop) is none; it is set to 0 with them alone.
    """
    found = set()
    for place, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
            found.add(place.rpartition(".")[2])
        for name, value in list(vars(module).items()):
            if type(value) in (int, float) and "drop" in name and not (share and "layer" in name):
                setattr(module, name, share)
                found.add(name)
    return sorted(found)


def drop_as_asked(model: Any, share: float) -> None:
    """Let a model's own layers drop a share in training; say which do, or warn that it has none."""
    names = set_dropout(model, share)
    if processes.number() > 0:
        return
    if names:
        print(f"dropout: {share:g} in {', '.join(names)}", flush=True)
    elif share:
        kind = model.config.model_type
        print(
            f"warning: dropout {share:g}: a {kind} model has no layer that drops", file=sys.stderr, flush=True
        )


def load_trainable(
    folder: Path | str,
    settings: PolicyTraining,
    seed: int,
    computing: torch.dtype | None = None,
    drops_nothing: bool = False,
) -> Any:
    """Return the policy to be trained: whole, or with low-rank adapters in its layers (Hu et al. 2021), frozen else.

    The adapters, drawn by `seed`, are set into the policy itself, which keeps its class; `merged` gives the plain
    policy back. With `quantise: nf4` (Dettmers et al. 2023) the frozen weights are held in four bits, by bitsandbytes.
    drops_nothing: what `dropout: null` means, no dropout at all, adapters' neither; else the model keeps its own. A
    number is its own layers', in this training alone: the configuration that is saved stays as it was.
    """
    quantise, lora, dropout = settings["quantise"], settings["lora"], settings["dropout"]
    if quantise and not find_spec("bitsandbytes"):
        raise PlumblineError(
            "quantise: nf4 needs bitsandbytes, which is not here: install what envs/cuda.txt names (`make gpu` does); "
            "or leave it out, to train LoRA on whole weights"
        )
    if quantise and adapter_base(folder) is not None:
        raise PlumblineError(
            f"quantise: nf4: {folder} is an adapter; set lora.merge: true in the run that made it"
        )
    if quantise and (uses_fsdp() or uses_zero3()):
        raise PlumblineError(
            "quantise: nf4 needs whole weights on each GPU; train it with parallel: ddp (or zero2), where they are a "
            "quarter"
        )
    computing = computing or precision_of(settings["precision"])

    def finish(model: Any) -> Any:
        if dropout is not None:
            drop_as_asked(model, dropout)
        if lora:
            set_seed(seed)
            model = with_adapters(model, lora)
            if settings["gradient_checkpointing"]:
                model.enable_input_require_grads()
        return model

    shared = uses_fsdp() or uses_zero3()
    kind = kind_to_share(folder, settings["trust_remote_code"]) if shared else None
    if kind is not None and uses_fsdp():
        model = load_shared(folder, kind, computing, finish)
    elif kind is not None:
        model = finish(load_cut(folder, kind, computing))
    else:
        if shared and processes.number() == 0:
            print(f"{folder}: each process reads all weights, and shares them out then", flush=True)
        model = finish(load_on_each(folder, settings, computing))
    if uses_zero3() and any(isinstance(part, torch.nn.Conv1d) for part in model.modules()):
        raise PlumblineError(
            f"{folder}: a {model.config.model_type} model may read weights of convolutions that it does not call, "
            "which ZeRO's third stage would not see; train it by parallel: fsdp or zero2"
        )
    if quantise and lora:
        model._hf_peft_config_loaded = True  # so that Trainer knows the four-bit weights have adapters
    if dropout is None and drops_nothing:
        set_dropout(model, 0.0)
    return model


def load_on_each(folder: Path | str, settings: PolicyTraining, computing: torch.dtype) -> Any:
    """Return a policy, all of it on each process: in 32 bits, or its weights in four where the settings say so."""
    more = {}
    if settings["quantise"]:
        own = int(os.environ.get("LOCAL_RANK", "0"))  # each process onto its own GPU
        more["device_map"] = {"": own if torch.cuda.is_available() else "cpu"}
        more["quantization_config"] = four_bits(settings)
    model = load_policy(folder, trust_remote_code=settings["trust_remote_code"], computing=computing, **more)
    if not settings["quantise"]:
        return model
    if not torch.cuda.is_available():
        read_exactly(model)
    return prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=settings["gradient_checkpointing"]
    )


def four_bits(settings: PolicyTraining) -> Any:
    """Return how transformers is to hold a policy's frozen weights in four bits."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings["quantise_double"],
        bnb_4bit_compute_dtype=precision_of(settings["precision"]),
    )


def read_exactly(model: Any) -> None:
    """Have a CPU read a policy's weights of four bits as they stand, whatever instructions it has.

    Where there is AVX-512, bitsandbytes (0.50.2) reads rows that are no whole number of blocks wrongly; and where it
    computes bfloat16, the first evaluation rounds the blocks' scales to 16 bits, for the rest of the training too.
    """
    from bitsandbytes.functional import get_4bit_type

    def dequantize(
        packed: torch.Tensor,
        absmax: torch.Tensor,
        blocksize: int,
        quant_type: str,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        halves = packed.reshape(-1).view(torch.uint8)
        levels = torch.stack((halves >> 4, halves & 15), dim=1).reshape(-1)[: math.prod(shape)]
        scales = absmax.float().repeat_interleave(blocksize)[: len(levels)]
        return (get_4bit_type(quant_type, device="cpu")[levels.long()] * scales).to(dtype).reshape(shape)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*overrid")
        OURS_ON_CPUS.impl("dequantize_4bit", dequantize)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def refuse_adapters(adapted: PeftModel, lora: Lora) -> None:
    """Raise PlumblineError where adapters stand that would change what they were not trained for, or cannot be kept."""
    model, where = adapted.get_base_model(), f"lora.targets {lora['targets']}"
    on_embedding = isinstance(model.get_input_embeddings(), BaseTunerLayer)
    if changes_tied_head(adapted):
        raise PlumblineError(
            f"{where}: the LM head is the embedding, and an adapter of the one would be added to the other; take the "
            "embedding out"
        )
    if on_embedding and uses_fsdp() and not lora["merge"]:
        raise PlumblineError(
            f"{where}: by fsdp an embedding's adapter cannot be kept alone; set lora.merge: true, or parallel: zero3"
        )
    if any(isinstance(part, ParamWrapper) for part in model.modules()) and (uses_fsdp() or uses_zero3()):
        raise PlumblineError(
            f"{where}: adapters on experts, which are one tensor, cannot be shared out; name the layers to adapt "
            "(q_proj, v_proj ...), or train by parallel: ddp or zero2"
        )


def with_adapters(model: Any, lora: Lora) -> Any:
    """Return a policy with newly drawn low-rank adapters in its layers; it keeps its class, and PEFT's as `adapted`."""
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["targets"],
        task_type="CAUSAL_LM",
    )
    if isinstance(lora["targets"], list) and "lm_head" in lora["targets"]:
        raise PlumblineError("lora.targets: an adapter on lm_head would be left out of the loss; take it out")
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise PlumblineError(f"lora.targets {lora['targets']}: {error}") from None
    refuse_adapters(adapted, lora)
    model = adapted.get_base_model()
    model.adapted = [adapted]  # in a list: a module would become a part of its own part
    return model


def merged(model: Any) -> Any:
    """Return a trained policy as it is saved: adapters added into the weights they adapt."""
    adapted: list[PeftModel] = model.__dict__.get("adapted", [])
    if not adapted:
        return model
    return merged_in_32_bits(model) if model._hf_peft_config_loaded else adapted[0].merge_and_unload()


def merged_in_32_bits(model: Any) -> Any:
    """Return a policy whose frozen weights were held in four bits: these put back into 32, adapters added.

    PEFT would put the sums into four bits again, and what was learned is smaller than their steps. What is returned
    says what was trained. Its layers are in the machine's memory: a GPU may not hold them in 32 bits.
    """
    layers = dict(model.named_modules())
    for name, layer in layers.items():
        adapted = isinstance(layer, BaseTunerLayer)
        held = layer.get_base_layer() if adapted else layer
        beneath = isinstance(layers.get(name.rpartition(".")[0]), BaseTunerLayer)
        if beneath or type(getattr(held, "weight", None)).__name__ != "Params4bit":
            continue
        with torch.no_grad():
            weight = dequantize_module_weight(held).float()
            for adapter in layer.active_adapters if adapted else ():
                weight = weight + layer.get_delta_weight(adapter).float()
        plain = torch.nn.Linear(held.in_features, held.out_features, bias=False, device="meta")
        plain.weight, plain.bias = torch.nn.Parameter(weight.cpu()), held.bias
        model.set_submodule(name, plain)
    model._hf_peft_config_loaded = False
    model.hf_quantizer.remove_quantization_config(model)
    return model
