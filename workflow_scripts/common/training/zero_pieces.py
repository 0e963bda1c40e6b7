"""What a process holds of weights and moments under DeepSpeed's ZeRO, whose own checkpoints are bound to it.

ZeRO lays the weights of a group out in one row and cuts that (stages 1 and 2), or each weight by itself (stage 3).
AdamW's moments are cut likewise, and there is one count of steps.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed

from workflow_scripts.common.training.pieces import Piece

MOMENTS = ("exp_avg", "exp_avg_sq")


def weights_of(weight: torch.nn.Parameter, optimizer: Any) -> Piece:
    """Return what this process holds of a trained weight, in 32 bits."""
    return held(weight, optimizer, None)


def held(weight: torch.nn.Parameter, optimizer: Any, moment: str | None) -> Piece:
    """Return what this process holds of a trained weight, or of one of its moments."""
    if not hasattr(weight, "ds_id"):
        place = weight._hp_mapping
        if place is None:
            return Piece(torch.empty(0), 0, weight.numel())
        row = optimizer.single_partition_of_fp32_groups[place.param_group_index]
        row = row.data if moment is None else optimizer.optimizer.state[row][moment]
        own = row.narrow(0, place.hp_fragment_address.start, place.hp_fragment_address.numel)
        return Piece(own, place.lp_fragment_address.start, weight.numel())
    # DeepSpeed's own view: what it hands out to others is moved to the GPU, however little room that has.
    local, _ = optimizer._get_fp32_opt_state_partition(
        weight, release_swap_buffers=True, optim_state_key=moment
    )
    start = min(distributed.get_rank(weight.ds_process_group) * len(local), weight.ds_numel)
    return Piece(
        local.data[: weight.ds_numel - start], start, weight.ds_numel
    )  # the last parts are filled up


def parts_of(optimizer: Any) -> list[torch.Tensor]:
    """Return the rows of weights, in 32 bits, that this process's AdamW steps on."""
    rows = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    return optimizer.single_partition_of_fp32_groups if rows is None else rows


def make_moments(optimizer: Any) -> None:
    """Make the moments of an AdamW that has not made a step yet."""
    own = optimizer.optimizer
    for part in parts_of(optimizer):
        state = own.state[part]
        if not state:
            state |= {moment: torch.zeros_like(part.data) for moment in MOMENTS} | {"step": 0}
            if isinstance(own, torch.optim.AdamW):  # else DeepSpeed's own, which counts in whole numbers
                beside = own.defaults["fused"] or own.defaults["capturable"]
                state["step"] = torch.zeros((), device=part.device if beside else "cpu")


def moments_of(model: Any, optimizer: Any) -> dict[str, Piece]:
    """Return {name, as torch names an optimiser's state: what this process holds} of all moments and steps."""
    make_moments(optimizer)
    states = [optimizer.optimizer.state[part] for part in parts_of(optimizer)]
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    steps = torch.full((len(trained),), max(float(state["step"]) for state in states))

    def put_steps() -> None:
        for state in states:
            if isinstance(state["step"], torch.Tensor):
                state["step"].fill_(steps.max())
            else:
                state["step"] = int(steps.max())

    pieces = {}
    for number, (name, weight) in enumerate(trained.items()):
        for moment in MOMENTS:
            pieces[f"state.{name}.{moment}"] = held(weight, optimizer, moment)
        pieces[f"state.{name}.step"] = Piece(steps[number : number + 1], 0, 1, put_steps)
    return pieces


@contextlib.contextmanager
def reading(optimizer: Any) -> Iterator[None]:
    """Have what is computed with be what the weights in 32 bits are after the block, which reads them."""
    if not hasattr(optimizer, "checkpoint_event_prologue"):
        yield
        optimizer.update_lp_params()
        return
    optimizer.checkpoint_event_prologue()
    yield
    for number in range(len(parts_of(optimizer))):
        optimizer._reassign_or_swap_out_partitioned_parameters(number)
    optimizer.checkpoint_event_epilogue()
