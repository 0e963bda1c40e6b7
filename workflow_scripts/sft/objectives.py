"""What a fine-tuning objective may add to cross-entropy: noise, a choice of weights, a distance to the parent.

Pure functions over tensors. "Rows" are the conversations of a batch, however it is laid out: end to end with positions
that restart at 0 (packed, padding-free), or one a line with padding. Which tokens are learned is not decided here but
by the labels (see `tokenise`).
"""

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from workflow_scripts.common.logprobs import CHUNK
from workflow_scripts.common.templates import IGNORED


def learned_of(batch: dict[str, Tensor]) -> Tensor:
    """Return which positions predict a learned token, (batch, time - 1) of bool."""
    return batch["labels"][:, 1:] != IGNORED


def rows_of(batch: dict[str, Tensor]) -> Tensor:
    """Return the number of the row each token belongs to, (batch, time), counted from 0; padding has its line's."""
    if "position_ids" in batch:
        starts = batch["position_ids"] == 0
        return (starts.flatten().cumsum(0) - 1).view_as(starts)
    lines = torch.arange(len(batch["input_ids"]), device=batch["input_ids"].device)
    return lines[:, None].expand_as(batch["input_ids"])


def real_of(batch: dict[str, Tensor]) -> Tensor:
    """Return which tokens are no padding, (batch, time) of bool."""
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()


def lengths_of(batch: dict[str, Tensor]) -> Tensor:
    """Return the length in tokens of the row each token belongs to, (batch, time), padding not counted."""
    rows = rows_of(batch)
    return rows[real_of(batch)].bincount()[rows]


def neftune_noise(
    embeddings: Tensor, lengths: Tensor, alpha: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return NEFTune's noise for embeddings (tokens, width): uniform in ±alpha / √(length · width) for each token.

    `lengths` (tokens,) is the length of each token's own row, so that rows which share a batch, padded or packed, are
    disturbed as much as they would be alone (Jain et al. 2024, algorithm 1).
    """
    magnitude = alpha / (lengths * embeddings.shape[-1]).sqrt()
    noise = torch.empty_like(embeddings).uniform_(-1, 1, generator=generator)
    return noise * magnitude[:, None].to(embeddings.dtype)


def shares(rows: Tensor, norm: str) -> Tensor:
    """Return the weight of each learned position (positions,) of rows `rows`, before the division by `items_of`.

    `token`: 1. `example`: 1 / the number of learned positions in its row, so that long replies weigh as much as short
    ones; this is the mean that Instruction Modelling's runs took, with one row a batch.
    """
    return torch.ones(len(rows), device=rows.device) if norm == "token" else 1 / rows.bincount()[rows]


def items_of(batch: dict[str, Tensor], norm: str) -> Tensor:
    """Return the sum of a batch's `shares`, as a whole number: its learned tokens, or its rows that have some."""
    learned = learned_of(batch)
    if norm == "token":
        return learned.sum()
    return torch.tensor(rows_of(batch)[:, 1:][learned].unique().numel(), device=learned.device)


def gold_kl(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Return log π(t) − log π_ref(t) of each learned token t, (positions,), in nats.

    This is the penalty of Instruction Modelling's published runs (Shi et al. 2024, tables 3 and 7). As t comes from the
    data and not from π, it is no estimate of KL(π ‖ π_ref): its gradient is minus that of the cross-entropy, so that a
    weight λ does no more than scale cross-entropy's gradient by 1 − λ.
    """
    return logps - reference_logps


def full_kl(hidden: Tensor, head: Tensor, reference_hidden: Tensor, reference_head: Tensor) -> Tensor:
    """Return KL(π ‖ π_ref) over the whole vocabulary at each position, (positions,), in nats.

    Takes hidden states (positions, width) and head weights (vocabulary, width). Of the logits (positions, vocabulary)
    no more than CHUNK positions exist at once: each chunk's are made again for its gradient.
    """

    def logps_of(states: Tensor, weights: Tensor) -> Tensor:
        logits = linear(states, weights)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def some(states: Tensor, reference_states: Tensor) -> Tensor:
        logps, reference = logps_of(states, head), logps_of(reference_states, reference_head)
        return (logps.exp() * (logps - reference)).sum(-1)

    if len(hidden) <= CHUNK:
        return some(hidden, reference_hidden)
    parts = [
        checkpoint(some, states, reference_states, use_reentrant=False)
        for states, reference_states in zip(hidden.split(CHUNK), reference_hidden.split(CHUNK), strict=True)
    ]
    return torch.cat(parts)
