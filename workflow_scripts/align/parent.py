"""Asking a frozen parent: it is loaded here, rows go in batches of like length, and nothing it says has a gradient."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypedDict

from workflow_scripts.common.logprobs import padded, shared_prompt_logps
from workflow_scripts.common.models import Precision, load_policy, precision_of
from workflow_scripts.common.progress import counted

Tokens = list[int]


class Asking(TypedDict):
    """What every step that asks a parent reads."""

    batch_size: int
    precision: Precision
    trust_remote_code: bool


def load_parent(folder: Path, settings: Asking) -> Any:
    """Return the policy of a folder to be asked, on the GPU if there is one, with weights in float32."""
    policy = load_policy(
        folder,
        trust_remote_code=settings["trust_remote_code"],
        computing=precision_of(settings["precision"]),
    )
    return policy.to("cuda" if torch.cuda.is_available() else "cpu")


def by_length(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield the places of prompts, `size` at a time, those of like length together, the shortest first.

    Each batch counts as done, to those who look on, when the next is asked for.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    yield from counted(batches, "asking the parent", "prompts", len(order))


def computing(model: Any, precision: Precision) -> torch.autocast:
    """Return the context in which a model computes in a precision of the settings."""
    dtype = precision_of(precision)
    return torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32)


def completion_logps(
    model: Any, prompts: list[Tokens], completions: list[list[Tokens]], precision: Precision
) -> list[list[list[float]]]:
    """Return [prompt][completion] → the log-prob of each of its tokens, in nats, one encoding a prompt."""
    with torch.inference_mode(), computing(model, precision):
        found = shared_prompt_logps(model, prompts, completions)
    return [[each.tolist() for each in group] for group in found]


def last_states(model: Any, prompts: list[Tokens]) -> list[Tensor]:
    """Return the last hidden states of each prompt, (time, width) in float32."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    ids = padded(prompts, 0).to(model.device)
    mask = (torch.arange(ids.shape[1], device=model.device)[None] < lengths[:, None]).long()
    found = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
    return [states[:length] for states, length in zip(found, lengths.tolist(), strict=True)]


def states_by_prompt(
    model: Any, prompts: Iterable[Tokens], size: int, precision: Precision
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield (a prompt's tokens, its last hidden states (time, width) in float32), each distinct prompt once.

    `size` prompts make a forward pass; they come in order of length.
    """
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    for places in by_length(distinct, size):
        with torch.no_grad(), computing(model, precision):
            found = last_states(model, [list(distinct[place]) for place in places])
        for place, states in zip(places, found, strict=True):
            yield distinct[place], states
