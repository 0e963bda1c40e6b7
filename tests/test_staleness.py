"""What a change costs: dry-run plans of the default study after it was finished."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.workflow import copy_repository, finish, stale

OFFLINE = ("--configfile", "studies/tutor_offline_rl.yaml")
TABLES = {"results.csv", "policies.csv", "results.md", "policy_bars.svg", "report.html", "study.json"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("study"))
    finish(folder)
    return folder


@pytest.fixture
def study(finished, tmp_path) -> Path:
    """A copy of the finished study that a test may change; time stamps are kept."""
    folder = tmp_path / "study"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1))


def names(files: set[str]) -> set[str]:
    return {Path(file).name for file in files}


def policies(files: set[str]) -> set[str]:
    return {found.group(1) for file in files if (found := re.search(r"/policies/([^/]+)/", file))}


def of_benchmark(name: str, files: set[str]) -> set[str]:
    return {file for file in files if Path(file).stem == name}


def test_a_finished_study_has_nothing_to_do(study):
    assert stale(study) == set()


def test_touching_every_file_makes_nothing_stale(study):
    for path in study.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert stale(study) == set()


def test_a_comment_in_a_loss_makes_nothing_stale(study):
    edit(study / "workflow_scripts/align/dpo.py", "    gap = settings", "    # a remark\n    gap = settings")
    edit(study / "workflow_scripts/align/dpo.py", "Return the mean DPO loss", "Give the mean DPO loss")
    assert stale(study) == set()


def test_a_changed_beta_costs_that_policy_its_scores_and_the_table(study):
    edit(study / "config.yaml", "beta: 0.1\n    learning_rate", "beta: 0.2\n    learning_rate")
    edit(study / "config.yaml", "    method: ipo", "    method: ipo\n    beta: 0.1")
    edit(study / "config.yaml", "    method: kto", "    method: kto\n    beta: 0.1")
    files = stale(study)
    assert policies(files) == {"tiny.sft.dpo"}
    others = {file for file in files if "/policies/" not in file}
    assert names(others) == TABLES | {"loss_curves.svg", "training.csv"}


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_an_edited_loss_retrains_exactly_the_policies_that_use_it(study, method):
    path = study / f"workflow_scripts/align/{method}.py"
    path.write_text(re.sub(r"settings\[\"beta\"\]", '(1.0 * settings["beta"])', path.read_text(), count=1))
    files = stale(study)
    assert policies(files) == {f"tiny.sft.{method}"}
    assert f"results/tutor/policies/tiny.sft.{method}/seed-1/manifest.json" in files


def test_a_scoring_setting_costs_that_benchmark_and_the_table(study):
    edit(study / "config.yaml", "    kind: humaneval\n", "    kind: humaneval\n    timeout_seconds: 4.0\n")
    files = stale(study)
    scored = {file for file in files if "/policies/" in file}
    assert scored == of_benchmark("humaneval", scored)
    assert all("/scores/" in file for file in scored)
    assert len(scored) == 7
    assert names(files - scored) == TABLES


def test_a_generation_setting_costs_that_benchmark_alone(study):
    edit(study / "config.yaml", "    max_new_tokens: 48\n", "    max_new_tokens: 50\n")
    files = stale(study)
    held = {file for file in files if "/policies/" in file and Path(file).name != "answered.json"}
    assert held == of_benchmark("humaneval", held)
    assert not any("manifest.json" in file for file in files)
    assert names(files) - TABLES - names(held) == {"answered.json", "humaneval.json"} - names(held)


def test_a_changed_problem_makes_everything_below_it_stale(study):
    edit(study / "data/bundled/biology_problems.jsonl", "Why does water form", "Why does rain form")
    files = stale(study)
    assert {"tiny.sft", "tiny.sft.dpo", "tiny.sft.ipo", "tiny.sft.kto"} <= policies(files)
    assert any("data/clean/tutor/tutor" in file for file in files)
    assert not any(file.startswith(("data/models", "data/sources/stories15m")) for file in files)


def test_an_upgraded_trainer_retrains_and_a_comment_in_the_lock_does_not(study):
    lock = study / "envs/requirements.txt"
    lock.write_text("# a remark\n" + lock.read_text())
    assert stale(study) == set()
    lock.write_text(re.sub(r"^trl==.*$", "trl==99.0", lock.read_text(), flags=re.MULTILINE))
    assert "results/tutor/policies/tiny.sft/seed-1/manifest.json" in stale(study)


def test_a_new_method_computes_only_itself(study):
    edit(
        study / "config.yaml",
        "  kto:\n    <<: *align\n    method: kto\n",
        "  kto:\n    <<: *align\n    method: kto\n  dpo_sharp:\n    <<: *align\n    beta: 0.5\n",
    )
    files = stale(study)
    assert policies(files) == {"tiny.sft.dpo_sharp"}


# Offline RL: the same study with four objectives more.


@pytest.fixture(scope="module")
def finished_offline(tmp_path_factory) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("offline"))
    finish(folder, *OFFLINE)
    return folder


@pytest.fixture
def offline(finished_offline, tmp_path) -> Path:
    folder = tmp_path / "offline"
    shutil.copytree(finished_offline, folder, symlinks=True)
    return folder


def outside_policies(files: set[str]) -> set[str]:
    return {
        str(Path(file).relative_to("results/tutor_offline_rl")) for file in files if "/policies/" not in file
    }


TRAINED = {*TABLES, "loss_curves.svg", "training.csv"}


@pytest.mark.parametrize("method", ["r_gold", "r_lol", "a_lol_ref_free", "a_lol_kl"])
def test_a_ninth_method_costs_itself_its_answers_and_its_scores(offline, method):
    value = "" if method.startswith("r_") else "\n    value: expected"
    new = f"runs:\n  ninth:\n    <<: *offline\n    method: {method}{value}\n"
    path = offline / "studies/tutor_offline_rl.yaml"
    text = path.read_text()
    assert text.count("runs:\n  nll: &offline\n") == 1
    last = text.index("\nreport:")
    path.write_text(text[:last] + new.removeprefix("runs:") + text[last:])
    files = stale(offline, *OFFLINE)
    assert policies(files) == {"tiny.sft.ninth"}
    kinds = {file.split("/")[5] for file in files if "/policies/" in file}
    assert {"manifest.json", "generations", "scores"} <= kinds
    # Nothing of the reference, the value head or the advantages is computed again.
    assert names(outside_policies(files)) == TRAINED | {"scores.json"}


@pytest.mark.parametrize("method", ["nll", "wbc", "a_lol", "a_lol_seq"])
def test_an_edited_weight_function_retrains_exactly_its_policy(offline, method):
    path = offline / f"workflow_scripts/align/{method}.py"
    text = path.read_text()
    path.write_text(re.sub(r"\n    return (.*)", r"\n    return 1.0 * (\1)", text, count=1))
    assert path.read_text() != text
    assert policies(stale(offline, *OFFLINE)) == {f"tiny.sft.{method}"}


def test_an_edited_value_head_costs_the_policies_that_weigh_by_advantage_and_no_log_probs(offline):
    edit(offline / "studies/tutor_offline_rl.yaml", "    epochs: 20\n", "    epochs: 21\n")
    files = stale(offline, *OFFLINE)
    assert policies(files) == {"tiny.sft.a_lol", "tiny.sft.a_lol_seq"}
    other = outside_policies(files)
    assert {file.split("/")[0] for file in other} - TRAINED == {"values", "advantages", "figures"}


def test_an_edited_reward_costs_what_learns_from_rewards_alone(offline):
    edit(offline / "config.yaml", "{rule: length, words: 30}", "{rule: length, words: 31}")
    files = stale(offline, *OFFLINE)
    assert {f"tiny.sft.{method}" for method in ("nll", "wbc", "a_lol", "a_lol_seq")} <= policies(files)
    retrained = {file for file in files if file.endswith("/seed-1/manifest.json") and "/policies/" in file}
    assert len(retrained) == 4
