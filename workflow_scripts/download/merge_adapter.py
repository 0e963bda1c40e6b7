"""A PEFT adapter and the model that it adapts, in one folder, made into a model: the adapter added into the weights.

The sum is made in float32 and rounded once, to the format that the base model's weights are kept in. Not covered:
adapters that are no change of weights (prompts, prefixes): they cannot be merged, and are refused.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def is_adapter(source: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (source / ADAPTER[0]).is_file()


def merge_adapter(source: Path, folder: Path) -> dict[str, Any]:
    """Write the model that an adapter makes of its base, both in `source`, as a folder; return facts for a manifest."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    from workflow_scripts.common.models import check_safetensors, load_whole, merged_into, reading

    check_safetensors(source, ADAPTER[1])
    others = [path for path in sorted(source.iterdir()) if path.is_file() and path.name not in ADAPTER]
    with tempfile.TemporaryDirectory(dir=folder) as alone:  # the library would load the adapter by itself
        for path in others:
            os.symlink(path.resolve(), Path(alone) / path.name)
        with reading(source, "a model"):
            kept = AutoConfig.from_pretrained(alone).dtype or torch.float32
        model = load_whole(AutoModelForCausalLM, alone, dtype=torch.float32, trust_remote_code=False)
    rows = model.get_input_embeddings().weight.shape[0]
    with reading(source, "an adapter"), safe_open(source / ADAPTER[1], "pt") as tensors:
        embeddings = [name for name in tensors.keys() if name.endswith(("embed_tokens.weight", "wte.weight"))]  # noqa: SIM118
        grown = [tensors.get_slice(name).get_shape()[0] for name in embeddings]
    if grown and grown[0] != rows:  # it was trained with tokens of its own
        model.resize_token_embeddings(grown[0], mean_resizing=False)
    merged = merged_into(model, source, safely=True).to(kept)
    merged.config._name_or_path = ""  # the folder this was read from differs from machine to machine
    merged.save_pretrained(folder)
    for path in others:
        if not path.name.startswith("model") and not (folder / path.name).exists():
            shutil.copy2(path, folder / path.name)
    return {"adapter": {"merged_in": "float32", "kept_in": str(kept).removeprefix("torch.")}}
