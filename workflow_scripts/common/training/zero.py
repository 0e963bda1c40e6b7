"""A policy that ZeRO's third stage shares from the first: each tensor is read, cut up, and a process keeps its part.

A process holds its share and one tensor, while it reads. Not covered, and read whole by each process: what `sharding`
does not cover either.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from transformers import core_model_loading
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from workflow_scripts.common.cut_weights import give_back, is_cut
from workflow_scripts.common.models import load_policy
from workflow_scripts.common.training.sharding import parts_of


def uses_deepspeed() -> bool:
    """Return whether this training's processes were started to share something by DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def uses_zero3() -> bool:
    """Return whether this training's processes were started to share its weights by ZeRO stage 3."""
    return uses_deepspeed() and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"


def cut(weights: list[torch.nn.Parameter], config: dict) -> None:
    """Let ZeRO keep this process's part of weights, and let go of the rest; every process has to ask."""
    import deepspeed

    deepspeed.zero.Init(
        module=torch.nn.ParameterList(weights), config_dict_or_path=config, mem_efficient_linear=False
    )
    give_back()


@contextlib.contextmanager
def cut_as_read(config: dict) -> Iterator[None]:
    """Let transformers read one tensor of a policy after the other, and cut up each before it reads the next."""
    own = core_model_loading.set_param_for_module

    def put(model: Any, name: str, *more: Any, **named: Any) -> None:
        own(model, name, *more, **named)
        module, _, last = name.rpartition(".")
        weight = model.get_submodule(module)._parameters.get(last)
        if weight is not None and not (
            is_cut(weight) or weight.is_meta
        ):  # else it did not fit, which is told of
            cut([weight], config)

    with (
        mock.patch.object(core_model_loading, "set_param_for_module", put),
        mock.patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"),
    ):
        yield


def load_cut(folder: Path | str, kind: Any, computing: torch.dtype) -> Any:
    """Return the policy of a folder, in 32 bits, of which this process holds its part; every process has to ask.

    `kind`: its class. As its weights are empty until DeepSpeed calls it, it says nothing outside `whole_as_called`.
    """
    state = Accelerator().state  # the processes meet here
    unset_hf_deepspeed_config()  # with it transformers would read all weights, and then share them out
    zero = state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    known = {name: value for name, value in zero.items() if value != "auto"}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": known}

    def read(model: Any, _: Any, files: list[str], *more: Any, **named: Any) -> Any:
        with cut_as_read(config):
            return kind._load_pretrained_model(
                model, parts_of(files, set(), model.base_model_prefix), None, *more, **named
            )

    lean = type(
        kind.__name__, (kind,), {"_load_pretrained_model": staticmethod(read), "__module__": kind.__module__}
    )
    model = load_policy(folder, computing=computing, kind=lean)
    for module in model.modules():  # DeepSpeed moves nothing of a policy that is cut already
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(state.device))
    return model
