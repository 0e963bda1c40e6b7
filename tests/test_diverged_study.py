"""A study one of whose runs diverges ends with the numbers of all others, and with a note where its own would stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.small_study import small_study
from tests.workflow import ROOT, copy_with_study, edit, stale, table_of, verify
from workflow_scripts.common.files import read_json, read_jsonl

HOT, CHILD = "tiny.hot", "tiny.hot.dpo"
# They come before any training, or after the table, which has the notes already.
NO_TRAINING_BEFORE = {
    "build_reward_pairs", "tokenise_dataset", "build_prompts", "calibrate_answers", "list_items", "find_overlap",
    # of policies from elsewhere, which nothing here has trained
    "ask_policy", "plan_asking", "read_answers", "leave_out_likelihoods", "leave_out_score",
}  # fmt: skip
OF_ITSELF = {"choose_policy"}  # leaves out what diverged, and hands it on where all has


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder of a small study whose run `hot` has an absurd learning rate, which has been run; what it printed."""
    folder = copy_with_study(tmp_path_factory.mktemp("diverged"))
    study = small_study(tiny_model, tiny_model / "config.json")
    for part in ("reward_models", "annotations", "judges"):
        study[part] = {}
    del study["sources"]["human_eval"]
    runs = study["runs"]
    hot = runs["sft"] | {"learning_rate": 1e30, "warmup": 0.0}
    study["runs"] = {"sft": runs["sft"], "hot": hot, "dpo": runs["dpo"] | {"parent": "hot"}}
    study["benchmarks"] = {name: study["benchmarks"][name] for name in ("tutor",)}
    columns = [column for column in study["report"]["headline"] if column["benchmark"] == "tutor"]
    study["report"] |= {"headline": columns, "bars": columns}
    (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder, done


def test_the_table_has_the_other_policies_numbers_and_notes_for_the_diverged_and_its_children(run):
    rows = table_of(run[0], "tutor")
    for policy in ("tiny", "tiny.sft", "gold"):
        values = {row["benchmark"]: row["value"] for row in rows if row["policy"] == policy}
        assert set(values) == {"tutor"}
        assert all(values.values())
    for policy, whose in ((HOT, "training"), (CHILD, "an ancestor's training")):
        own = [row for row in rows if row["policy"] == policy]
        assert {row["benchmark"] for row in own} == {"tutor"}
        for row in own:
            assert (row["value"], row["n"]) == ("", "0")
            assert re.match(
                rf"{whose} diverged at step \d+ \(learning rate \S+e\+(29|30)\): ", row["note"]
            ), row


def test_the_other_tables_and_the_page_say_it(run):
    folder = run[0] / "results/tutor"
    headlines, *benchmarks = (folder / "results.md").read_text().split("\n## ")[1:]
    for part in (headlines, *benchmarks[:1]):
        assert f"Not scored (`{HOT}`): training diverged at step" in part
    warnings = {row["policy"]: row["warning"] for row in table_of(run[0], "tutor", "training.csv")}
    assert warnings[HOT].startswith("training diverged at step")
    assert warnings[CHILD].startswith("an ancestor's training diverged at step")
    page = (folder / "report.html").read_text()
    assert f"{HOT}<" in page
    assert "training diverged at step" in page
    assert (folder / "figures/loss_curves.svg").is_file()


def test_no_weights_and_no_answers_of_a_diverged_policy_are_there(run):
    for policy in (HOT, CHILD):
        folder = run[0] / f"results/tutor/policies/{policy}/seed-1"
        assert read_json(folder / "manifest.json")["diverged"]["quantity"]
        assert not list((folder / "model").glob("[!.]*"))
        assert read_jsonl(folder / "generations/tutor.jsonl") == []
    assert not (run[0] / "results/tutor/costs/answer_prompts" / f"{HOT}-1.json").exists()


def test_what_a_diverged_training_took_stands_among_the_costs(run):
    costs = {(row["stage"], row["policy"]): row for row in table_of(run[0], "tutor", "costs.csv")}
    assert float(costs["train_sft", HOT]["wall_seconds"]) > 0
    assert costs["train_sft", HOT]["tokens"] == ""


def test_a_diverged_policy_is_not_trained_again_until_its_settings_change(run):
    folder = run[0]
    assert stale(folder) == set()
    log = (folder / f"results/tutor/logs/train_sft/{HOT}-1.log").read_text()
    assert "The study goes on without it." in log
    whole = (folder / "config.yaml").read_text()
    edit(folder / "config.yaml", "learning_rate: 1.0e+30", "learning_rate: 1.0e-4")
    remade = stale(folder)
    (folder / "config.yaml").write_text(whole)
    assert f"results/tutor/policies/{HOT}/seed-1/manifest.json" in remade
    assert not any("tiny.sft/" in path for path in remade)


def test_a_study_with_a_diverged_run_verifies(run):
    done = verify(run[0], "tutor")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_after_a_training_hands_a_divergence_on():
    stages = ("sft", "align", "annotate", "generate", "pairs", "score")
    rules = {}
    for stage in stages:
        for part in re.split(r"(?m)^rule ", (ROOT / f"rules/{stage}.smk").read_text())[1:]:
            rules[part.partition(":")[0]] = part.partition("shell:")[2]
    assert len(rules) > 25
    assert {name for name, shell in rules.items() if "UNLESS_" not in shell} == NO_TRAINING_BEFORE | OF_ITSELF
