"""The whole chain for real, on a random model of a few thousand weights: every stage runs, twice, to the same bytes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.small_study import PROBLEMS, small_study
from tests.workflow import copy_repository, stale, table_of, verify
from workflow_scripts.console.run import journal_of, run_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model) -> list[Path]:
    """Two folders in which the same study was run, side by side, one core each.

    In the first Snakemake shows what it shows by itself, and no job can tell how far it is; the second is run as `make
    results` does: there is our console, and every job tells.
    """
    humaneval = tmp_path_factory.mktemp("humaneval") / "HumanEval.jsonl"
    humaneval.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    study = small_study(tiny_model, humaneval)
    folders, jobs = [], []
    for number in (1, 2):
        folder = copy_repository(tmp_path_factory.mktemp(f"run-{number}"))
        (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        command = [sys.executable, "-m", "snakemake", "--cores", "1"]
        told = {"PLUMBLINE_PROGRESS": str(folder / "nowhere/x.progress.jsonl")}
        if number == 2:
            command, told = [sys.executable, "-m", "plumbline", "results", "--cores", "1"], {"PYTHONPATH": ""}
        jobs.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | told,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        folders.append(folder)
    for job in jobs:
        output, _ = job.communicate()
        assert job.returncode == 0, output[-5000:]
    return folders


def test_a_second_run_finds_all_as_the_first_left_it_and_plans_nothing(runs):
    logs = list((runs[1] / ".snakemake/log").iterdir())
    command = [sys.executable, "-m", "plumbline", "results", "--cores", "1"]
    again = subprocess.run(
        command,
        cwd=runs[1],
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Nothing to be done" in again.stdout
    assert list((runs[1] / ".snakemake/log").iterdir()) == logs
    assert stale(runs[1]) == set()


def test_every_policy_is_scored_on_every_benchmark(runs):
    rows = table_of(runs[0], "tutor")
    assert {row["policy"] for row in rows} == {"tiny", "tiny.sft", "tiny.sft.dpo", "gold", "empty"}
    scored = {(row["policy"], row["benchmark"]) for row in rows}
    benchmarks = {"tutor", "judged", "pair_perplexity"}
    benchmarks |= {"humaneval", "biology_quiz", "mt_bench", "alpaca_eval"}
    assert scored == {(row["policy"], name) for row in rows for name in benchmarks}
    assert all(int(row["n"]) > 0 for row in rows if not row["note"])


def test_calibration_rows_mark_the_ends_of_the_scales(runs):
    marks = {
        (row["policy"], row["benchmark"], row["subset"], row["metric"]): row["value"]
        for row in table_of(runs[0], "tutor")
        if row["policy"] in ("gold", "empty")
    }
    for subset in ("evaluation", "action", "state"):
        assert float(marks["empty", "tutor", subset, "accuracy"]) == 0
    assert float(marks["gold", "biology_quiz", "biology_quiz", "acc"]) == 1
    assert float(marks["gold", "pair_perplexity", "action1+4", "perplexity"]) == 1


def test_gold_says_no_more_than_the_tokenizer_can_spell(runs):
    """This one has no capitals and no quotes, so no structured reply of it can be read; the marks show it."""
    counts = json.loads((runs[0] / "results/tutor/policies/gold/seed-0/generations/tutor.json").read_text())
    assert counts["counts"] == {"answers": 4, "changed_by_tokens": {"tiny": 4}}
    marks = {
        row["subset"]: float(row["value"])
        for row in table_of(runs[0], "tutor")
        if (row["policy"], row["benchmark"], row["metric"]) == ("gold", "tutor", "accuracy")
    }
    assert marks == {"evaluation": 0, "action": 0, "state": 0}


def test_one_run_has_told_how_far_it_was_and_the_other_has_not(runs):
    without, told = (list((folder / "results/tutor/logs").glob("*/*.progress.jsonl")) for folder in runs)
    assert without == [] and not journal_of(runs[0] / "results/tutor").exists()
    rules = {path.parent.name for path in told}
    assert rules >= {"train_sft", "train_aligned", "train_reward_model", "answer_prompts", "score_reference"}
    assert rules >= {"measure_likelihoods", "score_lm_eval", "annotate_answers"}
    for path in told:
        last = json.loads(path.read_text().splitlines()[-1])
        assert last["done"] == last["total"], path
    run = run_of(journal_of(runs[1] / "results/tutor"))
    assert run.well and run.done == run.total and all(done == total for _, done, total in run.stages())


def test_the_same_study_in_two_folders_gives_the_same_bytes(runs):
    names = (
        "results.csv",
        "results_full.csv",
        "policies.csv",
        "results.md",
        "results.tex",
        "overlap.csv",
        "provenance.json",
        "tables.json",
        "figures/policy_bars.svg",
        "figures/loss_curves.svg",
    )
    for name in names:
        first, second = ((folder / "results/tutor" / name).read_bytes() for folder in runs)
        assert first == second, name


def test_a_finished_run_has_nothing_to_do(runs):
    assert stale(runs[0]) == set()


def test_the_report_is_one_page_with_its_figures_and_every_policy(runs):
    page = (runs[0] / "results/tutor/report.html").read_text()
    sections = (
        "headlines",
        "forest",
        "results",
        "decontamination",
        "samples",
        "training",
        "costs",
        "provenance",
    )
    assert [name for name in sections if f'<section id="{name}">' not in page] == []
    assert page.count("<svg") > 1
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page), "it needs nothing beside it"
    assert all(f"{row['policy']}<" in page for row in table_of(runs[0], "tutor"))


def test_a_finished_study_verifies_until_a_score_behind_it_is_edited(runs):
    assert verify(runs[1], "tutor").returncode == 0
    score = runs[1] / "results/tutor/policies/tiny.sft/seed-1/scores/mt_bench.json"
    whole = score.read_bytes()
    score.write_bytes(whole.replace(b'"items"', b'"items" '))
    broken = verify(runs[1], "tutor")
    score.write_bytes(whole)
    assert broken.returncode == 1
    assert "policies/tiny.sft/seed-1/scores/mt_bench.json" in broken.stdout


def test_every_row_names_its_record_and_two_policies_never_share_one(runs):
    records = json.loads((runs[0] / "results/tutor/provenance.json").read_text())["records"]
    ids = {key: record["id"] for key, record in records.items()}
    assert len(set(ids.values())) == len(ids)
    for row in table_of(runs[0], "tutor"):
        assert row["provenance"] == ids[f"{row['policy']}|{row['seed']}|{row['benchmark']}"]


def test_no_pickle_is_left_in_the_results(runs):
    kinds = {path.suffix for path in (runs[0] / "results").rglob("*") if path.is_file()}
    assert not kinds & {".bin", ".pt", ".pth", ".pkl"}


def test_nothing_is_lost_between_raw_rows_and_tokens(runs):
    manifest = json.loads((runs[0] / "data/clean/tutor/tutor/manifest.json").read_text())
    for counts in manifest["counts"].values():
        for unit in ("rows", "turns"):
            assert counts[unit]["read"] == counts[unit]["kept"] + counts[unit]["rejected"]


def test_a_policy_that_was_deleted_is_missed_and_made_again_with_the_table(runs):
    shutil.rmtree(runs[0] / "results/tutor/policies/tiny.sft.dpo")
    done = verify(runs[0], "tutor")
    assert done.returncode == 1
    assert "delete results/tutor/results.csv and run the study again" in done.stderr
    assert stale(runs[0]) == set()  # the table is whole, and Snakemake looks no further
    (runs[0] / "results/tutor/results.csv").unlink()
    assert any("tiny.sft.dpo/seed-1/manifest.json" in file for file in stale(runs[0]))
