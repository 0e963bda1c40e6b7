"""Tasks of the lm-evaluation-harness."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, Fidelity, FileName, RepositoryPath, Strict
from workflow_scripts.study.benchmarks.kind import OnFile
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.names import Names

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Task(Strict):
    """One task of the harness with settings of its own."""

    task: str
    """Its name, or a group's."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples in the prompt; null: the benchmark's, else the task's own number."""
    metrics: list[str] | None = None
    """Keep only these metrics; null: all."""


class LmEval(OnFile):
    """Tasks of the lm-evaluation-harness, all with one load of the model."""

    scores = "model"
    scorer = "harness.run"
    scorer_keys = ()
    files = ("package_file",)
    fidelity_alters = ("mean of groups",)

    kind: Literal["lm_eval"]
    tasks: list[str | Task] = []
    """Their names, or names with settings."""
    suite: Literal["instruction_modelling"] | None = None
    """A published group of tasks with its few-shot counts: each row, the mean of each group, the mean of the groups."""
    humaneval: str | None = None
    """suite: the humaneval benchmark of this study that counts in it; null: its row is left out, and a note says so."""
    source: str | None = None
    """A source with the rows of the tasks in one package (package_file); null: the model hub, or include_path."""
    package_file: FileName | None = None
    """Which of the source's files is the package."""
    include_path: RepositoryPath | None = None
    """A folder with task files of one's own, relative to the repository."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples in the prompt; null: the task's own number."""
    limit: Count | None = None
    """Only the first so many items of each task."""
    batch_size: Count = 16
    """Items at once."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """What the model computes in."""
    apply_chat_template: bool = False
    """Wrap the prompts in the policy's own template, as it is saved beside its tokenizer."""
    fidelity: Fidelity | None = None
    """Null: the study's. code: the suite's mean takes an error rate as the published one does."""

    def names(self, path: str, need: Names) -> None:
        """Need its folder of tasks, its package, and the benchmark that counts in its suite."""
        super().names(path, need)
        need.need_path(f"{path}.include_path", self.include_path)
        coded = [name for name, other in need.study.benchmarks.items() if other.counts_in_suite]
        need.need(f"{path}.humaneval", self.humaneval, coded, "humaneval benchmark")

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find a benchmark that is to count in its suite without the number that counts."""
        counted = study.benchmarks.get(self.humaneval)
        if counted and counted.counts_in_suite and 1 not in counted.k:
            yield wrong(f"benchmarks.{self.humaneval}.k", f"{path} counts its pass@1: add 1")

    def cells(self, study: "Study") -> None:
        """Return None: only the harness's tasks tell."""

    @model_validator(mode="after")
    def something_to_do(self) -> "LmEval":
        if not self.tasks and not self.suite:
            raise ValueError("needs tasks or suite")
        if self.humaneval and not self.suite:
            raise ValueError("humaneval counts in a suite, and there is none")
        if bool(self.source) != bool(self.package_file) or (self.source and self.include_path):
            raise ValueError("source and package_file go together, and not with include_path")
        return self
