"""`make plan`: which jobs would run and why, as Snakemake has it, and no number that no record stands behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow import edit
from workflow_scripts.common.files import write_json
from workflow_scripts.plan.forecast import (
    Job,
    Range,
    changed_params,
    estimate,
    more_seeds,
    plan_text,
    read_records,
)
from workflow_scripts.study.seeds import SeedsUntil

OWN = ("s", "train_aligned/m.dpo-1.json")


def record(hours: float, gpus: int = 0) -> dict:
    return {"wall_seconds": hours * 3600.0, "gpu_seconds": hours * 3600.0 * gpus}


def training(policy: str = "m.dpo", **more) -> Job:
    """Return a training that is missing and keeps a record."""
    known = {"wildcards": {"policy": policy, "seed": "1"}, "why": ("missing",)}
    return Job("train_aligned", **known | {"cost": f"train_aligned/{policy}-1.json"} | more)


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells behind each stage of a plan's table; empty cells are left out."""
    rows = [re.split(r" {2,}", line.rstrip()) for line in text.split("\n\n")[1].splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_a_jobs_own_record_goes_before_those_of_its_rule():
    found = estimate(
        training(gpus=8), "s", {OWN: record(2, 8), ("s", "train_aligned/m.ipo-1.json"): record(50, 8)}
    )
    assert (found.hours, found.gpu_hours) == (Range(2, 2, 2), Range(16, 16, 16))
    assert found.source == "own record"


def test_without_one_the_rules_records_in_the_study_give_a_median_and_a_range():
    records = {("s", f"train_aligned/{hours}.json"): record(hours, 2) for hours in (1, 2, 6)}
    others = {("s", "train_sft/m.dpo-1.json"): record(90, 2), ("t", OWN[1]): record(70, 2)}
    found = estimate(training(gpus=2), "s", records | others)
    assert (found.hours, found.gpu_hours) == (Range(1, 2, 6), Range(2, 4, 12))
    assert found.source == "median of 3 of the rule"


def test_another_studys_records_come_last_and_are_called_rough():
    found = estimate(training(), "s", {("t", OWN[1]): record(3)})
    assert found.hours == Range(3, 3, 3)
    assert found.source == "rough: median of 1 in t"


def test_on_another_number_of_gpus_the_gpu_hours_stay_and_the_hours_scale():
    found = estimate(training(gpus=4), "s", {OWN: record(3, 8)})
    assert (found.hours, found.gpu_hours) == (Range(6, 6, 6), Range(24, 24, 24))
    assert "scaled from 8 to 4 GPUs" in found.source


@pytest.mark.parametrize(("had", "asked", "place"), [(0, 8, "on GPUs"), (8, 0, "on a CPU")])
def test_a_record_of_a_cpu_says_nothing_of_gpus_nor_the_other_way_round(had, asked, place):
    found = estimate(training(gpus=asked, runtime_minutes=90), "s", {OWN: record(1, had)})
    assert (found.hours, found.gpu_hours) == (None, None)
    assert (found.most_hours, found.most_gpu_hours) == (1.5, 12 if asked else None)
    assert found.source == f"none recorded {place}"


def test_what_nobody_recorded_is_unknown_and_never_nothing():
    rows = rows_of(plan_text("s", [training(gpus=8), Job("build_table", after=frozenset({"x"}))], {}, []))
    assert rows["train_aligned"] == ["1", "8", "unknown", "unknown", "none recorded", "missing"]
    assert rows["build_table"] == ["1", "–", "unknown", "–", "keeps no record", "input made anew by x"]
    assert rows["total"] == ["2", "unknown", "unknown"]


def test_a_total_keeps_apart_what_is_known_what_is_limited_and_what_is_neither():
    limited = Job("train_sft", {"policy": "m"}, gpus=2, runtime_minutes=600, why=("missing",))
    jobs = [training(gpus=2), training("m.ipo", gpus=2), limited, Job("build_table", why=("missing",))]
    records = {OWN: record(3, 2), ("s", "train_aligned/m.kto-1.json"): record(5, 2)}
    rows = rows_of(plan_text("s", jobs, records, []))
    assert rows["train_aligned"][2:5] == [
        "7 (6–8)",
        "14 (12–16)",
        "1: own record; 1: median of 2 of the rule",
    ]
    assert rows["total"] == ["4", "7 (6–8) + ≤ 10 + 1 unknown", "14 (12–16) + ≤ 20"]


def test_a_stage_names_what_is_changed_and_what_only_follows():
    jobs = [training("a", after=frozenset({"x"})), *(training(n, why=(), after=frozenset({n})) for n in "bc")]
    assert (
        rows_of(plan_text("s", jobs, {}, []))["train_aligned"][-1] == "2: input made anew by b, c; 1: missing"
    )


def test_a_large_stage_names_few_of_its_jobs():
    text = plan_text("s", [training(f"p{n:02}") for n in range(20)], {}, [], most=3)
    assert "policy=p00,p01,p02,17 more  seed=1" in text


def test_jobs_that_are_no_grid_are_named_one_by_one():
    jobs = [Job("score", {"policy": policy, "seed": seed}) for policy, seed in (("a", "1"), ("b", "2"))]
    assert "score  a-1, b-2" in plan_text("s", jobs, {}, [])


def test_records_are_read_from_all_studies_and_what_is_no_record_is_named(tmp_path):
    write_json(tmp_path / "s/costs/train_aligned/m.dpo-1.json", {**record(1), "tokens": 5})
    write_json(tmp_path / "t/costs/train_aligned/m.dpo-1.json", record(2, 4))
    write_json(tmp_path / "t/costs/train_sft/m.json", record(2, 4))
    for name, text in {
        "cut": '{"wall_se',
        "list": "[3]",
        "minus": '{"wall_seconds": -1}',
        "none": "{}",
    }.items():
        (tmp_path / f"s/costs/train_aligned/{name}.json").write_text(text)
    records, broken = read_records(tmp_path, ["train_aligned", "build_table"])
    assert records == {OWN: record(1), ("t", OWN[1]): record(2, 4)}
    assert [Path(file).stem for file in broken] == ["cut", "list", "minus", "none"]
    text = plan_text("s", [training()], records, broken)
    assert "were not used (4)" in text and broken[0] in text


def test_changed_parameters_are_told_by_module_and_by_setting():
    code = {"workflow_scripts.align.dpo": "1", "workflow_scripts.common.files": "2"}
    before = [repr(code), repr('{"beta": 0.1, "epochs": 1, "loss": {"smooth": 0}}'), repr({"torch": "2.5"})]
    now = {
        "code": repr(code | {"workflow_scripts.align.dpo": "9"}),
        "pins": repr({"torch": "2.6"}),
        "settings": repr('{"beta": 0.2, "epochs": 1, "loss": {"smooth": 1}, "new": 1}'),
    }
    assert changed_params(before, now) == [
        "code: workflow_scripts.align.dpo",
        "params: torch 2.5 → 2.6, beta 0.1 → 0.2, loss.smooth 0 → 1, 1 more",
    ]


def test_a_parameter_that_came_went_or_is_long_is_named_and_not_printed():
    assert changed_params([repr(7)], {"seed": repr(8)}) == ["params: seed 7 → 8"]
    assert changed_params([], {"seed": repr(8)}) == ["params: +seed"]
    assert changed_params([repr(8)], {}) == ["params: −a parameter"]
    assert changed_params([repr("x" * 99)], {"text": repr("y" * 99)}) == ["params: text"]


# --- on a finished study ------------------------------------------------------------------------------------------


def make_plan(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "workflow_scripts.plan.forecast", "--", "--cores", "2", *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_finished_study_has_nothing_to_do(study):
    done = make_plan(study)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Nothing to be done") and done.stdout.count("\n") == 1


def test_a_changed_beta_plans_that_policy_alone_by_its_records(study):
    edit(study / "config.yaml", "beta: 0.1\n    learning_rate", "beta: 0.2\n    learning_rate")
    edit(study / "config.yaml", "    method: ipo", "    method: ipo\n    beta: 0.1")
    edit(study / "config.yaml", "    method: kto", "    method: kto\n    beta: 0.1")
    costs = study / "results/tutor/costs"
    write_json(costs / "train_aligned/tiny.sft.dpo-1.json", record(0.5))
    write_json(costs / "train_aligned/tiny.sft.ipo-1.json", record(7))
    write_json(costs / "answer_prompts/tiny.sft.ipo-1.json", record(1))
    write_json(costs / "answer_prompts/tiny.sft.kto-1.json", record(3))
    done = make_plan(study)
    assert (done.returncode, done.stderr) == (0, "")
    rows = rows_of(done.stdout)
    assert rows["train_aligned"] == ["1", "–", "0.5", "–", "own record", "params: beta 0.1 → 0.2"]
    assert rows["answer_prompts"][:4] == ["1", "–", "2 (1–3)", "–"]
    assert rows["answer_prompts"][4:] == ["median of 2 of the rule", "input made anew by train_aligned"]
    assert not {"train_sft", "clean_dataset", "results"} & rows.keys()
    assert set(re.findall(r"policy=(\S+)", done.stdout)) == {"tiny.sft.dpo"}
    assert len(done.stdout.splitlines()) < 45  # a screen

    # GPUs and limits come from flags and profiles, as in the run.
    write_json(costs / "train_aligned/tiny.sft.dpo-1.json", record(0.5, 8))
    limits = [
        f"{rule}:{limit}"
        for rule in ("train_aligned", "answer_prompts")
        for limit in ("gpu=4", "runtime=120")
    ]
    rows = rows_of(make_plan(study, "--resources", "gpu=8", "--set-resources", *limits).stdout)
    assert rows["train_aligned"][:4] == ["1", "4", "1", "4"]
    assert rows["train_aligned"][4] == "own record, hours scaled from 8 to 4 GPUs"
    assert rows["answer_prompts"][:5] == ["1", "4", "≤ 2", "≤ 8", "none recorded on GPUs"]


def test_an_edited_loss_and_a_lost_file_are_told_apart(study):
    edit(study / "workflow_scripts/align/ipo.py", 'settings["beta"]', '(1.0 * settings["beta"])')
    (study / "results/tutor/policies/tiny.sft.kto/seed-1/curve.json").unlink()
    text = make_plan(study).stdout
    assert rows_of(text)["train_aligned"][-1].split("; ") == [
        "1: code: workflow_scripts.align.ipo",
        "1: missing",
    ]
    assert "train_aligned" in text and "policy=tiny.sft.ipo,tiny.sft.kto  seed=1" in text


def test_a_study_with_mistakes_has_no_plan_and_says_why(study):
    edit(study / "config.yaml", "beta: 0.1\n", "bta: 0.1\n")
    done = make_plan(study)
    assert (done.returncode, done.stdout) == (1, "")
    assert "bta" in done.stderr and "Traceback" not in done.stderr


def test_what_snakemake_cannot_plan_ends_with_its_message(study):
    done = make_plan(study, "results/tutor/no_such_file")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no_such_file" in done.stderr and "selected" not in done.stderr


def test_a_plan_says_what_each_further_seed_would_take():
    seeds = SeedsUntil(until=0.1, at_most=5, on="b/m")
    jobs = [training(wildcards={"policy": "m.dpo", "seed": str(seed)}) for seed in (1, 2, 3)]
    records = {("s", f"train_aligned/{hours}.json"): record(hours) for hours in (2, 2)}
    choice = Job("choose_seeds", why=("missing",))
    (line,) = more_seeds(seeds, "s", [*jobs, choice], records)
    assert line == (
        "seeds: 3 to 5, chosen once the first 3 are scored, which stand here; up to 2 more, each for as many hours as "
        "the jobs of seed 3: 2"
    )
    assert more_seeds(seeds, "s", jobs, records) == [], "where they are chosen already"
    assert more_seeds([1, 2], "s", [*jobs, choice], records) == []
