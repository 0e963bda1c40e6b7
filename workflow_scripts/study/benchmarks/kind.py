"""What every kind of benchmark says of itself beside its keys: what it asks, who scores it, and who judges it.

These are facts of a class, no keys of a study. `plan` makes the jobs of a benchmark from them, `references` looks up
the names that must exist, `foresight` the cells a report may ask for. A new kind fills them in, and nothing else knows
it by name.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from workflow_scripts.study.benchmarks.cells import Cells
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import LongestRow, Part
from workflow_scripts.study.report import Report

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Kind(Part):
    """A kind of benchmark."""

    scores: ClassVar[Literal["answers", "likelihoods", "rewards", "model"]]
    """What its scorer reads: a policy's answers; likelihoods that `measured_by` took; rewards of answers; the model."""
    scorer: ClassVar[str]
    """The module that scores it, below workflow_scripts.score."""
    scorer_keys: ClassVar[tuple[str, ...]]
    """What the scorer is handed: keys, and `benchmark` (its name), `seed` (the study's first), `fidelity` (its own or
    the study's); of a key that names a file, the path."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose version alters its scores."""
    measured_by: ClassVar[str | None] = None
    """The module that takes the likelihoods which are scored, below workflow_scripts.score."""
    measured_keys: ClassVar[tuple[str, ...]] = ()
    """The keys that it is handed."""
    prompt_kind: ClassVar[str | None] = None
    """How generate.prompts reads its prompts; None: nothing is answered."""
    prompt_file: ClassVar[str | None] = None
    """The key that names the file of its prompts; None: they are turns of the split of a dataset."""
    files: ClassVar[tuple[str, ...]] = ()
    """The keys that name files: of its source, or of the repository where it has none."""
    asks: ClassVar[tuple[str, ...] | None] = None
    """The keys that its judge is handed; None: it has no judge."""
    asks_in_words: ClassVar[tuple[str, ...]] = ()
    """Of its keys, those that only a judge which reads words can be handed."""
    each_once: ClassVar[tuple[str, ...]] = ()
    """The keys that are lists in which nothing may stand twice."""
    shows_training: ClassVar[bool] = False
    """It may look at what was learned: memorisation, overfitting."""
    fidelity_alters: ClassVar[tuple[str, ...]] = ()
    """The metrics that published programs take otherwise than their papers: `fidelity` decides."""
    counts_in_suite: ClassVar[bool] = False
    """Its pass@1 may count as a row of a suite of the harness's tasks."""

    @abstractmethod
    def cells(self, study: "Study") -> Cells | None:
        """Return the cells of results.csv that it can have; None where only the harness's tasks tell."""

    def is_judged(self) -> bool:
        """Tell whether its answers go before a judge."""
        return self.asks is not None

    def asks_raw_text(self) -> bool:
        """Tell whether its prompts are texts to go on from, not messages to be answered."""
        return False

    def opponent_in(self, report: Report) -> str | None:
        """Return the policy whose answers each policy's are compared with, if there is one."""
        return None

    def item_file(self) -> tuple[str | None, str] | None:
        """Return (source, file) of what it asks, if that is a file; without a source, a file of the repository."""
        return (self.source, getattr(self, self.prompt_file)) if self.prompt_file else None


class OnSplit(Kind):
    """What benchmarks on a split of a dataset share."""

    def names(self, path: str, need: Names) -> None:
        """Need the split."""
        need.need_rows(path, self.dataset, self.split)

    def rows(self, study: "Study") -> tuple[str, str]:
        """Return the split."""
        return self.dataset, self.split


class OnFile(Kind):
    """What benchmarks share whose items stand in files."""

    def names(self, path: str, need: Names) -> None:
        """Need the files: of its source, or, where it names none, of the repository."""
        need.need_files(path, self)


class Judged(Kind):
    """What benchmarks whose answers go before a judge share."""

    def names(self, path: str, need: Names) -> None:
        """Need a judge that can do what is asked: only one that reads words can be handed words."""
        need.need(f"{path}.judge", self.judge, need.study.judges, "judge")
        judge = need.study.judges.get(self.judge)
        for key in self.asks_in_words:
            if getattr(self, key) and judge is not None and not judge.reads_words:
                need.refuse(f"{path}.judge", f"{key} needs a judge of kind openai, not {judge.kind}")
        super().names(path, need)


class Measured(Kind):
    """What benchmarks share that read a policy's likelihoods."""

    def longest_row(self) -> LongestRow:
        """Return the longest prompt with reply."""
        return LongestRow("max_tokens", self.max_tokens)
