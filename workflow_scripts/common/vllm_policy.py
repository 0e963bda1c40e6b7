"""A policy in vLLM (Kwon et al. 2023), for whatever asks it: how it is loaded, over which GPUs, and what is said of it.

A policy that is an unmerged adapter is served as one, beside its base model. Not covered: more machines than one.
"""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import adapter_base, check_safetensors, precision_of

CPU_CACHE = 2**30  # bytes of keys and values without a GPU; VLLM_CPU_KVCACHE_SPACE (GiB) goes before it
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM makes room for


def load_vllm() -> Any:
    """Return the vllm package, set to do what it does in one order, tell nobody, and cache in the work folder."""
    # The scheduler in this process, not beside it: else what is computed together depends on the clock.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CACHE_ROOT", str(Path("work/vllm").absolute()))
    try:
        import vllm
    except ImportError as error:
        raise PlumblineError(
            f"engine: vllm: it cannot be loaded in this environment ({error}); make one that has it with "
            "`envs/install-vllm.sh cuda` (or `cpu`), or set engine: {name: transformers}"
        ) from None
    return vllm


def parallel_size(gpus: int, config: dict) -> tuple[int, str]:
    """Return over how many GPUs to split a model's layers, given its configuration, and in words why.

    It is the largest number up to `gpus` that splits the attention heads and the hidden width evenly, and the heads of
    keys and values too, unless each is held by as many GPUs.
    """
    heads = config.get("num_attention_heads") or 1
    shared = config.get("num_key_value_heads") or heads
    width = config.get("intermediate_size") or heads

    def fits(count: int) -> bool:
        grouped = shared % count == 0 or count % shared == 0
        return heads % count == 0 and width % count == 0 and grouped

    count = max(count for count in range(1, max(1, gpus) + 1) if fits(count))
    if not gpus:
        return 1, "on the CPU"
    if count == gpus:
        noun = "GPU" if count == 1 else "GPUs"
        return count, f"tensor parallel over {count} {noun}"
    return count, (
        f"tensor parallel over {count} of {gpus} GPUs: no more split {heads} attention heads ({shared} of keys and "
        f"values) and a width of {width} evenly"
    )


def rank_of(rank: int) -> int:
    """Return the least of the ranks vLLM makes room for that holds an adapter's; PlumblineError above them all."""
    if rank > RANKS[-1]:
        raise PlumblineError(
            f"lora.rank {rank}: vLLM serves adapters of rank {RANKS[-1]} at most; set merge: true, or engine: "
            "{name: transformers}"
        )
    return next(each for each in RANKS if each >= rank)


def configuration(model: Path | str) -> dict:
    """Return the configuration of a policy's language model, or of the one that an adapter is for.

    Where a kind of model has names of its own (GPT-2's n_head), what it says stands under the usual ones, too.
    """
    config = read_json(Path(adapter_base(model) or model) / "config.json")
    config = config.get("text_config") or config
    kind = config.get("model_type")
    names = CONFIG_MAPPING[kind].attribute_map if kind in CONFIG_MAPPING else {}
    return {usual: config[own] for usual, own in names.items() if own in config} | config


def longer_positions(config: dict, context: int) -> dict:
    """Return what to change in a model's configuration so that vLLM goes on to `context` tokens, as transformers does.

    Only plain rotary positions (Su et al. 2021) simply go on; with others vLLM refuses a context the model has not.
    """
    rotary = "rope_parameters" in config or "rope_theta" in config
    scaled = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if (
        rotary
        and scaled.get("rope_type", "default") == "default"
        and config["max_position_embeddings"] < context
    ):
        return {"max_position_embeddings": context}
    return {}


def loaded_as(model: Path, precision: str, memory_share: float) -> dict[str, Any]:
    """Return the arguments by which vLLM loads a policy over all GPUs of this process, its adapter's rank among them.

    memory_share: of each GPU's memory, what vLLM may take.
    """
    base = adapter_base(model)
    source = Path(base or model)
    check_safetensors(source)
    size, _ = parallel_size(torch.cuda.device_count(), configuration(model))
    arguments = {
        "model": str(source),
        "tokenizer": str(model),
        "dtype": str(precision_of(precision)).removeprefix("torch."),
        "tensor_parallel_size": size,
        "load_format": "safetensors",
        "generation_config": "vllm",  # a study says how answers are drawn, not what a base model brings along
    }
    if base is not None:
        rank = read_json(Path(model) / "adapter_config.json")["r"]
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank_of(rank)}
    if torch.cuda.is_available():
        return arguments | {"gpu_memory_utilization": memory_share}
    return arguments | {"kv_cache_memory_bytes": CPU_CACHE, "enforce_eager": True}  # compiling takes 30 s


def attention_backends(worker: Any) -> list[str]:
    """Return the names of the attention that a vLLM worker's layers run on."""
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    layers = worker.vllm_config.compilation_config.static_forward_context.values()
    return sorted(
        {layer.get_attn_backend().get_name() for layer in layers if isinstance(layer, AttentionLayerBase)}
    )


def tell(llm: Any, model: Path) -> None:
    """Say on standard output what runs: vLLM, the attention, the number format, the GPUs, the adapter."""
    import vllm

    attention = sorted({name for names in llm.collective_rpc(attention_backends) for name in names})
    dtype = str(llm.llm_engine.model_config.dtype).removeprefix("torch.")
    _, where = parallel_size(torch.cuda.device_count(), configuration(model))
    base = adapter_base(model)
    rank = read_json(Path(model) / "adapter_config.json")["r"] if base else 0
    adapter = f", adapter of rank {rank} on {base}" if base else ""
    print(f"vLLM {vllm.__version__}: attention {', '.join(attention)}, {dtype}, {where}{adapter}", flush=True)
