"""The costs table: nothing recorded is lost on the way to a total, nothing unrecorded passes for zero."""

import csv
import io
import json
import sys

import pytest

from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_json
from workflow_scripts.report import costs

TRAINED = {
    "wall_seconds": 361.9,
    "gpu_seconds": 1447.6,
    "tokens": 3_755_270_123,
    "peak_memory_mb": 2610,
    "processes": 4,
    "threads": 2,
}
JUDGED = {
    "judge_calls": 70,
    "judge_stored": 10,
    "judge_retries": 3,
    "prompt_tokens": 123_456_789,
    "completion_tokens": 4_321,
    "usd": 0.0001234567,
}


def build(folder, found: list[tuple[str, str, dict | None]]) -> list[dict]:
    """Write the cost files of (stage, policy, content or None) and return the rows of the table as text."""
    entries = []
    for number, (stage, policy, content) in enumerate(found):
        file = folder / f"{number}.json"
        if content is not None:
            write_json(file, content)
        entries.append({"stage": stage, "policy": policy, "seed": 1, "name": "job", "file": str(file)})
    call(costs.main, "--settings", json.dumps({"files": entries}), "--output", folder / "costs.csv")
    with open(folder / "costs.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_has_every_number_of_its_cost_file_unrounded(tmp_path):
    train, judge = build(tmp_path, [("train_sft", "m.sft", TRAINED), ("judge_answers", "m", JUDGED)])[:2]
    for row, content in ((train, TRAINED), (judge, JUDGED)):
        assert {name: float(row[name]) for name in content} == content
        others = set(TRAINED | JUDGED) - set(content)
        assert [row[name] for name in others] == [""] * len(others)
    assert (train["stage"], train["policy"], train["seed"], train["name"]) == (
        "train_sft",
        "m.sft",
        "1",
        "job",
    )


def test_totals_add_up_stage_by_stage_and_over_the_study(tmp_path):
    other = TRAINED | {"wall_seconds": 8.1, "tokens": 7, "peak_memory_mb": 100}
    rows = build(tmp_path, [("train", "a", TRAINED), ("judge", "a", JUDGED), ("train", "b", other)])
    totals = {row["stage"]: row for row in rows if row["name"] == "total"}
    assert [row["stage"] for row in rows[3:]] == ["train", "judge", "total"]
    assert totals["train"]["wall_seconds"] == "370"
    assert totals["train"]["tokens"] == totals["total"]["tokens"] == "3755270130"
    assert totals["train"]["peak_memory_mb"] == "2610"  # the largest, not the sum
    assert (totals["train"]["threads"], totals["train"]["usd"]) == ("", "")
    assert totals["judge"]["usd"] == totals["total"]["usd"] == "0.0001234567"
    assert all(row["policy"] == "" and row["note"] == "" for row in totals.values())


def test_a_cost_file_that_is_not_there_is_said_and_counts_nothing(tmp_path):
    rows = build(tmp_path, [("judge", "a", JUDGED), ("judge", "b", None)])
    assert rows[1]["note"].startswith("not recorded")
    assert rows[1]["judge_calls"] == rows[1]["usd"] == ""
    assert (rows[2]["judge_calls"], rows[2]["note"]) == ("70", "1 of 2 not recorded")


def test_a_number_without_a_column_is_named_not_dropped_in_silence(tmp_path):
    row = build(tmp_path, [("judge", "a", JUDGED | {"cached_tokens": 5})])[0]
    assert "cached_tokens" in row["note"]


@pytest.mark.parametrize(
    "content", [{"usd": "3"}, {"usd": -1}, {"usd": None}, {"usd": True}, {"usd": float("nan")}, [3]]
)
def test_what_is_no_number_is_refused_with_its_file(tmp_path, content):
    with pytest.raises(PlumblineError, match=r"0\.json.*delete it and run its job again"):
        build(tmp_path, [("judge", "a", content)])


def test_a_study_too_large_for_an_argument_comes_by_standard_input(tmp_path, monkeypatch):
    entry = {"stage": "judge", "policy": "p" * 100, "seed": 1, "name": "job", "file": str(tmp_path / "none")}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"files": [entry] * 1000})))
    call(costs.main, "--settings", "-", "--output", tmp_path / "costs.csv")
    assert len((tmp_path / "costs.csv").read_text().splitlines()) == 1 + 1000 + 2
