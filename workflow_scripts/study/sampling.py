"""How answers are drawn, and how much of a prompt with its reply is read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, SomeShare, Strict, Words
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.part import Part

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Sampling(Part):
    """How answers are drawn; lengths in tokens."""

    max_new_tokens: Count = 512
    """Longest answer."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Shortest answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    top_p: SomeShare = 1.0
    """Nucleus of the distribution that is drawn from."""
    stop: list[Words] = []
    """An answer also ends before the first of these texts, which is left out."""
    samples: Count = 1
    """Answers per prompt."""
    batch_size: Count = 64
    """Prompts at once (vllm batches by itself)."""

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find answers that are to be longer than they may be."""
        if self.min_new_tokens > self.max_new_tokens:
            yield wrong(
                f"{path}.min_new_tokens",
                f"{self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}",
            )

    def longest_answer(self) -> int | None:
        """Return the most tokens of an answer."""
        return self.max_new_tokens


class PromptAndReply(Strict):
    """How much of a prompt with its reply is read: all of it, where it fits."""

    max_prompt_tokens: Count = 768
    """Where a prompt with its reply is longer than max_tokens: what the prompt is cut to. It loses its oldest turns,
    and keeps the system message; the reply has the rest."""
    max_tokens: Count = 1024
    """Longest prompt with reply."""

    @model_validator(mode="after")
    def room_for_replies(self) -> "PromptAndReply":
        if self.max_tokens <= self.max_prompt_tokens:
            raise ValueError("max_tokens must exceed max_prompt_tokens, the rest is for the reply")
        return self
