"""`pairs` and `values`: what runs learn from besides datasets."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from workflow_scripts.study.basics import Count, Fidelity, PartShare, Positive, Seed
from workflow_scripts.study.benchmarks.judged import faults_of_prompt
from workflow_scripts.study.datasets import (
    RANKED,
    STRUCTURED,
    UNORDERED,
    UNREWARDED,
    schemas_of,
    without_labels,
)
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.functions import fault_of_function
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import LongestRow, Part, annotated_rows
from workflow_scripts.study.sampling import PromptAndReply, Sampling

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


SEVERAL = tuple(schema for schema in RANKED if schema not in UNREWARDED)  # whose rows bring several answers


class PairsKind(PromptAndReply, Part):
    """What all kinds of pairs share."""

    def longest_row(self) -> LongestRow:
        """Return the longest prompt with reply."""
        return LongestRow("max_tokens", self.max_tokens)

    def most_pairs(self) -> int | None:
        """Return how many pairs there are at most; None where only the data tell."""
        return None


class SaidPairs(PairsKind):
    """What kinds of pairs share that say what they are made from."""

    from_: Literal["given", "mistakes", "samples"] | None = Field(None, alias="from")
    """What the answers are. given: those the rows came with, chosen and rejected; mistakes: the parent's own structured
    replies, against the reference; samples: several of the parent's own answers to each prompt, ranked by a reward.
    Null: given where the rows bring ranked answers, mistakes where replies are structured."""


class OwnPairs(Sampling, SaidPairs):
    """What pairs of the parent's own answers share."""

    dataset: str
    """The dataset."""
    limit: Count | None = None
    """Answer only so many turns."""
    validation_share: PartShare = 0.0
    """Share of the groups whose pairs are only validated on."""

    def rows(self, study: "Study") -> tuple[str, str]:
        """Return the split that is answered."""
        return self.dataset, self.split

    def is_validated(self) -> bool:
        """Tell whether some of its pairs are only validated on."""
        return self.validation_share > 0

    def validated_by(self, study: "Study") -> tuple[str, str] | None:
        """Return the split that is answered: some of its groups are only validated on."""
        return (self.dataset, self.split) if self.validation_share else None


class Pairs(OwnPairs):
    """Preference pairs from the parent's own answers to a split: a pair where the structured fields mismatch."""

    split: str
    """The split that is answered."""
    which: Literal["mistakes", "wrong_labels", "all"] = "mistakes"
    """Which answers lose. mistakes: those that cannot be read, lack a field, or have another label; wrong_labels: of
    these the last alone; all: every answer, whatever its labels. How many pairs each would make is counted."""
    fidelity: Fidelity | None = None
    """Null: the study's. code: answers are read and written as the published programs do, and empty ones lose too."""

    def names(self, path: str, need: Names) -> None:
        """Need the split that is answered."""
        need.need_rows(path, self.dataset, self.split)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find answers whose mistakes cannot be seen: they are told by labels."""
        yield from super().faults(path, study)
        ranked = set(schemas_of(study, self.dataset)) <= set(SEVERAL)
        yield from without_labels(path, self.dataset, study, instead=OTHERWISE[ranked])

    def most_pairs(self) -> int | None:
        """Return how many pairs there are at most; None where only the data tell."""
        return self.limit * self.samples if self.limit else None


OTHERWISE = {  # what to write of rows without labels, by whether they bring several answers
    True: "; its answers came ranked: from: given takes them as they came, annotation: … as rewards rank them",
    False: "; for pairs of such rows write from: samples, and with rank: who says which answer of the parent is better",
}


# What may rank samples without a name of the study's: rules that hold an answer against what its row brings.
RANKING_RULES = ("exact_match", "passes_tests")


def is_function(rank: str) -> bool:
    """Tell whether what ranks samples is meant to be a function of the user's."""
    return ":" in rank or rank.endswith(".py")


class SampledPairs(OwnPairs):
    """Preference pairs from several answers of the parent to each prompt, ranked by a reward or a judge: the best one
    is chosen.

    Each prompt's equal answers count once; prompts without two answers of different reward make no pair. All of it is
    counted. With `rounds` on a run, each round's policy answers anew.
    """

    split: str = "train"
    """The split that is answered."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Answers per prompt."""
    temperature: Positive = 1.0
    """At which answers are drawn."""
    rank: str
    """Who says which answer is better: a reward model, an annotation (its sum of rewards), a judge of any kind (an
    endpoint and a rule score each answer from 0 to 100), exact_match (the answer is the reference),
    passes_tests (the program in it passes the row's tests), or a Python function of your own, FILE.py:NAME
    (docs/methods.md)."""
    prompt: str | None = None
    """What a judge of kind openai is asked, with {prompt}, {reference} and {answer}; it replies with an integer from 0
    to 100. Null: our wording."""
    take: Literal["best_worst", "best_random", "all"] = "best_worst"
    """Which answers lose to a prompt's best: the worst; a random one of those it beats by the margin; all of these."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """The least difference in reward that makes a pair; equal rewards never do."""

    def names(self, path: str, need: Names) -> None:
        """Need the split that is answered, and somebody who can rank new answers."""
        need.need_rows(path, self.dataset, self.split)
        judge = self.judge_in(need.study)
        asked = judge is not None and need.study.judges[judge].reads_words
        if self.prompt is not None and not asked and self.rank not in need.lost:
            need.refuse(f"{path}.prompt", "is for a judge of kind openai, and rank names none: leave it out")
        if self.rank in need.study.annotations:
            need.need_rewarding(f"{path}.rank", self.rank)
        elif is_function(self.rank):
            if fault := fault_of_function(self.rank):
                need.refuse(f"{path}.rank", fault)
        else:
            study = need.study
            known = [*study.reward_models, *study.annotations, *study.judges, *RANKING_RULES]
            need.need(
                f"{path}.rank", self.rank, known, "reward model, annotation, judge or function FILE.py:NAME"
            )

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find an annotation of another dataset whose rewards need what the rows that are answered do not bring, and a
        prompt for the judge that cannot be filled in.
        """
        yield from super().faults(path, study)
        annotation = study.annotations.get(self.rank)
        rewarding = annotation and all(reward.of_new_answers for reward in annotation.rewards.values())
        if (
            rewarding and annotation.dataset != self.dataset
        ):  # what new answers have not, its name's check says
            for found in annotation.unfit_rows("", self.dataset, study):
                yield found._replace(text=f"{path}.rank: {found.text.partition(': ')[2]}")
        yield from faults_of_prompt(
            f"{path}.prompt", self.prompt, ["prompt", "reference", "answer"], ["answer"]
        )

    def judge_in(self, study: "Study") -> str | None:
        """Return the judge that is asked for verdicts on the answers, once `settling` has seen who ranks; None where
        an annotation rewards them.
        """
        return self.rank if self.rank in study.judges else None

    def most_pairs(self) -> int | None:
        """Return how many pairs there are at most; None where only the data tell."""
        each = self.samples - 1 if self.take == "all" else 1
        return self.limit * each if self.limit else None


class GivenPairs(SaidPairs):
    """Preference pairs as they came: of each prompt the preferred answer against each of its others."""

    dataset: str
    """The dataset; its rows bring ranked answers (schemas hh, judged_pairs, …preferences), or labels of good and
    bad."""
    split: str = "train"
    """The split that is learned from."""
    validation: str | None = None
    """The split that is only validated on."""

    def names(self, path: str, need: Names) -> None:
        """Need its splits."""
        need.need_rows(path, self.dataset, self.split)
        need.need_split(f"{path}.validation", self.dataset, self.validation)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find rows of one answer."""
        single = [schema for schema in schemas_of(study, self.dataset) if schema not in SEVERAL]
        if single:
            yield wrong(
                f"{path}.dataset",
                f"rows of schema {', '.join(single)} bring one answer to a prompt, and pairs as they came need rows "
                f"that bring several ({', '.join(SEVERAL)}); of these write from: "
                + ("mistakes" if set(single) <= set(STRUCTURED) else "samples"),
            )

    def rows(self, study: "Study") -> tuple[str, str]:
        """Return the split that is learned from."""
        return self.dataset, self.split

    def is_validated(self) -> bool:
        """Tell whether some of its pairs are only validated on."""
        return bool(self.validation)

    def validated_by(self, study: "Study") -> tuple[str, str] | None:
        """Return the split that is only validated on."""
        return (self.dataset, self.validation) if self.validation else None


class RankedPairs(PairsKind):
    """Preference pairs from answers that came ranked (schemas hh, judged_pairs, …preferences), or that rewards rank."""

    annotation: str
    """The annotation of the dataset whose answers they are."""
    split: str
    """The split that is learned from."""
    validation: str | None = None
    """The split that is only validated on."""
    by: Literal["rank", "reward"] = "rank"
    """rank: the order the answers came in; reward: that of final_reward (labelled answers have no other)."""

    def names(self, path: str, need: Names) -> None:
        """Need the annotation, and the splits among those it covers."""
        need.need_annotated(path, self.annotation, self.split)
        need.need_annotated(path, self.annotation, self.validation, "validation")

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find rows of one answer, and answers that came in no order."""
        annotation = study.annotations.get(self.annotation)
        schemas = schemas_of(study, annotation.dataset) if annotation else []
        if single := [schema for schema in schemas if schema not in RANKED]:
            yield wrong(
                f"{path}.annotation",
                f"ranks several answers to a prompt, and rows of schema {', '.join(single)} have one; "
                f"these have more: {', '.join(RANKED)}",
            )
        elif self.by == "rank" and set(schemas) & set(UNORDERED):
            yield wrong(
                f"{path}.by",
                "answers labelled good or bad came in no order: give by: reward, of their labels",
            )

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split that is learned from."""
        return annotated_rows(study, self.annotation, self.split)

    def is_validated(self) -> bool:
        """Tell whether some of its pairs are only validated on."""
        return bool(self.validation)

    def validated_by(self, study: "Study") -> tuple[str, str] | None:
        """Return the split that is only validated on."""
        return annotated_rows(study, self.annotation, self.validation) if self.validation else None


BARE = {"dataset", "max_tokens", "max_prompt_tokens"}  # keys that every kind has, where mistakes need more


def pairs_kind(value: Any) -> str:
    """Return which kind of pairs a part is meant to be: by what it says it is from, else by the keys it has."""
    if not isinstance(value, dict):
        kinds = {RankedPairs: "(ranked)", GivenPairs: "(given)", SampledPairs: "(samples)"}
        return kinds.get(type(value), "(mistakes)")
    if value.get("from") in ("given", "samples", "mistakes"):
        return f"({value['from']})"
    if "annotation" in value:
        return "(ranked)"
    if value.keys() & {"rank", "take", "margin"}:
        return "(samples)"
    return "(given)" if "validation" in value or value.keys() <= BARE else "(mistakes)"


AnyPairs = Annotated[
    Annotated[Pairs, Tag("(mistakes)")]
    | Annotated[RankedPairs, Tag("(ranked)")]
    | Annotated[GivenPairs, Tag("(given)")]
    | Annotated[SampledPairs, Tag("(samples)")],
    Discriminator(pairs_kind),
]


class Value(Sampling):
    """A value head on a frozen parent: what reward it expects of its own answer to a prompt (Baheti et al. 2024)."""

    annotation: str
    """The annotation whose final_reward it estimates."""
    split: str
    """The split it is fitted on; no run should train on it."""
    targets: Literal["generated", "dataset"] = "generated"
    """generated: rewards of the parent's own answers; dataset: of the dataset's first answers, if none else exist."""
    limit: Count | None = None
    """Answer only so many prompts."""
    max_value: Positive
    """The largest final_reward there can be."""
    heads: Count = 8
    """Attention heads of the pooling; they divide the parent's width."""
    dropout: PartShare = 0.1
    """Dropout while it is fitted."""
    learning_rate: Positive = 1.0e-5
    """Of AdamW, constant."""
    epochs: Count = 10
    """Passes over the split; the best on the held-out part is kept."""
    fit_batch: Count = 16
    """Prompts per step."""
    held_out: PartShare = 0.2
    """Share of the groups that choose the epoch."""
    max_prompt_tokens: Count = 768
    """Longer prompts lose their oldest turns; the system message stays."""
    seed: Seed = 1
    """Seed of the fit: it is one thing, whatever the study's seeds."""

    def names(self, path: str, need: Names) -> None:
        """Need an annotation: one that can reward new answers, where it is fitted on these."""
        if self.targets == "generated":
            need.need_answerable(path, self.annotation, self.split)
        else:
            need.need_annotated(path, self.annotation, self.split)

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split it is fitted on."""
        return annotated_rows(study, self.annotation, self.split)

    def longest_row(self) -> LongestRow:
        """Return the longest prompt."""
        return LongestRow("max_prompt_tokens", self.max_prompt_tokens)

    def longest_answer(self) -> int | None:
        """Return the most tokens of an answer; None where the dataset's answers are taken."""
        return self.max_new_tokens if self.targets == "generated" else None
