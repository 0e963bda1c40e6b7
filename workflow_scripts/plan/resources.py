"""What jobs ask for; a profile's set-resources go before it."""

from workflow_scripts.plan.judging import judge_of
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.rewards import annotation_of, classifiers
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.resources import Resources


def asked(resources: Resources) -> dict[str, int | str]:
    """Return what a part of the study asks for, by Snakemake's names."""
    values = resources.model_dump(exclude={"cpus", "runtime_minutes", "tracking"})
    return values | {"runtime": resources.runtime_minutes}


def sinks(plan: Plan) -> str:
    """Return where curves are written to as they come, as trainings find it in their environment."""
    return " ".join(plan.study.training_resources.tracking)


def one_gpu(plan: Plan) -> int:
    """Return the GPUs of what only reads (log-probs, rewards, harness): it is one process, on one."""
    return min(1, plan.study.generation_resources.gpu)


def training_gpus(plan: Plan, policy: str) -> int:
    return _shared(plan, policy, plan.study.training_resources.gpu)


def training_nodes(plan: Plan, policy: str) -> int:
    return _shared(plan, policy, plan.study.training_resources.nodes)


def _shared(plan: Plan, policy: str, most: int) -> int:
    return min(1, most) if plan.run(policy).one_process else most


def scoring_gpus(plan: Plan, policy: str) -> int:
    """Return the GPUs of a job that reads a policy: none where no model is read."""
    return 0 if policy in CALIBRATION else one_gpu(plan)


def annotating_gpus(plan: Plan, annotation: str) -> int:
    return one_gpu(plan) if classifiers(plan, annotation) else 0


def rewarding_gpus(plan: Plan, prompts: str) -> int:
    return annotating_gpus(plan, annotation_of(plan, prompts))


def judging_gpus(plan: Plan, benchmark: str) -> int:
    return one_gpu(plan) if judge_of(plan, benchmark).reward_model() else 0
