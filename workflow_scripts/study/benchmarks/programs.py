"""Benchmarks that run the programs a policy writes."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, FileName, Positive
from workflow_scripts.study.benchmarks.kind import Kind
from workflow_scripts.study.sampling import Sampling


class Programs(Kind, Sampling):
    """What benchmarks of model-written programs share."""

    scores = "answers"
    scorer_keys = ("file", "form", "k", "timeout_seconds", "memory_mb", "allow_unsandboxed", "workers")
    prompt_file = "file"
    files = ("file",)

    form: Literal["completion", "instruct"] = "completion"
    """completion: the prompt's text goes on, up to a stop string, as the papers have it. instruct: a user asks for the
    program through the policy's chat template, and it is taken from the answer's code block; longest answer then 1024
    tokens, if not set."""
    temperatures: list[Annotated[float, Field(ge=0)]] = []
    """Answer at each of these, and report the best beside; empty: at `temperature` alone."""
    limit: Count | None = None
    """Only the first so many problems."""
    k: list[Count] = [1]
    """pass@k for each k, at most samples."""
    timeout_seconds: Positive = 3.0
    """Time a program may run."""
    memory_mb: Count = 512
    """Memory a program may take."""
    workers: Count = 2
    """Programs that run at once."""
    allow_unsandboxed: bool = False
    """Run programs without a sandbox where the machine has none: a model's code can do what you can."""

    @model_validator(mode="after")
    def room_to_talk(self) -> "Programs":
        if self.form == "instruct" and "max_new_tokens" not in self.model_fields_set:
            self.max_new_tokens = 1024  # words and a whole program; a cut code block is a failed one
        return self


class HumanEval(Programs):
    """Unbiased pass@k on the 164 problems, the completions run in a sandbox."""

    scorer = "humaneval"
    prompt_kind = "humaneval"

    kind: Literal["humaneval"]
    source: str
    """The source of its file."""
    file: FileName = "HumanEval.jsonl"
    """Which of the source's files."""


class Mbpp(Programs):
    """Unbiased pass@k on MBPP's short tasks, the programs run in a sandbox."""

    scorer = "mbpp"
    prompt_kind = "mbpp"

    kind: Literal["mbpp"]
    source: str
    """The source of its file."""
    file: FileName
    """Which of the source's files: MBPP's own, its sanitised form, or the harness package's requests."""
    shots: list[Count] = []
    """Ids of the tasks shown with their solutions; they are not asked."""
