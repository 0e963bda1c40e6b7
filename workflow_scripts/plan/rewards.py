"""Annotations: what says how good answers are, and the rows that come of it."""

import functools
from typing import Any

from workflow_scripts.common.user_functions import digests_of
from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import Plan, history_turns
from workflow_scripts.plan.policies import remote_code, weights_manifest
from workflow_scripts.plan.prompts import prompt_sets
from workflow_scripts.plan.sources import origin, source_folder, source_manifest
from workflow_scripts.plan.words import as_json, settings
from workflow_scripts.study.pairs import SampledPairs
from workflow_scripts.study.training import OF_THE_MACHINE

# --- reward models ----------------------------------------------------------------------------------------------------


def used_reward_models(plan: Plan) -> list[str]:
    """Return the reward models that an annotation or a judge uses: no other is trained."""
    judging = {judge.reward_model() for judge in plan.study.judges.values()}
    columns = [reward for part in plan.study.annotations.values() for reward in part.rewards.values()]
    rewarding = {getattr(reward, "model", None) for reward in columns}
    return [name for name in plan.study.reward_models if name in judging | rewarding]


def reward_parent(plan: Plan, reward: str) -> str:
    """Return the manifest of the base model that a reward model starts from."""
    return weights_manifest(plan, plan.study.reward_models[reward].parent, plan.study.first_seeds()[0])


def reward_dataset(plan: Plan, reward: str) -> str:
    return f"{plan.layout.clean(plan.study.reward_models[reward].dataset)}/manifest.json"


def reward_pairs_settings(plan: Plan, reward: str) -> str:
    return settings(plan.study.reward_models[reward], keys=["seed"])


def reward_split(plan: Plan, reward: str) -> str:
    return plan.study.reward_models[reward].split


def reward_seed(plan: Plan, reward: str) -> int:
    return plan.study.reward_models[reward].seed


def reward_threads(plan: Plan, reward: str) -> int:
    return plan.study.reward_models[reward].threads


def reward_settings(plan: Plan, reward: str) -> str:
    """Return what the training of a reward model takes, as JSON."""
    part = plan.study.reward_models[reward]
    return settings(
        part,
        drop=["parent", "dataset", "split", "seed", "threads", *OF_THE_MACHINE],
        machine_of=f"reward_models.{reward}",
        trust_remote_code=remote_code(plan, part.parent),
    )


# --- annotations ------------------------------------------------------------------------------------------------------


def classifiers(plan: Plan, annotation: str) -> list[str]:
    """Return the manifests of an annotation's classifiers: the study's own reward models, then those from elsewhere."""
    rewards = plan.study.annotations[annotation].rewards.values()
    models = [part.model for part in rewards if getattr(part, "model", None)]
    sources = [part.source for part in rewards if getattr(part, "source", None)]
    return [f"{plan.layout.reward_model(name)}/manifest.json" for name in models] + [
        source_manifest(plan, name) for name in sources
    ]


@functools.cache
def rewarding_settings(plan: Plan, annotation: str) -> str:
    """Return an annotation's rewards as JSON, each classifier's folder in place of its name.

    Of a user's function the digests of its files are there, so that an edit makes stale what it rewarded.
    """
    rewards = {}
    for name, part in plan.study.annotations[annotation].rewards.items():
        rewards[name] = part.handed()
        if getattr(part, "function", None):
            rewards[name]["code"] = digests_of(part.function)
        elif getattr(part, "model", None):
            folder = f"{plan.layout.reward_model(part.model)}/model"
            rewards[name]["folder"] = plan.layout.with_variables(folder)
        elif getattr(part, "source", None):
            folder = f"{source_folder(plan, part.source)}/files"
            rewards[name] |= {"folder": folder, "source": origin(plan, part.source)}
    return as_json({"rewards": rewards})


def annotated(plan: Plan) -> list[str]:
    """Return the annotations that give columns to splits of their dataset; others only reward new answers."""
    return [name for name, part in plan.study.annotations.items() if part.splits]


def annotated_dataset(plan: Plan, annotation: str) -> str:
    return f"{plan.layout.clean(plan.study.annotations[annotation].dataset)}/manifest.json"


def annotated_splits(plan: Plan, annotation: str) -> list[str]:
    return plan.study.annotations[annotation].splits


def fit_split(plan: Plan, annotation: str) -> str:
    return plan.study.annotations[annotation].fit_split


def history(plan: Plan, annotation: str) -> int | None:
    """Return how many past exchanges stand before a turn of an annotation's dataset."""
    return history_turns(plan, plan.study.annotations[annotation].dataset)


def annotated_rows(plan: Plan, part: Any) -> list[Word]:
    """Return train=… and validation=…, the annotated files that a run or a set of pairs learns from, as words."""
    splits = {"train": part.split, "validation": part.validation}
    layout = plan.layout
    return [
        layout.word(f"{name}={layout.annotated(part.annotation, at)}") for name, at in splits.items() if at
    ]


# --- a policy's answers, rewarded -------------------------------------------------------------------------------------


def annotation_of(plan: Plan, prompts: str) -> str:
    """Return the annotation that rewards the answers to a prompt set."""
    part = prompt_sets(plan)[prompts]
    return part.rank if isinstance(part, SampledPairs) else part.annotation


def answer_classifiers(plan: Plan, prompts: str) -> list[str]:
    return classifiers(plan, annotation_of(plan, prompts))


def answer_dataset(plan: Plan, prompts: str) -> str:
    return annotated_dataset(plan, annotation_of(plan, prompts))


def answer_settings(plan: Plan, prompts: str) -> str:
    return rewarding_settings(plan, annotation_of(plan, prompts))


def answer_fit_split(plan: Plan, prompts: str) -> str:
    return fit_split(plan, annotation_of(plan, prompts))
