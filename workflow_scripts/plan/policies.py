"""Policies: where their weights are, what they descend from and were trained on, and how they speak."""

import functools

from workflow_scripts.plan.plan import Plan, cells
from workflow_scripts.plan.sources import base_model
from workflow_scripts.study.datasets import made_of
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.methods import Trained
from workflow_scripts.study.methods.choice import BestOf
from workflow_scripts.study.templates import all_templates, asked_in, learned_in


def weights(plan: Plan, policy: str, seed: int | str) -> str:
    """Return the folder with a policy's model/ and manifest.json."""
    policy = plan.speaker(policy)
    trained = plan.policies[policy].parent
    return plan.layout.policy(policy, seed) if trained else base_model(plan, policy)


def weights_manifest(plan: Plan, policy: str, seed: int | str) -> str:
    return f"{weights(plan, policy, seed)}/manifest.json"


def all_manifests(plan: Plan) -> list[str]:
    """Return the manifests of the weights of every policy, with every seed."""
    return [weights_manifest(plan, *cell) for cell in cells(plan)]


def parent_cell(plan: Plan, policy: str, seed: int | str) -> tuple[str, int | str]:
    """Return (parent, its seed) of a policy: the same seed, unless the parent has none."""
    parent = plan.policies[policy].parent
    return parent, seed if plan.policies[parent].parent else plan.study.first_seeds()[0]


def parent_manifest(plan: Plan, policy: str, seed: int | str) -> str:
    """Return the manifest of the weights that a policy's training starts from."""
    return weights_manifest(plan, *parent_cell(plan, policy, seed))


def lineage(plan: Plan, policy: str) -> list[str]:
    """Return a policy and its ancestors, the base model last."""
    parent = plan.policies[policy].parent
    return [policy, *(lineage(plan, parent) if parent else [])]


@functools.cache
def template(plan: Plan, policy: str) -> dict:
    """Return the template a policy is asked in."""
    return all_templates(plan.study)[asked_in(plan.study, plan.policies, plan.speaker(policy))]


@functools.cache
def learned_template(plan: Plan, policy: str) -> dict:
    """Return the template a policy learns in."""
    return all_templates(plan.study)[learned_in(plan.study, plan.policies, policy)]


def base_manifest(plan: Plan, policy: str) -> str:
    """Return the manifest of the base model whose tokenizer a policy has."""
    return f"{base_model(plan, plan.policies[policy].model)}/manifest.json"


def remote_code(plan: Plan, policy: str) -> bool:
    return plan.study.models[plan.policies[policy].model].trust_remote_code


def spoken_to(plan: Plan, policy: str) -> dict:
    """Return how a policy is computed and spoken to; the calibration rows take after the first base model."""
    known = policy in plan.policies
    speaker = policy if known else next(iter(plan.study.models))
    return {
        "precision": plan.study.engine.precision,
        "template": template(plan, speaker),
        "trust_remote_code": known and remote_code(plan, policy),
    }


def scored_weights(plan: Plan, policy: str, seed: int | str) -> str:
    """Return the folder of a policy's weights; the calibration rows take the first base model's tokenizer."""
    if policy in CALIBRATION:
        return weights(plan, next(iter(plan.study.models)), plan.study.first_seeds()[0])
    return weights(plan, policy, seed)


def scored_manifest(plan: Plan, policy: str, seed: int | str) -> str:
    return f"{scored_weights(plan, policy, seed)}/manifest.json"


# --- what a policy was trained on -------------------------------------------------------------------------------------


def learned_split(plan: Plan, run: Trained) -> tuple[str, str]:
    """Return the (dataset, split) whose rows a run learns from."""
    part = plan.study.pairs[run.pairs] if getattr(run, "pairs", None) else run
    annotation = plan.study.annotations.get(getattr(part, "annotation", None))
    return (annotation.dataset if annotation else part.dataset), part.split


def training_sets(plan: Plan, policy: str) -> list[str]:
    """Return dataset/split of all that a policy and its ancestors were trained on, the first training first."""
    if policy not in plan.policies:
        return []
    made = [name for name in reversed(lineage(plan, policy)) if plan.policies[name].parent]
    runs = [plan.run(each) for name in made for each in candidates(plan, name) or [name]]
    return list(dict.fromkeys("/".join(learned_split(plan, run)) for run in runs))


def candidates(plan: Plan, policy: str) -> list[str]:
    """Return the policies that one is chosen among; [] for one that is not chosen.

    What is learned by any of them counts as learned by the chosen one: which it is, only the run shows.
    """
    run = plan.run(policy)
    return (
        [f"{plan.policies[policy].parent}.{name}" for name in run.candidates]
        if isinstance(run, BestOf)
        else []
    )


@functools.cache
def all_training_sets(plan: Plan) -> list[str]:
    """Return dataset/split of all that any policy was trained on."""
    return sorted({name for policy in plan.policies for name in training_sets(plan, policy)})


def learned_datasets(plan: Plan) -> list[str]:
    """Return the datasets that some policy learned from, and those that they are mixed of."""
    learned = {name.split("/")[0] for name in all_training_sets(plan)} & plan.study.datasets.keys()
    parts = {part for name in learned for part in made_of(plan.study, name)}
    return sorted(learned | parts)


def seed_told(plan: Plan, seed: int | str) -> str:
    """Return the seed that a job is told, as a parameter: the shared store knows results by these, not by wildcards."""
    return str(seed)
