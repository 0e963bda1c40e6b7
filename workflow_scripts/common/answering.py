"""Answering prompts with a policy in memory, batch by batch; and what tokens say as an answer, whoever made them.

Greedy, drawn, or by beams, as a set's sampling says; left-padded, stopped at the turn's end. What ends an answer, its
text and its length are read off its tokens here, the same way for every engine and for a training that looks at itself.
Not covered: beams that are drawn, and groups of diverse beams.
"""

import bisect
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, RepetitionPenaltyLogitsProcessor, StoppingCriteria
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from workflow_scripts.common.beginnings import laid_out, read_beginnings, told_of_positions
from workflow_scripts.common.decoding import CONTEXT, reply_text
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.leaving import ROUND, Drawn, Ended, keeps_all_tokens, roomy_cache

SPECIAL_AMONG = 8  # special tokens, which say nothing, that may stand among those of a stop string


class Answer(NamedTuple):
    """One answer: its text without the end token, why it ended, and its length in tokens."""

    text: str
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int
    completion_tokens: int


class Engine:
    """What answers prompts: one loaded policy."""

    def batches(self, *asked: Any) -> Iterator[list[tuple[int, Answer]]]:
        """Yield batch by batch (index of the prompt, answer): `asked` is what the engine's own method names."""
        raise NotImplementedError

    def answer(self, *asked: Any) -> Iterator[tuple[int, Answer]]:
        """Yield what `batches` does one by one."""
        return chain.from_iterable(self.batches(*asked))

    def until(self, enough: Callable[[float], bool], *asked: Any) -> Iterator[list[tuple[int, Answer]]]:
        """Yield what `batches` does; after each, `enough` is told the seconds it took and says whether to end."""
        began = time.monotonic()
        for batch in self.batches(*asked):
            seconds = time.monotonic() - began
            yield batch
            if enough(seconds):
                return
            began = time.monotonic()


def cut_at(text: str, stops: list[str]) -> tuple[str, bool]:
    """Return the text up to the first stop string, and whether there was one."""
    places = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(places)], True) if places else (text, False)


def answer_of(
    tokenizer: Any, prompt: list[int], tokens: list[int], enders: list[int], sampling: dict
) -> Answer:
    """Return the answer that tokens spell, which end at the first of `enders` or stop string, or go on past it.

    It counts the end token, or all tokens up to the one that completes the stop string.
    """
    ended = next((place for place, token in enumerate(tokens) if token in enders), None)
    kept, stops = tokens[:ended], sampling["stop"]

    def cut(count: int) -> tuple[str, bool]:
        return cut_at(reply_text(tokenizer, prompt, kept[:count]), stops)

    text, stopped = cut(len(kept))
    if stopped:
        made = bisect.bisect_left(range(len(kept)), True, key=lambda count: cut(count)[1])
    else:
        made = len(kept) + (ended is not None)
    finished = stopped or ended is not None or made < sampling["max_new_tokens"]
    return Answer(text, "stop" if finished else "length", len(prompt), made)


class StopsAt(StoppingCriteria):
    """Ends an answer once its last tokens spell a stop string.

    The library's own `stop_strings` matches against the whole vocabulary, which costs a small model more than it does.
    """

    def __init__(self, tokenizer: Any, stops: list[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start
        # A token says at least a byte of it, but for special ones that may be among them.
        self.tail = max(len(stop.encode()) for stop in stops) + SPECIAL_AMONG

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        first = max(self.start, input_ids.shape[1] - self.tail)
        rows = input_ids[:, max(0, first - CONTEXT) :].tolist()
        border = min(first, CONTEXT)
        tails = [reply_text(self.tokenizer, row[:border], row[border:]) for row in rows]
        done = [any(stop in tail for stop in self.stops) for tail in tails]
        return torch.tensor(done, device=input_ids.device)


def stopping_at(tokenizer: Any, stops: list[str], start: int) -> list[StoppingCriteria]:
    """Return what ends answers that begin at token `start` at stop strings: nothing where there are none."""
    return [StopsAt(tokenizer, stops, start)] if stops else []


class PenaltyOnWords(LogitsProcessor):
    """Divides the chances of tokens that the prompt or the answer has already (Keskar et al. 2019, section 4.1).

    The library's own would count a row's padding as said: where that is the end token, as GPT-2 has it, a row could not
    end, but for the longest of its batch.
    """

    def __init__(self, penalty: float, mask: torch.Tensor) -> None:
        self.penalty, self.mask = RepetitionPenaltyLogitsProcessor(penalty), mask

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        beams = len(input_ids) // len(self.mask)
        real = self.mask.repeat_interleave(beams, 0).bool()
        said, last = input_ids.clone(), real.shape[1] - 1  # the last token of a prompt is never padding
        said[:, : real.shape[1]] = torch.where(real, said[:, : real.shape[1]], said[:, last : last + 1])
        return self.penalty(said, scores)


def scorers(sampling: dict, mask: torch.Tensor, draw: Drawn) -> list[LogitsProcessor]:
    """Return what a batch's next tokens are chosen by, in the order of transformers' `generate`."""
    penalty, warmth, share = (sampling[name] for name in ("repetition_penalty", "temperature", "top_p"))
    found: list[LogitsProcessor] = [PenaltyOnWords(penalty, mask)] if penalty != 1 else []
    if warmth and sampling["beams"] == 1:
        found += [TemperatureLogitsWarper(warmth)] if warmth != 1 else []
        found += [TopPLogitsWarper(share)] if share < 1 else []
        found.append(draw)
    return found


def refuse_unknown_tokens(model: Any, prompts: list[list[int]]) -> None:
    """Raise PlumblineError where a prompt has tokens that a model's embedding does not hold."""
    known = model.get_input_embeddings().num_embeddings
    if any(token >= known for prompt in prompts for token in prompt):
        raise PlumblineError(
            f"a prompt has tokens that the model does not know (it knows {known}): its tokenizer or the template "
            "has more than it was made with; choose a template without them, or a model whose embedding holds them"
        )


def tokens_made(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    sampling: dict,
    ends: list[int],
    synced: bool,
) -> list[list[int]]:
    """Return the tokens that follow prompts, made round by round; what ended may be followed by padding."""
    most, pad = sampling["max_new_tokens"], tokenizer.pad_token_id
    rounds = not synced and sampling["beams"] == 1 and keeps_all_tokens(model)
    layout = laid_out(prompts, pad, model.device, shared=rounds and told_of_positions(model))
    ids, mask, asked = layout.ids, layout.mask, layout.mask
    width = ids.shape[1]
    cache = roomy_cache(model, width + most) if rounds else None
    if layout.columns:
        read_beginnings(model, layout, cache, pad)
    draw = Drawn(len(ids))
    made: list[list[int]] = [[] for _ in range(len(ids))]
    for first in range(0, most, ROUND if rounds else most):
        count = min(ROUND, most - first) if rounds else most
        stops = stopping_at(tokenizer, sampling["stop"], width)
        ended = Ended(stops, len(ids), ids.device) if rounds else None
        output = model.generate(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=count,
            min_new_tokens=min(count, max(0, sampling["min_new_tokens"] - first)) or None,
            eos_token_id=ends,
            pad_token_id=pad,
            stopping_criteria=[ended] if ended else stops,
            logits_processor=scorers(sampling, asked, draw),
            synced_gpus=synced,
            do_sample=False,
            num_beams=sampling["beams"],
        )
        new = output[:, ids.shape[1] :]
        for row, tokens in zip(draw.rows.tolist(), new.tolist(), strict=True):
            made[row] += tokens
        if ended is None:
            break
        goes_on = ~(ended.rows | torch.isin(new, new.new_tensor(ends)).any(1))
        if not goes_on.any():
            break
        ids, mask = output, torch.cat([mask, torch.ones_like(new)], 1)
        if not goes_on.all():
            ids, mask, asked = ids[goes_on], mask[goes_on], asked[goes_on]
            draw.rows = draw.rows[goes_on.cpu()]
            cache.batch_select_indices(goes_on.nonzero()[:, 0])
    return made


@torch.no_grad()
def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    sampling: dict,
    ends: list[int],
    synced: bool = False,
) -> list[Answer]:
    """Return a model's answers to prompts, token ids; it says how they are drawn, not the model's own settings.

    sampling: max_new_tokens, min_new_tokens, temperature (0: greedy), top_p, beams, repetition_penalty, stop; ends: the
    ids that end an answer. `synced`: other processes hold parts of the weights, and pass as often as the one whose
    answers are the longest.
    """
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        made = tokens_made(model, tokenizer, prompts, sampling, ends, synced)
    finally:
        model.generation_config = own
    return [
        answer_of(tokenizer, prompt, tokens, ends, sampling)
        for prompt, tokens in zip(prompts, made, strict=True)
    ]
