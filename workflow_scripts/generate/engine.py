"""Answer prompts with transformers: batches sorted by length, left-padded, stopped at the turn's end.

An engine is a function (prompts as token ids, sampling, seed) → answers; `vllm_engine` is the other one. What ends an
answer, its text and its length are read off its tokens here, the same way for both.
"""

import bisect
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, StoppingCriteria

from workflow_scripts.common.decoding import CONTEXT, reply_text
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_policy, model_ends, precision_of
from workflow_scripts.common.templates import ends_of

SPECIAL_AMONG = 8  # special tokens, which say nothing, that may stand among those of a stop string


class Answer(NamedTuple):
    """One answer: its text without the end token, why it ended, and its length in tokens."""

    text: str
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int
    completion_tokens: int


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


def left_padded(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (ids, attention mask), both (batch, longest prompt), padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


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


class TransformersEngine:
    """One loaded policy that answers any number of prompt sets."""

    def __init__(self, model: Any, tokenizer: Any, settings: dict) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = precision_of(settings["engine"]["precision"])
        self.tokenizer, self.ends = tokenizer, model_ends(model)
        self.model = load_policy(model, dtype, settings["trust_remote_code"]).to(device)
        # The study says how answers are drawn: not a repetition penalty, say, that a base model brings along.
        self.model.generation_config = GenerationConfig()

    def answer(
        self, prompts: list[list[int]], sampling: dict, end: str, seed: int, missing: list[bool]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the prompt, answer) batch by batch, longest prompts first; the seed fixes every draw.

        A batch without an answer that is `missing` is left out; another is made whole, as its draws hang together.
        """
        known = self.model.get_input_embeddings().num_embeddings
        if any(token >= known for prompt in prompts for token in prompt):
            raise PlumblineError(
                f"a prompt has tokens that the model does not know (it knows {known}): its tokenizer or the template "
                "has more than it was made with; choose a template without them, or a model whose embedding holds them"
            )
        enders = ends_of(end, self.tokenizer, self.ends)
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        size = sampling["batch_size"]
        for number, start in enumerate(range(0, len(order), size)):
            batch = order[start : start + size]
            if not any(missing[index] for index in batch):
                continue
            torch.manual_seed(seed * 1_000_003 + number)
            answers = self.answer_batch([prompts[i] for i in batch], sampling, enders)
            yield from zip(batch, answers, strict=True)

    @torch.inference_mode()
    def answer_batch(self, prompts: list[list[int]], sampling: dict, enders: list[int]) -> list[Answer]:
        ids, mask = left_padded(prompts, self.tokenizer.pad_token_id)
        drawn = {"do_sample": False}
        if sampling["temperature"] > 0:
            drawn = {
                "do_sample": True,
                "temperature": sampling["temperature"],
                "top_p": sampling["top_p"],
                "top_k": 0,
            }
        stopping = []
        if sampling["stop"]:
            stopping = [StopsAt(self.tokenizer, sampling["stop"], ids.shape[1])]
        output = self.model.generate(
            ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=sampling["max_new_tokens"],
            min_new_tokens=sampling["min_new_tokens"] or None,
            eos_token_id=enders,
            pad_token_id=self.tokenizer.pad_token_id,
            stopping_criteria=stopping,
            **drawn,
        )
        made = output[:, ids.shape[1] :].tolist()
        return [
            answer_of(self.tokenizer, prompt, tokens, enders, sampling)
            for prompt, tokens in zip(prompts, made, strict=True)
        ]
