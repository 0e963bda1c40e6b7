"""`reward_models` and `annotations`: what says how good a reply is."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workflow_scripts.study.basics import Count, Name, PartShare, Seed, Strict
from workflow_scripts.study.training import Training


class RewardModel(Training):
    """A sequence classifier trained on pairs of its own split of a dataset."""

    parent: str
    """The base model it starts from."""
    dataset: str
    """The dataset of its pairs."""
    split: str
    """The split of its pairs; no run should train on it."""
    max_tokens: Count = 1024
    """Longest row, in tokens."""
    validation_share: PartShare = 0.1
    """Share of the pairs that are only validated on."""
    seed: Seed = 1
    """Seed of its training: it is one thing, whatever the study's seeds."""


class RuleReward(Strict):
    """A reward that a rule gives."""

    rule: Literal["json_validity", "length", "tfidf_diversity"]
    """Which rule."""
    weight: float = 1.0
    """Its weight in final_reward."""
    words: Count = 40
    """length: the length, in words, that earns the whole reward."""


class GivenReward(Strict):
    """A reward that the rows of the dataset came with (schemas hh, rewarded, labelled, and preferences with scores)."""

    given: str
    """Its name in the rows; of labelled rows label (1 for a good answer, 0 for a bad one), of preferences score."""
    weight: float = 1.0
    """Its weight in final_reward."""
    squash: Literal["sigmoid", "none"] = "none"
    """What is done to it."""


PAIRED_TEXTS = ("knowledge", "event")  # what a classifier may read as two texts


class ClassifierReward(Strict):
    """A trained reward model of this study (`model`), or a classifier from elsewhere (`source`)."""

    model: str | None = None
    """A reward model of this study."""
    source: str | None = None
    """A source with a classifier."""
    weight: float = 1.0
    """Its weight in final_reward."""
    head: Literal["sequence", "critic", "offensive"] = "sequence"
    """sequence: as transformers has it; critic, offensive: heads of their own (COMET, ToxiChat), as safetensors."""
    label: Annotated[int, Field(ge=0)] | None = None
    """Which class's probability is the reward; null: the one output there is."""
    squash: Literal["sigmoid", "none"] = "sigmoid"
    """What is done to a single output."""
    text: Literal["dialogue", "reply", "context", "oasst", "knowledge", "event"] = "dialogue"
    """What it reads: problem and last exchange with the reply; the reply; all messages joined by end tokens; the same
    with the speakers' tokens of OpenAssistant; knowledge and reply as two texts; head, relation and tail of an event."""
    max_tokens: Count = 512
    """Longest row, in tokens."""
    batch_size: Count = 64
    """Rows per forward pass."""

    @model_validator(mode="after")
    def one_origin(self) -> "ClassifierReward":
        if bool(self.model) == bool(self.source):
            raise ValueError("has either rule, or given, or model, or source")
        return self

    @model_validator(mode="after")
    def read_by_its_head(self) -> "ClassifierReward":
        if self.head == "offensive" and self.text in PAIRED_TEXTS:
            raise ValueError(f"head: offensive reads one text, and text: {self.text} is a pair of them")
        if self.model and (self.head != "sequence" or self.label is not None):
            raise ValueError(
                "a reward model of this study has one output and no classes: leave head and label out"
            )
        return self


def reward_kind(value: Any) -> str:
    """Return which kind of reward a part is meant to be, so that only that kind's mistakes are reported."""
    keys = type(value).model_fields if isinstance(value, Strict) else value if isinstance(value, dict) else ()
    return "(rule)" if "rule" in keys else "(given)" if "given" in keys else "(classifier)"


Reward = Annotated[
    Annotated[RuleReward, Tag("(rule)")]
    | Annotated[GivenReward, Tag("(given)")]
    | Annotated[ClassifierReward, Tag("(classifier)")],
    Discriminator(reward_kind),
]


class Annotation(Strict):
    """Reward columns for splits of a dataset; final_reward is their weighted sum."""

    dataset: str
    """The dataset."""
    splits: list[str] = Field(min_length=1)
    """The splits that get the columns."""
    fit_split: str
    """The split that the tf-idf weights are fitted on."""
    rewards: dict[Name, Reward] = Field(min_length=1)
    """Column: reward."""

    @field_validator("rewards")
    @classmethod
    def beside_their_sum(cls, rewards: dict[str, Any]) -> dict[str, Any]:
        if "final_reward" in rewards:
            raise ValueError("final_reward is the name of their weighted sum; give that column another")
        return rewards
