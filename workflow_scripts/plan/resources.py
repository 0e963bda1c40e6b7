"""What jobs ask for; a profile's set-resources go before it."""

import json

from workflow_scripts.plan.judging import judge_of
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.rewards import annotation_of, classifiers
from workflow_scripts.plan.words import as_json, chosen
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.resources import Resources
from workflow_scripts.study.training import OF_THE_MACHINE


def asked(resources: Resources) -> dict[str, int | str]:
    """Return what a part of the study asks for, by Snakemake's names."""
    values = resources.model_dump(exclude={"cpus", "runtime_minutes", "tracking", "shards"})
    return values | {"runtime": resources.runtime_minutes}


def sinks(plan: Plan) -> str:
    """Return where curves are written to as they come, as trainings find it in their environment."""
    return " ".join(plan.study.training_resources.tracking)


def machine_keys(plan: Plan) -> str:
    """Return the keys of trainings that alter no result, as they find them in their environment: JSON.

    They are [[keys, [names of the trainings that have these]] …]: a study of many runs has few kinds of them.
    """
    named = {f"runs.{name}": run for name, run in plan.study.trainings().items()}
    named |= {f"reward_models.{name}": part for name, part in plan.study.reward_models.items()}
    found: dict[str, list[str]] = {}
    for name, part in named.items():
        keys = [key for key in OF_THE_MACHINE if hasattr(part, key)]
        found.setdefault(as_json(chosen(part, keys)), []).append(name)
    return as_json([[json.loads(keys), names] for keys, names in found.items()])


def one_gpu(plan: Plan) -> int:
    """Return the GPUs of what only reads a policy (log-probs): it is one process, on one."""
    return min(1, plan.study.generation_resources.gpu)


def answering_gpus(plan: Plan, vllm: bool) -> int:
    """Return the GPUs of what answers: vLLM's engines take all of them, transformers' one each."""
    asked = plan.study.generation_resources
    return asked.gpu if vllm else min(asked.shards, asked.gpu)


def training_parallel(plan: Plan, policy: str) -> str:
    """Return how a training's processes share the policy: not at all where its method wants it whole on each GPU."""
    return "ddp" if plan.run(policy).whole_on_each else plan.study.training_resources.parallel


def scoring_gpus(plan: Plan, policy: str) -> int:
    """Return the GPUs of a job that reads a policy: none where no model is read."""
    return 0 if policy in CALIBRATION else one_gpu(plan)


def harness_gpus(plan: Plan, policy: str) -> int:
    """Return the GPUs of the harness's job, none where no policy is read: all by vLLM, else one for each shard."""
    return 0 if policy in CALIBRATION else answering_gpus(plan, plan.study.engine.name == "vllm")


def classifier_gpus(plan: Plan) -> int:
    """Return the GPUs of what a classifier reads: one for each shard."""
    return answering_gpus(plan, vllm=False)


def annotating_gpus(plan: Plan, annotation: str) -> int:
    return classifier_gpus(plan) if classifiers(plan, annotation) else 0


def rewarding_gpus(plan: Plan, prompts: str) -> int:
    return annotating_gpus(plan, annotation_of(plan, prompts))


def judging_gpus(plan: Plan, benchmark: str) -> int:
    return classifier_gpus(plan) if judge_of(plan, benchmark).reward_model() else 0
