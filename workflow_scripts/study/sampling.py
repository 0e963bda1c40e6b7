"""How answers are drawn, and how much of a prompt with its reply is read."""

from typing import Annotated

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, SomeShare, Strict


class Sampling(Strict):
    """How answers are drawn; lengths in tokens."""

    max_new_tokens: Count = 512
    """Longest answer."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Shortest answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    top_p: SomeShare = 1.0
    """Nucleus of the distribution that is drawn from."""
    samples: Count = 1
    """Answers per prompt."""
    batch_size: Count = 64
    """Prompts at once (vllm batches by itself)."""


class PromptAndReply(Strict):
    """How much of a prompt with its reply is read: all of it, where it fits."""

    max_prompt_tokens: Count = 768
    """Where a prompt with its reply is longer than max_tokens: what the prompt is cut to. It loses its oldest turns, and
    keeps the system message; the reply has the rest."""
    max_tokens: Count = 1024
    """Longest prompt with reply."""

    @model_validator(mode="after")
    def room_for_replies(self) -> "PromptAndReply":
        if self.max_tokens <= self.max_prompt_tokens:
            raise ValueError("max_tokens must exceed max_prompt_tokens, the rest is for the reply")
        return self
