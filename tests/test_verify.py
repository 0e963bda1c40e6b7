"""verify: whatever is edited, lost or flipped behind a table is named, and what is whole is not."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest, write_json, write_manifest
from workflow_scripts.report import provenance, verify

STUDY = Path("results/toy")
WEIGHTS = "results/toy/policies/m.sft/seed-1/model/model.safetensors"
DATASET = "data/clean/toy/rows/train.jsonl"


def sha(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def make_policy(policy: str, seed: int, values: list[float]) -> dict:
    """Write a policy's weights, verdicts and score file; return its record's entry."""
    folder = STUDY / "policies" / policy / f"seed-{seed}"
    (folder / "model").mkdir(parents=True)
    (folder / "verdicts").mkdir()
    (folder / "model/model.safetensors").write_bytes(bytes(range(256)) * (40 + seed) + policy.encode())
    write_manifest(folder / "manifest.json", [folder / "model"], steps=3)
    (folder / "verdicts/quiz.jsonl").write_text("".join(f'{{"rating": {value}}}\n' for value in values))
    items = [str(number) for number in range(len(values))]
    cell = {"subset": "all", "metric": "rating", "estimator": "mean", "higher_is_better": True}
    cell |= {"items": items, "groups": items, "columns": {"value": values}}
    write_json(folder / "scores/quiz.json", {"benchmark": "quiz", "cells": [cell]})
    files = [folder / "scores/quiz.json", folder / "verdicts/quiz.jsonl", folder / "manifest.json"]
    return {
        "policy": policy,
        "seed": seed,
        "benchmark": "quiz",
        "facts": {"code": "ab"},
        "files": [*map(str, files), "data/clean/toy/manifest.json"],
    }


def write_table(rows: list[dict]) -> None:
    with open(STUDY / "results.csv", "w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def seal() -> None:
    tables = [STUDY / name for name in ("results.csv", "provenance.json", "scores.json")]
    call(provenance.main, "--tables", *tables, "--output", STUDY / "tables.json")


@pytest.fixture
def study(tmp_path, monkeypatch) -> list[dict]:
    """A finished study of three trained policies, one of two seeds; its rows."""
    monkeypatch.chdir(tmp_path)
    Path(DATASET).parent.mkdir(parents=True)
    Path(DATASET).write_text('{"id": 1}\n{"id": 2}\n')
    write_manifest("data/clean/toy/manifest.json", [DATASET])
    scores = {("m", 1): [0, 1, 0, 0], ("m.sft", 1): [1, 1, 1, 0], ("m.sft", 2): [1, 1, 0, 0]}
    entries = [make_policy(policy, seed, values) for (policy, seed), values in scores.items()]
    write_json(STUDY / "scores.json", [entry | {"file": entry["files"][0]} for entry in entries])
    flags = ["--settings", '{"facts": {"study": "s"}}', "--output", STUDY / "provenance.json"]
    call(provenance.main, "--index", STUDY / "scores.json", *flags)
    records = json.loads((STUDY / "provenance.json").read_text())["records"]
    first, one, two = (records[f"{policy}|{seed}|quiz"]["id"] for policy, seed in scores)
    named = {"benchmark": "quiz", "subset": "all", "metric": "rating", "n": 4}
    rows = [
        {"policy": "m", "seed": 1, "seeds": 1, "value": 0.25, "provenance": first},
        {"policy": "m.sft", "seed": 1, "seeds": 1, "value": 0.75, "provenance": one},
        {"policy": "m.sft", "seed": 2, "seeds": 1, "value": 0.5, "provenance": two},
        {"policy": "m.sft", "seed": "all", "seeds": 2, "value": 0.625, "provenance": digest([one, two])[:12]},
    ]
    rows = [named | row for row in rows]
    write_table(rows)
    seal()
    return rows


def trouble() -> list[str]:
    checked = verify.verify(STUDY)
    return [f"changed: {line}" for line in checked.changed] + [f"missing: {line}" for line in checked.missing]


def test_an_untouched_study_is_as_recorded_and_said_how_much_was_checked(study, capsys):
    call(verify.main, STUDY)
    out = capsys.readouterr().out
    # 3 tables; 3 scores, 3 verdicts, 3 manifests and 3 weights; the dataset's manifest and rows
    assert "17 files (0.00 GB) and 4 rows of results.csv checked: all as recorded" in out


def test_one_flipped_bit_in_the_weights_is_named_with_what_was_expected_and_found(study):
    before = sha(WEIGHTS)
    content = bytearray(Path(WEIGHTS).read_bytes())
    content[5000] ^= 1
    Path(WEIGHTS).write_bytes(content)
    (line,) = trouble()
    assert line.startswith(f"changed: {WEIGHTS}: expected sha256 {before}, found {sha(WEIGHTS)}; listed in ")
    assert line.endswith("behind m.sft|1|quiz")


def test_a_changed_dataset_row_is_named_once_with_every_score_behind_which_it_is(study):
    Path(DATASET).write_text('{"id": 1}\n{"id": 3}\n')
    (line,) = trouble()
    assert line.startswith(f"changed: {DATASET}: ")
    assert line.endswith("behind m.sft|1|quiz, m.sft|2|quiz, m|1|quiz")


def test_an_edited_score_file_is_named_and_its_row_is_not_blamed(study):
    path = STUDY / "policies/m/seed-1/scores/quiz.json"
    path.write_text(path.read_text().replace("0", "1", 1))
    (line,) = trouble()
    assert line.startswith(f"changed: {path}: ")


def test_a_deleted_file_is_missing_and_the_rest_is_still_checked(study):
    path = STUDY / "policies/m/seed-1/verdicts/quiz.jsonl"
    path.unlink()
    Path(WEIGHTS).unlink()
    assert {line.split(": ")[1] for line in trouble()} == {str(path), WEIGHTS}
    assert all(line.startswith("missing: ") and "found no file" in line for line in trouble())


@pytest.mark.parametrize("number, value", [(0, 0.91), (1, 0.7501), (3, 0.626)])
def test_an_edited_number_in_the_table_is_named_by_row_even_when_the_table_was_sealed_again(
    study, number, value
):
    expected = study[number]["value"]
    study[number]["value"] = value
    write_table(study)
    lines = trouble()
    assert lines[0].startswith("changed: results/toy/results.csv: expected sha256")
    seal()
    assert trouble() == lines[1:]
    assert lines[1].startswith(
        f"changed: results/toy/results.csv:{number + 2}: {study[number]['policy']} seed "
    )
    assert f"expected value {expected} on 4 items" in lines[1]
    assert lines[1].endswith(f"found value {value} on 4 items")


def test_a_changed_count_of_items_is_named(study):
    study[1]["n"] = 5
    write_table(study)
    seal()
    (line,) = trouble()
    assert line.startswith(
        "changed: results/toy/results.csv:3: m.sft seed 1 quiz/all/rating: expected value 0.75 on 4"
    )
    assert line.endswith("found value 0.75 on 5 items")


def test_a_number_that_verify_does_not_work_out_again_is_caught_by_the_table_s_digest(study):
    path = STUDY / "results.csv"
    path.write_text(path.read_text().replace("rating", "rating "))
    assert f"changed: {path}: expected sha256" in trouble()[0]


def test_a_row_that_names_no_state_of_its_score_is_named(study):
    study[0]["provenance"] = "0123456789ab"
    study[3]["provenance"] = study[1]["provenance"]
    write_table(study)
    seal()
    lines = trouble()
    assert len(lines) == 2
    assert "results.csv:2: m seed 1 quiz: expected provenance" in lines[0]
    assert lines[0].endswith("found 0123456789ab")
    assert "results.csv:5: m.sft seed all quiz: expected provenance" in lines[1]


def test_a_cell_that_one_seed_lacks_may_carry_the_other_seed_s_id(study):
    study[3] |= {"seeds": 1, "provenance": study[2]["provenance"]}
    write_table(study)
    seal()
    assert trouble() == []


def test_a_row_too_few_and_a_row_too_many_are_named(study):
    stranger = study[1] | {"policy": "m.dpo"}
    write_table([study[0], *study[2:], stranger])
    seal()
    lines = trouble()
    assert any(
        "m.dpo seed 1 quiz: expected provenance of a record, which is not there" in line for line in lines
    )
    write_table([study[1], study[2], study[3]])
    seal()
    assert trouble() == [f"missing: {STUDY}/results.csv: m|1|quiz: expected a row, found none"]


def test_an_edited_record_no_longer_has_its_id(study):
    path = STUDY / "provenance.json"
    value = json.loads(path.read_text())
    value["records"]["m|1|quiz"]["code"] = "zz"
    write_json(path, value)
    seal()
    (line,) = trouble()
    assert line.startswith(f"changed: {path}: record m|1|quiz: expected content of id ")


def test_a_rewritten_manifest_is_named_although_it_fits_its_files(study):
    Path(DATASET).write_text("{}\n")
    write_manifest("data/clean/toy/manifest.json", [DATASET])
    (line,) = trouble()
    assert line.startswith("changed: data/clean/toy/manifest.json: ")


@pytest.mark.parametrize("name", ["tables.json", "results.csv", "scores.json"])
def test_a_table_that_is_gone_is_missing(study, name):
    (STUDY / name).unlink()
    assert any(line.startswith(f"missing: {STUDY / name}: ") for line in trouble())


def test_trouble_ends_with_status_1_and_lines_to_read(study, capsys):
    Path(WEIGHTS).unlink()
    Path(DATASET).write_text("{}\n")
    with pytest.raises(PlumblineError, match=r"1 changed, 1 missing; restore the files named above"):
        call(verify.main, STUDY)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["changed", DATASET], ["missing", WEIGHTS]]


def test_a_study_without_provenance_and_a_wrong_folder_to_start_in_are_told_apart(study, monkeypatch):
    with pytest.raises(PlumblineError, match="run the study to its results first"):
        verify.verify(Path("results/other"))
    here = Path.cwd()
    monkeypatch.chdir("data")
    with pytest.raises(PlumblineError, match="start in the folder that the study was run in"):
        verify.verify(here / STUDY)
