"""The index of scores: every policy on every benchmark, each entry with all files and facts its score rests on."""

import io
import json

import pytest

from tests.command import call
from workflow_scripts.report import index, provenance

FOLDER = "results/s/policies/tiny.sft/seed-2"
CELL = {
    "policy": "tiny.sft",
    "parent": "tiny",
    "method": "sft",
    "seed": 2,
    "kind": "policy",
    "training_sets": ["rows/train"],
    "folder": FOLDER,
    "files": [f"{FOLDER}/manifest.json", "data/clean/s/rows/manifest.json"],
    "facts": {"model": "m", "template": "t", "trained_by": "c"},
}
GOLD = CELL | {"policy": "gold", "parent": None, "method": None, "seed": 0, "kind": "calibration"}
GOLD |= {"training_sets": [], "folder": "results/s/policies/gold/seed-0", "files": []}
PLAIN = {
    "name": "quiz",
    "answered": False,
    "judged": False,
    "measured": False,
    "overlap": None,
    "files": [],
    "facts": {"settings": "s", "code": "k", "judge": None},
}
JUDGED = PLAIN | {
    "name": "talk",
    "answered": True,
    "judged": True,
    "overlap": "results/s/overlap/talk.json",
    "files": ["results/s/prompts/talk.json", "data/clean/s/rows/manifest.json"],
}


def test_an_entry_names_the_policy_its_score_and_the_facts_of_both():
    entry = index.entry_of(CELL, PLAIN)
    assert entry == {
        "policy": "tiny.sft",
        "parent": "tiny",
        "method": "sft",
        "seed": 2,
        "kind": "policy",
        "training_sets": ["rows/train"],
        "benchmark": "quiz",
        "file": f"{FOLDER}/scores/quiz.json",
        "generations": None,
        "verdicts": None,
        "overlap": None,
        "files": [f"{FOLDER}/scores/quiz.json", f"{FOLDER}/manifest.json", "data/clean/s/rows/manifest.json"],
        "facts": {
            "settings": "s",
            "code": "k",
            "judge": None,
            "model": "m",
            "template": "t",
            "trained_by": "c",
        },
    }


def test_answers_verdicts_and_the_overlap_are_among_the_files_each_once():
    entry = index.entry_of(CELL, JUDGED)
    assert entry["generations"] == f"{FOLDER}/generations/talk.json"
    assert entry["verdicts"] == f"{FOLDER}/verdicts/talk.jsonl"
    assert sorted(entry["files"]) == sorted(
        [
            f"{FOLDER}/scores/talk.json",
            f"{FOLDER}/generations/talk.json",
            f"{FOLDER}/verdicts/talk.jsonl",
            f"{FOLDER}/manifest.json",
            "results/s/overlap/talk.json",
            "results/s/prompts/talk.json",
            "data/clean/s/rows/manifest.json",
        ]
    )


def test_likelihoods_are_a_file_of_what_is_measured_and_no_answers():
    entry = index.entry_of(CELL, PLAIN | {"name": "loss", "measured": True})
    assert f"{FOLDER}/likelihoods/loss.jsonl" in entry["files"]
    assert (entry["generations"], entry["verdicts"]) == (None, None)


@pytest.fixture
def entries(tmp_path, monkeypatch) -> list[dict]:
    given = {"cells": [CELL, GOLD], "benchmarks": [JUDGED, PLAIN]}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    call(index.main, "--output", tmp_path / "scores.json")
    return json.loads((tmp_path / "scores.json").read_text())


def test_every_policy_has_an_entry_for_every_benchmark_in_the_order_of_the_study(entries):
    assert [(entry["policy"], entry["benchmark"]) for entry in entries] == [
        ("tiny.sft", "talk"),
        ("tiny.sft", "quiz"),
        ("gold", "talk"),
        ("gold", "quiz"),
    ]
    assert not [entry["file"] for entry in entries if entry["policy"] not in entry["file"]]


def test_a_score_s_record_changes_with_any_fact_and_any_file_of_its_entry(entries):
    first = entries[0]
    hashed = dict.fromkeys(first["files"], "0" * 64)
    ids = {provenance.make_record(first, hashed)["id"]}
    for name in first["facts"]:
        ids.add(provenance.make_record(first | {"facts": first["facts"] | {name: "other"}}, hashed)["id"])
    for path in first["files"]:
        ids.add(provenance.make_record(first, hashed | {path: "1" * 64})["id"])
    assert len(ids) == 1 + len(first["facts"]) + len(first["files"])
