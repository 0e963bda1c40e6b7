"""Provenance: an id changes with everything behind a number, and with nothing else."""

import copy
import hashlib
import json
import re

import pytest

from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_json
from workflow_scripts.report import provenance


@pytest.fixture
def settings(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    for name in ("score", "other", "weights"):
        (tmp_path / f"{name}.json").write_text(name)
    entry = {"policy": "m.sft", "seed": 1, "facts": {"code": {"score.x": "ab"}, "judge": "cd"}}
    return {
        "facts": {"study": "12" * 32, "lock": "34" * 32},
        "records": [
            entry | {"benchmark": "quiz", "files": ["score.json", "weights.json"]},
            entry | {"benchmark": "essay", "files": ["other.json", "weights.json"]},
        ],
    }


def build(settings: dict) -> dict:
    write_json("scores.json", settings["records"])
    facts = json.dumps({"facts": settings["facts"]})
    call(provenance.main, "--index", "scores.json", "--settings", facts, "--output", "provenance.json")
    with open("provenance.json") as stream:
        return json.load(stream)


def ids(settings: dict) -> list[str]:
    return [record["id"] for record in build(settings)["records"].values()]


def test_a_record_holds_its_facts_and_the_sha256_of_its_files(settings):
    value = build(settings)
    assert (value["study"], value["lock"]) == ("12" * 32, "34" * 32)
    assert set(value["records"]) == {"m.sft|1|quiz", "m.sft|1|essay"}
    record = value["records"]["m.sft|1|quiz"]
    assert (record["code"], record["judge"]) == ({"score.x": "ab"}, "cd")
    assert record["files"] == {
        "score.json": hashlib.sha256(b"score").hexdigest(),
        "weights.json": hashlib.sha256(b"weights").hexdigest(),
    }
    assert re.fullmatch("[0-9a-f]{12}", record["id"])


def test_the_same_files_give_the_same_bytes_whatever_the_order_they_are_listed_in(settings, tmp_path):
    build(settings)
    before = (tmp_path / "provenance.json").read_bytes()
    settings["records"].reverse()
    settings["records"][0]["files"].reverse()
    build(settings)
    assert (tmp_path / "provenance.json").read_bytes() == before


def test_a_changed_file_changes_the_ids_of_the_scores_it_is_behind_and_no_other(settings, tmp_path):
    quiz, essay = ids(settings)[::-1]
    (tmp_path / "score.json").write_text("scorE")
    again = ids(settings)[::-1]
    assert again[0] != quiz
    assert again[1] == essay
    (tmp_path / "weights.json").write_text("weightS")
    assert not {*ids(settings)} & {quiz, essay, *again}


def test_a_changed_fact_changes_the_id(settings):
    before = set(ids(settings))
    for change in ({"code": {"score.x": "ac"}}, {"judge": "ce"}, {"template": "ef"}):
        other = copy.deepcopy(settings)
        for record in other["records"]:
            record["facts"] |= change
        assert not before & set(ids(other))


def test_two_scores_never_share_an_id(settings):
    settings["records"][1]["files"] = settings["records"][0]["files"]
    assert len(set(ids(settings))) == 2


def test_a_missing_file_is_named_with_the_score_that_needs_it(settings, tmp_path):
    (tmp_path / "other.json").unlink()
    with pytest.raises(PlumblineError, match=r"m\.sft\|1\|essay: other\.json: no such file"):
        build(settings)


def test_two_records_of_one_score_are_refused(settings):
    settings["records"][1]["benchmark"] = "quiz"
    with pytest.raises(PlumblineError, match=r"m\.sft\|1\|quiz: two records"):
        build(settings)


@pytest.mark.parametrize("name", ["id", "files"])
def test_a_fact_cannot_pass_for_the_record_s_own_keys(settings, name):
    settings["records"][0]["facts"][name] = "x"
    with pytest.raises(PlumblineError, match=name):
        build(settings)


def test_the_digests_of_tables_are_named_relative_to_their_file(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "results.csv").write_text("a,b\n")
    (tmp_path / "lock.txt").write_text("numpy\n")
    tables = [folder / "results.csv", tmp_path / "lock.txt"]
    call(provenance.main, "--tables", *tables, "--output", folder / "tables.json")
    assert json.loads((folder / "tables.json").read_text()) == {
        "results.csv": hashlib.sha256(b"a,b\n").hexdigest(),
        "../lock.txt": hashlib.sha256(b"numpy\n").hexdigest(),
    }
