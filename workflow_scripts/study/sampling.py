"""How answers are drawn, and how much of a prompt with its reply is read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, Positive, SomeShare, Strict, Words
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.part import Part

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Sampling(Part):
    """How answers are drawn; lengths in tokens."""

    in_training: ClassVar[bool] = False
    """They are drawn by the training itself, whatever the engine."""

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
    beams: Count = 1
    """Beams that are searched for the likeliest answer, which is greedy: with temperature 0, and not by vllm."""
    repetition_penalty: Positive = 1.0
    """Above 1: tokens that the prompt or the answer has already are made less likely (Keskar et al. 2019)."""
    samples: Count = 1
    """Answers per prompt."""
    batch_size: Count = 64
    """Prompts at once (vllm batches by itself)."""

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find answers that are to be longer than they may be, and beams that cannot be searched."""
        if self.min_new_tokens > self.max_new_tokens:
            yield wrong(
                f"{path}.min_new_tokens",
                f"{self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}",
            )
        if self.beams > 1 and study.engine.name == "vllm" and not self.in_training:
            yield wrong(
                f"{path}.beams",
                f"{self.beams}, and vLLM searches by beams without stop strings, ends of templates and "
                "repetition_penalty: set engine: {name: transformers}, or beams: 1",
            )

    @model_validator(mode="after")
    def beams_draw_nothing(self) -> "Sampling":
        if self.beams > 1 and (
            self.temperature > 0 or self.samples > 1 or getattr(self, "temperatures", None)
        ):
            raise ValueError(
                "beams are searched for one answer and draw nothing: give temperature 0 and samples 1"
            )
        return self

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
