"""The study: one YAML, checked whole before any rule is built, and the lineages it defines.

Only the Snakefile and the rules import this module (no stage script does: their import closure decides staleness).
Every mistake is reported with the path to the value and what is allowed.
"""

import difflib
import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A part of the study: unknown keys are mistakes, and text is never read as a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


# --- sources: what download fetches ---------------------------------------------------------------------------------


class Member(Strict):
    """A file inside an archive: its path there, optionally a byte range of it, optionally gunzipped."""

    member: str
    bytes: list[int] | None = Field(None, min_length=2, max_length=2)
    gunzip: bool = False


class HfPlace(Strict):
    repo: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a full commit hash")]
    repo_type: Literal["model", "dataset"] = "model"
    files: dict[str, str] = {}


class HttpsPlace(Strict):
    files: dict[str, str]


class PypiPlace(Strict):
    package: str
    version: str
    archive: Literal["wheel", "sdist"] = "wheel"
    files: dict[str, Member]


class NpmPlace(Strict):
    package: str
    version: str
    files: dict[str, Member]


class FilePlace(Strict):
    files: dict[str, str]


class Place(Strict):
    """One place a source can come from: exactly one of the kinds."""

    hf: HfPlace | None = None
    https: HttpsPlace | None = None
    pypi: PypiPlace | None = None
    npm: NpmPlace | None = None
    file: FilePlace | None = None

    @model_validator(mode="after")
    def one_kind(self) -> "Place":
        if len(self.model_fields_set) != 1:
            raise ValueError("names exactly one of hf, https, pypi, npm, file")
        return self


class Simulation(Strict):
    """Dialogues made from the bundled problem bank by the seeded simulator."""

    problems: str
    seed: int = 7
    dialogues_per_problem: Count = 6
    files: Count = 3
    ppl_pairs: Count = 60
    ppl_problems: Share = 0.1
    max_turns: Count = 8
    behaviours: dict[Literal["a", "b", "c", "d", "e", "f"], Positive] = {
        "a": 0.245,
        "b": 0.345,
        "c": 0.125,
        "d": 0.08,
        "e": 0.07,
        "f": 0.12,
    }
    closing_rate: Share = 0.4
    na_rate: Share = 0.3
    unparsable_rate: Share = 0.01
    two_message_rate: Share = 0.02
    student_last_rate: Share = 0.01


class Source(Strict):
    """Files wanted (name: sha256 or null) and the places they may come from in order, or a simulation."""

    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None] = {}
    places: list[Place] = []
    simulate: Simulation | None = None

    @model_validator(mode="after")
    def one_origin(self) -> "Source":
        if bool(self.places) == bool(self.simulate):
            raise ValueError("has either places or simulate")
        return self


# --- models and datasets --------------------------------------------------------------------------------------------


class ModelCheck(Strict):
    """Texts whose mean negative log-likelihood (nats per token) must not exceed max_nll."""

    texts: list[str]
    max_nll: Positive


class Model(Strict):
    """A base policy."""

    source: str
    format: Literal["hf", "llama2c"] = "hf"
    weights: str | None = None
    tokenizer: str | None = None
    template: str
    context: Count
    trust_remote_code: bool = False
    check: ModelCheck | None = None

    @model_validator(mode="after")
    def llama2c_files(self) -> "Model":
        if self.format == "llama2c" and not (self.weights and self.tokenizer):
            raise ValueError("format llama2c needs weights and tokenizer")
        return self


class Split(Strict):
    """Conversations per split (per file if per_file), dealt out by group."""

    seed: int = 42
    quotas: dict[Name, Annotated[int, Field(ge=0)]]
    per_file: bool = True


class Dataset(Strict):
    """Raw files of a source, and how they are cleaned and split."""

    source: str
    files: list[str] = Field(min_length=1)
    data_schema: Literal["tutorbot", "messages", "alpaca"] = Field(alias="schema")
    system_prompt: str | None = None
    drop_fields: list[str] = []
    replace_na: dict[str, str] = {}
    truncate_at_unparsable: bool = True
    min_messages: Count = 3
    max_chars: Count = 200_000
    reply_format: Literal["json", "python"] = "json"
    group_by: Literal["problem", "question", "conversation"] = "problem"
    history_turns: Annotated[int, Field(ge=0)] | None = None
    exclude_groups_of: list[str] = []
    split: Split


# --- rewards --------------------------------------------------------------------------------------------------------


class Training(Strict):
    """What every training run can set; batch size = per_device_batch × accumulate × processes."""

    epochs: Positive = 1.0
    max_steps: Count | None = None
    per_device_batch: Count = 1
    accumulate: Count = 1
    learning_rate: Positive
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 1.0
    adam_beta2: Share = 0.999
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit"] = "adamw_torch"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    gradient_checkpointing: bool = False
    log_every: Count = 5
    evaluate_every: Count = 25
    checkpoint_every: Count = 25
    max_tokens: Count = 1024
    threads: Count = 2


class RewardModel(Training):
    """A sequence classifier trained on pairs of its own split of a dataset."""

    parent: str
    dataset: str
    split: str
    validation_share: Share = 0.1
    seed: int = 1


class RuleReward(Strict):
    rule: Literal["json_validity", "length", "tfidf_diversity"]
    weight: float = 1.0
    words: Count = 40


class ClassifierReward(Strict):
    """A trained reward model of this study (`model`), or any sequence-classification source (`source`)."""

    model: str | None = None
    source: str | None = None
    weight: float = 1.0
    squash: Literal["sigmoid", "none"] = "sigmoid"
    max_tokens: Count = 512
    batch_size: Count = 64

    @model_validator(mode="after")
    def one_origin(self) -> "ClassifierReward":
        if bool(self.model) == bool(self.source):
            raise ValueError("has either model or source")
        return self


class Annotation(Strict):
    """Reward columns for splits of a dataset; final_reward is their weighted sum."""

    dataset: str
    splits: list[str] = Field(min_length=1)
    fit_split: str
    rewards: dict[Name, RuleReward | ClassifierReward]


# --- runs: parent + method = policy ---------------------------------------------------------------------------------


class Sampling(Strict):
    """How answers are drawn: temperature 0 is greedy; lengths in tokens."""

    max_new_tokens: Count = 512
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Share = 1.0
    samples: Count = 1
    batch_size: Count = 64


class Pairs(Sampling):
    """Preference pairs from the parent's own answers to a split: a pair where the structured fields mismatch."""

    dataset: str
    split: str
    limit: Count | None = None
    max_prompt_tokens: Count = 768
    max_tokens: Count = 1024

    @model_validator(mode="after")
    def room_for_replies(self) -> "Pairs":
        if self.max_tokens <= self.max_prompt_tokens:
            raise ValueError("max_tokens must exceed max_prompt_tokens, the rest is for the reply")
        return self


class Sft(Training):
    """Supervised fine-tuning with the loss on the assistant's tokens."""

    method: Literal["sft"]
    parent: str | list[str]
    dataset: str
    split: str = "sft"
    validation: str = "validation"
    template: str | None = None
    backend: Literal["transformers", "fastchat"] = "transformers"
    pack_tokens: Count | None = 1024
    overflow: Literal["cut", "reject"] = "cut"

    @model_validator(mode="after")
    def fastchat_template(self) -> "Sft":
        if self.backend == "fastchat" and self.template not in (None, "vicuna"):
            raise ValueError("backend fastchat trains with the vicuna template; leave template out")
        return self


class Preference(Training):
    """What DPO, IPO and KTO share. The reference is the frozen parent."""

    parent: str | list[str]
    pairs: str
    beta: Positive = 0.1
    share_prompts: bool = True

    @model_validator(mode="after")
    def checkpointing_needs_plain(self) -> "Preference":
        if self.share_prompts and self.gradient_checkpointing:
            raise ValueError("share_prompts does not go with gradient_checkpointing; set one of them to false")
        return self


class Dpo(Preference):
    method: Literal["dpo"]
    sft_weight: Annotated[float, Field(ge=0)] = 0.0


class Ipo(Preference):
    method: Literal["ipo"]


class Kto(Preference):
    method: Literal["kto"]
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0


Run = Annotated[Sft | Dpo | Ipo | Kto, Field(discriminator="method")]
ALIGN_METHODS = ("dpo", "ipo", "kto")

# --- judges and benchmarks ------------------------------------------------------------------------------------------


class RewardJudge(Strict):
    kind: Literal["reward_model"]
    model: str


class OpenAIJudge(Strict):
    """An OpenAI-compatible endpoint; the key is read from the environment variable named here."""

    kind: Literal["openai"]
    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = 0.0
    max_tokens: Count = 1024


class RuleJudge(Strict):
    kind: Literal["rule"]
    rule: Literal["length"]


Judge = Annotated[RewardJudge | OpenAIJudge | RuleJudge, Field(discriminator="kind")]
Fidelity = Literal["paper", "code"]


class Tutor(Sampling):
    """Accuracy and macro-F1 of the three label fields on a split's tutor turns."""

    kind: Literal["tutor"]
    dataset: str
    split: str
    limit: Count | None = None
    skip_first_turn: bool = True
    fidelity: Fidelity | None = None


class PairPerplexity(Strict):
    """The six perplexities of hints and solutions, on a file whose conversations end with two tutor turns."""

    kind: Literal["pair_perplexity"]
    source: str
    file: str
    system_prompt: str | None = None
    reply_format: Literal["json", "python", "raw"] = "json"
    drop_fields: list[str] = []
    replace_na: dict[str, str] = {}
    max_tokens: Count = 1024
    fidelity: Fidelity | None = None


class HumanEval(Sampling):
    """Unbiased pass@k on the 164 problems, the completions run in a sandbox."""

    kind: Literal["humaneval"]
    source: str
    file: str = "HumanEval.jsonl"
    limit: Count | None = None
    k: list[Count] = [1]
    timeout_seconds: Positive = 3.0
    memory_mb: Count = 512
    workers: Count = 2
    allow_unsandboxed: bool = False


class LmEval(Strict):
    """Tasks of the lm-evaluation-harness, by name; local task files from include_path."""

    kind: Literal["lm_eval"]
    tasks: list[str] = Field(min_length=1)
    include_path: str | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    limit: Count | None = None
    batch_size: Count = 16
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    apply_chat_template: bool = False


class MtBench(Sampling):
    """Two-turn questions, each answer rated 1 to 10 by a judge."""

    kind: Literal["mt_bench"]
    questions: str
    judge: str
    limit: Count | None = None


class AlpacaEval(Sampling):
    """Single instructions; a judge compares each answer with a reference answer."""

    kind: Literal["alpaca_eval"]
    prompts: str
    judge: str
    limit: Count | None = None


Benchmark = Annotated[
    Tutor | PairPerplexity | HumanEval | LmEval | MtBench | AlpacaEval, Field(discriminator="kind")
]
ANSWERED = ("tutor", "humaneval", "mt_bench", "alpaca_eval")  # benchmarks that need a policy's generations
JUDGED = ("mt_bench", "alpaca_eval")


class Bar(Strict):
    benchmark: str
    subset: str
    metric: str


class Report(Strict):
    baseline: str | None = None
    draws: Count = 2000
    confidence: Share = 0.95
    bars: list[Bar] = []


class Engine(Strict):
    """What answers prompts: transformers anywhere, vllm on GPUs."""

    name: Literal["transformers", "vllm"] = "transformers"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    gpu_memory_share: Share = 0.9


class Resources(Strict):
    """What one training or generating job asks a cluster for; on one machine without GPUs, gpu is 0."""

    gpu: Annotated[int, Field(ge=0)] = 0
    cpus: Count = 2
    mem_mb: Count = 6000
    runtime_minutes: Count = 120


class Study(Strict):
    """One YAML: models, datasets, training runs, benchmarks, seeds. Produces one results table."""

    study: Name
    fidelity: Fidelity = "paper"
    seeds: list[int] = Field([1], min_length=1)
    templates: dict[Name, dict[str, Any]] = {}
    sources: dict[Name, Source]
    models: dict[Name, Model]
    datasets: dict[Name, Dataset] = {}
    reward_models: dict[Name, RewardModel] = {}
    annotations: dict[Name, Annotation] = {}
    pairs: dict[Name, Pairs] = {}
    runs: dict[Name, Run] = {}
    judges: dict[Name, Judge] = {}
    benchmarks: dict[Name, Benchmark] = {}
    engine: Engine = Engine()
    training_resources: Resources = Resources()
    generation_resources: Resources = Resources()
    report: Report = Report()


# --- lineages -------------------------------------------------------------------------------------------------------


class Policy(BaseModel):
    """A model that can speak: its parent plus one method (both None for a base model)."""

    name: str
    model: str
    parent: str | None = None
    run: str | None = None
    method: str | None = None


def policies_of(study: Study) -> dict[str, Policy]:
    """Return every policy by lineage name, parents before children, in the order of the study."""
    policies = {name: Policy(name=name, model=name) for name in study.models}
    of_run: dict[str, list[str]] = {name: [name] for name in study.models}

    def expand(run_name: str, path: tuple[str, ...]) -> list[str]:
        if run_name in path:
            raise PlumblineError(f"runs.{run_name}.parent: a cycle of parents ({' → '.join([*path, run_name])})")
        if run_name not in of_run:
            run = study.runs[run_name]
            parents = [run.parent] if isinstance(run.parent, str) else run.parent
            of_run[run_name] = []
            names = []
            for parent in parents:
                if parent != run_name and parent not in study.runs and parent not in study.models:
                    known = [*study.models, *study.runs]
                    raise PlumblineError(f"runs.{run_name}.parent: {unknown(parent, known, 'model or run')}")
                del of_run[run_name]
                names += [f"{lineage}.{run_name}" for lineage in expand(parent, (*path, run_name))]
                of_run[run_name] = []
            for name in names:
                lineage = name.rsplit(".", 1)[0]
                policies[name] = Policy(
                    name=name, model=policies[lineage].model, parent=lineage, run=run_name, method=run.method
                )
            of_run[run_name] = names
        return of_run[run_name]

    for name in study.runs:
        if name in study.models:
            raise PlumblineError(f"runs.{name}: a model has this name already")
        expand(name, ())
    return policies


def seeds_of(study: Study, policy: Policy) -> list[int]:
    """Return the seeds a policy exists for: a base model is one thing, a trained one exists per seed."""
    return study.seeds if policy.parent else study.seeds[:1]


# --- checks ---------------------------------------------------------------------------------------------------------


def unknown(name: str, known: list[str], what: str) -> str:
    """Return the sentence for a name that is not there, with the nearest one that is."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no {what} is called {name!r}{hint} (there are: {', '.join(known) or 'none'})"


def all_templates(study: Study) -> dict[str, dict]:
    """Return the templates that come with Plumbline and the study's own, by name."""
    return bundled_templates() | study.templates


@functools.cache
def bundled_templates() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text(encoding="utf-8"))


def references(study: Study) -> list[str]:
    """Return a sentence for each name in the study that refers to nothing."""
    wrong: list[str] = []

    def need(path: str, name: str | None, known: Any, what: str) -> None:
        if name is not None and name not in known:
            wrong.append(f"{path}: {unknown(name, list(known), what)}")

    def need_file(path: str, file: str) -> None:
        if not (ROOT / file).exists():
            wrong.append(f"{path}: no such file {file!r} (relative to the repository)")

    templates = all_templates(study)
    for name, source in study.sources.items():
        if source.simulate:
            need_file(f"sources.{name}.simulate.problems", source.simulate.problems)
        for index, place in enumerate(source.places):
            for wanted, path in (place.file.files if place.file else {}).items():
                need_file(f"sources.{name}.places[{index}].file.files.{wanted}", path)
    for name, model in study.models.items():
        need(f"models.{name}.source", model.source, study.sources, "source")
        need(f"models.{name}.template", model.template, templates, "template")
    for name, dataset in study.datasets.items():
        need(f"datasets.{name}.source", dataset.source, study.sources, "source")

    def need_split(path: str, dataset: str, split: str) -> None:
        if dataset in study.datasets:
            need(path, split, study.datasets[dataset].split.quotas, f"split of dataset {dataset!r}")

    for name, reward in study.reward_models.items():
        need(f"reward_models.{name}.parent", reward.parent, study.models, "model")
        need(f"reward_models.{name}.dataset", reward.dataset, study.datasets, "dataset")
        need_split(f"reward_models.{name}.split", reward.dataset, reward.split)
    for name, annotation in study.annotations.items():
        need(f"annotations.{name}.dataset", annotation.dataset, study.datasets, "dataset")
        for split in [*annotation.splits, annotation.fit_split]:
            need_split(f"annotations.{name}.splits", annotation.dataset, split)
        for key, reward in annotation.rewards.items():
            if isinstance(reward, ClassifierReward):
                need(f"annotations.{name}.rewards.{key}.model", reward.model, study.reward_models, "reward model")
                need(f"annotations.{name}.rewards.{key}.source", reward.source, study.sources, "source")
    for name, pairs in study.pairs.items():
        need(f"pairs.{name}.dataset", pairs.dataset, study.datasets, "dataset")
        need_split(f"pairs.{name}.split", pairs.dataset, pairs.split)
    for name, run in study.runs.items():
        if isinstance(run, Sft):
            need(f"runs.{name}.dataset", run.dataset, study.datasets, "dataset")
            need_split(f"runs.{name}.split", run.dataset, run.split)
            need_split(f"runs.{name}.validation", run.dataset, run.validation)
            need(f"runs.{name}.template", run.template, templates, "template")
        else:
            need(f"runs.{name}.pairs", run.pairs, study.pairs, "set of pairs")
    for name, benchmark in study.benchmarks.items():
        path = f"benchmarks.{name}"
        if isinstance(benchmark, Tutor):
            need(f"{path}.dataset", benchmark.dataset, study.datasets, "dataset")
            need_split(f"{path}.split", benchmark.dataset, benchmark.split)
        if isinstance(benchmark, PairPerplexity | HumanEval):
            need(f"{path}.source", benchmark.source, study.sources, "source")
        if isinstance(benchmark, MtBench | AlpacaEval):
            need(f"{path}.judge", benchmark.judge, study.judges, "judge")
            need_file(
                f"{path}.questions" if isinstance(benchmark, MtBench) else f"{path}.prompts",
                benchmark.questions if isinstance(benchmark, MtBench) else benchmark.prompts,
            )
        if isinstance(benchmark, LmEval) and benchmark.include_path:
            need_file(f"{path}.include_path", benchmark.include_path)
    for name, judge in study.judges.items():
        if isinstance(judge, RewardJudge):
            need(f"judges.{name}.model", judge.model, study.reward_models, "reward model")
    policies = {} if wrong else policies_of(study)
    if policies:
        need("report.baseline", study.report.baseline, policies, "policy")
        for index, bar in enumerate(study.report.bars):
            need(f"report.bars[{index}].benchmark", bar.benchmark, study.benchmarks, "benchmark")
    return wrong


def allowed_keys(location: tuple, error_type: str) -> list[str]:
    """Return the keys allowed where an unknown one was met, by walking the schema down the error's location."""
    current: Any = Study
    for step in location[:-1]:
        models = models_in(current)
        tagged = [model for model in models if tag_of(model) == step]
        if tagged:
            current = tagged[0]
            continue
        named = [model for model in models if model.__name__ == step]
        if named:
            current = named[0]
            continue
        for model in models:
            for key, field in model.model_fields.items():
                if step in (key, field.alias):
                    current = field.annotation
                    break
            else:
                continue
            break
    return sorted({field.alias or key for model in models_in(current) for key, field in model.model_fields.items()})


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the schema classes inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def tag_of(model: type[BaseModel]) -> str | None:
    """Return the discriminator value of a run, judge or benchmark class, if it has one."""
    field = model.model_fields.get("method") or model.model_fields.get("kind")
    values = get_args(field.annotation) if field else ()
    return values[0] if values else None


TAGS = {tag_of(model) for model in models_in(Run) + models_in(Benchmark) + models_in(Judge)}


def spell(error: dict) -> str:
    """Return one pydantic error as `path: what is wrong and what is allowed`."""
    steps = [
        step for index, step in enumerate(error["loc"])
        if not (step in TAGS and index > 1) and not (isinstance(step, str) and step.endswith(("Reward", "Place")))
    ]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    if error["type"] == "extra_forbidden":
        keys = allowed_keys(tuple(error["loc"]), error["type"])
        near = difflib.get_close_matches(str(steps[-1]), keys, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{path}: unknown key{hint} (allowed here: {', '.join(keys)})"
    if error["type"] == "missing":
        return f"{path}: is required"
    if error["type"] == "union_tag_invalid":
        found, allowed = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        key = error["ctx"]["discriminator"].strip("'")
        near = difflib.get_close_matches(found, re.findall(r"'([^']+)'", allowed), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{path}.{key}: unknown {key} {found!r}{hint} (allowed: {allowed})"
    if error["type"] == "union_tag_not_found":
        return f"{path}: needs {error['ctx']['discriminator']}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = "" if error["type"] == "value_error" else f", not {error['input']!r}"
    return f"{path}: {message}{shown}"


def check_study(config: dict, origin: str = "the study") -> Study:
    """Return the checked study; PlumblineError lists every mistake with its path and what is allowed."""
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        lines = [spell(item) for item in error.errors()]
    else:
        lines = references(study)
        if not lines:
            return study
    listing = "\n".join(f"  {line}" for line in lines)
    raise PlumblineError(f"{origin} has {len(lines)} mistake{'s' * (len(lines) > 1)}:\n{listing}")


def load_study(path: Path | str) -> Study:
    """Return the checked study of a YAML file."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlumblineError(f"{path}: no such study file") from None
    except yaml.YAMLError as error:
        raise PlumblineError(f"{path}: not YAML: {error}") from None
    return check_study(config, str(path))
