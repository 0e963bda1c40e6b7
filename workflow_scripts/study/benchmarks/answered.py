"""Benchmarks that score answers by themselves, without a judge and without running them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from workflow_scripts.common.constraints import FAMILIES
from workflow_scripts.study.basics import Count, Fidelity, RepositoryPath
from workflow_scripts.study.benchmarks.cells import Cells, across
from workflow_scripts.study.benchmarks.kind import Kind, OnFile, OnSplit
from workflow_scripts.study.datasets import without_labels
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import annotated_rows
from workflow_scripts.study.sampling import Sampling

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study

PER_ANSWER = [f"distinct_{n}_per_answer" for n in (1, 2, 3)]
PER_CORPUS = [f"distinct_{n}" for n in (1, 2, 3)]


class Tutor(OnSplit, Sampling):
    """Accuracy and macro-F1 of the three label fields on a split's tutor turns."""

    scores = "answers"
    scorer = "tutor"
    scorer_keys = ("skip_first_turn", "fidelity")
    prompt_kind = "turns"
    fidelity_alters = ("macro_f1",)

    kind: Literal["tutor"]
    dataset: str
    """The dataset."""
    split: str
    """The split that is answered."""
    limit: Count | None = None
    """Answer only so many turns."""
    skip_first_turn: bool = True
    """Leave out each conversation's first tutor turn, whose labels are always the same."""
    fidelity: Fidelity | None = None
    """Null: the study's."""

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find more than one answer to score, and replies without labels."""
        yield from super().faults(path, study)
        if self.samples > 1:
            yield wrong(f"{path}.samples", f"the tutor is scored on one answer, not {self.samples}")
        yield from without_labels(path, self.dataset, study)

    def cells(self, study: "Study") -> Cells:
        """Return the labels' measures, and how well-formed the replies are."""
        labels = across(["evaluation", "action", "state"], ["accuracy", "macro_f1"])
        return Cells(
            [*labels, *across(["reply"], ["exact_labels", "give_away", "valid_json", "parsed", "finished"])]
        )


class TextOverlap(OnSplit, Sampling):
    """How answers to a split share words with the reference and with what the prompt gives; how varied they are."""

    scores = "answers"
    scorer = "text_overlap"
    scorer_keys = ("metrics", "wordnet", "benchmark")
    packages = ("sacrebleu", "nltk")
    prompt_kind = "turns"
    each_once = ("metrics",)
    shows_training = True

    kind: Literal["text_overlap"]
    dataset: str
    """The dataset."""
    split: str
    """The split that is answered; a training split shows memorisation."""
    metrics: list[Literal["bleu", "meteor", "coverage", "density", "distinct", "length"]] = Field(
        min_length=1
    )
    """Which measures."""
    wordnet: RepositoryPath | None = None
    """A folder with WordNet's dictionary files, for METEOR's synonyms; null: exact and stem matches only."""
    limit: Count | None = None
    """Answer only so many prompts."""

    def names(self, path: str, need: Names) -> None:
        """Need the split, and the folder of WordNet."""
        super().names(path, need)
        need.need_path(f"{path}.wordnet", self.wordnet)

    def cells(self, study: "Study") -> Cells:
        """Return what each of its metrics is called."""
        more = {"distinct": [*PER_ANSWER, *PER_CORPUS], "length": ["words", "tokens"]}
        more["meteor"] = ["meteor" if self.wordnet else "meteor_exact_stem"]  # as its scorer calls it
        return Cells(across(["all"], [name for key in self.metrics for name in more.get(key, [key])]))


class Rewards(Kind, Sampling):
    """What an annotation's rewards say about a policy's answers to a split, their length and their variety."""

    scores = "rewards"
    scorer = "reward_scores"
    scorer_keys = ("benchmark",)
    prompt_kind = "turns"

    kind: Literal["rewards"]
    annotation: str
    """The annotation whose rewards they are."""
    split: str
    """The split of its dataset that is answered."""
    limit: Count | None = None
    """Answer only so many prompts."""

    def names(self, path: str, need: Names) -> None:
        """Need an annotation that can reward new answers, and a split of its dataset."""
        need.need_answerable(path, self.annotation, self.split)

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split that is answered."""
        return annotated_rows(study, self.annotation, self.split)

    def cells(self, study: "Study") -> Cells:
        """Return each reward, their sum, and how long and varied the answers are."""
        annotation = study.annotations.get(self.annotation)
        columns = [*(annotation.rewards if annotation else []), "final_reward"]
        return Cells([*across(columns, ["reward"]), *across(["text"], ["words", *PER_ANSWER])])


class RuleChecks(OnFile, Sampling):
    """Whether answers keep to the form that prompts ask for: words, sections, lists, required and forbidden words."""

    scores = "answers"
    scorer = "rule_checks"
    scorer_keys = ("benchmark",)
    prompt_kind = "rule_checks"
    prompt_file = "file"
    files = ("file",)

    kind: Literal["rule_checks"]
    file: RepositoryPath
    """The file of prompts with constraints (docs/evaluation.md): relative to the repository, or a file of `source`."""
    source: str | None = None
    """The source of its file."""
    limit: Count | None = None
    """Only the first so many prompts."""

    def cells(self, study: "Study") -> Cells:
        """Return the shares of prompts and of constraints, these by family as well."""
        prompts = ["prompt_strict", "prompt_loose", "finished"]
        constraints = across(["all", *FAMILIES], ["instruction_strict", "instruction_loose"])
        return Cells([*across(["all"], prompts), *constraints])


AnsweredKind = Tutor | TextOverlap | Rewards | RuleChecks
