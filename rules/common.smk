# Functions only: where things are, which policy owes what, and what makes a job stale.

import json
import re
import sys

from workflow_scripts.common.code import code_of, pins
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest
from workflow_scripts.common.schema import (
    ANSWERED,
    JUDGED,
    OFFLINE_METHODS,
    ONLINE_METHODS,
    PAIR_METHODS,
    RankedPairs,
    RowSimulation,
    Sampling,
)
from workflow_scripts.common.study import (
    all_templates,
    check_config,
    policies_of,
    seeds_of,
)

try:
    STUDY = check_config(config, workflow.configfiles)
except PlumblineError as error:
    sys.exit(
        f"error: {error}"
    )  # the message alone: an exception would add lines of code to it

NAME = STUDY.study
RESULTS = f"results/{NAME}"
WORK = f"work/{NAME}"
CLEAN = f"data/clean/{NAME}"
LOGS = f"{RESULTS}/logs"
POLICIES = policies_of(STUDY)
CALIBRATION = ("gold", "empty")
TORCH = ("torch", "transformers")
TRAINERS = ("torch", "transformers", "trl", "accelerate")


def as_json(value):
    """Return settings as the one-line JSON that the scripts take."""
    value = value.model_dump(by_alias=True) if hasattr(value, "model_dump") else value
    return json.dumps(value, sort_keys=True)


def settings(part, keys=None, drop=(), **more):
    """Return a part of the study as JSON: some of its keys, or all but some, with more beside them."""
    values = part.model_dump(by_alias=True)
    kept = {key: values[key] for key in (keys or values) if key not in drop}
    return as_json(kept | more)


def one_of(names):
    """Return a wildcard constraint that matches exactly these names (and nothing if there are none)."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


CELL = f"{RESULTS}/policies/{{policy}}/seed-{{seed}}"


ANYONE = one_of([*POLICIES, *CALIBRATION])


# --- sources and models -------------------------------------------------------------------------------------------


def source_key(name):
    """Return a source's folder name: its name and a digest of what it pins, so studies share what is the same."""
    source = STUDY.sources[name]
    pinned = source.files and all(source.files.values())
    return f"{name}-{digest(source.files if pinned else source.model_dump())[:8]}"


def source_folder(name):
    return f"data/sources/{source_key(name)}"


def model_key(name):
    """Return a base model's folder name: its name and a digest of how it is made."""
    model = STUDY.models[name]
    made = model.model_dump(include={"format", "weights", "tokenizer", "check"})
    return f"{name}-{digest([source_key(model.source), made])[:8]}"


SOURCE_OF = {source_key(name): name for name in STUDY.sources}
MODEL_OF = {model_key(name): name for name in STUDY.models}
FETCHED = [key for key, name in SOURCE_OF.items() if STUDY.sources[name].places]
SIMULATED = [key for key, name in SOURCE_OF.items() if STUDY.sources[name].simulate]


def simulator_of(wildcards):
    """Return the module that simulates a source."""
    by_rows = isinstance(
        STUDY.sources[SOURCE_OF[wildcards.source]].simulate, RowSimulation
    )
    return "simulate_rows" if by_rows else "simulate_dialogues"


# --- policies -----------------------------------------------------------------------------------------------------


def policies_by(*methods):
    """Return the names of the policies made by one of these methods."""
    return [name for name, policy in POLICIES.items() if policy.method in methods]


def run_of(policy):
    return STUDY.runs[POLICIES[policy].run]


def policy_folder(policy, seed):
    """Return where a policy's answers and scores are, and the weights of a trained one."""
    return f"{RESULTS}/policies/{policy}/seed-{seed}"


def weights_folder(policy, seed):
    """Return the folder with a policy's model/ and manifest.json."""
    return (
        policy_folder(policy, seed)
        if POLICIES[policy].parent
        else f"data/models/{model_key(policy)}"
    )


def parent_weights(wildcards):
    """Return the folder of the weights that a policy's training starts from, same seed unless the parent has none."""
    parent = POLICIES[POLICIES[wildcards.policy].parent]
    seed = wildcards.seed if parent.parent else STUDY.seeds[0]
    return weights_folder(parent.name, seed)


def model_of(policy):
    return STUDY.models[POLICIES[policy].model]


def template_of(policy):
    """Return the template a policy speaks in: that of the last fine-tuning in its lineage which names one."""
    while policy:
        run = STUDY.runs.get(POLICIES[policy].run)
        name = getattr(run, "template", None) or (
            "vicuna" if getattr(run, "backend", "") == "fastchat" else None
        )
        if name:
            return all_templates(STUDY)[name]
        base, policy = policy, POLICIES[policy].parent
    return all_templates(STUDY)[STUDY.models[base].template]


def remote_code(policy):
    return model_of(policy).trust_remote_code


def cells():
    """Return every (policy, seed) that is answered for and scored."""
    return [
        (name, seed)
        for name, policy in POLICIES.items()
        for seed in seeds_of(STUDY, policy)
    ]


# --- prompt sets --------------------------------------------------------------------------------------------------


PROMPTED = {
    name: part for name, part in STUDY.benchmarks.items() if part.kind in ANSWERED
}
PAIR_SETS = {
    f"pairs-{name}": part
    for name, part in STUDY.pairs.items()
    if not isinstance(part, RankedPairs)
}
VALUE_SETS = {
    f"values-{name}": part
    for name, part in STUDY.values.items()
    if part.targets == "generated"
}
ONLINE_SETS = {  # these are answered while a policy is trained on them
    f"runs-{name}": part
    for name, part in STUDY.runs.items()
    if part.method in ONLINE_METHODS
}
PROMPT_SETS = PROMPTED | PAIR_SETS | VALUE_SETS | ONLINE_SETS


def owed_by(policy):
    """Return the prompt sets a policy answers: every benchmark's, and those its children learn from."""
    runs = [
        STUDY.runs[child.run] for child in POLICIES.values() if child.parent == policy
    ]
    wanted = {f"pairs-{getattr(run, 'pairs', None)}" for run in runs} | {
        f"values-{getattr(run, 'value', None)}" for run in runs
    }
    return [
        *(name for name in PAIR_SETS | VALUE_SETS if name in wanted),
        *PROMPTED,
    ]


def prompts_manifest(prompt_set):
    return f"{RESULTS}/prompts/{prompt_set}.json"


def fidelity_of(part):
    return part.fidelity or STUDY.fidelity


# --- download ---------------------------------------------------------------------------------------------------


def source_settings(source):
    """Return the wanted files and the places, each with the one kind it has."""
    places = [place.model_dump(exclude_none=True) for place in source.places]
    return as_json({"files": source.files, "places": places})


# --- clean ------------------------------------------------------------------------------------------------------


def raw_files(source, names):
    return [f"{source_folder(source)}/files/{name}" for name in names]


# --- annotate ---------------------------------------------------------------------------------------------------


def reward_parent(wildcards):
    return weights_folder(STUDY.reward_models[wildcards.reward].parent, STUDY.seeds[0])


def reward_manifests(annotation):
    """Return what an annotation's classifiers are stale by."""
    rewards = STUDY.annotations[annotation].rewards.values()
    models = [part.model for part in rewards if getattr(part, "model", None)]
    sources = [part.source for part in rewards if getattr(part, "source", None)]
    return [f"{RESULTS}/reward_models/{name}/manifest.json" for name in models] + [
        f"{source_folder(name)}/manifest.json" for name in sources
    ]


def origin_of(source):
    """Return a source's name, and the repository and revision of the hub it is pinned to, if any."""
    pinned = [place.hf for place in STUDY.sources[source].places if place.hf]
    hub = {"repo": pinned[0].repo, "revision": pinned[0].revision} if pinned else {}
    return {"name": source} | hub


def reward_settings(annotation):
    """Return an annotation's rewards as JSON, each classifier's folder in place of its name."""
    rewards = {}
    for name, part in STUDY.annotations[annotation].rewards.items():
        rewards[name] = part.model_dump()
        if getattr(part, "model", None):
            rewards[name]["folder"] = f"{RESULTS}/reward_models/{part.model}/model"
        elif getattr(part, "source", None):
            rewards[name] |= {
                "folder": f"{source_folder(part.source)}/files",
                "source": origin_of(part.source),
            }
    return as_json({"rewards": rewards})


def annotated_by(wildcards):
    """Return the annotation that rewards the answers to a prompt set."""
    return PROMPT_SETS[wildcards.prompts].annotation


def clean_rows(dataset, split):
    return f"{CLEAN}/{dataset}/rows/{split}.jsonl"


def annotated_rows(part):
    """Return train=… and validation=…, the annotated files that a run or a set of pairs learns from."""
    folder = f"{RESULTS}/annotations/{part.annotation}/rows"
    splits = {"train": part.split, "validation": part.validation}
    return [f"{name}={folder}/{split}.jsonl" for name, split in splits.items() if split]


def fit_rows(annotation):
    """Return the conversations that an annotation's tf-idf weights are fitted on."""
    part = STUDY.annotations[annotation]
    return clean_rows(part.dataset, part.fit_split)


def history_of(annotation):
    return STUDY.datasets[STUDY.annotations[annotation].dataset].history_turns


# --- align ------------------------------------------------------------------------------------------------------


def parent_of(wildcards):
    """Return (parent, seed) of a policy: the same seed, unless the parent has none."""
    parent = POLICIES[wildcards.policy].parent
    return parent, wildcards.seed if POLICIES[parent].parent else STUDY.seeds[0]


def pairs_folder(pairs, policy, seed):
    """Return where pairs are: those of a policy's own mistakes are its own, ranked ones are everybody's."""
    if isinstance(STUDY.pairs[pairs], RankedPairs):
        return f"{RESULTS}/pairs/{pairs}"
    return f"{RESULTS}/pairs/{pairs}/{policy}/seed-{seed}"


def reference_folder(wildcards):
    parent, seed = parent_of(wildcards)
    return f"{RESULTS}/reference/{run_of(wildcards.policy).pairs}/{parent}/seed-{seed}"


def ranked_folder(wildcards):
    parent, seed = parent_of(wildcards)
    return f"{RESULTS}/ranked/{run_of(wildcards.policy).pairs}/{parent}/seed-{seed}"


REWARDED = ["annotation", "split", "validation", "max_prompt_tokens", "max_tokens"]


def rewarded_key(run):
    """Return the name of the rewarded rows a run learns from; runs that agree in these share them."""
    return f"{run.annotation}-{digest(settings(run, keys=REWARDED))[:8]}"


REWARDED_OF = {
    rewarded_key(run): run
    for run in STUDY.runs.values()
    if run.method in OFFLINE_METHODS
}


def rewarded_folder(wildcards):
    parent, seed = parent_of(wildcards)
    return f"{RESULTS}/rewarded/{rewarded_key(run_of(wildcards.policy))}/{parent}/seed-{seed}"


def advantages_manifest(wildcards):
    """Return the manifest of the advantages a run weighs by, or nothing where it weighs by none."""
    run = run_of(wildcards.policy)
    if not getattr(run, "value", None):
        return []
    parent, seed = parent_of(wildcards)
    return f"{RESULTS}/advantages/{rewarded_key(run)}/{run.value}/{parent}/seed-{seed}/manifest.json"


def advantages_flags(wildcards):
    manifest = advantages_manifest(wildcards)
    return (
        f"--advantages {Path(manifest).parent}/advantages.jsonl --advantages-manifest {manifest}"
        if manifest
        else ""
    )


def value_rows(wildcards):
    """Return the rewarded answers a value head is fitted on."""
    part = STUDY.values[wildcards.value]
    if part.targets == "generated":
        return f"{policy_folder(wildcards.policy, wildcards.seed)}/rewards/values-{wildcards.value}.jsonl"
    return f"{RESULTS}/annotations/{part.annotation}/rows/{part.split}.jsonl"


def value_rows_manifest(wildcards):
    if STUDY.values[wildcards.value].targets == "generated":
        return f"{value_rows(wildcards)[:-1]}"
    return f"{RESULTS}/annotations/{STUDY.values[wildcards.value].annotation}/manifest.json"


# What a training job is not made stale by, or has from elsewhere.
NOT_LEARNED_BY = ["parent", "method", "threads"]


def training_settings(wildcards, drop=(), **more):
    return settings(
        run_of(wildcards.policy),
        drop=[*NOT_LEARNED_BY, *drop],
        trust_remote_code=remote_code(wildcards.policy),
        **more,
    )


def method_module(wildcards):
    return f"workflow_scripts.align.{run_of(wildcards.policy).method}"


# --- generate ---------------------------------------------------------------------------------------------------


def prompted_dataset(part):
    """Return the name of the dataset whose turns are a prompt set, or None."""
    annotation = STUDY.annotations.get(getattr(part, "annotation", None))
    return annotation.dataset if annotation else getattr(part, "dataset", None)


def prompts_input(wildcards):
    """Return the manifest behind a prompt set, or the file itself where it ships with the repository."""
    part = PROMPT_SETS[wildcards.prompts]
    if prompted_dataset(part):
        return f"{CLEAN}/{prompted_dataset(part)}/manifest.json"
    if part.kind == "humaneval":
        return f"{source_folder(part.source)}/manifest.json"
    return part.questions if part.kind == "mt_bench" else part.prompts


def prompts_file(wildcards):
    part = PROMPT_SETS[wildcards.prompts]
    if prompted_dataset(part):
        return clean_rows(prompted_dataset(part), part.split)
    return (
        f"{source_folder(part.source)}/files/{part.file}"
        if part.kind == "humaneval"
        else prompts_input(wildcards)
    )


def prompts_kind(wildcards):
    part = PROMPT_SETS[wildcards.prompts]
    return "turns" if prompted_dataset(part) else part.kind


def prompt_cuts(wildcards):
    """Return the flags that shorten a prompt set: fewer rows, or fewer past exchanges in each."""
    part = PROMPT_SETS[wildcards.prompts]
    dataset = STUDY.datasets.get(prompted_dataset(part))
    flags = {
        "--limit": getattr(part, "limit", None),
        "--history": dataset.history_turns if dataset else None,
    }
    return " ".join(
        f"{flag} {value}" for flag, value in flags.items() if value is not None
    )


SAMPLING = list(Sampling.model_fields)


def sampling_of(wildcards):
    """Return how a prompt set is answered; a set that a run answers while it trains says so itself."""
    part = PROMPT_SETS[wildcards.prompts]
    return settings(
        part, keys=[key for key in SAMPLING if key in type(part).model_fields]
    )


ENGINE_CODE = code_of(
    "workflow_scripts.generate.answer",
    f"workflow_scripts.generate.{'vllm_engine' if STUDY.engine.name == 'vllm' else 'engine'}",
)


ENGINE_PINS = pins(*TORCH)


# --- score ------------------------------------------------------------------------------------------------------


def benchmarks_of(*kinds):
    return one_of(name for name, part in STUDY.benchmarks.items() if part.kind in kinds)


def score_settings(*keys):
    """Return a params function: these keys of the wildcard's benchmark, and which fidelity where it has one."""

    def chosen(wildcards):
        part = STUDY.benchmarks[wildcards.benchmark]
        more = (
            {"fidelity": fidelity_of(part)}
            if "fidelity" in type(part).model_fields
            else {}
        )
        return settings(part, keys=keys, **more)

    return chosen


def scored_weights(wildcards):
    """Return the folder of a policy's weights; the calibration rows take the first base model's tokenizer."""
    if wildcards.policy in CALIBRATION:
        return weights_folder(next(iter(STUDY.models)), STUDY.seeds[0])
    return weights_folder(wildcards.policy, wildcards.seed)


def spoken_by(policy):
    """Return how a policy is spoken to and computed; the calibration rows take after the first base model."""
    speaker = policy if policy in POLICIES else next(iter(STUDY.models))
    return {
        "precision": STUDY.engine.precision,
        "template": template_of(speaker),
        "trust_remote_code": policy in POLICIES and remote_code(policy),
    }


def calibration_flag(flag):
    return lambda wildcards: (
        f"{flag} {wildcards.policy}" if wildcards.policy in CALIBRATION else ""
    )


def task_files(wildcards):
    """Return the local task files a benchmark reads, so that an edited question is a changed input."""
    folder = STUDY.benchmarks[wildcards.benchmark].include_path
    return (
        sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
        if folder
        else []
    )


def judge_of(wildcards):
    return STUDY.judges[STUDY.benchmarks[wildcards.benchmark].judge]


def judge_manifest(wildcards):
    judge = judge_of(wildcards)
    return (
        f"{RESULTS}/reward_models/{judge.model}/manifest.json"
        if judge.kind == "reward_model"
        else []
    )


def judge_settings(wildcards):
    """Return the judge as JSON; a reward model's folder stands in place of its name."""
    judge = judge_of(wildcards).model_dump() | {
        "name": STUDY.benchmarks[wildcards.benchmark].judge
    }
    if judge["kind"] == "reward_model":
        judge["model"] = f"{RESULTS}/reward_models/{judge['model']}/model"
    return as_json(judge)


# --- report -----------------------------------------------------------------------------------------------------


def index_entries():
    """Return one entry per score file, policies in the order of the study, calibration rows last."""
    entries = []
    for name, seed in [*cells(), *((name, 0) for name in CALIBRATION)]:
        policy = POLICIES.get(name)
        for benchmark in STUDY.benchmarks:
            entries.append(
                {
                    "policy": name,
                    "parent": policy.parent if policy else None,
                    "method": policy.method if policy else None,
                    "seed": seed,
                    "benchmark": benchmark,
                    "file": f"{policy_folder(name, seed)}/scores/{benchmark}.json",
                    "kind": "policy" if policy else "calibration",
                }
            )
    return entries


SCORES = [entry["file"] for entry in index_entries()]


TRAINED = [(name, seed) for name, seed in cells() if POLICIES[name].parent]


TRAININGS = [
    {
        "policy": name,
        "seed": seed,
        "method": POLICIES[name].method,
        "curve": f"{policy_folder(name, seed)}/curve.json",
        "manifest": f"{policy_folder(name, seed)}/manifest.json",
    }
    for name, seed in TRAINED
]


FIGURES = (
    ([f"{RESULTS}/figures/loss_curves.svg"] if TRAINED or STUDY.reward_models else [])
    + ([f"{RESULTS}/figures/policy_bars.svg"] if STUDY.report.bars else [])
    + ([f"{RESULTS}/figures/rewards.svg"] if STUDY.annotations else [])
)


CURVES = [
    {"policy": name, "seed": seed, "file": f"{policy_folder(name, seed)}/curve.json"}
    for name, seed in TRAINED
] + [
    {
        "policy": name,
        "seed": part.seed,
        "file": f"{RESULTS}/reward_models/{name}/curve.json",
    }
    for name, part in STUDY.reward_models.items()
    if any(getattr(judge, "model", None) == name for judge in STUDY.judges.values())
]
