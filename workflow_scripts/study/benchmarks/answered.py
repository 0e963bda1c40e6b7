"""Benchmarks that score answers to a dataset's split by themselves."""

from typing import Literal

from pydantic import Field

from workflow_scripts.study.basics import Count, Fidelity, RepositoryPath
from workflow_scripts.study.benchmarks.kind import Kind
from workflow_scripts.study.sampling import Sampling


class Tutor(Kind, Sampling):
    """Accuracy and macro-F1 of the three label fields on a split's tutor turns."""

    scores = "answers"
    scorer = "tutor"
    scorer_keys = ("skip_first_turn", "fidelity")
    prompt_kind = "turns"

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


class TextOverlap(Kind, Sampling):
    """How answers to a split share words with the reference and with what the prompt gives; how varied they are."""

    scores = "answers"
    scorer = "text_overlap"
    scorer_keys = ("metrics", "wordnet", "benchmark")
    packages = ("sacrebleu", "nltk")
    prompt_kind = "turns"

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
