# Functions only: where things are, which policy owes what, and what makes a job stale.

import json
import re
import sys

from workflow_scripts.common.code import code_of, pins
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest
from workflow_scripts.common.study import (
    ALIGN_METHODS,
    ANSWERED,
    JUDGED,
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
PYTHON = "python -m workflow_scripts"
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


# --- policies -----------------------------------------------------------------------------------------------------


def policies_by(method_kind):
    """Return the names of the policies made by a kind of method: sft, or one of the alignment methods."""
    wanted = ("sft",) if method_kind == "sft" else ALIGN_METHODS
    return [name for name, policy in POLICIES.items() if policy.method in wanted]


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
PAIR_SETS = {f"pairs-{name}": part for name, part in STUDY.pairs.items()}
PROMPT_SETS = PROMPTED | PAIR_SETS


def owed_by(policy):
    """Return the prompt sets a policy answers: every benchmark's, and those its children learn pairs from."""
    children = [
        child
        for child in POLICIES.values()
        if child.parent == policy and child.method in ALIGN_METHODS
    ]
    pair_sets = [
        f"pairs-{name}"
        for name in STUDY.pairs
        if any(STUDY.runs[c.run].pairs == name for c in children)
    ]
    return [*pair_sets, *PROMPTED]


def prompts_manifest(prompt_set):
    return f"{RESULTS}/prompts/{prompt_set}.json"


def fidelity_of(part):
    return part.fidelity or STUDY.fidelity
