"""What jobs cost: each job that writes its cost is told of, once, and none is told of that writes none."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.plans import DEFAULT, EVERY_KEY, OFFLINE, STUDIES, changed, config_of, family, planned, told
from tests.workflow import ROOT
from workflow_scripts.plan import costs, prompts, training
from workflow_scripts.plan.plan import cells, scored_cells, trained_cells

PLAN = planned(EVERY_KEY)


def places(plan, stage: str) -> list[str]:
    return [job.place for job in costs.costed_jobs(plan) if job.stage == stage]


@pytest.mark.parametrize("name", STUDIES)
def test_every_training_every_answering_and_every_judging_is_told_of_once(name):
    plan = planned(name)
    jobs = costs.costed_jobs(plan)
    assert len(set(jobs)) == len(jobs)
    trained = [(job.policy, job.seed) for job in jobs if job.stage in training.TRAINED_BY.values()]
    assert Counter(trained) == Counter(trained_cells(plan))
    answered = [(job.policy, job.seed) for job in jobs if job.stage == "answer_prompts"]
    assert answered == cells(plan)
    judged = [(job.policy, job.seed, job.name) for job in jobs if job.stage == "judge_answers"]
    asked = [name for name, part in plan.study.benchmarks.items() if part.is_judged()]
    pairs = prompts.ranked_by_judges(plan)
    ranked = [(*cell, name) for cell in cells(plan) for name in prompts.owed(plan, cell[0]) if name in pairs]
    assert judged == ranked + [(*cell, name) for cell in scored_cells(plan) for name in asked]


def test_what_several_trainings_learn_from_is_told_of_once_and_as_its_parents():
    assert places(planned(DEFAULT), "score_reference") == ["mistakes-tiny.sft-1"]  # of dpo, ipo and kto
    plan = planned(OFFLINE)
    assert len(places(plan, "score_rewarded")) == len(places(plan, "fit_value")) == 1  # of four, and of two
    (key,) = training.rewarded_sets(family())
    cells = [f"{policy}-{seed}" for policy in ("one.sft", "two.sft") for seed in (3, 5)]
    assert places(family(), "estimate_advantages") == [f"{key}-worth-{cell}" for cell in cells]


def test_the_answers_that_are_rewarded_are_those_of_benchmarks_of_value_heads_and_of_pairs_from_samples():
    rewarded = [f"{policy}-{seed}-rewarded" for policy, seed in scored_cells(PLAN)]
    assert places(PLAN, "annotate_answers") == ["tiny.sft-1-pairs-best", "tiny.sft-1-values-worth", *rewarded]
    assert not [place for place in places(family(), "annotate_answers") if "values" in place]


def test_of_answers_whose_lengths_alone_are_measured_nothing_is_told():
    plan = changed(DEFAULT, {"benchmarks.alpaca_eval.evaluate": False})
    assert {job.name for job in costs.costed_jobs(plan) if job.stage == "judge_answers"} == {"mt_bench"}


def test_a_reward_model_that_nothing_uses_is_not_trained_and_not_told_of():
    idle = config_of(DEFAULT)["reward_models"]["tutor_rm"]
    plan = changed(DEFAULT, {"reward_models.idle": idle})
    assert places(plan, "train_reward_model") == ["tutor_rm"]
    judging = changed(DEFAULT, {"reward_models.idle": idle, "judges.reward.model": "idle"})
    assert places(judging, "train_reward_model") == ["tutor_rm", "idle"]


def test_a_job_is_told_by_its_rule_its_policy_and_the_file_it_writes():
    entries = told(costs.cost_settings(planned(DEFAULT)))["files"]
    folder = "results/tutor/costs"
    assert entries[0] == {
        "stage": "train_reward_model",
        "policy": "",
        "seed": "",
        "name": "tutor_rm",
        "file": f"{folder}/train_reward_model/tutor_rm.json",
    }
    assert {
        "stage": "score_reference",
        "policy": "tiny.sft",
        "seed": 1,
        "name": "mistakes",
        "file": f"{folder}/score_reference/mistakes-tiny.sft-1.json",
    } in entries
    assert {
        "stage": "judge_answers",
        "policy": "gold",
        "seed": 0,
        "name": "mt_bench",
        "file": f"{folder}/judge_answers/gold-0-mt_bench.json",
    } in entries


def written(folder: Path, config: dict) -> list[str]:
    """Return the cost files that the jobs of a dry run would write."""
    (folder / "tests").mkdir(exist_ok=True)
    for name in ("__init__.py", "planned_lines.py"):
        shutil.copyfile(ROOT / "tests" / name, folder / "tests" / name)
    shutil.copyfile(ROOT / "tests/study.lock", folder / "study.lock")
    (folder / "study.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "tests.planned_lines", "study.yaml"]
    environment = os.environ | {"PYTHONPATH": str(folder), "SOME_KEY": "key"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    lines = [job["line"] for job in json.loads(done.stdout.splitlines()[-1])["lines"]]
    return [file for line in lines for file in re.findall(r"--cost \$RESULTS/(costs/\S+)", line)]


@pytest.mark.parametrize("name", [DEFAULT, OFFLINE, EVERY_KEY])
def test_the_costs_told_of_are_those_that_the_jobs_of_the_workflow_write(repository, name):
    config = config_of(name)
    if name == EVERY_KEY:  # WordNet is not here
        config["benchmarks"]["overlap"] |= {"metrics": ["bleu"], "wordnet": None}
        config["runs"]["dpo"]["watch"]["wordnet"] = None
    found = written(repository, config)
    results = planned(name).layout.results
    entries = told(costs.cost_settings(planned(name)))["files"]
    assert sorted(f"{results}/{file}" for file in found) == sorted(entry["file"] for entry in entries)
