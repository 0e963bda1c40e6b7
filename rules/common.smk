# Functions only: where things are, which policy owes what, and what makes a job stale.

import json
import os
import re
import shlex
import time
from types import SimpleNamespace

from workflow_scripts.common.code import code_of, locked_versions, pins
from workflow_scripts.common.errors import PlumblineError, told
from workflow_scripts.common.files import digest
from workflow_scripts.common.lineages import all_templates, policies_of, seeds_of
from workflow_scripts.common.schema import (
    ANSWERED,
    JUDGED,
    OFFLINE_METHODS,
    ONLINE_METHODS,
    PAIR_METHODS,
    PROGRAMS,
    RankedPairs,
    RowSimulation,
    Sampling,
)
from workflow_scripts.common.shared_store import check_links, check_store
from workflow_scripts.common.study import check_config
from workflow_scripts.common.machine import seen, unset_keys

STORED = workflow.workflow_settings.cache is not None
if STORED and not workflow.workflow_settings.cache:
    # A plain --cache is not handed on to a cluster's jobs, one with a rule's name is; all others have their directive.
    workflow.workflow_settings.cache = ["train_sft"]
with told():
    # What a look at the machine says is for the head alone: each job of a cluster reads the study again.
    looks = [seen] if workflow.is_main_process else []
    STUDY, DOUBTS = check_config(config, workflow.configfiles, looks)
    if STORED:
        check_store(os.environ.get("SNAKEMAKE_OUTPUT_CACHE"))
        os.environ |= {
            "PLUMBLINE_STORED": "yes"
        }  # jobs know by it that the store is in use
    if workflow.is_main_process:
        for doubt in DOUBTS:
            print(f"warning: {doubt}", file=sys.stderr)
        check_links(["data", f"results/{STUDY.study}"])

NAME = STUDY.study
RESULTS = f"results/{NAME}"
WORK = f"work/{NAME}"
CLEAN = f"data/clean/{NAME}"
LOGS = f"{RESULTS}/logs"
CLEANED = [Path(f"{CLEAN}/{name}/manifest.json") for name in STUDY.datasets]
# The shell has the study's folders as variables: so a job's command and params are the same in every study, and a store
# that several studies share (--cache) knows it again.
FOLDERS = {"RESULTS": RESULTS, "WORK": WORK, "CLEAN": CLEAN}
os.environ |= FOLDERS
POLICIES = policies_of(STUDY)
CALIBRATION = ("gold", "empty")
TORCH = ("torch", "transformers")
TRAINERS = ("torch", "transformers", "trl", "accelerate")


def with_folders(path):
    """Return a path as scripts read it in their settings: the study's folder as a variable."""
    for name, folder in FOLDERS.items():
        path = re.sub(rf"^{re.escape(folder)}/", f"${name}/", path)
    return path


# In a shell line every placeholder is quoted, {params.x:q}; :u is for what in_shell has quoted already. So no value of a
# study is ever more than the words of a command (tests/test_shell_lines.py).
def in_shell(word):
    """Return a word (or a list of them) quoted for a shell line, the study's folder in it as a variable."""
    if isinstance(word, list):
        return [in_shell(each) for each in word]
    for name, folder in FOLDERS.items():
        if found := re.match(rf"([\w-]+=)?{re.escape(folder)}/", word):
            return f"{found[1] or ''}${name}/{shlex.quote(word[found.end() :])}"
    return shlex.quote(word)


def as_json(value):
    """Return settings as the one-line JSON that the scripts take."""
    value = value.model_dump(by_alias=True) if hasattr(value, "model_dump") else value
    return json.dumps(value, sort_keys=True)


def settings(part, keys=None, drop=(), **more):
    """Return a part of the study as JSON: some of its keys, or all but some, with more beside them."""
    values = part.model_dump(by_alias=True)
    kept = {
        key: values[key]
        for key in (values if keys is None else keys)
        if key not in drop
    }
    return as_json(kept | more)


def flag_words(flags):
    """Return the words of those flags that have a value."""
    given = {flag: value for flag, value in flags.items() if value is not None}
    return [word for flag, value in given.items() for word in (flag, str(value))]


def one_of(names):
    """Return a wildcard constraint that matches exactly these names (and nothing if there are none)."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


CELL = f"{RESULTS}/policies/{{policy}}/seed-{{seed}}"


# --- jobs that may have GPUs ------------------------------------------------------------------------------------


def asked(resources):
    """Return what a part of the study asks for, as a rule's resources; a profile's set-resources go before them."""
    values = resources.model_dump(exclude={"cpus", "runtime_minutes"})
    return values | {"runtime": resources.runtime_minutes}


TRAINING = asked(STUDY.training_resources)
ANSWERING = asked(STUDY.generation_resources)


def unless_ppo(name):
    """Return how much of a resource a training asks for; PPO is one process, on one machine."""
    return lambda wildcards: (
        min(1, TRAINING[name])
        if run_of(wildcards.policy).method == "ppo"
        else TRAINING[name]
    )


ONLINE = TRAINING | {name: unless_ppo(name) for name in ("gpu", "nodes")}
# What only reads (log-probs, rewards, harness) is one process on one GPU, and none where no model is read.
ONE_GPU = min(1, ANSWERING["gpu"])
READING = ANSWERING | {"gpu": ONE_GPU}
SCORING = ANSWERING | {
    "gpu": lambda wildcards: 0 if wildcards.policy in CALIBRATION else ONE_GPU
}
REWARDING = ANSWERING | {
    "gpu": lambda wildcards: (
        ONE_GPU if reward_manifests(annotation_of(wildcards)) else 0
    )
}
JUDGING = ANSWERING | {
    "judge": 1,
    "gpu": lambda wildcards: (
        ONE_GPU if judge_of(wildcards).kind == "reward_model" else 0
    ),
}
LAUNCH = "python -m workflow_scripts.common.launch --gpus {resources.gpu:q}"
LAUNCH_TRAINING = (
    f"{LAUNCH} --nodes {{resources.nodes:q}} --parallel {{resources.parallel:q}}"
)
LAUNCH_POLICY = f"{LAUNCH_TRAINING} --claim $WORK/train/{{wildcards.policy:q}}-{{wildcards.seed:q}}.lock"
POLICY_FLAGS = (
    '--parent "$(dirname {input.parent:q})/model" --parent-manifest {input.parent:q}'
    " --settings {params.settings:q} --seed {wildcards.seed:q}"
    " --work $WORK/train/{wildcards.policy:q}-{wildcards.seed:q} --output {output.model:q}"
    " --manifest {output.manifest:q} --curve {output.curve:q} --note-divergence"
)


def unless_diverged(inputs="{input:q}", whose=None):
    """Return what stands before the command of a job that goes on from a training: it is not run where one diverged.

    The job's outputs then hand the note on (common.diverged); `whose` training that was to the job, if not its own.
    """
    said = f' --whose "{whose}"' if whose else ""
    return f"python -m workflow_scripts.common.diverged{said} --inputs {inputs} --outputs {{output:q}} 2> {{log:q}} || "


UNLESS_DIVERGED = unless_diverged()
UNLESS_ANCESTOR_DIVERGED = unless_diverged(whose="an ancestor's training")
# What is left of the inputs that may have one: the judge, and an opponent's answers.
UNLESS_JUDGED_DIVERGED = unless_diverged("{input.generations:q}") + unless_diverged(
    whose="the opponent's training"
)

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
    made["template"] = all_templates(STUDY)[model.template]
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
            rewards[name]["folder"] = f"$RESULTS/reward_models/{part.model}/model"
        elif getattr(part, "source", None):
            rewards[name] |= {
                "folder": f"{source_folder(part.source)}/files",
                "source": origin_of(part.source),
            }
    return as_json({"rewards": rewards})


def annotation_of(wildcards):
    """Return the annotation of a job: its own, or that of the prompt set whose answers it rewards."""
    return getattr(wildcards, "annotation", None) or annotated_by(wildcards)


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
    if not manifest:
        return []
    rows = f"{Path(manifest).parent}/advantages.jsonl"
    return ["--advantages", rows, "--advantages-manifest", manifest]


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


def source_file(source, file):
    return f"{source_folder(source)}/files/{file}"


def prompts_input(wildcards):
    """Return the manifest behind a prompt set, or the file itself where it ships with the repository."""
    part = PROMPT_SETS[wildcards.prompts]
    if prompted_dataset(part):
        return f"{CLEAN}/{prompted_dataset(part)}/manifest.json"
    if part.source:
        return f"{source_folder(part.source)}/manifest.json"
    return part.questions if part.kind == "mt_bench" else part.prompts


def prompts_file(wildcards):
    part = PROMPT_SETS[wildcards.prompts]
    if prompted_dataset(part):
        return clean_rows(prompted_dataset(part), part.split)
    if not part.source:
        return prompts_input(wildcards)
    name = {"mt_bench": "questions", "alpaca_eval": "prompts"}.get(part.kind, "file")
    return source_file(part.source, getattr(part, name))


def prompts_kind(wildcards):
    part = PROMPT_SETS[wildcards.prompts]
    return "turns" if prompted_dataset(part) else part.kind


def prompt_cuts(wildcards):
    """Return the flags that shorten a prompt set or bring its references: fewer rows, fewer past exchanges in each."""
    part = PROMPT_SETS[wildcards.prompts]
    dataset = STUDY.datasets.get(prompted_dataset(part))
    references = getattr(part, "references", None)
    flags = {
        "--limit": getattr(part, "limit", None),
        "--history": dataset.history_turns if dataset else None,
        "--form": getattr(part, "form", None),
        "--references": references
        and (source_file(part.source, references) if part.source else references),
    }
    shots = getattr(part, "shots", [])
    return [
        *flag_words(flags),
        *(["--shots", *map(str, shots)] if shots else []),
    ]


SAMPLING = list(Sampling.model_fields)


def sampling_of(wildcards):
    """Return how a prompt set is answered; a set that a run answers while it trains says so itself."""
    part = PROMPT_SETS[wildcards.prompts]
    return settings(
        part,
        keys=[key for key in SAMPLING if key in type(part).model_fields],
        temperatures=getattr(part, "temperatures", []),
    )


ENGINE_CODE = code_of(
    "workflow_scripts.generate.answer",
    f"workflow_scripts.generate.{'vllm_engine' if STUDY.engine.name == 'vllm' else 'engine'}",
)


# vLLM has environments of its own, since it wants other versions of some packages: .venv-vllm here, another YAML for conda.
VLLM = STUDY.engine.name == "vllm"
ENGINE_PINS = pins("vllm", *TORCH, lock="vllm.txt") if VLLM else pins(*TORCH)
os.environ |= {
    "ENGINE_PATH": (
        f"{workflow.basedir}/.venv-vllm/bin:"
        if VLLM and not workflow.deployment_settings.deployment_method
        else ""
    )
}
ENGINE_ENVIRONMENT = "../envs/vllm.yaml" if VLLM else "../envs/train.yaml"


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


def spoken_in(wildcards):
    """Return whose tokens `gold` speaks in: base models' folders, each with {policy: template}, the first of each template.

    `empty` says nothing.
    """
    found = {}
    for policy in POLICIES if wildcards.policy == "gold" else ():
        key = model_key(POLICIES[policy].model)
        spoken = found.setdefault(Path(f"data/models/{key}/model"), {})
        if template_of(policy) not in spoken.values():
            spoken[policy] = template_of(policy)
    return found


def calibration_flag(flag):
    return lambda wildcards: (
        [flag, wildcards.policy] if wildcards.policy in CALIBRATION else []
    )


def harness_folder(source, file):
    """Return where the task files made from a package of rows are; studies that pin the same one share them."""
    return f"data/tasks/{source_key(source)}-{digest(file)[:8]}"


PACKAGES = {
    harness_folder(part.source, part.package_file).removeprefix("data/tasks/"): part
    for part in STUDY.benchmarks.values()
    if part.kind == "lm_eval" and part.source
}


def task_files(wildcards):
    """Return the local task files a benchmark reads, so that an edited question is a changed input."""
    part = STUDY.benchmarks[wildcards.benchmark]
    if part.source:
        return f"{harness_folder(part.source, part.package_file)}/manifest.json"
    folder = part.include_path
    return (
        sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
        if folder
        else []
    )


def counted_programs(wildcards):
    """Return the policy's HumanEval scores, where a suite of the harness counts them in."""
    name = STUDY.benchmarks[wildcards.benchmark].humaneval
    return f"{CELL}/scores/{name}.json".format(**wildcards) if name else []


def suites_file(wildcards):
    """Return the file of suites where a benchmark is one: code does not tell when it changes."""
    part = STUDY.benchmarks[wildcards.benchmark]
    return "workflow_scripts/score/harness/suites.yaml" if part.suite else []


def harness_settings(wildcards):
    """Return an lm_eval benchmark's settings as JSON, the folder of its task files among them."""
    part = STUDY.benchmarks[wildcards.benchmark]
    folder = (
        f"{harness_folder(part.source, part.package_file)}/tasks"
        if part.source
        else part.include_path
    )
    return settings(
        part,
        drop=["kind", "source", "package_file", "humaneval"],
        include_path=folder,
        fidelity=fidelity_of(part),
    )


# --- judges -----------------------------------------------------------------------------------------------------


# How a verdict is come by alters no verdict: only these settings of an endpoint make one stale.
ASKED = [
    "kind",
    "model",
    "version",
    "temperature",
    "max_tokens",
    "max_completion_tokens",
    "params",
    "seed",
]


JUDGE_STORE = "work/judge"  # shared by all benchmarks and studies
# How an endpoint is reached and paid travels apart from params: it makes no verdict stale.
os.environ |= {
    "PLUMBLINE_JUDGES": as_json(
        {
            name: json.loads(settings(judge, drop=ASKED))
            for name, judge in STUDY.judges.items()
            if judge.kind == "openai"
        }
    )
}


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
    """Return what a judge's verdicts depend on, as JSON; a reward model's folder stands in place of its name."""
    judge = judge_of(wildcards)
    values = judge.model_dump()
    if judge.kind == "reward_model":
        values["model"] = f"{RESULTS}/reward_models/{judge.model}/model"
    kept = ASKED if judge.kind == "openai" else list(values)
    name = STUDY.benchmarks[wildcards.benchmark].judge
    return as_json({key: values[key] for key in kept} | {"name": name})


def judging_settings(wildcards):
    """Return what a benchmark asks of its judge, as JSON."""
    part = STUDY.benchmarks[wildcards.benchmark]
    names = {
        "mt_bench": ["mode"],
        "alpaca_eval": ["annotator"],
        "judge_score": ["prompt"],
        "preference": ["skip"],
    }
    return settings(part, keys=names[part.kind])


def judge_prompts(wildcards):
    """Return the file of judge prompts a benchmark brings from its source, or nothing."""
    part = STUDY.benchmarks[wildcards.benchmark]
    file = getattr(part, "judge_prompts", None)
    return [source_file(part.source, file) if part.source else file] if file else []


def judge_prompts_input(wildcards):
    part = STUDY.benchmarks[wildcards.benchmark]
    if judge_prompts(wildcards) and part.source:
        return f"{source_folder(part.source)}/manifest.json"
    return judge_prompts(wildcards)


def opponent_answers(wildcards):
    """Return the answers that a policy's are compared with, where they are another policy's."""
    part = STUDY.benchmarks[wildcards.benchmark]
    if part.kind not in ("mt_bench", "preference"):
        return []
    opponent = part.opponent
    if part.kind == "mt_bench":
        opponent = (
            part.opponent or STUDY.report.baseline if part.mode == "pairwise" else None
        )
    if not opponent:
        return []
    seeds = seeds_of(STUDY, POLICIES[opponent])
    seed = (
        int(wildcards.seed)
        if wildcards.policy in POLICIES and int(wildcards.seed) in seeds
        else seeds[0]
    )
    return f"{policy_folder(opponent, seed)}/generations/{wildcards.benchmark}.json"


def judging_flags(wildcards):
    """Return the flags of a judging job that not every benchmark has."""
    flags = {
        "--opponent": (
            f"{opponent_answers(wildcards)}l" if opponent_answers(wildcards) else None
        ),
        "--templates": next(iter(judge_prompts(wildcards)), None),
    }
    return flag_words(flags)


def judged_settings(wildcards):
    """Return what scoring verdicts takes, as JSON."""
    part = STUDY.benchmarks[wildcards.benchmark]
    keys = {
        "mt_bench": ["mode"],
        "alpaca_eval": ["length_controlled", "lc_draws", "evaluate"],
    }
    more = {"benchmark": wildcards.benchmark}
    if part.kind == "alpaca_eval":
        more |= {
            "seed": STUDY.seeds[0],
            "gamed": (
                source_file(part.source, part.gamed)
                if part.gamed and part.source
                else part.gamed
            ),
        }
    return settings(part, keys=keys.get(part.kind, []), **more)


def gamed_input(wildcards):
    """Return what the source of AlpacaEval's gamed answers is stale by, where a benchmark uses them."""
    part = STUDY.benchmarks[wildcards.benchmark]
    if not getattr(part, "gamed", None):
        return []
    return f"{source_folder(part.source)}/manifest.json" if part.source else part.gamed


def is_judged(benchmark):
    """Tell whether a benchmark's answers go before a judge."""
    part = STUDY.benchmarks[benchmark]
    return part.kind in JUDGED and getattr(part, "evaluate", True)


def need_keys(jobs):
    """Stop a run before it trains or answers if its judges would then be asked without a key.

    Where judging alone is due, the verdicts may all be stored; else it says at once what it lacks.
    """
    rules = {job.rule.name for job in jobs}
    lacking = [finding.text for finding in unset_keys(STUDY)]
    if lacking and {"judge_answers", "answer_prompts"} <= rules:
        raise PlumblineError("\n".join(lacking))


# --- decontamination --------------------------------------------------------------------------------------------


def trained_on(run):
    """Return the (dataset, split) whose rows a run learns from."""
    part = STUDY.pairs[run.pairs] if getattr(run, "pairs", None) else run
    annotation = STUDY.annotations.get(getattr(part, "annotation", None))
    return (annotation.dataset if annotation else part.dataset), part.split


def training_sets_of(policy):
    """Return the names dataset/split of all that a policy and its ancestors were trained on."""
    sets = []
    while policy in POLICIES and POLICIES[policy].parent:
        sets.append("/".join(trained_on(run_of(policy))))
        policy = POLICIES[policy].parent
    return list(dict.fromkeys(reversed(sets)))


TRAINING_SETS = sorted(
    {name for policy in POLICIES for name in training_sets_of(policy)}
)
# The datasets that some policy learned from.
LEARNED = sorted({name.split("/")[0] for name in TRAINING_SETS} & set(STUDY.datasets))


def searched(benchmark):
    """Tell whether a benchmark's items are looked for in the training sets: whenever there are any."""
    return bool(STUDY.report.decontaminate and TRAINING_SETS)


def overlap_file(benchmark):
    return f"{RESULTS}/overlap/{benchmark}.json" if searched(benchmark) else None


def items_file(wildcards):
    """Return the file with the texts of a benchmark's items: its prompts, its cleaned rows, or a list of them."""
    name, part = wildcards.benchmark, STUDY.benchmarks[wildcards.benchmark]
    if part.kind == "loss":
        return clean_rows(part.dataset, part.split)
    if part.kind == "pair_perplexity":
        return clean_rows(name, "pairs")
    folder = "prompts" if part.kind in ANSWERED else "items"
    return f"{RESULTS}/{folder}/{name}.jsonl"


def items_input(wildcards):
    """Return what the texts of a benchmark's items are stale by."""
    name, part = wildcards.benchmark, STUDY.benchmarks[wildcards.benchmark]
    if part.kind in ("loss", "pair_perplexity"):
        return f"{CLEAN}/{getattr(part, 'dataset', name)}/manifest.json"
    return prompts_manifest(name) if part.kind in ANSWERED else items_file(wildcards)


def training_flags(wildcards):
    return [f"{name}={clean_rows(*name.split('/'))}" for name in TRAINING_SETS]


# --- report -----------------------------------------------------------------------------------------------------


TRAINED_BY = {  # the rule that trains with a method, and the module it runs
    "sft": ("train_sft", "workflow_scripts.sft.train"),
    "pro": ("train_ranked", "workflow_scripts.align.pro"),
    **{
        name: ("train_aligned", f"workflow_scripts.align.{name}")
        for name in PAIR_METHODS
    },
    **{
        name: ("train_offline", f"workflow_scripts.align.{name}")
        for name in OFFLINE_METHODS
    },
    **{
        name: ("train_online", f"workflow_scripts.align.{name}")
        for name in ONLINE_METHODS
    },
}
SCORER_OF = (
    {  # the module behind a kind of benchmark, where it is not called as the kind
        "lm_eval": "harness.run",
        "loss": "reply_loss",
        "rewards": "reward_scores",
    }
)


def lineage_of(policy):
    """Return a policy and its ancestors, the base model last."""
    return [
        policy,
        *(lineage_of(POLICIES[policy].parent) if POLICIES[policy].parent else []),
    ]


def index_cell(policy, seed):
    """Return what the index says of a policy: its history, and the files and digests its answers rest on."""
    folder = policy_folder(policy, seed)
    if policy in CALIBRATION:
        facts = {"model": None, "template": None, "trained_by": None}
        known = {"parent": None, "method": None, "kind": "calibration"}
        return known | {
            "policy": policy,
            "seed": seed,
            "training_sets": [],
            "folder": folder,
            "files": [],
            "facts": facts,
        }
    runs = [name for name in lineage_of(policy) if POLICIES[name].parent]
    methods = [POLICIES[name].method for name in runs]
    return {
        "policy": policy,
        "parent": POLICIES[policy].parent,
        "method": POLICIES[policy].method,
        "seed": seed,
        "kind": "policy",
        "training_sets": training_sets_of(policy),
        "folder": folder,
        "files": [
            f"{weights_folder(policy, seed)}/manifest.json",
            *(
                f"{CLEAN}/{name.split('/')[0]}/manifest.json"
                for name in training_sets_of(policy)
            ),
        ],
        "facts": {
            "model": digest(STUDY.models[POLICIES[policy].model].model_dump())[:12],
            "template": digest(template_of(policy))[:12],
            "trust_remote_code": remote_code(policy),
            "trained_by": digest([code_of(TRAINED_BY[name][1]) for name in methods])[
                :12
            ],
        },
    }


def index_benchmark(name):
    """Return what the index says of a benchmark: which files each policy has for it, and what it rests on."""
    part = STUDY.benchmarks[name]
    scorer = code_of(f"workflow_scripts.score.{SCORER_OF.get(part.kind, part.kind)}")
    judge = STUDY.judges.get(getattr(part, "judge", None))
    answered = part.kind in ANSWERED
    asked = {"benchmark": name, "policy": CALIBRATION[0], "seed": "0"}
    opponent = part.kind in JUDGED and opponent_answers(SimpleNamespace(**asked))
    files = [
        answered and prompts_manifest(name),
        getattr(part, "dataset", None) and f"{CLEAN}/{part.dataset}/manifest.json",
        getattr(part, "source", None) and f"{source_folder(part.source)}/manifest.json",
        getattr(part, "package_file", None)
        and f"{harness_folder(part.source, part.package_file)}/manifest.json",
        judge
        and judge.kind == "reward_model"
        and f"{RESULTS}/reward_models/{judge.model}/manifest.json",
        opponent,
    ]
    return {
        "name": name,
        "answered": answered,
        "judged": is_judged(name),
        "measured": part.kind in ("pair_perplexity", "loss"),
        "overlap": overlap_file(name),
        "files": [path for path in files if path],
        "facts": {
            "settings": digest(part.model_dump())[:12],
            "code": digest([scorer, ENGINE_CODE if part.kind in ANSWERED else None])[
                :12
            ],
            "judge": judge and digest(judge.model_dump(include={*ASKED, "rule"}))[:12],
        },
    }


INDEXED = [*cells(), *((name, 0) for name in CALIBRATION)]


SCORES = [
    f"{policy_folder(name, seed)}/scores/{benchmark}.json"
    for name, seed in INDEXED
    for benchmark in STUDY.benchmarks
]


# What was answered, and how many prompts had to be cut for it: the table says so.
GENERATIONS = [
    f"{policy_folder(name, seed)}/generations/{benchmark}.json"
    for name, seed in INDEXED
    for benchmark, part in STUDY.benchmarks.items()
    if part.kind in ANSWERED
]


def index_entries():
    return as_json(
        {
            "cells": [index_cell(*cell) for cell in INDEXED],
            "benchmarks": [index_benchmark(name) for name in STUDY.benchmarks],
        }
    )


OVERLAPS = [overlap_file(name) for name in STUDY.benchmarks if searched(name)]
LOCK = digest(locked_versions())


def rested_on():
    """Return all of the study but how its judges are reached and paid and what its jobs may take."""
    values = STUDY.model_dump(
        by_alias=True, exclude={"training_resources", "generation_resources"}
    )
    for judge in values["judges"].values():
        if judge["kind"] == "openai":
            for key in judge.keys() - set(ASKED):
                del judge[key]
    return values


STUDY_DIGEST = digest(rested_on())


# What a job is called that measures a benchmark on a model, or rewards a policy's answers to it.
MEASURED_BY = {
    "pair_perplexity": "measure_likelihoods",
    "loss": "measure_reply_likelihoods",
    "lm_eval": "score_lm_eval",
    "rewards": "annotate_answers",
}


def learned_from(policy, seed):
    """Return (rule, name, parent, its seed) of the jobs that prepare what a policy learns from."""
    parent, seed = parent_of(SimpleNamespace(policy=policy, seed=seed))
    run, method = run_of(policy), POLICIES[policy].method
    if method in PAIR_METHODS:
        return [("score_reference", run.pairs, parent, seed)]
    if method not in OFFLINE_METHODS:
        return []
    key, value = rewarded_key(run), getattr(run, "value", None)
    jobs = [("score_rewarded", key, parent, seed)]
    if value:
        jobs.append(("fit_value", value, parent, seed))
        jobs.append(("estimate_advantages", f"{key}-{value}", parent, seed))
    return jobs


def cost_entries():
    """Return one entry per job that writes what it cost, in costs/<rule>/<its wildcards joined by hyphens>.json."""
    jobs = [("train_reward_model", "", "", name, name) for name in STUDY.reward_models]
    jobs += [("annotate_dataset", "", "", name, name) for name in STUDY.annotations]
    for name, seed in cells():
        if POLICIES[name].parent:
            jobs += [
                (stage, parent, at, what, f"{what}-{parent}-{at}")
                for stage, what, parent, at in learned_from(name, seed)
            ]
            stage = TRAINED_BY[POLICIES[name].method][0]
            jobs.append((stage, name, seed, "", f"{name}-{seed}"))
        jobs.append(("answer_prompts", name, seed, "", f"{name}-{seed}"))
    for name, seed in INDEXED:
        for benchmark, part in STUDY.benchmarks.items():
            stage = (
                "judge_answers" if is_judged(benchmark) else MEASURED_BY.get(part.kind)
            )
            if stage:
                place = f"{name}-{seed}-{benchmark}"
                jobs.append((stage, name, seed, benchmark, place))
    keys = ("stage", "policy", "seed", "name", "file")
    return [
        dict(
            zip(
                keys,
                (*job[:-1], f"{RESULTS}/costs/{job[0]}/{job[-1]}.json"),
                strict=True,
            )
        )
        for job in dict.fromkeys(jobs)
    ]


def judging_plans():
    """Return one entry per policy and benchmark that go before an endpoint."""
    return [
        {
            "policy": name,
            "seed": seed,
            "benchmark": benchmark,
            "judge": STUDY.benchmarks[benchmark].judge,
            "file": f"{policy_folder(name, seed)}/judging/{benchmark}.json",
        }
        for name, seed in INDEXED
        for benchmark in filter(is_judged, STUDY.benchmarks)
        if STUDY.judges[STUDY.benchmarks[benchmark].judge].kind == "openai"
    ]


def agreement_pairs():
    """Return the pairs of score files whose judges are compared, policy by policy."""
    return [
        [
            {
                "policy": name,
                "seed": seed,
                "benchmark": benchmark,
                "file": f"{policy_folder(name, seed)}/scores/{benchmark}.json",
            }
            for benchmark in pair
        ]
        for pair in STUDY.report.agreement
        for name, seed in cells()
    ]


TRAINED = [(name, seed) for name, seed in cells() if POLICIES[name].parent]


def counted_rows(policy, seed):
    """Return the manifest that counts what a run learned from: rows kept, rejected and cut."""
    wildcards, method = (
        SimpleNamespace(policy=policy, seed=seed),
        POLICIES[policy].method,
    )
    if method in PAIR_METHODS:
        folder = reference_folder(wildcards)
    elif method in OFFLINE_METHODS:
        folder = rewarded_folder(wildcards)
    elif method == "pro":
        folder = ranked_folder(wildcards)
    elif method in ONLINE_METHODS:  # their own manifests count the prompts
        folder = policy_folder(policy, seed)
    else:
        folder = f"{RESULTS}/tokens/{policy}"
    return f"{folder}/manifest.json"


TRAININGS = [
    {
        "policy": name,
        "seed": seed,
        "method": POLICIES[name].method,
        "curve": f"{policy_folder(name, seed)}/curve.json",
        "manifest": f"{policy_folder(name, seed)}/manifest.json",
        "learned_from": counted_rows(name, seed),
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


def page_settings():
    """Return what the report page shows beside the tables, as JSON."""
    return as_json(
        {
            "study": NAME,
            "file": ", ".join(os.path.relpath(path) for path in workflow.configfiles),
            "baseline": STUDY.report.baseline,
            "bars": [bar.model_dump() for bar in STUDY.report.bars],
            "curves": CURVES,
            "rewards": [
                f"{RESULTS}/annotations/{name}/rows/{split}.jsonl"
                for name, part in STUDY.annotations.items()
                for split in part.splits
            ],
            "data": {name: f"{CLEAN}/{name}/manifest.json" for name in LEARNED},
            "prompts": {name: prompts_manifest(name) for name in PROMPTED},
            "sample_count": STUDY.report.samples,
            "lock": LOCK[:12],
        }
    )
