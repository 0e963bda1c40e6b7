"""The value function of a frozen policy: what its own answer to a prompt is expected to earn.

One learned query attends over the policy's last hidden states on the prompt (Baheti et al. 2024). Unlike the published
code the padding is masked, and values are read without dropout: a value does not depend on what else is in the batch.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json


class ValueHead(nn.Module):
    """Dropout → attention of one learned query → dropout → linear → sigmoid × max_value.

    width: of the policy's hidden states, a multiple of `heads`; max_value: the largest reward there can be.
    """

    def __init__(self, width: int, heads: int, dropout: float, max_value: float) -> None:
        super().__init__()
        if width % heads:
            raise PlumblineError(f"value head: {heads} heads do not divide the model's width {width}")
        self.config = {"width": width, "heads": heads, "dropout": dropout, "max_value": max_value}
        self.max_value = max_value
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Parameter(torch.randn(width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.out = nn.Linear(width, 1)

    def start_at(self, value: float) -> None:
        """Make every value `value` (within 0.1 % of the ends), which fitting starts from."""
        share = min(max(value / self.max_value, 0.001), 0.999)
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.fill_(math.log(share / (1 - share)))

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """Return values within [0, max_value], (batch,), for states (batch, time, width) where `real` (batch, time)."""
        states = self.dropout(states)
        query = self.query.expand(len(states), 1, -1)
        attended, _ = self.attention(query, states, states, key_padding_mask=~real, need_weights=False)
        return self.max_value * self.out(self.dropout(attended[:, 0]))[:, 0].sigmoid()


def save_head(head: ValueHead, folder: Path) -> None:
    """Write a head as head.safetensors and config.json."""
    save_file(
        {name: value.contiguous() for name, value in head.state_dict().items()}, folder / "head.safetensors"
    )
    write_json(folder / "config.json", head.config)


def load_head(folder: Path) -> ValueHead:
    """Return the head of a folder, in evaluation mode."""
    head = ValueHead(**read_json(folder / "config.json"))
    head.load_state_dict(load_file(folder / "head.safetensors"))
    return head.eval()


def batched(states: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (states padded (batch, time, width), which of them are real (batch, time)) of rows (time, width)."""
    lengths = torch.tensor([len(row) for row in states], device=states[0].device)
    together = nn.utils.rnn.pad_sequence(states, batch_first=True)
    return together, torch.arange(together.shape[1], device=together.device)[None] < lengths[:, None]


def read_values(head: ValueHead, states: list[Tensor], batch: int) -> Tensor:
    """Return the value of each prompt, (prompts,), without dropout or gradient; the head is left in evaluation mode."""
    head.eval()
    with torch.no_grad():
        return torch.cat(
            [head(*batched(states[start : start + batch])) for start in range(0, len(states), batch)]
        )
