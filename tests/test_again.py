"""Policies that answer again: what is planned of them, and the noise that the tables know by them."""

import csv
import json
import sys

import pytest

from tests.plans import EVERY_KEY, changed, config_of, told
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.common.files import write_json
from workflow_scripts.generate.answer import sampling_of
from workflow_scripts.plan import costs, index, judging, policies, prompts, scoring
from workflow_scripts.plan.plan import again_cells, scored_cells, scored_on
from workflow_scripts.report import table
from workflow_scripts.report.index import entry_of
from workflow_scripts.report.rows import clearly_better, than_baseline, typed
from workflow_scripts.study.check import describe
from workflow_scripts.study.checking import examine
from workflow_scripts.study.machine import missing_vllm

SMALL = {"of": "tiny.sft", "batch_size": 7}
PLAN = changed(EVERY_KEY, {"seeds": [1, 2], "again": {"small": SMALL}})
ROW = "tiny.sft@small"


# --- what is planned --------------------------------------------------------------------------------------------------


def test_the_same_weights_answer_the_same_prompts_and_only_what_is_said_is_otherwise():
    first, again = (told(prompts.answering_settings(PLAN, name)) for name in ("tiny.sft", ROW))
    assert again == first | {"batch_size": 7}
    assert policies.weights_manifest(PLAN, ROW, 2) == policies.weights_manifest(PLAN, "tiny.sft", 2)
    assert prompts.owed(PLAN, ROW) == list(prompts.answered(PLAN)) == scored_on(PLAN, ROW)
    assert again_cells(PLAN) == [(ROW, 1), (ROW, 2)]
    assert ROW not in PLAN.policies and ROW not in PLAN.trained()


def test_it_is_scored_on_what_it_answers_alone_by_the_same_judges():
    named = changed(EVERY_KEY, {"again": {"small": SMALL | {"benchmarks": ["labels", "rated"]}}})
    files = [file for file in index.score_files(named) if ROW in file]
    assert files == [named.layout.scores(ROW, 1, name) for name in ("labels", "rated")]
    assert [cell for cell in judging.judged_cells(named) if cell[0] == ROW] == [(ROW, 1, "rated")]
    jobs = [(job.stage, job.name) for job in costs.costed_jobs(named) if job.policy == ROW]
    assert jobs == [("answer_prompts", ""), ("judge_answers", "rated")]


def test_an_opponents_answers_are_those_of_the_same_seed():
    plan = changed(EVERY_KEY, {"seeds": [1, 2], "again": {"small": SMALL}})
    assert judging.opponent_cell(plan, "questions", ROW, 2) == ("tiny.sft", 2)


def test_by_the_other_engine_it_answers_in_that_ones_environment():
    plan = changed(EVERY_KEY, {"again": {"fast": {"of": "tiny", "engine": {"name": "vllm"}}}})
    assert prompts.answered_by(plan, vllm=True) == ["tiny@fast"]
    assert "tiny@fast" not in prompts.answered_by(plan, vllm=False)
    assert scoring.engine_pins(plan, "tiny@fast").keys() == {"vllm", "torch", "transformers"}
    assert scoring.engine_code(plan, "tiny@fast") != scoring.engine_code(plan, "tiny")
    kept = plan.study.engine.model_dump() | {"name": "vllm"}
    assert told(prompts.answering_settings(plan, "tiny@fast"))["engine"] == kept
    stages = [job.stage for job in costs.costed_jobs(plan) if job.policy == "tiny@fast"]
    assert stages[0] == "answer_otherwise"


def test_keys_of_an_engine_are_laid_over_the_studys():
    values = {
        "engine": {"precision": "float32"},
        "again": {"fast": {"of": "tiny", "engine": {"name": "vllm"}}},
    }
    engine = changed(EVERY_KEY, values).again["tiny@fast"].engine_in
    assert engine(changed(EVERY_KEY, values).study).precision == "float32"


def test_the_index_says_what_it_is_and_what_has_changed():
    entry = index.cell_entry(PLAN, ROW, 2)
    first = index.cell_entry(PLAN, "tiny.sft", 2)
    same = ("parent", "method", "training_sets", "files", "seed")
    assert {key: entry[key] for key in same} == {key: first[key] for key in same}
    assert (entry["kind"], entry["of"], entry["changed"]) == ("noise", "tiny.sft", "batch_size 7")
    assert entry["facts"] == first["facts"] | {"answered_again": entry["facts"]["answered_again"]}
    labels = next(part for part in told(index.index_entries(PLAN))["benchmarks"] if part["name"] == "labels")
    assert entry_of(entry, labels)["file"] == PLAN.layout.scores(ROW, 2, "labels")
    assert entry_of(entry, labels)["of"] == "tiny.sft"


def test_a_study_without_such_keys_is_planned_as_before():
    plain, more = changed(EVERY_KEY, {}), changed(EVERY_KEY, {"again": {"small": SMALL}})
    assert prompts.answering_settings(plain, "tiny.sft") == prompts.answering_settings(more, "tiny.sft")
    assert "batch_size" not in told(prompts.answering_settings(plain, "tiny.sft"))
    assert [cell for cell in scored_cells(more) if cell[0] != ROW] == scored_cells(plain)
    assert index.benchmark_entry(plain, "labels") == index.benchmark_entry(more, "labels")


def test_a_batch_size_goes_before_the_prompt_sets_own(tmp_path):
    write_json(tmp_path / "set.json", {"sampling": {"batch_size": 64, "samples": 2}})
    assert sampling_of(tmp_path / "set.json", {"batch_size": 7}) == {"batch_size": 7, "samples": 2}
    assert sampling_of(tmp_path / "set.json", {}) == {"batch_size": 64, "samples": 2}


# --- mistakes ---------------------------------------------------------------------------------------------------------


def wrong_of(again: dict) -> list[str]:
    """Return what is wrong with an entry of `again`, its path left out."""
    found = examine(put(config_of(EVERY_KEY), "again", {"small": again}), folder=ROOT / "tests")
    return [line.removeprefix("again.small") for line in found.wrong if line.startswith("again")]


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ({"of": "tiny.stf", "batch_size": 7}, ".of: no policy is called 'tiny.stf'"),
        ({"of": "tiny"}, ": answers as before"),
        ({"of": "tiny", "engine": {"name": "transformers"}}, ": answers as before"),
        ({"of": "tiny", "engine": {"gpu_memory_share": 0.5}}, ": answers as before"),
        ({"of": "tiny", "batch_size": 64, "benchmarks": ["labels"]}, ": answers as before"),
        (SMALL | {"benchmarks": ["losses"]}, ".benchmarks: 'losses' reads likelihoods"),
        (SMALL | {"benchmarks": ["label"]}, ".benchmarks: no benchmark is called 'label'"),
        (SMALL | {"of": "tiny" + 220 * "x"}, ".of: no policy"),
    ],
)
def test_what_would_measure_nothing_is_a_mistake(again, said):
    assert any(said in line for line in wrong_of(again)), wrong_of(again)


def test_what_comes_from_elsewhere_cannot_answer_again():
    config = put(
        config_of(EVERY_KEY), "policies", {"given": {"answers": "data/bundled/alpaca_biology.jsonl"}}
    )
    found = examine(put(config, "again", {"small": {"of": "given", "batch_size": 7}}), folder=ROOT / "tests")
    assert any("'given' comes from elsewhere" in line for line in found.wrong)


def test_the_check_says_what_answers_again_and_that_vllm_is_not_here(monkeypatch, tmp_path):
    assert (
        "tiny.sft@small" in "\n".join(describe(PLAN.study))
        and "1 policy answering again" in describe(PLAN.study)[0]
    )
    monkeypatch.setattr("workflow_scripts.study.machine.ROOT", tmp_path)
    nowhere = {"runs.ppo.engine": "transformers"}
    again = {"again": {"fast": {"of": "tiny", "engine": {"name": "vllm"}}}}
    for change, paths in (
        (nowhere, []),
        (nowhere | again, ["again.fast.engine"]),
        (nowhere | {"engine": {"name": "vllm"}}, ["engine"]),
        ({}, ["runs.ppo.engine"]),
    ):
        study = changed(EVERY_KEY, change).study
        assert [found.text.split(":")[0] for found in missing_vllm(study)] == paths


# --- the tables -------------------------------------------------------------------------------------------------------

RIGHT = {"m.sft": 12, "m.sft.dpo": 36, "m.sft.kto": 18, "gold": 40}  # of 40 items, as each seed has it
SEEDS = (1, 2, 3)


def values_of(policy: str, seed: int, moved: int = 0) -> list[float]:
    """Return 40 items: so many right, a few of them otherwise by seed, and `moved` more of them right."""
    return [1.0 if (item * 7 + seed) % 40 < RIGHT[policy] + moved + seed % 2 else 0.0 for item in range(40)]


def entry(folder, policy: str, seed: int, values: list[float], **more) -> dict:
    path = folder / f"{policy}-{seed}.json"
    items = [f"i{number}" for number in range(len(values))]
    cell = {"subset": "all", "metric": "accuracy", "estimator": "mean", "higher_is_better": True}
    write_json(path, {"cells": [cell | {"items": items, "groups": items, "columns": {"value": values}}]})
    known = {"policy": policy, "seed": seed, "benchmark": "toy", "file": str(path), "kind": "policy"}
    return known | {"parent": policy.rpartition(".")[0] or None, "method": policy.rpartition(".")[2]} | more


def results_of(folder, moved: int | None) -> list[dict]:
    """Build the tables of three seeds, with m.sft answering again, so many items more right; return the rows."""
    listed = [
        entry(folder, policy, seed, values_of(policy, seed))
        for policy in ("m.sft", "m.sft.dpo", "m.sft.kto")
        for seed in SEEDS
    ]
    if moved is not None:
        told_of = {"kind": "noise", "of": "m.sft", "changed": "batch_size 7", "parent": "m", "method": "sft"}
        for seed in SEEDS:
            values = values_of("m.sft", seed, moved if seed > 1 else 0)
            listed.append(entry(folder, "m.sft@small", seed, values, **told_of))
    (folder / "index.json").write_text(json.dumps(listed))
    settings = {"study": "toy", "baseline": "m.sft", "draws": 300, "seed": 0, "confidence": 0.95}
    settings |= {"bars": [], "headline": [], "published": []}
    words = ["table", "--index", str(folder / "index.json"), "--settings", json.dumps(settings)]
    for flag, name in {
        "output": "fewer",
        "full": "csv",
        "wide": "wide",
        "markdown": "md",
        "latex": "tex",
        "overlap-output": "o",
    }.items():
        words += [f"--{flag}", str(folder / name)]
    before, sys.argv = sys.argv, words
    try:
        table.main()
    finally:
        sys.argv = before
    with open(folder / "csv", newline="") as stream:
        return [typed(row) for row in csv.DictReader(stream)]


def row_of(rows: list[dict], policy: str, seed: str = "all") -> dict:
    return next(row for row in rows if (row["policy"], row["seed"]) == (policy, seed))


def test_its_difference_is_from_the_policy_it_is_seed_by_seed_and_is_the_noise_of_the_cell(tmp_path):
    rows = results_of(tmp_path, moved=3)
    again = row_of(rows, "m.sft@small")
    assert (again["method"], again["baseline"], again["p_value"], again["p_adjusted"]) == (
        "again",
        "m.sft",
        "",
        "",
    )
    assert again["difference"] == pytest.approx(
        3 / 40 * 2 / 3, abs=1e-6
    )  # seeds 2 and 3 have three items more
    assert again["note"].startswith("answered again with batch_size 7: 6 of 120 items changed over 3 seeds")
    assert all(row["noise"] == pytest.approx(0.05) for row in rows if row["seed"] == "all")
    assert all(row["noise"] == pytest.approx(0.075) for row in rows if row["seed"] != "all")
    assert row_of(rows, "m.sft@small", "1")["difference"] == 0


def test_no_difference_within_the_noise_is_marked(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "much").mkdir()
    without, much = results_of(tmp_path / "none", None), results_of(tmp_path / "much", moved=9)
    assert row_of(without, "m.sft.kto")["noise"] == "" and row_of(much, "m.sft.kto")[
        "noise"
    ] == pytest.approx(0.15)
    assert clearly_better(row_of(without, "m.sft.kto")) and clearly_better(row_of(without, "m.sft.dpo"))
    assert row_of(much, "m.sft.kto")["difference"] == pytest.approx(0.15)
    assert not clearly_better(row_of(much, "m.sft.kto"))  # 6 of 40, and answering again moves as much
    assert clearly_better(row_of(much, "m.sft.dpo"))
    down = row_of(much, "m.sft.kto") | {"higher_is_better": False}
    assert than_baseline(down) == "" and than_baseline(down | {"noise": ""}) == "worse"


def test_it_is_no_part_of_holms_family_nor_of_the_headlines_and_has_a_table_of_its_own(tmp_path):
    (tmp_path / "none").mkdir()
    without, rows = results_of(tmp_path / "none", None), results_of(tmp_path, moved=1)
    adjusted = {(row["policy"], row["seed"]): row["p_adjusted"] for row in without}
    assert adjusted == {
        (row["policy"], row["seed"]): row["p_adjusted"] for row in rows if row["policy"] != "m.sft@small"
    }
    text = (tmp_path / "md").read_text()
    before, _, after = text.partition("## Noise")
    assert "m.sft@small" not in before and "| `m.sft@small` | toy/all/accuracy |" in after
    assert "m.sft@small" not in (tmp_path / "tex").read_text()
    assert "Noise" not in (tmp_path / "none" / "md").read_text()
