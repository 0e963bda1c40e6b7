"""Answers in rounds of a few tokens, between which the finished ones leave their batch; and a cache that has room.

transformers' `generate` goes on with all rows of a batch until the last has finished, and copies all keys and values
for every token. Here it makes a few tokens at a time, with a cache that it appends to in place; whoever has finished
takes no part in the next round. What is drawn stays what `generate` would draw of the whole batch: `Drawn` takes the
noise of all rows, those that have left as well.

Not covered (one round of all tokens, as `generate` has it): beams, weights that other processes hold parts of, and
models that keep more than the keys and values of all tokens (sliding windows, state spaces).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.cache_utils import DynamicLayer

ROUND = (
    8  # tokens: a round costs a call of `generate`, and a finished row its share of what is left of the round
)


class RoomyLayer(DynamicLayer):
    """The keys and values of a layer, in memory that has room for those to come: (rows, heads, room, width)."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room  # tokens

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append what (rows, heads, new, width) holds; return all there is, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.held = [
                each.new_empty(*each.shape[:2], self.room, each.shape[3])
                for each in (key_states, value_states)
            ]
        first = self.get_seq_length()
        last = first + key_states.shape[2]
        for held, new in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, first:last] = new
        self.keys, self.values = (held[:, :, :last] for held in self.held)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone."""
        last = self.get_seq_length()
        self.held = [held[indices] for held in self.held]
        self.keys, self.values = (held[:, :, :last] for held in self.held)


def keeps_all_tokens(model: Any) -> bool:
    """Tell whether all that a model keeps of a text are the keys and values of all its tokens."""
    if not model._supports_default_dynamic_cache():
        return False
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def roomy_cache(model: Any, room: int) -> DynamicCache:
    """Return an empty cache of `room` tokens for a model that keeps the keys and values of all."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer(room) for _ in cache.layers]
    return cache


class Drawn(LogitsProcessor):
    """Draws each row's next token of its scores, as `torch.multinomial` draws it for the whole batch.

    The token of the largest p / e, with e of an exponential distribution (the exponential race). `rows` are the places
    in the batch of those that are still there, of which there were `size`; what the others would draw with is made, and
    left. The scores are written over: `generate` hands over a copy.
    """

    def __init__(self, size: int) -> None:
        self.size, self.rows = size, torch.arange(size)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = scores.new_empty(self.size, scores.shape[1]).exponential_()
        if len(self.rows) < self.size:
            noise = noise[self.rows.to(noise.device)]
        drawn = scores.softmax(-1).div_(noise).argmax(-1, keepdim=True)
        return scores.fill_(-torch.inf).scatter_(1, drawn, 0.0)


class Ended(StoppingCriteria):
    """Ends an answer where one of `stops` does, and remembers which answers were ended."""

    def __init__(self, stops: list[StoppingCriteria], rows: int, device: torch.device) -> None:
        self.stops, self.rows = stops, torch.zeros(rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor, **more: Any) -> Tensor:
        for stop in self.stops:
            self.rows |= stop(input_ids, scores, **more)
        return self.rows
