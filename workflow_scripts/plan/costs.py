"""What jobs cost: each that has a model or a judge writes it in costs/<rule>/<its wildcards joined by hyphens>.json."""

from typing import NamedTuple

from workflow_scripts.plan.outside import asked
from workflow_scripts.plan.plan import Plan, again_cells, cells, outside_cells, scored_cells, scored_on
from workflow_scripts.plan.prompts import answered, engine_of, owed, ranked_by_judges, rewarded_for_training
from workflow_scripts.plan.rewards import annotated, used_reward_models
from workflow_scripts.plan.synthesis import used
from workflow_scripts.plan.training import preparing_jobs, rule_of
from workflow_scripts.plan.words import as_json


class Job(NamedTuple):
    """One job whose cost is told."""

    stage: str
    """Its rule."""
    policy: str
    seed: int | str
    name: str
    """What it is about beside: a benchmark, a set of pairs, a reward model."""
    place: str
    """Its wildcards, joined by hyphens."""


def data_jobs(plan: Plan) -> list[Job]:
    rewards = [Job("train_reward_model", "", "", name, name) for name in used_reward_models(plan)]
    writing = [Job("write_rows", "", "", name, name) for name in used(plan)]
    return writing + rewards + [Job("annotate_dataset", "", "", name, name) for name in annotated(plan)]


def policy_jobs(plan: Plan, policy: str, seed: int) -> list[Job]:
    """Return the jobs that prepare a policy's training, train it, have it answer, and reward or judge what its children
    need.
    """
    jobs = []
    if policy in plan.trained():
        for rule, name, parent, at in preparing_jobs(plan, policy, seed):
            jobs.append(Job(rule, parent, at, name, f"{name}-{parent}-{at}"))
        jobs.append(Job(rule_of(plan, policy), policy, seed, "", f"{policy}-{seed}"))
    jobs.append(Job("answer_prompts", policy, seed, "", f"{policy}-{seed}"))
    for name in owed(plan, policy):
        if name in rewarded_for_training(plan):
            jobs.append(Job("annotate_answers", policy, seed, name, f"{policy}-{seed}-{name}"))
        if name in ranked_by_judges(plan):
            jobs.append(Job("judge_answers", policy, seed, name, f"{policy}-{seed}-{name}"))
    return jobs


def again_jobs(plan: Plan, policy: str, seed: int) -> list[Job]:
    """Return the job in which a policy answers again."""
    rule = "answer_prompts" if engine_of(plan, policy).name == plan.study.engine.name else "answer_otherwise"
    return [Job(rule, policy, seed, "", f"{policy}-{seed}")]


def outside_jobs(plan: Plan, policy: str, seed: int) -> list[Job]:
    """Return the jobs in which an endpoint answers for a policy; ready answers cost nothing here."""
    names = answered(plan) if policy in asked(plan) else ()
    return [Job("ask_policy", policy, seed, name, f"{policy}-{seed}-{name}") for name in names]


# The rule with a model or a judge that a score comes of, by what the scorer reads.
SCORED_BY = {"likelihoods": "measure_likelihoods", "model": "score_lm_eval", "rewards": "annotate_answers"}


def scoring_jobs(plan: Plan, policy: str, seed: int) -> list[Job]:
    jobs = []
    for name in scored_on(plan, policy):
        part = plan.study.benchmarks[name]
        rule = "judge_answers" if part.is_judged() else SCORED_BY.get(part.scores)
        left_out = policy in plan.study.policies and not part.prompt_kind
        if rule and not left_out:
            jobs.append(Job(rule, policy, seed, name, f"{policy}-{seed}-{name}"))
    return jobs


def costed_jobs(plan: Plan) -> list[Job]:
    """Return every job that writes what it cost, each once."""
    jobs = data_jobs(plan)
    for cell in cells(plan):
        jobs += policy_jobs(plan, *cell)
    for cell in again_cells(plan):
        jobs += again_jobs(plan, *cell)
    for cell in outside_cells(plan):
        jobs += outside_jobs(plan, *cell)
    for cell in scored_cells(plan):
        jobs += scoring_jobs(plan, *cell)
    return list(dict.fromkeys(jobs))


def cost_settings(plan: Plan) -> str:
    entries = []
    for job in costed_jobs(plan):
        known = {"stage": job.stage, "policy": job.policy, "seed": job.seed, "name": job.name}
        entries.append(known | {"file": plan.layout.cost(job.stage, job.place)})
    return as_json({"files": entries})
