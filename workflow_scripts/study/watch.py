"""What a run is watched by while it trains."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.common.answer_measures import MEASURES
from workflow_scripts.study.basics import Count, RepositoryPath
from workflow_scripts.study.datasets import without_labels
from workflow_scripts.study.findings import Finding
from workflow_scripts.study.messages import unknown
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import annotated_rows
from workflow_scripts.study.sampling import Sampling

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Watch(Sampling):
    """What a policy's answers are worth at every validation: a point of its curve, and what keep: best goes by."""

    in_training = True

    annotation: str | None = None
    """The annotation whose rewards its answers earn; of it or `dataset` one is named."""
    dataset: str | None = None
    """The dataset whose references its answers are measured against."""
    split: str
    """The split whose prompts it answers, of the annotation's dataset or of `dataset`; never one that is tested on."""
    metric: str
    """What is watched: final_reward or another column of the annotation; of a dataset meteor, coverage, density,
    distinct_1_per_answer (2, 3), words, or, of replies with labels, evaluation_accuracy, action_accuracy,
    state_accuracy, exact_labels."""
    best: Literal["max", "min"] = "max"
    """Which way is better."""
    limit: Count | None = 64
    """Answer only so many prompts, the first; null: all."""
    max_new_tokens: Count = 128
    """Longest answer."""
    shown: Annotated[int, Field(ge=0)] = 3
    """Of so many prompts, the first, the report shows what was answered at each validation."""
    wordnet: RepositoryPath | None = None
    """A folder with WordNet's dictionary files, for METEOR's synonyms; null: exact and stem matches only."""

    @model_validator(mode="after")
    def one_origin(self) -> "Watch":
        if bool(self.annotation) == bool(self.dataset):
            raise ValueError("names either an annotation, whose rewards are watched, or a dataset")
        if self.dataset and self.metric not in MEASURES:
            raise ValueError(f"metric: {unknown(self.metric, MEASURES, 'measure of an answer')}")
        return self

    def names(self, path: str, need: Names) -> None:
        """Need an annotation that can reward new answers and has the column, or a dataset; a split; a folder."""
        need.need_path(f"{path}.wordnet", self.wordnet)
        if self.annotation is None:
            need.need_rows(path, self.dataset or "", self.split)
            return
        need.need_answerable(path, self.annotation, self.split)
        if self.annotation in need.study.annotations:
            columns = ["final_reward", *need.study.annotations[self.annotation].rewards]
            need.need(f"{path}.metric", self.metric, columns, f"column of annotation {self.annotation!r}")

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find labels that are wanted of replies which have none."""
        yield from super().faults(path, study)
        if self.dataset and MEASURES[self.metric].labels:
            yield from without_labels(path, self.dataset, study)

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split whose prompts are answered."""
        if self.annotation is not None:
            return annotated_rows(study, self.annotation, self.split)
        return self.dataset or "", self.split
