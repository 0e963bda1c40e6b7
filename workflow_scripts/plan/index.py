"""The index of a study's table: which score files there are, and what each rests on."""

import functools
from typing import Any

from workflow_scripts.common.code import code_of, locked_versions
from workflow_scripts.common.files import digest
from workflow_scripts.plan.growing import first_plan, grows
from workflow_scripts.plan.judging import (
    draws_of,
    judge_manifest,
    judge_of,
    learned_from,
    opponent_answers,
    relatives,
)
from workflow_scripts.plan.outside import answers_files, asked, outside_facts, recorded
from workflow_scripts.plan.overlap import compared
from workflow_scripts.plan.plan import Plan, scored_cells, scored_on
from workflow_scripts.plan.policies import (
    candidates,
    lineage,
    remote_code,
    template,
    training_sets,
    weights_manifest,
)
from workflow_scripts.plan.prompts import answering_settings, ranked_by_judges
from workflow_scripts.plan.scoring import engine_code, scorer_code
from workflow_scripts.plan.sources import package_folder, source_manifest
from workflow_scripts.plan.synthesis import written_behind
from workflow_scripts.plan.training import module_of
from workflow_scripts.plan.words import as_json, chosen
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.methods.choice import BestOf
from workflow_scripts.study.training import OF_THE_MACHINE

UNMADE = {"parameters", "license"}  # keys of a model that make nothing of it
UNTIED = {"training_resources", "generation_resources", "keep_weights"}  # what no number rests on


def score_files(plan: Plan) -> list[str]:
    return [
        plan.layout.scores(policy, seed, benchmark)
        for policy, seed in scored_cells(plan)
        for benchmark in scored_on(plan, policy)
    ]


def certain_scores(plan: Plan) -> list[str]:
    """Return the score files that are wanted before a number of seeds is chosen; [] where none is to be."""
    return score_files(first_plan(plan)) if grows(plan) else []


def answer_files(plan: Plan) -> list[str]:
    """Return what was answered, and how many prompts had to be cut for it: the table says so."""
    return [
        plan.layout.answers(policy, seed, benchmark)
        for policy, seed in scored_cells(plan)
        for benchmark in scored_on(plan, policy)
        if plan.study.benchmarks[benchmark].prompt_kind
    ]


def chosen_policies(plan: Plan) -> list[str]:
    """Return the manifests of the policies that were chosen by what was watched: the table says at which step."""
    entries = [cell_entry(plan, *cell) for cell in scored_cells(plan)]
    return [entry["chosen"] for entry in entries if "chosen" in entry]


def index_entries(plan: Plan) -> str:
    return as_json(
        {
            "cells": [cell_entry(plan, *cell) for cell in scored_cells(plan)],
            "benchmarks": [benchmark_entry(plan, name) for name in plan.study.benchmarks],
        }
    )


def cell_entry(plan: Plan, policy: str, seed: int) -> dict[str, Any]:
    """Return what the index says of a policy: its history, and the files and digests its answers rest on."""
    entry = {"policy": policy, "seed": seed, "folder": plan.layout.policy(policy, seed)}
    if policy in CALIBRATION:
        known = {"parent": None, "method": None, "kind": "calibration", "training_sets": [], "files": []}
        return entry | known | {"facts": {"model": None, "template": None, "trained_by": None}}
    if policy in plan.study.policies:
        known = {
            "parent": None,
            "method": plan.study.policies[policy].method(),
            "kind": "policy",
            "training_sets": [],
        }
        facts = {"model": None, "template": None, "trained_by": None} | outside_facts(plan, policy)
        return entry | known | {"files": outside_files(plan, policy), "facts": facts}
    if policy in plan.again:
        return cell_entry(plan, plan.speaker(policy), seed) | entry | again_entry(plan, policy)
    learned = training_sets(plan, policy)
    cleaned = [f"{plan.layout.clean(name.split('/')[0])}/manifest.json" for name in learned]
    written = [source_manifest(plan, name) for name in written_behind(plan, learned)]
    written += verdicts_behind(plan, policy, seed)
    run = plan.run(policy) if policy in plan.made() else None
    if isinstance(run, BestOf) or (run and run.watch and run.keep == "best"):
        entry["chosen"] = weights_manifest(plan, policy, seed)
    adopted = [name for name in lineage(plan, policy) if name in plan.study.adopt]
    if adopted:
        entry["adopted"] = adopted
    origins = [weights_manifest(plan, name, seed) for name in adopted if name != policy]
    return entry | {
        "parent": plan.policies[policy].parent,
        "method": plan.policies[policy].method,
        "kind": "policy",
        "training_sets": learned,
        "files": [weights_manifest(plan, policy, seed), *origins, *cleaned, *written],
        "facts": policy_facts(plan, policy),
    }


def again_entry(plan: Plan, policy: str) -> dict[str, Any]:
    """Return what the index says otherwise of a policy that answers again than of when it answered first."""
    part = plan.again[policy]
    answered = [answering_settings(plan, policy), engine_code(plan, policy)]
    return {
        "kind": "noise",
        "of": part.of,
        "changed": ", ".join(part.changes(plan.study)),
        "benchmarks": scored_on(plan, policy),
        "facts": policy_facts(plan, part.of) | {"answered_again": digest(answered)[:12]},
    }


def verdicts_behind(plan: Plan, policy: str, seed: int) -> list[str]:
    """Return the files of verdicts that ranked the answers which a policy, or one behind it, learned from."""
    answers = sorted(learned_from(plan, policy, seed))
    return [plan.layout.verdicts(*cell) for cell in answers if cell[2] in ranked_by_judges(plan)]


def outside_files(plan: Plan, policy: str) -> list[str]:
    """Return the files that a policy from elsewhere comes as: its ready answers, or recorded replies."""
    return recorded(plan, policy) if policy in asked(plan) else answers_files(plan, policy)


@functools.cache
def policy_facts(plan: Plan, policy: str) -> dict[str, Any]:
    """Return digests of what a policy is made of, whatever its seed."""
    made = [name for name in lineage(plan, policy) if plan.policies[name].parent]
    adopted = [name for name in made if name in plan.study.adopt]
    trained = [each for name in made for each in (name, *candidates(plan, name))]
    code = ["adopted" if name in adopted else code_of(module_of(plan, name)) for name in trained]
    return {
        "model": digest(plan.study.models[plan.policies[policy].model].model_dump(exclude=UNMADE))[:12],
        "template": digest(template(plan, policy))[:12],
        "trust_remote_code": remote_code(plan, policy),
        "trained_by": digest(code)[:12],
    } | ({"adopted": adopted} if adopted else {})


def benchmark_entry(plan: Plan, name: str) -> dict[str, Any]:
    """Return what the index says of a benchmark: which files each policy has for it, and what it rests on."""
    part = plan.study.benchmarks[name]
    judge = judge_of(plan, name) if part.is_judged() else None
    code = [scorer_code(plan, name), engine_code(plan) if part.prompt_kind else None]
    allowed = {"overlap_allowed": True} if plan.study.allow_overlap else {}
    kin = {"relatives": related} if judge and (related := relatives(plan, name)) else {}
    return (
        allowed
        | kin
        | {
            "name": name,
            "answered": bool(part.prompt_kind),
            "judged": part.is_judged(),
            "measured": part.measured_by is not None,
            "overlap": plan.layout.overlap(name) if name in compared(plan) else None,
            "files": benchmark_files(plan, name),
            "facts": {
                "settings": digest(part.model_dump())[:12],
                "code": digest(code)[:12],
                "judge": judge and digest(chosen(judge, judge.verdict_keys))[:12],
                **({"draws": draws} if judge and (draws := draws_of(plan, name)) > 1 else {}),
            },
        }
    )


def benchmark_files(plan: Plan, name: str) -> list[str]:
    """Return the manifests that every policy's score on a benchmark rests on."""
    part, layout = plan.study.benchmarks[name], plan.layout
    files = [layout.prompts(name)] if part.prompt_kind else []
    if dataset := getattr(part, "dataset", None):
        files.append(f"{layout.clean(dataset)}/manifest.json")
    if source := getattr(part, "source", None):
        files.append(source_manifest(plan, source))
    if getattr(part, "package_file", None):
        files.append(f"{package_folder(plan, part)}/manifest.json")
    if part.is_judged():
        files += judge_manifest(plan, name)
    return files + opponent_answers(plan, name, CALIBRATION[0], 0)


def lock_digest() -> str:
    return digest(locked_versions())


def study_digest(plan: Plan) -> str:
    """Return the digest of all of a study but how its judges are reached and paid and what its jobs may take.

    Of trainings what alters no result is no part of it, either.
    """
    values = plan.study.model_dump(by_alias=True, exclude=UNTIED)
    for name, judge in plan.study.judges.items():
        values["judges"][name] = chosen(judge, judge.verdict_keys)
    for training in [*values["runs"].values(), *values["reward_models"].values()]:
        for key in OF_THE_MACHINE:
            training.pop(key, None)
    return digest(values)


def provenance_settings(plan: Plan) -> str:
    return as_json({"facts": {"study": study_digest(plan), "lock": lock_digest()}})
