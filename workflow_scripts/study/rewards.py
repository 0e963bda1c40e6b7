"""`reward_models` and `annotations`: what says how good a reply is."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, field_validator, model_validator

from workflow_scripts.common.reward_rules import RULES
from workflow_scripts.study.basics import Count, Name, PartShare, Positive, RepositoryPath, Seed, Strict
from workflow_scripts.study.datasets import KNOWING, RANKED, TESTED, UNREWARDED, made_of, schemas_of
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.functions import fault_of_function
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import LongestRow, Part
from workflow_scripts.study.training import Training

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


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

    def names(self, path: str, need: Names) -> None:
        """Need the model and the split of its pairs."""
        need.need(f"{path}.parent", self.parent, need.study.models, "model")
        need.need_rows(path, self.dataset, self.split)

    def rows(self, study: "Study") -> tuple[str, str]:
        """Return the split of its pairs."""
        return self.dataset, self.split

    def longest_row(self) -> LongestRow:
        """Return the longest dialogue with reply."""
        return LongestRow("max_tokens", self.max_tokens)


class RewardKind(Strict):
    """What every kind of reward says of itself beside its keys."""

    of_new_answers: ClassVar[bool] = True
    """It can be given to answers that are not in the dataset."""

    def columns(self) -> tuple[str, ...]:
        """Return the columns of raw rows that it cannot do without, and that a schema only may read."""
        return ()

    def names(self, path: str, need: Names) -> None:
        """Need every name that it holds."""

    def unfit_rows(self, path: str, schema: str) -> Iterator[Finding]:
        """Find that a dataset's rows do not bring what it reads."""
        return iter(())

    def unread(self) -> Iterator[str]:
        """Yield the keys that were given and that it does not look at."""
        return iter(())

    def handed(self) -> dict[str, Any]:
        """Return its keys as a job is told them."""
        return self.model_dump()

    @abstractmethod
    def is_share(self) -> bool:
        """Tell whether nothing but 0 to 1 can come of it, before it is weighed."""


class RuleReward(RewardKind):
    """A reward that a rule gives."""

    rule: Literal[tuple(RULES)]
    """Which rule. withholds: 0 where a reply says the solution that its row brings (docs/data.md), else 1.
    passes_tests: 1 where the program in an answer passes all of its row's `tests` (docs/your-data.md), run in a
    sandbox."""
    weight: float = 1.0
    """Its weight in final_reward."""
    words: Count = 40
    """length: the length, in words, that earns the whole reward."""
    timeout_seconds: Positive = 3.0
    """passes_tests: time a program may run."""
    memory_mb: Count = 512
    """passes_tests: memory a program may take."""
    workers: Count = 2
    """passes_tests: programs that run at once."""
    allow_unsandboxed: bool = False
    """passes_tests: run programs without a sandbox where the machine has none: a model's code can do what you can."""

    def columns(self) -> tuple[str, ...]:
        """Return the column of tests, where they are what decides."""
        return ("tests",) if self.rule == "passes_tests" else ()

    def unfit_rows(self, path: str, schema: str) -> Iterator[Finding]:
        """Find rows that bring no tests."""
        if self.rule == "passes_tests" and schema not in TESTED:
            yield wrong(
                f"{path}.rule",
                f"rows of schema {schema} bring no tests to pass; these may, in a column `tests`: {', '.join(TESTED)}",
            )
        if self.rule == "withholds" and schema != "tutorbot":
            yield wrong(
                f"{path}.rule",
                f"rows of schema {schema} bring no solutions to withhold; those of tutorbot may, in `solutions`",
            )

    def unread(self) -> Iterator[str]:
        """Yield the keys of other rules."""
        own = {"rule", "weight", *RULES[self.rule].reads}
        return (key for key in type(self).model_fields if key in self.said() - own)

    def handed(self) -> dict[str, Any]:
        """Return its keys as a job is told them: those of running programs only where it runs some."""
        own = {"rule", "weight", "words", *RULES[self.rule].reads}
        return {key: value for key, value in super().handed().items() if key in own}

    def is_share(self) -> bool:
        """Return True: every rule gives 0 to 1."""
        return True


class FunctionReward(RewardKind):
    """A reward that a Python function of your own gives, in the jobs' environment (docs/methods.md)."""

    function: RepositoryPath
    """FILE.py:NAME, the file relative to the repository or a whole path. It is called for each answer with those of
    prompt, reply, reference, meta and id that it takes, and returns a number. What its file imports from beside itself
    belongs to it: an edit there makes what it rewarded stale, too."""
    weight: float = 1.0
    """Its weight in final_reward."""

    def names(self, path: str, need: Names) -> None:
        """Need its file and its name there."""
        if fault := fault_of_function(self.function):
            need.refuse(f"{path}.function", fault)

    def is_share(self) -> bool:
        """Return False: it may return any number."""
        return False


class GivenReward(RewardKind):
    """A reward that the rows of the dataset came with (schemas hh, rewarded, labelled, and preferences with scores)."""

    of_new_answers = False

    given: str
    """Its name in the rows; of labelled rows label (1 for a good answer, 0 for a bad one), of preferences score."""
    weight: float = 1.0
    """Its weight in final_reward."""
    squash: Literal["sigmoid", "none"] = "none"
    """What is done to it."""

    def unfit_rows(self, path: str, schema: str) -> Iterator[Finding]:
        """Find rows that come with no rewards."""
        bringing = [known for known in RANKED if known not in UNREWARDED]
        if schema not in bringing:
            yield wrong(
                f"{path}.given",
                f"rows of schema {schema} come with no rewards; these may: {', '.join(bringing)}",
            )

    def is_share(self) -> bool:
        """Tell whether it is squashed to 0 to 1."""
        return self.squash == "sigmoid"


PAIRED_TEXTS = ("knowledge", "event")  # what a classifier may read as two texts


class ClassifierReward(RewardKind):
    """A trained reward model of this study (`model`), or a classifier from elsewhere (`source`)."""

    model: str | None = None
    """A reward model of this study."""
    source: str | None = None
    """A source with a classifier."""
    weight: float = 1.0
    """Its weight in final_reward."""
    head: Literal["sequence", "critic", "offensive", "oasst"] = "sequence"
    """sequence: as transformers has it; critic, offensive, oasst: heads of their own (COMET, ToxiChat, OpenAssistant's
    reward models on GPT-NeoX), as safetensors."""
    label: Annotated[int, Field(ge=0)] | None = None
    """Which class's probability is the reward; null: the one output there is."""
    squash: Literal["sigmoid", "none"] = "sigmoid"
    """What is done to a single output."""
    text: Literal["dialogue", "reply", "context", "oasst", "knowledge", "event"] = "dialogue"
    """What it reads: problem and last exchange with the reply; the reply; all messages joined by end tokens; the same
    with OpenAssistant's speaker tokens; knowledge and reply as two texts; head, relation and tail of an event."""
    max_tokens: Count = 512
    """Longest row, in tokens."""
    batch_size: Count = 64
    """Rows per forward pass."""

    def names(self, path: str, need: Names) -> None:
        """Need the reward model, or the source."""
        need.need(f"{path}.model", self.model, need.study.reward_models, "reward model")
        need.need_source(f"{path}.source", self.source)

    def unfit_rows(self, path: str, schema: str) -> Iterator[Finding]:
        """Find rows that bring no knowledge to talk about."""
        if self.text == "knowledge" and schema not in KNOWING:
            yield wrong(
                f"{path}.text",
                f"rows of schema {schema} bring no knowledge to talk about; these may: " + ", ".join(KNOWING),
            )

    def is_share(self) -> bool:
        """Tell whether it is a probability: squashed, a class's, or from COMET's critic."""
        return self.squash == "sigmoid" or self.label is not None or self.head == "critic"

    @model_validator(mode="after")
    def one_origin(self) -> "ClassifierReward":
        if bool(self.model) == bool(self.source):
            raise ValueError("has either rule, or function, or given, or model, or source")
        return self

    @model_validator(mode="after")
    def read_by_its_head(self) -> "ClassifierReward":
        if self.head in ("offensive", "oasst") and self.text in PAIRED_TEXTS:
            raise ValueError(f"head: {self.head} reads one text, and text: {self.text} is a pair of them")
        if self.model and (self.head != "sequence" or self.label is not None):
            raise ValueError(
                "a reward model of this study has one output and no classes: leave head and label out"
            )
        return self


def reward_kind(value: Any) -> str:
    """Return which kind of reward a part is meant to be, so that only that kind's mistakes are reported."""
    keys = type(value).model_fields if isinstance(value, Strict) else value if isinstance(value, dict) else ()
    return next((f"({key})" for key in ("rule", "function", "given") if key in keys), "(classifier)")


Reward = Annotated[
    Annotated[RuleReward, Tag("(rule)")]
    | Annotated[FunctionReward, Tag("(function)")]
    | Annotated[GivenReward, Tag("(given)")]
    | Annotated[ClassifierReward, Tag("(classifier)")],
    Discriminator(reward_kind),
]


class Annotation(Part):
    """Reward columns for splits of a dataset; final_reward is their weighted sum."""

    dataset: str
    """The dataset."""
    splits: list[str] = []
    """The splits that get the columns; none where it only rewards what policies answer."""
    fit_split: str
    """The split that the tf-idf weights are fitted on."""
    rewards: dict[Name, Reward] = Field(min_length=1)
    """Column: reward."""
    _written_as: str | None = PrivateAttr(None)

    @classmethod
    def settled(cls, path: str, **keys: Any) -> "Annotation":
        """Return an annotation that stands in a study's file as something else, at `path`."""
        made = cls.model_validate(keys)
        made._written_as = path
        return made

    def written_as(self) -> str | None:
        """Return where it stands in the study's file, if it is not an annotation there."""
        return self._written_as

    def names(self, path: str, need: Names) -> None:
        """Need the splits of a dataset, and what its rewards name."""
        need.need_dataset(f"{path}.dataset", self.dataset)
        for index, split in enumerate(self.splits):
            need.need_split(f"{path}.splits[{index}]", self.dataset, split)
        need.need_split(f"{path}.fit_split", self.dataset, self.fit_split)
        for key, reward in self.rewards.items():
            reward.names(f"{path}.rewards.{key}", need)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find rewards that the rows do not bring what they need for, and keys that a rule does not look at."""
        yield from self.unfit_rows(path, self.dataset, study)
        for name, reward in self.rewards.items():
            for key in reward.unread():
                yield doubt(f"{path}.rewards.{name}.{key}", f"rule {reward.rule} does not read it")

    def unfit_rows(self, path: str, dataset: str, study: "Study") -> Iterator[Finding]:
        """Find rewards that rows of a dataset do not bring what they need for."""
        for name, reward in self.rewards.items():
            at = f"{path}.rewards.{name}"
            for schema in schemas_of(study, dataset):
                yield from reward.unfit_rows(at, schema)
            for origin, part in made_of(study, dataset).items():
                for column in filter(part.lacks, reward.columns()):
                    yield doubt(
                        at,
                        f"the first rows of {origin!r} have no column {column!r}, and a row without cannot be "
                        f"rewarded; if it is called otherwise: columns: {{{column}: …}}",
                    )

    @field_validator("rewards")
    @classmethod
    def beside_their_sum(cls, rewards: dict[str, Any]) -> dict[str, Any]:
        if "final_reward" in rewards:
            raise ValueError("final_reward is the name of their weighted sum; give that column another")
        return rewards
