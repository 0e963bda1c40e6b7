"""What the prompts of a batch have in common at their beginning, read once: the turns of a dialogue, say.

A batch is laid out in two blocks, each padded on the left: the beginnings, then what is left of the prompts. The model
reads each different beginning once; its keys and values are then handed to all prompts that begin so. Padding between
the blocks is masked as other padding is, and positions are told by the mask.

Not covered: models that are not told of positions (they would count the padding between the blocks), and beginnings
that prompts of several batches share.
"""

import inspect
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import torch

from workflow_scripts.common.logprobs import padded

WORTH = 0.9  # share of the positions of a plain batch: with more, two passes are no gain
TRIED = 12  # lengths of a beginning that are tried


class Layout(NamedTuple):
    """A padded batch (ids, mask), both (rows, time). Its first `columns` hold beginnings, which `groups` share.

    `firsts` are rows with a beginning each, `groups` says of every row the place of its own among them.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    columns: int = 0
    firsts: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()


def left_padded(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (ids, attention mask), both (batch, longest prompt), padded on the left."""
    real = [[1] * len(prompt) for prompt in prompts]
    return padded(prompts, pad, left=True), padded(real, 0, left=True)


def in_common(prompts: list[list[int]]) -> list[int]:
    """Return how many tokens of each prompt another one begins with as well, but for its last."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    found = [0] * len(prompts)
    for one, other in pairwise(order):
        same = takewhile(lambda both: both[0] == both[1], zip(prompts[one], prompts[other], strict=False))
        length = sum(1 for _ in same)
        for place in (one, other):
            found[place] = max(found[place], min(length, len(prompts[place]) - 1))
    return found


def cuts(prompts: list[list[int]]) -> list[int]:
    """Return how many tokens of each prompt are to be read as its beginning: of the lengths tried, the cheapest.

    All are 0 where none is worth it.
    """
    common = in_common(prompts)
    lengths = sorted(set(common))
    tried = lengths[:: max(1, len(lengths) // TRIED)]

    def positions(found: list[int]) -> int:
        different = len({tuple(prompt[:cut]) for prompt, cut in zip(prompts, found, strict=True)})
        rest = max(len(prompt) - cut for prompt, cut in zip(prompts, found, strict=True))
        return different * max(found) + len(prompts) * rest

    best = min(([min(each, most) for each in common] for most in tried), key=positions)
    plain = len(prompts) * max(map(len, prompts))
    return best if min(best) > 0 and positions(best) < WORTH * plain else [0] * len(prompts)


def laid_out(prompts: list[list[int]], pad: int, device: torch.device, shared: bool) -> Layout:
    """Return prompts as one batch, in two blocks where they share enough at their beginning and `shared` allows it."""
    found = cuts(prompts) if shared else [0]
    if not any(found):
        return Layout(*(each.to(device) for each in left_padded(prompts, pad)))
    beginnings = [tuple(prompt[:cut]) for prompt, cut in zip(prompts, found, strict=True)]
    places = {beginning: place for place, beginning in enumerate(dict.fromkeys(beginnings))}
    blocks = [
        left_padded([prompt[:cut] for prompt, cut in zip(prompts, found, strict=True)], pad),
        left_padded([prompt[cut:] for prompt, cut in zip(prompts, found, strict=True)], pad),
    ]
    return Layout(
        *(torch.cat(each, 1).to(device) for each in zip(*blocks, strict=True)),
        blocks[0][0].shape[1],
        tuple(beginnings.index(beginning) for beginning in places),
        tuple(places[beginning] for beginning in beginnings),
    )


def told_of_positions(model: Any) -> bool:
    """Tell whether a model is told where its tokens stand: one that counts them itself counts padding, too."""
    counts = getattr(model.config.get_text_config(), "alibi", False)
    return "position_ids" in inspect.signature(model.forward).parameters and not counts


def read_beginnings(model: Any, layout: Layout, cache: Any, pad: int) -> None:
    """Read each beginning of a batch once into an empty cache, and hand its keys and values to all its prompts."""
    firsts = torch.tensor(layout.firsts, device=layout.ids.device)
    model.generate(
        layout.ids[firsts, : layout.columns],
        attention_mask=layout.mask[firsts, : layout.columns],
        past_key_values=cache,
        max_new_tokens=1,  # a token that nobody takes: what is read is kept by then
        do_sample=False,
        eos_token_id=None,
        pad_token_id=pad,
    )
    cache.batch_select_indices(torch.tensor(layout.groups, device=layout.ids.device))
