"""`make accept`: finished work stands after a change of code or pins, and says so; nothing else may."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline import cli
from tests.outside_study import FLAGS, study_of, write_study
from tests.workflow import ROOT, copy_with_study, edit, finish, snakemake, stale
from workflow_scripts.common.code import locked_versions
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_json
from workflow_scripts.plan.accept import changes_in_words, differences, is_code
from workflow_scripts.plan.acceptance import accepted_files, read_accepted
from workflow_scripts.report.page_sections import accepted_lines
from workflow_scripts.report.provenance import accepted_behind, provenance, record_id
from workflow_scripts.report.verify import told_of

RESULTS = Path("results/outside")
WHY = 'a speed-up: "same" numbers, it\'s said'
# Made anew after it: what has to say so, and what is drawn from that.
TABLES = {
    "results.csv",
    "results_full.csv",
    "policies.csv",
    "results.md",
    "results.tex",
    "overlap.csv",
    "provenance.json",
} | {
    "tables.json",
    "scores.json",
    "costs.csv",
    "report.html",
}


@pytest.fixture(scope="module")
def finished_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study, finished without its cost (see tests.workflow)."""
    folder = copy_with_study(tmp_path_factory.mktemp("accepting"))
    files = tmp_path_factory.mktemp("files")
    weights = tmp_path_factory.mktemp("weights")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (weights / name).write_text("{}")
    study = study_of(weights, files, "http://127.0.0.1:9/v1")
    study["runs"]["again"] = study["runs"]["sft"] | {"parent": "sft"}
    del study["policies"], study["benchmarks"]["talk"]
    write_study(folder, study)
    finish(folder, *FLAGS)
    return folder


@pytest.fixture
def small(finished_small: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    shutil.copytree(finished_small, folder, symlinks=True)
    return folder


def accept(folder: Path, why: str = WHY) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "workflow_scripts.plan.accept", "--why", why, "--on", "2026-12-01", "--"]
    command += ["--cores", "2", *FLAGS]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def bump(folder: Path, package: str) -> str:
    """Have another version of a package in the lock; return the version that was there."""
    lock = folder / "envs/requirements.txt"
    old = locked_versions()[package]
    lock.write_text(re.sub(rf"^{package}==.*$", f"{package}==99.0", lock.read_text(), flags=re.MULTILINE))
    return old


def names(files: set[str]) -> set[str]:
    return {Path(file).name for file in files}


def accepted_in(folder: Path) -> list[dict]:
    return read_accepted(folder / RESULTS / "accepted.json")


def test_a_pin_bump_reruns_nothing_after_it_but_the_tables_that_say_so(small):
    old = bump(small, "torch")
    assert any(file.endswith("tiny.sft/seed-1/manifest.json") for file in stale(small, *FLAGS))
    times = {path: path.stat().st_mtime_ns for path in (small / "results").rglob("*") if path.is_file()}
    done = accept(small)
    assert done.returncode == 0, done.stderr
    assert f"pins: torch {old} → 99.0" in done.stdout
    assert times == {path: path.stat().st_mtime_ns for path in times}  # no file is touched
    assert names(stale(small, *FLAGS)) <= TABLES
    [each] = accepted_in(small)
    assert (each["why"], each["on"], each["changed"]) == (
        WHY,
        "2026-12-01",
        {"pins": {"torch": [old, "99.0"]}},
    )
    jobs = {job["job"]: job for job in each["jobs"]}
    assert (
        f"{RESULTS}/policies/tiny.sft.again/seed-1/scores/wins.json" in jobs["train_sft tiny.sft 1"]["scores"]
    )
    assert jobs["train_sft tiny.sft.again 1"]["scores"] == [
        f"{RESULTS}/policies/tiny.sft.again/seed-1/scores/{name}.json" for name in ("read", "wins")
    ]
    snakemake(small, "--touch", *FLAGS)  # as if these had been made
    assert stale(small, *FLAGS) == set()


def test_an_edited_module_is_named_with_its_digests_before_and_now(small):
    edit(small / "workflow_scripts/sft/train.py", "def main", "NEW = 1\n\n\ndef main")
    done = accept(small)
    assert done.returncode == 0, done.stderr
    [each] = accepted_in(small)
    ((module, (before, now)),) = each["changed"]["code"].items()
    assert module == "workflow_scripts.sft.train" and before != now
    assert {job["job"].split()[0] for job in each["jobs"]} == {"train_sft"}
    assert names(stale(small, *FLAGS)) <= TABLES


def test_a_changed_command_is_accepted_too(small):
    edit(
        small / "rules/clean.smk",
        "python -m workflow_scripts.clean.clean",
        "python  -m workflow_scripts.clean.clean",
    )
    done = accept(small)
    assert done.returncode == 0, done.stderr
    assert accepted_in(small)[0]["changed"] == {"command": ["clean_dataset"]}
    assert names(stale(small, *FLAGS)) <= TABLES


def test_what_is_stale_by_its_settings_is_refused_by_name_and_what_rests_on_it_runs(small):
    bump(small, "torch")
    edit(small / "studies/outside.yaml", "max_steps: 2", "max_steps: 3")
    done = accept(small)
    assert done.returncode == 0, done.stderr
    assert "not accepted: train_sft tiny.sft 1: params: max_steps 2 → 3" in done.stdout
    assert "jobs that rest on them" in done.stdout
    accepted = {job["job"] for each in accepted_in(small) for job in each["jobs"]}
    assert "answer_prompts tiny 1" in accepted
    assert not [job for job in accepted if "tiny.sft" in job and not job.startswith("tokenise_dataset")]
    left = stale(small, *FLAGS)
    assert f"{RESULTS}/policies/tiny.sft/seed-1/manifest.json" in left
    assert f"{RESULTS}/policies/tiny/seed-1/answered.json" not in left


def test_what_is_stale_by_its_inputs_is_refused_and_alone_there_is_nothing_to_accept(small):
    edit(small / "data/bundled/biology_problems.jsonl", "Why does water form", "Why does rain form")
    before = stale(small, *FLAGS)
    done = accept(small)
    assert done.returncode == 1
    assert "not accepted: simulate_source" in done.stderr and "input changed: data/bundled/" in done.stderr
    assert "nothing is stale by its code, pins or command alone" in done.stderr
    assert not (small / RESULTS / "accepted.json").exists() and stale(small, *FLAGS) == before


def test_a_job_that_is_to_run_again_loses_its_acceptance_and_is_stale_should_it_never_run(small):
    bump(small, "torch")
    assert accept(small).returncode == 0
    target = f"{RESULTS}/policies/tiny.sft.again/seed-1/manifest.json"
    assert target not in stale(small, *FLAGS)
    failed = snakemake(small, "-f", target, *FLAGS, check=False)  # its inputs are made up: it fails
    assert failed.returncode != 0
    [each] = accepted_in(small)
    jobs = {job["job"] for job in each["jobs"]}
    assert "train_sft tiny.sft.again 1" not in jobs and "train_sft tiny.sft 1" in jobs
    assert f"{RESULTS}/policies/tiny/seed-1/answered.json" not in stale(small, *FLAGS)
    assert target in stale(small, *FLAGS)


@pytest.mark.parametrize("why", ["", "  \n "])
def test_no_reason_is_refused(small, why):
    bump(small, "torch")
    done = accept(small, why)
    assert done.returncode == 1 and "why may it stand?" in done.stderr
    assert not (small / RESULTS / "accepted.json").exists()


def test_nothing_is_accepted_beside_a_run(small):
    bump(small, "torch")
    (small / ".snakemake/locks").mkdir(exist_ok=True)
    (small / ".snakemake/locks/0.input.lock").write_text("config.yaml\n")
    done = accept(small)
    assert done.returncode == 1 and "a run is at work here, or was killed" in done.stderr


def test_a_reason_is_handed_over_as_it_is_typed(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >> "$SAID"\n')
    python.chmod(0o755)
    why = 'it\'s "as" $HOME, `id` $(touch x)\nand two lines; -- # really \\ done'
    said = tmp_path / "said"
    command = ["make", "--silent", "-o", ".venv/ready", "accept", f"WHY={why}", f"BIN={tmp_path}"]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"SAID": str(said)}, check=True)
    words = said.read_text().split("\0")[:-1]
    assert words[:2] == ["-m", "plumbline"]
    verb, asked = cli.read(words[2:])
    (handed_on,) = cli.VERBS[verb].commands(asked)
    assert handed_on[:3] == ["workflow_scripts.plan.accept", f"--why={why}", "--"]


def test_code_and_pins_are_mappings_in_every_rule_and_settings_are_none(finished_small):
    told = set()
    for path in (finished_small / ".snakemake/metadata").rglob("*"):
        record = json.loads(path.read_text()) if path.is_file() else {}
        for text in record.get("params") or []:
            if is_code(text):
                told |= set(differences([], [text]).get("code", {}))
                pins = differences([], [text]).get("pins", {})
                assert set(pins) <= set(locked_versions()), (record["rule"], text)
            else:
                assert "workflow_scripts.common" not in text, (record["rule"], text)
    assert "workflow_scripts.sft.train" in told


def test_changes_are_told_by_what_they_are():
    before = ["{'workflow_scripts.a': '1', 'workflow_scripts.b': '2'}", "{'torch': '2.0'}"]
    now = ["{'workflow_scripts.a': '1', 'workflow_scripts.c': '3'}", "{'torch': '2.1'}"]
    changed = differences(before, now)
    assert changed == {
        "pins": {"torch": ["2.0", "2.1"]},
        "code": {"workflow_scripts.b": ["2", None], "workflow_scripts.c": [None, "3"]},
    }
    assert changes_in_words(changed | {"command": ["clean_dataset"]}) == [
        "pins: torch 2.0 → 2.1",
        "code: workflow_scripts.b 2 → gone, workflow_scripts.c new → 3",
        "command: clean_dataset",
    ]


# --- what says so -----------------------------------------------------------------------------------------------------

CHANGED = {"pins": {"torch": ["2.0", "2.1"]}}
ACCEPTED = {
    "accepted": [
        {"why": WHY, "on": "2026-12-01", "changed": CHANGED}
        | {
            "jobs": [
                {
                    "job": "train_sft p 1",
                    "outputs": ["results/s/policies/p/m.json"],
                    "scores": ["a"],
                    "records": {},
                }
            ]
        }
    ]
}


def test_the_reason_stands_in_the_record_of_each_score_that_rests_on_it_and_nowhere_else(tmp_path):
    write_json(tmp_path / "accepted.json", ACCEPTED)
    behind = accepted_behind([tmp_path / "accepted.json"])
    told = {"why": WHY, "on": "2026-12-01", "changed": CHANGED, "jobs": ["train_sft p 1"]}
    assert behind == {"a": [told]}
    entry = {"seed": 1, "benchmark": "b", "facts": {}, "files": []}
    index = [entry | {"policy": "p", "file": "a"}, entry | {"policy": "q", "file": "c"}]
    value = provenance(index, {}, behind)
    assert value["records"]["p|1|b"]["accepted"] == [told]
    assert "accepted" not in value["records"]["q|1|b"]
    record = value["records"]["p|1|b"]
    assert record["id"] == record_id("p|1|b", record)  # the reason is part of what the row's id names
    assert told_of(value["records"]) == [f"accepted on 2026-12-01: {WHY} (behind 1 of 2 scores)"]
    [line] = accepted_lines(value)
    assert line["jobs"] == ["train_sft p 1"] and line["policies"] == ["p"]
    assert line["changed"] == ["pins torch 2.0 → 2.1"]


def test_what_one_study_lets_stand_of_what_all_share_stands_in_all(tmp_path):
    own = {"accepted": [ACCEPTED["accepted"][0]]}
    shared = json.loads(json.dumps(own))
    shared["accepted"][0]["jobs"][0]["outputs"] = ["data/models/m/manifest.json"]
    write_json(tmp_path / "s/accepted.json", own)
    write_json(tmp_path / "t/accepted.json", shared)
    assert accepted_files("results/u", tmp_path) == [str(tmp_path / "t/accepted.json")]


def test_a_file_that_holds_no_acceptances_is_named(tmp_path):
    write_json(tmp_path / "accepted.json", {"accepted": [{"why": "x"}]})
    with pytest.raises(PlumblineError, match="holds no acceptances; delete it"):
        read_accepted(tmp_path / "accepted.json")
