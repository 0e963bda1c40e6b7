"""The folder that transformers loads: whole weights, the tokenizer with its chat template, and how it answers.

Weights are copied as they are, byte by byte, unless another number format is asked for. An adapter that was left
unmerged is merged in float32, as the study itself does where it asks the policy, and then written in the wider of two
formats: that of its base model's files, and that in which the study computes its answers. So nothing is lost.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig

from workflow_scripts.common.chat_template import FILE, save_chat_template
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.models import (
    adapter_base,
    load_policy,
    load_tokenizer,
    model_ends,
    precision_of,
    reading,
)
from workflow_scripts.common.templates import ends_of, is_own, reply_end
from workflow_scripts.export.found import Found
from workflow_scripts.plan.policies import remote_code

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"),
)
PAPERS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")  # what a base model's files say of its use
GENERIC = (
    "PreTrainedTokenizerFast"  # how versions 4 and 5 of transformers both call a tokenizer that is its file
)


def weight_files(folder: Path) -> list[Path]:
    """Return the files of safetensors that transformers loads from a model folder: one, or the shards of an index."""
    if (folder / ONE).is_file():
        return [folder / ONE]
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]
    raise PlumblineError(f"{folder}: has neither {ONE} nor {INDEX}; convert its weights to one of them")


def tensors_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) of a model folder's weights, one after another."""
    for path in weight_files(folder):
        with reading(path, "safetensors"), safe_open(path, "pt") as stored:
            for name in sorted(stored.keys()):
                yield name, stored.get_tensor(name)


def stored_format(folder: Path) -> torch.dtype:
    """Return the number format that most of a model folder's weights are stored in."""
    counts: dict[torch.dtype, int] = {}
    for _, tensor in tensors_of(folder):
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda each: counts[each])


def format_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def wider(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Return the number format that holds the values of both."""
    return torch.promote_types(one, other)


def write_weights(found: Found, folder: Path, wanted: str | None) -> dict[str, Any]:
    """Write a policy's weights and configuration; return facts: their number format, and what was done to them."""
    source, base = found.model, adapter_base(found.model)
    remote = remote_code(found.plan, found.policy)
    stored = stored_format(base or source)
    if base is not None:
        dtype = wider(stored, precision_of(found.plan.study.engine.precision))
    else:
        dtype = stored
    dtype = FORMATS[wanted] if wanted else dtype
    if base is None and dtype == stored:
        for path in weight_files(source):
            shutil.copyfile(path, folder / path.name)
        for name in (INDEX, "config.json"):
            if (source / name).is_file() and not (name == INDEX and (folder / ONE).is_file()):
                shutil.copyfile(source / name, folder / name)
    else:
        model = load_policy(source, torch.float32 if base else dtype, remote).to(dtype)
        model.save_pretrained(folder)
    if remote:
        for path in (base or source).glob("*.py"):
            shutil.copyfile(path, folder / path.name)
    write_config(folder, dtype)
    facts = {"format": format_name(dtype), "stored": format_name(stored)}
    return facts | {"adapter": "merged" if base else None, "needs_remote_code": remote}


def write_config(folder: Path, dtype: torch.dtype) -> None:
    """Have a configuration say the number format, and the rotary base as older versions of transformers look for it.

    Version 4 reads `rope_theta` and `torch_dtype`, and takes 10000 where the first is missing, without a word.
    """
    config = read_json(folder / "config.json")
    rope = config.get("rope_parameters") or {}
    older = {"torch_dtype": format_name(dtype)}
    if isinstance(rope.get("rope_theta"), int | float):
        older["rope_theta"] = rope["rope_theta"]
        kind = rope.get("rope_type", "default")
        older["rope_scaling"] = (
            None if kind == "default" else {key: rope[key] for key in rope if key != "rope_theta"}
        )
    write_json(folder / "config.json", config | {"dtype": format_name(dtype)} | older)


def write_tokenizer(found: Found, folder: Path) -> None:
    """Copy a policy's tokenizer, with the template it is asked in as the only one."""
    for name in TOKENIZER:
        if (found.model / name).is_file():
            shutil.copyfile(found.model / name, folder / name)
    config = folder / "tokenizer_config.json"
    if config.is_file() and (known := read_json(config)).get("tokenizer_class") == "TokenizersBackend":
        write_json(config, known | {"tokenizer_class": GENERIC})
    if is_own(found.template()):
        if (found.model / FILE).is_file():  # older tokenizers have it in their tokenizer_config.json
            shutil.copyfile(found.model / FILE, folder / FILE)
    else:
        save_chat_template(folder, found.template())


def answering(found: Found, tokenizer: Any) -> GenerationConfig:
    """Return how a policy answers in its study: greedily, to any of the ends that it knows, and by nothing else."""
    ends = ends_of(reply_end(found.template(), tokenizer), tokenizer, model_ends(found.model))
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


def write_folder(found: Found, folder: Path, wanted: str | None) -> dict[str, Any]:
    """Write all that transformers loads; return facts on the weights."""
    facts = write_weights(found, folder, wanted)
    write_tokenizer(found, folder)
    answering(found, load_tokenizer(found.model)).save_pretrained(folder)
    copied = [path for pattern in PAPERS for path in sorted(found.model.glob(pattern)) if path.is_file()]
    for path in copied:
        shutil.copyfile(path, folder / path.name)
    return facts | {"papers": [path.name for path in copied]}
