"""Answer prompts with transformers: batches of like length, the longest first.

An engine is a function (prompts as token ids, sampling, seed) → answers; `vllm_engine` is the other one. How a batch is
answered, and what its tokens say, is in `common.answering`.
"""

from collections.abc import Iterator
from typing import Any

import torch

from workflow_scripts.common.answering import Answer, Engine, answer_batch, refuse_unknown_tokens
from workflow_scripts.common.models import load_policy, model_ends, precision_of
from workflow_scripts.common.templates import ends_of


class TransformersEngine(Engine):
    """One loaded policy that answers any number of prompt sets."""

    def __init__(self, model: Any, tokenizer: Any, settings: dict) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = precision_of(settings["engine"]["precision"])
        self.tokenizer, self.ends = tokenizer, model_ends(model)
        self.model = load_policy(model, dtype, settings["trust_remote_code"]).to(device)

    def batches(
        self,
        prompts: list[list[int]],
        sampling: dict,
        end: str,
        seed: int,
        missing: list[bool],
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield (index of the prompt, answer) batch by batch, longest prompts first; the seed fixes every draw.

        A batch without an answer that is `missing` is left out; another is made whole, as its draws hang together. What
        is not drawn is answered once, however often it is asked. share (k, n): every n-th batch, from the k-th.
        """
        refuse_unknown_tokens(self.model, prompts)
        ends = ends_of(end, self.tokenizer, self.ends)
        drawn = sampling["temperature"] and sampling["beams"] == 1
        asked: dict[Any, list[int]] = {}
        for index, prompt in enumerate(prompts):
            asked.setdefault(index if drawn else tuple(prompt), []).append(index)
        order = sorted(asked.values(), key=lambda alike: (-len(prompts[alike[0]]), alike[0]))
        size = sampling["batch_size"]
        for number, start in enumerate(range(0, len(order), size)):
            batch = order[start : start + size]
            if number % share[1] != share[0] or not any(missing[index] for alike in batch for index in alike):
                continue
            torch.manual_seed(seed * 1_000_003 + number)
            answers = self.answer_batch([prompts[alike[0]] for alike in batch], sampling, ends)
            yield [(index, answer) for alike, answer in zip(batch, answers, strict=True) for index in alike]

    @torch.inference_mode()
    def answer_batch(self, prompts: list[list[int]], sampling: dict, ends: list[int]) -> list[Answer]:
        """Return the answers to prompts that are asked together."""
        return answer_batch(self.model, self.tokenizer, prompts, sampling, ends)
