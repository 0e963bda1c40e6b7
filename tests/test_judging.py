"""What judging still takes: every plan is a row, and every judge has the sum of its own."""

import csv
import json
from pathlib import Path

import pytest

from tests.command import call
from workflow_scripts.common.diverged import hand_on
from workflow_scripts.common.files import write_json
from workflow_scripts.report import judging

PLANS = [("gpt", "talk", "tiny", 10, 4), ("gpt", "talk", "gold", 10, 10), ("other", "wins", "tiny", 7, 0)]


@pytest.fixture
def plans(tmp_path) -> list[dict]:
    """Plan files: at most 100 tokens read, 20 written and a dollar paid for each request that is missing."""
    found = []
    for number, (judge, benchmark, policy, requests, stored) in enumerate(PLANS):
        missing, file = requests - stored, str(tmp_path / f"{number}.json")
        counts = {"requests": requests, "stored": stored, "missing": missing}
        counts |= {"prompt_tokens": 100 * missing, "completion_tokens": 20 * missing, "usd": 1.0 * missing}
        write_json(file, counts)
        found.append({"policy": policy, "seed": 1, "benchmark": benchmark, "judge": judge, "file": file})
    return found


def table_of(tmp_path, plans) -> list[dict]:
    settings = json.dumps({"plans": plans, "waiting": [], "uncounted": []})
    call(judging.main, "--settings", settings, "--output", tmp_path / "judging.csv")
    with open(tmp_path / "judging.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_plan_is_a_row_and_each_judge_a_sum(tmp_path, plans):
    rows = table_of(tmp_path, plans)
    counts = ("requests", "stored", "missing", "prompt_tokens", "completion_tokens", "usd")
    found = [
        (row["judge"], row["benchmark"], row["policy"], *(float(row[key]) for key in counts)) for row in rows
    ]
    assert found == [
        ("gpt", "talk", "tiny", 10, 4, 6, 600, 120, 6),
        ("gpt", "talk", "gold", 10, 10, 0, 0, 0, 0),
        ("other", "wins", "tiny", 7, 0, 7, 700, 140, 7),
        ("gpt", "total", "", 20, 14, 6, 600, 120, 6),
        ("other", "total", "", 7, 0, 7, 700, 140, 7),
    ]


def test_what_is_asked_for_is_printed_too(tmp_path, plans, capsys):
    table_of(tmp_path, plans)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("gpt", "other", "total", "missing", "usd"))


def test_a_study_without_an_endpoint_has_an_empty_plan(tmp_path):
    assert table_of(tmp_path, []) == []


def test_a_study_without_an_endpoint_says_that_nothing_is_asked(tmp_path, capsys):
    assert table_of(tmp_path, []) == []
    assert capsys.readouterr().out == "no judge of this study is asked: none is of kind openai\n"


def test_a_policy_that_diverged_is_not_judged_and_the_plan_says_so(tmp_path, plans, capsys):
    note = {"step": 2, "learning_rate": 1e30, "quantity": "the loss is", "whose": "training"}
    hand_on(note, [Path(plans[0]["file"])])
    assert len(table_of(tmp_path, plans)) == len(PLANS) - 1 + 2
    assert "tiny (seed 1), talk: not judged: training diverged at step 2" in capsys.readouterr().out
