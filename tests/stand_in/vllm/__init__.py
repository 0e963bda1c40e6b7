"""As much of vLLM as a training asks of it, by transformers: for machines where the real one is not set up.

It draws from the same distribution by numbers of its own. STAND_IN_VLLM in the environment: "stale" forgets to read
weights again, "ends" ends the process at its third batch.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

__version__ = "0.0.0"  # a stand-in


class SamplingParams(SimpleNamespace):
    """How an answer is drawn."""


class TokensPrompt(SimpleNamespace):
    """A prompt as token ids."""


class LLM:
    """A policy that answers prompts."""

    def __init__(self, model: str, dtype: str, **_: Any) -> None:
        self.folder, self.dtype, self.batches = Path(model), getattr(torch, dtype), 0
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(dtype=self.dtype))
        self.model = None  # nothing is read before it is told to

    def read(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype).eval()

    def collective_rpc(self, method: Any, args: tuple = (), kwargs: dict | None = None) -> list:
        if callable(method) or method == "update_config":
            return [["STAND_IN"]]
        assert method == "reload_weights" and Path(kwargs["weights_path"]) == self.folder
        if self.model is None or os.environ.get("STAND_IN_VLLM") != "stale":
            self.read()
        return [None]

    def reset_prefix_cache(self) -> None:
        self.batches += 1
        if self.batches == 3 and os.environ.get("STAND_IN_VLLM") == "ends":
            os._exit(7)

    @torch.no_grad()
    def generate(self, prompts: list, requests: list, use_tqdm: bool) -> list:
        return [
            self.answer(prompt.prompt_token_ids, asked)
            for prompt, asked in zip(prompts, requests, strict=True)
        ]

    def answer(self, prompt: list[int], asked: SamplingParams) -> SimpleNamespace:
        own, tokens, told = torch.Generator().manual_seed(asked.seed), [], []
        while len(tokens) < asked.max_tokens and not (tokens and tokens[-1] in asked.stop_token_ids):
            logits = self.model(torch.tensor([prompt + tokens])).logits[0, -1].float() / asked.temperature
            shares, order = logits.softmax(-1).sort(descending=True)
            kept = shares * (shares.cumsum(-1) - shares < asked.top_p)
            token = int(order[torch.multinomial(kept, 1, generator=own)])
            tokens.append(token)
            told.append({token: SimpleNamespace(logprob=float(logits.log_softmax(-1)[token]))})
        reason = "stop" if tokens[-1] in asked.stop_token_ids else "length"
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=tokens, logprobs=told, finish_reason=reason)]
        )
