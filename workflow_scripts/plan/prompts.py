"""Prompt sets: who owes answers to which, what each is made of, and how it is answered.

A prompt set is named after a benchmark, or after what learns from its answers: pairs-NAME, values-NAME, runs-NAME; that
of a run which is watched while it trains watch-NAME.
"""

import functools
from typing import Any

from workflow_scripts.common.code import pins
from workflow_scripts.plan.layout import MODELS, Word
from workflow_scripts.plan.plan import TORCH, Plan, history_turns
from workflow_scripts.plan.policies import template
from workflow_scripts.plan.sources import located, model_key, source_manifest
from workflow_scripts.plan.words import as_json, flag_words, settings
from workflow_scripts.study.pairs import OwnPairs, SampledPairs
from workflow_scripts.study.resources import Engine
from workflow_scripts.study.sampling import Sampling

SAMPLING = tuple(Sampling.model_fields)


@functools.cache
def answered(plan: Plan) -> dict[str, Any]:
    """Return the benchmarks that every policy answers."""
    return {name: part for name, part in plan.study.benchmarks.items() if part.prompt_kind}


@functools.cache
def for_pairs(plan: Plan) -> dict[str, Any]:
    """Return the prompt sets whose answers pairs are made of."""
    parts = plan.study.pairs.items()
    return {f"pairs-{name}": part for name, part in parts if isinstance(part, OwnPairs)}


@functools.cache
def for_values(plan: Plan) -> dict[str, Any]:
    """Return the prompt sets whose answers value heads are fitted on."""
    parts = plan.study.values.items()
    return {f"values-{name}": part for name, part in parts if part.targets == "generated"}


@functools.cache
def prompt_sets(plan: Plan) -> dict[str, Any]:
    """Return every prompt set with the part of the study it belongs to; what a run answers as it trains is one, too."""
    online = {f"runs-{name}": run for name, run in plan.study.runs.items() if run.learns_from == "prompts"}
    watched = {f"watch-{name}": run.watch for name, run in plan.study.trainings().items() if run.watch}
    return answered(plan) | for_pairs(plan) | for_values(plan) | online | watched


def rewarded_sets(plan: Plan) -> list[str]:
    """Return the prompt sets whose answers an annotation rewards."""
    return [
        name for name, part in answered(plan).items() if hasattr(part, "annotation")
    ] + rewarded_for_training(plan)


def rewarded_for_training(plan: Plan) -> list[str]:
    """Return the prompt sets whose rewarded answers something is learned from: value heads, and pairs from samples."""
    ranked = [name for name, part in for_pairs(plan).items() if isinstance(part, SampledPairs)]
    return [*for_values(plan), *(name for name in ranked if name not in ranked_by_judges(plan))]


@functools.cache
def ranked_by_judges(plan: Plan) -> dict[str, SampledPairs]:
    """Return the prompt sets whose answers a judge's verdicts rank, with the pairs that come of them."""
    parts = for_pairs(plan).items()
    return {
        name: part
        for name, part in parts
        if isinstance(part, SampledPairs) and part.judge_in(plan.study) is not None
    }


@functools.cache
def owed(plan: Plan, policy: str) -> list[str]:
    """Return the prompt sets a policy answers: every benchmark's, and those that trained children learn from.

    What answers again has no children.
    """
    if policy in plan.again:
        return plan.again[policy].answered(plan.study)
    runs = [plan.run(name) for name in plan.trained() if plan.policies[name].parent == policy]
    wanted = {f"pairs-{getattr(run, 'pairs', None)}" for run in runs}
    wanted |= {f"values-{getattr(run, 'value', None)}" for run in runs}
    return [*(name for name in for_pairs(plan) | for_values(plan) if name in wanted), *answered(plan)]


def owed_prompts(plan: Plan, policy: str) -> list[str]:
    return [plan.layout.prompts(name) for name in owed(plan, policy)]


# --- what a prompt set is made of -------------------------------------------------------------------------------------


def dataset_of(plan: Plan, part: Any) -> str | None:
    """Return the dataset whose turns a part of the study asks, or None."""
    annotation = plan.study.annotations.get(getattr(part, "annotation", None))
    return annotation.dataset if annotation else getattr(part, "dataset", None)


def prompts_input(plan: Plan, prompts: str) -> str:
    """Return the manifest behind a prompt set, or the file itself where it ships with the repository."""
    part = prompt_sets(plan)[prompts]
    if dataset := dataset_of(plan, part):
        return f"{plan.layout.clean(dataset)}/manifest.json"
    return source_manifest(plan, part.source) if part.source else getattr(part, part.prompt_file)


def prompts_file(plan: Plan, prompts: str) -> str:
    """Return the file with a prompt set's rows."""
    part = prompt_sets(plan)[prompts]
    if dataset := dataset_of(plan, part):
        return plan.layout.rows(dataset, part.split)
    return located(plan, part, part.prompt_file)


def prompts_word(plan: Plan, prompts: str) -> Word:
    return plan.layout.word(prompts_file(plan, prompts))


def prompts_kind(plan: Plan, prompts: str) -> str:
    """Return how generate.prompts reads a prompt set."""
    return getattr(prompt_sets(plan)[prompts], "prompt_kind", "turns")


def prompts_flags(plan: Plan, prompts: str) -> list[str]:
    """Return the flags that shorten a prompt set or bring its references: fewer rows, fewer past exchanges in each."""
    part = prompt_sets(plan)[prompts]
    flags = {
        "--limit": getattr(part, "limit", None),
        "--history": history_turns(plan, dataset_of(plan, part)),
        "--form": getattr(part, "form", None),
        "--references": located(plan, part, "references") if hasattr(part, "references") else None,
    }
    shots = getattr(part, "shots", [])
    return [*flag_words(flags), *(["--shots", *map(str, shots)] if shots else [])]


def sampling(plan: Plan, prompts: str) -> str:
    """Return how a prompt set is answered; a set that a run answers while it trains says so itself."""
    part = prompt_sets(plan)[prompts]
    return settings(
        part,
        keys=[key for key in SAMPLING if key in type(part).model_fields],
        temperatures=getattr(part, "temperatures", []),
    )


# --- answers ----------------------------------------------------------------------------------------------------------


@functools.cache
def answering_settings(plan: Plan, policy: str) -> str:
    """Return what a policy's answers depend on beside its weights and the prompts."""
    model = plan.study.models[plan.policies[plan.speaker(policy)].model]
    again = plan.again.get(policy)
    return as_json(
        {
            "engine": engine_of(plan, policy).model_dump(),
            "template": template(plan, policy),
            "context": model.context,
            "trust_remote_code": model.trust_remote_code,
        }
        | ({"batch_size": again.batch_size} if again and again.batch_size else {})
    )


def engine_of(plan: Plan, policy: str | None) -> Engine:
    """Return what answers for a policy: the study's engine, or that of what answers again."""
    return plan.again[policy].engine_in(plan.study) if policy in plan.again else plan.study.engine


def answered_by(plan: Plan, vllm: bool) -> list[str]:
    """Return the policies that vLLM answers for, or those that transformers do, those that answer again among them."""
    everyone = [*plan.policies, *plan.again]
    return [name for name in everyone if (engine_of(plan, name).name == "vllm") == vllm]


@functools.cache
def calibration_voices(plan: Plan, policy: str) -> dict[str, dict[str, dict]]:
    """Return whose tokens `gold` speaks in, the first policy of each template: {model's folder: {policy: template}}.

    `empty` says nothing.
    """
    found: dict[str, dict[str, dict]] = {}
    for name in plan.policies if policy == "gold" else ():
        folder = f"{MODELS}/{model_key(plan, plan.policies[name].model)}"
        spoken = found.setdefault(folder, {})
        if template(plan, name) not in spoken.values():
            spoken[name] = template(plan, name)
    return found


def calibration_models(plan: Plan, policy: str) -> list[str]:
    return [f"{folder}/manifest.json" for folder in calibration_voices(plan, policy)]


def calibration_pins(plan: Plan, policy: str) -> dict[str, str]:
    return pins(*TORCH) if calibration_voices(plan, policy) else {}


def calibration_settings(plan: Plan, policy: str) -> str:
    return as_json(
        [
            {"name": name, "folder": f"{folder}/model", "template": template}
            for folder, spoken in calibration_voices(plan, policy).items()
            for name, template in spoken.items()
        ]
    )
