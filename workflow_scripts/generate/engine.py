"""Answer prompts with transformers: batches sorted by length, left-padded, stopped at the turn's end.

An engine is a function (prompts as token ids, sampling, seed) → answers; `vllm_engine` is the other one.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from transformers import StoppingCriteria

from workflow_scripts.common.models import load_policy, precision_of


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


def end_tokens(tokenizer: Any, end: str) -> list[int]:
    """Return the ids that end a reply: the tokenizer's eos and, when it is one token, the template's own end."""
    identities = {tokenizer.eos_token_id}
    own = tokenizer.convert_tokens_to_ids(end) if end else None
    if own is not None and own != tokenizer.unk_token_id:
        identities.add(own)
    return sorted(identities)


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

    TAIL = 16  # tokens; a stop string is no longer than these

    def __init__(self, tokenizer: Any, stops: list[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        tails = self.tokenizer.batch_decode(
            input_ids[:, self.start :][:, -self.TAIL :], skip_special_tokens=True
        )
        done = [any(stop in tail for stop in self.stops) for tail in tails]
        return torch.tensor(done, device=input_ids.device)


class TransformersEngine:
    """One loaded policy that answers any number of prompt sets."""

    def __init__(self, model: Any, tokenizer: Any, settings: dict, trust_remote_code: bool) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = tokenizer
        self.model = load_policy(model, precision_of(settings["precision"]), trust_remote_code).to(device)

    def answer(
        self, prompts: list[list[int]], sampling: dict, end: str, seed: int
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the prompt, answer) batch by batch, longest prompts first; the seed fixes every draw."""
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        size = sampling["batch_size"]
        for number, start in enumerate(range(0, len(order), size)):
            batch = order[start : start + size]
            torch.manual_seed(seed * 1_000_003 + number)
            yield from zip(batch, self.answer_batch([prompts[i] for i in batch], sampling, end), strict=True)

    @torch.inference_mode()
    def answer_batch(self, prompts: list[list[int]], sampling: dict, end: str) -> list[Answer]:
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
        enders = end_tokens(self.tokenizer, end)
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
        answers = []
        for prompt, row in zip(prompts, output[:, ids.shape[1] :].tolist(), strict=True):
            ended = next((place for place, token in enumerate(row) if token in enders), None)
            kept = row if ended is None else row[:ended]
            while sampling["stop"] and kept and kept[-1] == self.tokenizer.pad_token_id:
                kept.pop()  # stopped by a string, then padded to the longest answer of the batch
            text, stopped = cut_at(self.tokenizer.decode(kept, skip_special_tokens=True), sampling["stop"])
            made = len(kept) + (ended is not None and not stopped)
            reason = "stop" if stopped or ended is not None or made < sampling["max_new_tokens"] else "length"
            answers.append(Answer(text, reason, len(prompt), made))
        return answers
