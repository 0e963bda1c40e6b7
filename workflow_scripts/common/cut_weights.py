"""Weights that DeepSpeed's ZeRO has cut up among processes: of each a process holds a part, and they look empty.

Every process has to ask for the same ones, in the same order.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist


def is_cut(weight: torch.Tensor) -> bool:
    """Return whether a tensor is one of which ZeRO has each process hold a part."""
    return hasattr(weight, "ds_tensor")


def own_part(weight: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, (its numbers,): all of one that is not cut up.

    What fills up the last parts, so that all are of one size, is no number of the tensor, nor ever set.
    """
    if not is_cut(weight):
        return weight
    size = weight.ds_tensor.numel()
    left = weight.ds_numel - size * dist.get_rank()
    return weight.ds_tensor[: min(max(left, 0), size)]


def shape_of(weight: torch.Tensor) -> torch.Size:
    """Return the shape of a tensor, of one that is cut up that of the whole."""
    return weight.ds_shape if is_cut(weight) else weight.shape


def put_together(weight: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor that is cut up, whole."""
    deepspeed = sys.modules["deepspeed"]  # who has cut them has it
    with deepspeed.zero.GatheredParameters([weight]):
        found = weight.detach().clone()
    give_back()
    return found


def give_back() -> None:
    """Give the system back what this process has let go of: glibc keeps tensors of up to 32 MiB for later."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def whole_as_called(model: Any) -> Iterator[None]:
    """Let a policy say something before DeepSpeed has it: each module's weights are put together while it is called."""
    if not any(is_cut(weight) for weight in model.parameters()):
        yield
        return
    deepspeed = sys.modules["deepspeed"]  # who has cut them has it
    opened: dict[torch.nn.Module, Any] = {}

    def gather(module: torch.nn.Module, *_: Any) -> None:
        opened[module] = deepspeed.zero.GatheredParameters(list(module.parameters(recurse=False)))
        opened[module].__enter__()

    def let_go(module: torch.nn.Module, *_: Any) -> None:
        opened.pop(module).__exit__(None, None, None)

    hooks = []
    for module in model.modules():
        if any(is_cut(weight) for weight in module.parameters(recurse=False)):
            hooks += [module.register_forward_pre_hook(gather), module.register_forward_hook(let_go)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
