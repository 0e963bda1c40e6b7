"""What the tables, the figures and the page of a study are made of."""

import os
from collections.abc import Sequence
from typing import Any

from workflow_scripts.common.place import SHIPPED
from workflow_scripts.plan.index import lock_digest
from workflow_scripts.plan.plan import Plan, trained_cells
from workflow_scripts.plan.policies import learned_datasets, parent_cell
from workflow_scripts.plan.prompts import answered
from workflow_scripts.plan.rewards import annotated
from workflow_scripts.plan.training import material, pairs_manifest
from workflow_scripts.plan.words import as_json, chosen, settings
from workflow_scripts.study.training import OF_THE_MACHINE

UNTOLD = ("method", "parent", "grid", "threads", *OF_THE_MACHINE)  # keys of a run that the page does not show


def trainings(plan: Plan) -> list[dict[str, Any]]:
    """Return one entry per trained policy: its curve, its manifest, that of what it learned from, and of pairs."""
    return [
        {
            "policy": policy,
            "seed": seed,
            "method": plan.policies[policy].method,
            "curve": f"{plan.layout.policy(policy, seed)}/curve.json",
            "manifest": f"{plan.layout.policy(policy, seed)}/manifest.json",
            "learned_from": material(plan, policy, seed),
        }
        | pairs_of(plan, policy, seed)
        for policy, seed in trained_cells(plan)
    ]


def pairs_of(plan: Plan, policy: str, seed: int) -> dict[str, str]:
    """Return where the pairs are counted that a policy learned from, if it did from pairs."""
    pairs = getattr(plan.run(policy), "pairs", None)
    if pairs is None:
        return {}
    return {"pairs": pairs_manifest(plan, pairs, *parent_cell(plan, policy, seed))}


def trainings_settings(plan: Plan) -> str:
    return as_json({"runs": trainings(plan)})


def training_files(plan: Plan) -> list[str]:
    files = ("curve", "manifest", "learned_from", "pairs")
    return [run[key] for key in files for run in trainings(plan) if key in run]


def curves(plan: Plan) -> list[dict[str, Any]]:
    """Return the loss curves that are drawn: of all policies, and of the reward models that judge."""
    judging = {judge.reward_model() for judge in plan.study.judges.values()}
    policies = [
        {"policy": policy, "seed": seed, "file": f"{plan.layout.policy(policy, seed)}/curve.json"}
        for policy, seed in trained_cells(plan)
    ]
    return policies + [
        {"policy": name, "seed": part.seed, "file": f"{plan.layout.reward_model(name)}/curve.json"}
        for name, part in plan.study.reward_models.items()
        if name in judging
    ]


def curves_settings(plan: Plan) -> str:
    return as_json({"curves": curves(plan)})


def curve_files(plan: Plan) -> list[str]:
    return [curve["file"] for curve in curves(plan)]


def figures(plan: Plan) -> list[str]:
    due = {
        "loss_curves": curves(plan),
        "policy_bars": plan.study.report.bars,
        "rewards": annotated(plan),
    }
    return [plan.layout.figure(name) for name, drawn in due.items() if drawn]


def reward_rows(plan: Plan) -> list[str]:
    """Return the annotated rows whose rewards are drawn."""
    return [
        plan.layout.annotated(name, split)
        for name in annotated(plan)
        for split in plan.study.annotations[name].splits
    ]


def reward_manifests(plan: Plan) -> list[str]:
    return [f"{plan.layout.annotation(name)}/manifest.json" for name in annotated(plan)]


def data_manifests(plan: Plan) -> dict[str, str]:
    """Return {dataset: its manifest} of what policies learned from."""
    return {name: f"{plan.layout.clean(name)}/manifest.json" for name in learned_datasets(plan)}


def hyper_parameters(plan: Plan) -> dict[str, Any]:
    """Return what each run that trains policies was told, and its method's defaults once; machine keys left out.

    {"runs": {run: {"method", "policies", "changed": {key: value}}}, "defaults": {method: {key: value}}}: changed are
    the keys whose value is not the default.
    """
    runs: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for policy in plan.trained():
        name, run = plan.policies[policy].run, plan.run(policy)
        if name not in runs:
            values = chosen(run, drop=UNTOLD)
            said = run.said()
            changed = {key: value for key, value in values.items() if key in said}
            runs[name] = {"method": run.method, "policies": [], "changed": changed}
            left = {key: value for key, value in values.items() if key not in said}
            defaults.setdefault(run.method, {}).update(left)
        runs[name]["policies"].append(policy)
    return {"runs": runs, "defaults": defaults}


def table_settings(plan: Plan) -> str:
    keys = ["baseline", "draws", "confidence", "bars", "headline", "published"]
    return settings(plan.study.report, keys=keys, study=plan.study.study, seed=plan.study.first_seeds()[0])


def bars_settings(plan: Plan) -> str:
    cells = [f"{bar.benchmark}/{bar.subset}/{bar.metric}" for bar in plan.study.report.bars]
    return as_json({"cells": cells})


def page_settings(plan: Plan, files: Sequence[str]) -> str:
    """Return what the page shows beside the tables, as JSON; `files` are the study's own."""
    report = plan.study.report
    return as_json(
        {
            "study": plan.study.study,
            "file": ", ".join(files),
            "baseline": report.baseline,
            "bars": [bar.model_dump() for bar in report.bars],
            "headline": [cell.model_dump() for cell in report.headline],
            "curves": curves(plan),
            "rewards": reward_rows(plan),
            "data": data_manifests(plan),
            "hyper_parameters": hyper_parameters(plan),
            "prompts": {name: plan.layout.prompts(name) for name in answered(plan)},
            "sample_count": report.samples,
            "lock": lock_digest()[:12],
        }
    )


def page_files() -> list[str]:
    """Return the files of Plumbline's own that the page is made of, relative to the working folder."""
    return sorted(os.path.relpath(path) for path in (SHIPPED / "report").glob("page.*"))
