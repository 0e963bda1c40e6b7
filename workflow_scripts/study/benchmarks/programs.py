"""Benchmarks that run the programs a policy writes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, FileName, Positive
from workflow_scripts.study.benchmarks.cells import Cells, across
from workflow_scripts.study.benchmarks.kind import OnFile
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.sampling import Sampling

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Programs(OnFile, Sampling):
    """What benchmarks of model-written programs share."""

    scores = "answers"
    scorer_keys = ("file", "form", "k", "timeout_seconds", "memory_mb", "allow_unsandboxed", "workers")
    prompt_file = "file"
    files = ("file",)
    each_once = ("k", "temperatures")

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

    def asks_raw_text(self) -> bool:
        """Tell whether its prompts are programs to go on with."""
        return self.form == "completion"

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find more tries to count than there are, none at all, and tries that are all alike."""
        yield from super().faults(path, study)
        if max(self.k, default=1) > self.samples:
            yield wrong(
                f"{path}.k", f"pass@{max(self.k)} needs as many samples, and there are {self.samples}"
            )
        if not self.k:
            yield wrong(f"{path}.k", "names no k, so nothing would be scored")
        if self.samples > 1 and 0.0 in (self.temperatures or [self.temperature]):
            yield doubt(f"{path}.samples", "at temperature 0 all samples of a prompt are alike")

    def cells(self, study: "Study") -> Cells:
        """Return each pass@k, at each temperature and the best of them, where there are several."""
        several = len(set(self.temperatures)) > 1
        subsets = [*(f"T={at:g}" for at in self.temperatures), "best"] if several else ["all"]
        return Cells(across(subsets, [f"pass@{k}" for k in self.k]))

    @model_validator(mode="after")
    def room_to_talk(self) -> "Programs":
        if self.form == "instruct" and "max_new_tokens" not in self.model_fields_set:
            self.max_new_tokens = 1024  # words and a whole program; a cut code block is a failed one
        return self


class HumanEval(Programs):
    """Unbiased pass@k on the 164 problems, the completions run in a sandbox."""

    scorer = "humaneval"
    prompt_kind = "humaneval"
    counts_in_suite = True

    kind: Literal["humaneval"]
    source: str
    """The source of its file."""
    file: FileName = "HumanEval.jsonl"
    """Which of the source's files."""


class Mbpp(Programs):
    """Unbiased pass@k on MBPP's short tasks, the programs run in a sandbox."""

    scorer = "mbpp"
    prompt_kind = "mbpp"
    each_once = (*Programs.each_once, "shots")

    kind: Literal["mbpp"]
    source: str
    """The source of its file."""
    file: FileName
    """Which of the source's files: MBPP's own, its sanitised form, or the harness package's requests."""
    shots: list[Count] = []
    """Ids of the tasks shown with their solutions; they are not asked."""


ProgramsKind = HumanEval | Mbpp
