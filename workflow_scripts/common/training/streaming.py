"""Writing a policy that its processes share: a tensor at a time is put together, and goes into its place in the files.

The files are, byte for byte, those that `save_pretrained` makes of the whole policy. A process holds beside its
share a few copies of one tensor.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft.tuners.lora import LoraLayer
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from workflow_scripts.common.cut_weights import is_cut, put_together, shape_of

NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BENEATH = "base_layer."  # what an adapter puts between a module's name and its weights'


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that processes share, whole and in the machine's memory; every process has to ask."""
    if is_cut(tensor):
        return put_together(tensor).cpu()
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def is_shared(model: Any) -> bool:
    """Return whether processes share a policy's weights, by FSDP2 or ZeRO's third stage."""
    return isinstance(model, FSDPModule) or any(is_cut(weight) for weight in model.parameters())


def saved_names(model: Any) -> dict[str, torch.Tensor]:
    """Return {name in the model: its share} of what is saved: no adapter, and of tied weights the one that is read."""
    adapters = {
        f"{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, LoraLayer)
        for name, _ in module.named_parameters()
        if not name.startswith(BENEATH)
    }
    state, ignored = model.state_dict(keep_vars=True), set(model._keys_to_ignore_on_save or ())
    tied = {
        name for name, other in model.all_tied_weights_keys.items() if state.get(name) is state.get(other)
    }
    return {name: share for name, share in state.items() if name not in adapters | ignored | tied}


def merged_weight(module: LoraLayer) -> torch.Tensor:
    """Return an adapted module's weight with the adapters added in, as PEFT adds them; every process has to ask."""
    shares = dict(module.named_parameters())
    for name, share in shares.items():
        owner, _, own = name.rpartition(".")
        own_copy = whole(share).clone()  # of a weight that nobody shares it is the weight itself
        module.get_submodule(owner)._parameters[own] = torch.nn.Parameter(own_copy, requires_grad=False)
    module.merge()
    weight = module.get_base_layer().weight.detach()
    for name, share in shares.items():
        owner, _, own = name.rpartition(".")
        module.get_submodule(owner)._parameters[own] = share
    module.merged_adapters.clear()
    return weight


def whole_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, whole tensor) of what is saved of a shared policy, one after the other; every process has to ask."""
    adapted = {place: module for place, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, share in saved_names(model).items():
        place = name.removesuffix(f".{BENEATH}weight")
        yield (
            name.replace(f".{BENEATH}", "."),
            merged_weight(adapted[place]) if place in adapted else whole(share),
        )


def header_of(tensors: dict[str, torch.Tensor]) -> tuple[bytes, dict[str, int]]:
    """Return how a file of safetensors begins, and {name: the byte at which its tensor does}.

    The order is the library's: of types with more bytes first, then by name.
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].itemsize, NAMES[tensors[name].dtype], name))
    said: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, end = {}, 0
    for name in ordered:
        tensor = tensors[name]
        offsets[name], end = end, end + tensor.numel() * tensor.itemsize
        said[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: first + offset for name, offset in offsets.items()}


def kind_of(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return in which numbers a tensor is written: those asked for where it has fractions, else its own."""
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def write_shared(
    model: Any, folder: Path, largest: int | str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a shared policy's folder as its `save_pretrained` would; the others meanwhile walk `whole_weights`.

    largest: bytes of a file, the library's own number if None. dtype: that of the weights' numbers, if another.
    """
    if largest is None:
        largest = inspect.signature(PreTrainedModel.save_pretrained).parameters["max_shard_size"].default
    model.save_pretrained(folder, state_dict={})  # its configurations; there are no weights in this
    for left in folder.glob("model*.safetensors*"):
        left.unlink()
    state = saved_names(model)
    plain = {name.replace(f".{BENEATH}", "."): tensor for name, tensor in state.items()}
    empty = {
        name: torch.empty(shape_of(tensor), dtype=kind_of(tensor, dtype), device="meta")
        for name, tensor in plain.items()
    }
    made = revert_weight_conversion(model, empty)
    split = split_torch_state_dict_into_shards(
        made, filename_pattern="model{suffix}.safetensors", max_shard_size=largest
    )
    places = {}
    for file, names in split.filename_to_tensors.items():
        header, offsets = header_of({name: made[name] for name in names})
        (folder / file).write_bytes(header)
        places |= {name: (folder / file, offset) for name, offset in offsets.items()}
    for name, tensor in whole_weights(model):
        for own, part in revert_weight_conversion(model, {name: tensor}).items():
            path, offset = places.pop(own)
            put(path, offset, part.to(kind_of(part, dtype)))
    if places:
        raise RuntimeError(f"{folder}: {len(places)} weights were not written, first {min(places)}")
    if split.is_sharded:
        count = sum(shape_of(weight).numel() for weight in model.parameters())
        sizes = {"total_parameters": count, **split.metadata}
        text = json.dumps(
            {"metadata": sizes, "weight_map": split.tensor_to_filename}, indent=2, sort_keys=True
        )
        (folder / "model.safetensors.index.json").write_text(text + "\n")


def put(path: Path, offset: int, tensor: torch.Tensor) -> None:
    """Write a tensor's numbers into a file from a byte on."""
    data = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
