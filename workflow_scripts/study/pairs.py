"""`pairs` and `values`: what runs learn from besides datasets."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from workflow_scripts.study.basics import Count, PartShare, Positive, Seed
from workflow_scripts.study.sampling import PromptAndReply, Sampling


class Pairs(Sampling, PromptAndReply):
    """Preference pairs from the parent's own answers to a split: a pair where the structured fields mismatch."""

    dataset: str
    """The dataset."""
    split: str
    """The split that is answered."""
    limit: Count | None = None
    """Answer only so many turns."""
    validation_share: PartShare = 0.0
    """Share of the groups whose pairs are only validated on."""


class RankedPairs(PromptAndReply):
    """Preference pairs from answers that came ranked (schemas hh, judged_pairs and …preferences), or that rewards rank."""

    annotation: str
    """The annotation of the dataset whose answers they are."""
    split: str
    """The split that is learned from."""
    validation: str | None = None
    """The split that is only validated on."""
    by: Literal["rank", "reward"] = "rank"
    """rank: the order the answers came in; reward: that of final_reward (labelled answers have no other)."""


def pairs_kind(value: Any) -> str:
    """Return which kind of pairs a part is meant to be."""
    ranked = isinstance(value, RankedPairs) or (isinstance(value, dict) and "annotation" in value)
    return "(ranked)" if ranked else "(mistakes)"


AnyPairs = Annotated[
    Annotated[Pairs, Tag("(mistakes)")] | Annotated[RankedPairs, Tag("(ranked)")], Discriminator(pairs_kind)
]


class Value(Sampling):
    """A value head on a frozen parent: what reward it expects of its own answer to a prompt (Baheti et al. 2024)."""

    annotation: str
    """The annotation whose final_reward it estimates."""
    split: str
    """The split it is fitted on; no run should train on it."""
    targets: Literal["generated", "dataset"] = "generated"
    """generated: rewards of the parent's own answers; dataset: of the dataset's first answers, where none else exist."""
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
