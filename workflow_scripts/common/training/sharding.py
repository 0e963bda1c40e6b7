"""A policy that its processes share from the first: built without weights, shared out by FSDP2, then read in parts.

A process reads of each tensor in the files the rows that are its own, and holds no more: 4 bytes a parameter over all
processes together. transformers does the rest as for a whole policy: renamed and fused weights, tied ones, buffers.
Not covered, and read whole by each process: code of a model's own, parts of multimodal models, adapters as parents.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.auto.auto_factory import _get_model_class

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import adapter_base, load_policy, reading

FORMATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
ROWS = 1024  # of two tensors that are compared at once
AT_ONCE = 2**18  # numbers that are read before they are put into 32 bits


def uses_fsdp() -> bool:
    """Return whether this training's processes were started to share its weights by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def kind_to_share(folder: Path | str, trust_remote_code: bool) -> Any:
    """Return the class of a folder's policy where it can be read in parts, else None.

    PlumblineError if it can be shared out in no way.
    """
    if adapter_base(folder) is not None:
        return None
    with reading(folder, "a model"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    own_code = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if own_code or type(config) not in AutoModelForCausalLM._model_mapping:
        return None
    if "text_config" in config.sub_configs:
        return None
    for each in get_checkpoint_conversion_mapping(config.model_type) or ():
        if len(each.source_patterns) < len(each.target_patterns):
            raise PlumblineError(
                f"{folder}: a {config.model_type} model's files have in one tensor, {each.source_patterns[0]}, what "
                "the model has in several, and is not shared out; train it by parallel: ddp or zero2"
            )
    kind = _get_model_class(config, AutoModelForCausalLM._model_mapping)
    return None if config.tie_word_embeddings and heads_differ(folder, kind) else kind


def heads_differ(folder: Path | str, kind: Any) -> bool:
    """Tell whether weights that are to be one are stored as two that differ: such a model is read with both."""
    pairs, prefix = dict(getattr(kind, "_tied_weights_keys", None) or {}), f"{kind.base_model_prefix}."
    stored: dict[str, tuple[Path, str]] = {}
    for place in Path(folder).glob("*.safetensors"):
        with safe_open(str(place), framework="pt") as file:
            stored |= {name.removeprefix(prefix): (place, name) for name in file.keys()}  # noqa: SIM118
    for both in pairs.items():
        there = [stored[name.removeprefix(prefix)] for name in both if name.removeprefix(prefix) in stored]
        if len(there) < 2:
            continue
        with ExitStack() as stack:
            one, other = (
                stack.enter_context(safe_open(str(place), framework="pt")).get_slice(name)
                for place, name in there
            )
            rows = [slice(start, start + ROWS) for start in range(0, one.get_shape()[0], ROWS)]
            if one.get_shape() != other.get_shape() or any(
                not torch.equal(one[some], other[some]) for some in rows
            ):
                return True
    return False


def refuse_weights_of_two_layers(model: Any) -> None:
    """Raise PlumblineError where a weight stands in two layers, each of which FSDP would share out on its own."""
    outer = (model.get_input_embeddings(), model.get_output_embeddings())
    ends = {id(each.weight) for each in outer if each is not None}
    names: dict[int, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if id(weight) in names and id(weight) not in ends:
            raise PlumblineError(
                f"{names[id(weight)]} and {name} are one weight of two layers, which fsdp cannot share out; train it "
                "by parallel: ddp or zero2"
            )
        names[id(weight)] = name


class Part:
    """A tensor of a file of safetensors, of which is read what is asked for, a little at a time.

    Nothing of the file is mapped into memory, and rows are put into 32 bits as they are read: a process holds no more
    than what it keeps.
    """

    def __init__(self, file: str, name: str, whole: Any, first: int) -> None:
        self.file, self.name, self.first = file, name, first
        self.shape, self.kind = whole.get_shape(), whole.get_dtype()

    def get_shape(self) -> list[int]:
        return self.shape

    def get_dtype(self) -> str:
        return self.kind

    def __getitem__(self, index: Any) -> torch.Tensor:
        asked = index if isinstance(index, tuple) else (index,)
        whole = [slice(0, size) for size in self.shape]
        if asked == (...,) and whole:
            asked = tuple(whole)
        if self.kind in FORMATS and whole and isinstance(asked[0], slice) and list(asked[1:]) == whole[1:]:
            return self.rows(asked[0].start, asked[0].stop)
        with safe_open(self.file, framework="pt") as file:  # opened anew: what is mapped of it goes with it
            return file.get_slice(self.name)[index].clone()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows of it, in 32 bits."""
        read, width = torch.empty(0, dtype=FORMATS[self.kind]), math.prod(self.shape[1:])
        numbers = torch.empty((stop - start) * width, dtype=torch.float32)
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.first + start * width * read.itemsize)
            for piece in numbers.split(AT_ONCE):
                read.resize_(len(piece))
                left = memoryview(read.view(torch.uint8).numpy())
                while left:
                    count = file.readinto(left)
                    if not count:
                        raise OSError(f"{self.file}: it ends before {self.name} does")
                    left = left[count:]
                piece.copy_(read)
        return numbers.view(stop - start, *self.shape[1:])


def starts_of(place: str) -> dict[str, int]:
    """Return {tensor: the byte at which it begins} of a file of safetensors."""
    with open(place, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: 8 + length + said["data_offsets"][0] for name, said in header.items() if name != "__metadata__"
    }


def parts_of(files: list[str], adapted: set[str], prefix: str) -> dict[str, Part]:
    """Return {name in the policy: tensor} of files; in the modules `adapted` the weights are a module's beneath.

    prefix: what the policy calls its inner model; some files leave it out.
    """
    parts = {}
    for place in files:
        starts = starts_of(place)
        with safe_open(place, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                module, _, own = name.rpartition(".")
                beneath = module in adapted or f"{prefix}.{module}" in adapted
                parts[f"{module}.base_layer.{own}" if beneath else name] = Part(
                    place, name, file.get_slice(name), starts[name]
                )
    return parts


@contextlib.contextmanager
def stand_ins(model: Any) -> Iterator[None]:
    """Let weights that are not there yet look as if they were: adapters that are put on none are drawn on none, too."""
    own = [
        (module, name)
        for module in model.modules()
        for name, weight in module._parameters.items()
        if weight is not None
    ]
    kept = [module._parameters[name] for module, name in own]
    for (module, name), weight in zip(own, kept, strict=True):
        flat = torch.zeros((), dtype=weight.dtype).expand(weight.shape)  # one number of memory
        module._parameters[name] = torch.nn.Parameter(flat)
    yield
    for (module, name), weight in zip(own, kept, strict=True):
        module._parameters[name] = weight.requires_grad_(module._parameters[name].requires_grad)


@contextlib.contextmanager
def head_in_outermost(model: Any) -> Iterator[None]:
    """Let accelerate make no unit of embedding and LM head.

    Our losses use the head's weight without calling the head: it has to be a part of the outermost unit, which is
    whole from the forward pass to the end of the backward one.
    """
    hidden = {"get_input_embeddings": lambda: None, "get_output_embeddings": lambda: None}
    model.__dict__.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del model.__dict__[name]


def init_processes(computing: torch.dtype) -> Accelerator:
    """Return what shares a policy out among the processes, which meet here if they have not yet."""
    mixed = "bf16" if computing == torch.bfloat16 else "no"
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed)


def load_shared(
    folder: Path | str,
    kind: Any,
    computing: torch.dtype,
    adapt: Callable[[Any], None] | None = None,
) -> Any:
    """Return the policy of a folder, in 32 bits, of which this process holds its share: FSDP2's, as accelerate cuts it.

    Every process has to ask. `kind`: its class; `adapt` puts adapters into it, before it is shared out.
    """
    accelerator = init_processes(computing)

    def share_out(_: Any, model: Any, *__: Any) -> Any:
        if adapt is not None:
            with stand_ins(model):
                adapt(model)
        # FSDP2 has to see that embedding and head are one: of two it would gather one that is never trained, where the
        # rows cannot be shared evenly.
        model.tie_weights(recompute_mapping=False)
        refuse_weights_of_two_layers(model)
        with head_in_outermost(model):
            fsdp2_prepare_model(accelerator, model)
        for weight in model.parameters():
            if not weight.is_meta:
                weight._is_hf_initialized = True  # an adapter's, drawn: it is not to be drawn again
        return model

    def read(model: Any, _: Any, files: list[str], *more: Any, **named: Any) -> Any:
        adapted = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
        there = {name for name, weight in model.named_parameters() if not weight.is_meta}
        parts = parts_of(files, adapted, model.base_model_prefix)
        found, offloaded = kind._load_pretrained_model(model, parts, None, *more, **named)
        found.missing_keys -= there
        return found, offloaded

    steps = {"maybe_distribute_model": classmethod(share_out), "_load_pretrained_model": staticmethod(read)}
    shared = type(kind.__name__, (kind,), steps | {"__module__": kind.__module__})
    model = load_policy(folder, computing=computing, kind=shared)
    return model if accelerator.device.type == "cpu" else model.to(accelerator.device)
