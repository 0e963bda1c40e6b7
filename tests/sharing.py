"""Read policies in parts and write them out of their shares, as processes of a training do: TASKS (a JSON file).

It is a list of {"model": folder, "to": folder, "settings": ..., "largest": bytes of a file}.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from workflow_scripts.common.cut_weights import is_cut, own_part
from workflow_scripts.common.training.loading import load_trainable
from workflow_scripts.common.training.sharding import uses_fsdp
from workflow_scripts.common.training.streaming import whole_weights, write_shared
from workflow_scripts.common.training.trainer import are_finite


def move_adapters(model: Any) -> None:
    """Give adapters, which are drawn so that they change nothing, something to add."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)


def take_part(task: dict) -> None:
    """Do one task, as one of its processes."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it knows the layers of one kind of policy
    model = load_trainable(task["model"], task["settings"], 1)
    if uses_fsdp():
        assert isinstance(model, FSDPModule)
        assert all(isinstance(weight, DTensor) for weight in model.parameters())
    else:
        assert all(
            is_cut(weight) or weight.requires_grad for weight in model.parameters()
        )  # new adapters are whole
        assert any(is_cut(weight) for weight in model.parameters())
        for weight in filter(is_cut, model.parameters()):  # what fills up the last part is never set
            weight.ds_tensor[len(own_part(weight)) :] = float("nan")
        assert are_finite(map(own_part, model.parameters()))
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    move_adapters(model)
    if os.environ["RANK"] == "0":
        Path(task["to"]).mkdir()
        write_shared(model, Path(task["to"]), task["largest"])
    else:
        for _ in whole_weights(model):
            pass
    sums = {name: float(buffer.double().sum()) for name, buffer in model.named_buffers()}
    os.write(1, (json.dumps(sums) + "\n").encode())  # at once: no two are mixed


if __name__ == "__main__":
    for task in json.loads(Path(sys.argv[1]).read_text()):
        take_part(task)
