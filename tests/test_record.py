"""A results folder tells how it was made: a copy of the study that gives the same plan, and what it was pinned to."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.plans import EVERY_KEY, STUDIES, config_of, path_of, study_of
from tests.workflow import ROOT
from workflow_scripts.common.code import locked_versions
from workflow_scripts.plan import index, report, training
from workflow_scripts.plan.layout import Layout
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.plan.record import makes_table, record
from workflow_scripts.study.checking import check_config, check_study, examine
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.settling.lock import read_lock
from workflow_scripts.study.written_out import written_out


def copied(study, folder: Path) -> Path:
    """Write a study's copy into a folder that has nothing else."""
    path = folder / "study.yaml"
    path.write_text(written_out(study), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", STUDIES)
def test_a_copy_read_as_a_study_gives_the_same_plan_and_the_same_doubts(name, tmp_path):
    study = study_of(name)
    path = copied(study, tmp_path)
    found = examine(read_yaml(path), folder=tmp_path)
    assert found.wrong == [] and found.study.model_dump() == study.model_dump()
    first, again = plan_of(study), plan_of(found.study)
    assert again.policies == first.policies
    assert index.index_entries(again) == index.index_entries(first)
    assert index.provenance_settings(again) == index.provenance_settings(first)
    assert report.page_settings(again, []) == report.page_settings(first, [])
    for policy in first.trained():
        assert training.training_settings(again, policy) == training.training_settings(first, policy)
    assert written_out(found.study) == path.read_text(encoding="utf-8")
    if name != EVERY_KEY:  # whose settling says what it has found
        before = examine(config_of(name), folder=(ROOT / path_of(name)).parent)
        assert found.doubts == before.doubts
    assert found.said == []  # nothing is left to be found out


def test_snakemake_s_own_reading_of_a_copy_is_the_same_study(tmp_path):
    study = study_of("config.yaml")
    path = copied(study, tmp_path)
    read, _, _ = check_config(yaml.safe_load(path.read_text(encoding="utf-8")), [path])
    assert read.model_dump() == study.model_dump()


def test_the_copy_holds_what_the_study_extends_and_its_short_forms_written_out(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Why?", "completion": "So."}\n' * 3)
    config = config_of("tests/tutoring.yaml")
    config["datasets"]["mine"] = {"path": str(tmp_path / "rows.jsonl")}
    config["runs"]["own"] = {
        "method": "sft", "parent": "tiny", "dataset": "mine", "split": "train", "validation": None,
        "learning_rate": 1e-4, "grid": {"epochs": [1, 2]},
    }  # fmt: skip
    copy = yaml.safe_load(written_out(check_study(config)))
    assert "extends" not in copy
    mine = copy["datasets"]["mine"]
    assert (mine["source"], mine["path"], mine["schema"]) == ("mine", None, "prompt_completion")
    assert copy["sources"]["mine"]["places"][0]["file"]["files"] == {
        "rows.jsonl": str(tmp_path / "rows.jsonl")
    }
    assert {"own-epochs1", "own-epochs2"} <= set(copy["runs"])
    assert copy["runs"]["own-epochs1"]["weight_decay"] == 0.0  # defaults stand there


def test_a_folder_gets_the_copy_and_the_pins_that_are_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = study_of("config.yaml")
    theirs = {"repo_type": "model", "repo": "else/where", "revision": "main", "config": None, "split": None}
    theirs |= {"commit": "b" * 40, "files": {}, "found": {}}
    beside = tmp_path / "studies"
    beside.mkdir()
    (beside / "study.lock").write_text(json.dumps({"repositories": [theirs]}))
    assert record(study, beside) == []
    folder = tmp_path / "results" / study.study
    assert sorted(path.name for path in folder.iterdir()) == ["study.lock", "study.yaml"]
    pins = json.loads((folder / "study.lock").read_text())
    assert pins == {"repositories": [], "packages": locked_versions()}
    assert read_lock(folder) == {}  # a lock as any other, beside the copy
    first = [(folder / name).read_bytes() for name in ("study.yaml", "study.lock")]
    record(study, beside)
    assert [(folder / name).read_bytes() for name in ("study.yaml", "study.lock")] == first


def test_of_the_lock_the_entries_of_the_study_s_own_repositories_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = study_of(EVERY_KEY)
    record(study, ROOT / "tests")
    kept = json.loads((tmp_path / "results/every-key/study.lock").read_text())["repositories"]
    whole = json.loads((ROOT / "tests/study.lock").read_text())["repositories"]
    assert kept and [entry for entry in whole if entry in kept] == kept
    commits = {place.hf.revision for part in study.sources.values() for place in part.places if place.hf}
    assert {entry["commit"] for entry in kept} <= commits


def test_a_folder_that_takes_no_file_is_told_and_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").write_text("no folder")
    (line,) = record(study_of("config.yaml"), tmp_path)
    assert line.startswith("warning: results/tutor/study.yaml was not written: ")


class Made:
    """A job with one output."""

    def __init__(self, output: str) -> None:
        self.output = [output]


def test_only_a_run_that_makes_the_table_writes_them():
    def workflow(*outputs: str, left: bool = False, touch: bool = False) -> SimpleNamespace:
        jobs = [Made(each) for each in outputs]
        dag = SimpleNamespace(jobs=jobs, needrun_jobs=lambda: jobs if left else [])
        return SimpleNamespace(dag=dag, touch=touch)

    layout = Layout("tutor")
    assert not makes_table(workflow("results/tutor/results.csv", left=True), layout)
    assert not makes_table(workflow("results/tutor/results.csv", touch=True), layout)
    assert makes_table(workflow("results/tutor/a.json", "results/tutor/results.csv"), layout)
    assert not makes_table(workflow("results/tutor/policies/tiny.sft/seed-1/manifest.json"), layout)
    assert not makes_table(workflow("results/other/results.csv"), layout)
