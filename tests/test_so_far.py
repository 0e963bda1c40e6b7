"""The table so far: what is scored, and for each score that is not, why; the finished table is never touched."""

import os
from pathlib import Path

import pytest

from tests.scored import scored_plan
from tests.workflow import ROOT
from workflow_scripts.common.files import write_json
from workflow_scripts.console import so_far
from workflow_scripts.console.so_far import Cause
from workflow_scripts.plan.index import score_files
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.study.checking import load_study
from workflow_scripts.study.seeds import SeedsUntil


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """The default study in an empty folder, all its scores there."""
    monkeypatch.chdir(tmp_path)
    return scored_plan()


def told(plan: Plan, *failed: Cause) -> dict[tuple[str, str], str]:
    """What the rows without a value say, by policy and benchmark."""
    rows = so_far.rows_so_far(plan, so_far.why_not(plan, failed))
    return {(row["policy"], row["benchmark"]): row["note"] for row in rows if row["value"] == ""}


def test_all_that_is_scored_stands_in_it_and_all_else_says_so(plan):
    assert told(plan) == {}
    os.remove(plan.layout.scores("tiny.sft.dpo", 1, "tutor"))
    assert told(plan) == {("tiny.sft.dpo", "tutor"): "not there so far"}


def test_a_failed_job_is_why_its_own_scores_and_those_of_its_descendants_lack(plan):
    for path in score_files(plan):
        if "tiny.sft" in path:
            os.remove(path)
    os.remove(plan.layout.scores("tiny", 1, "judged"))
    sft = Cause("training tiny.sft", "out of memory", "tiny.sft", "1")
    notes = told(plan, sft)
    assert notes["tiny.sft", "tutor"] == "training tiny.sft failed: out of memory"
    assert notes["tiny.sft.dpo", "judged"] == "training tiny.sft failed: out of memory"
    assert notes["tiny", "judged"] == "not there so far", "the base model does not descend from it"
    judging = Cause("judging tiny on judged", "connection refused", "tiny", "1", "judged")
    assert told(plan, judging)["tiny", "judged"] == "judging tiny on judged failed: connection refused"


def test_a_score_of_before_the_run_that_is_to_make_it_is_not_there(plan):
    old, kept = (plan.layout.scores("tiny.sft.dpo", 1, name) for name in ("tutor", "judged"))
    for path in (old, kept):
        os.utime(path, (1e9, 1e9))
    so_far.note_due(plan, [old, "results/tutor/results.csv"])
    assert told(plan) == {("tiny.sft.dpo", "tutor"): "not there so far"}
    os.utime(old)
    assert told(plan) == {}, "it has been made"


def test_it_is_written_beside_the_table_and_taken_away_when_a_run_ends_well(plan):
    table = Path(plan.layout.results) / "results.csv"
    table.write_text("whole")
    os.remove(plan.layout.scores("tiny.sft.dpo", 1, "tutor"))
    lines = so_far.said_so_far(plan, [Cause("training tiny.sft.dpo", "killed", "tiny.sft.dpo", "1")])
    assert lines == [
        "table so far: results/tutor/so_far/results.md, with 1 score lacking; what could be scored is in it"
    ]
    text = Path("results/tutor/so_far/results.md").read_text()
    assert "Not scored (`tiny.sft.dpo`): training tiny.sft.dpo failed: killed" in text
    assert table.read_text() == "whole"
    so_far.take_away(plan)
    assert not Path("results/tutor/so_far").exists()


def test_no_score_lacks_of_seeds_that_were_not_chosen(tmp_path, monkeypatch):
    study = load_study(ROOT / "config.yaml")
    until = SeedsUntil(until=0.1, at_most=9, first=2, on="tutor/action/accuracy")
    plan = plan_of(study.model_copy(update={"seeds": until}))
    monkeypatch.chdir(tmp_path)
    lacking = {path for path in (entry["file"] for entry in so_far.entries_so_far(plan, tmp_path, str))}
    write_json(Path(plan.layout.chosen_seeds), {"seeds": [1, 2, 3], "words": "three"})
    more = so_far.entries_so_far(plan, tmp_path, str)
    seeds = [
        {
            entry["seed"]
            for entry in so_far.entries_so_far(plan, tmp_path, str)
            if entry["policy"] == "tiny.sft"
        }
    ]
    assert seeds == [{1, 2, 3}]
    assert len(lacking) < len(more)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("train_aligned/tiny.sft.dpo-1.log", ("tiny.sft.dpo", "1", None)),
        ("judge_answers/tiny.sft-1-alpaca_eval.log", ("tiny.sft", "1", "alpaca_eval")),
        ("answer_prompts/gold-0.log", (None, None, None)),
        ("build_table.log", (None, None, None)),
    ],
)
def test_the_name_of_a_job_s_log_says_what_it_is_about(plan, log, expected):
    assert so_far.about(plan, f"results/tutor/logs/{log}") == expected


def test_nothing_is_said_where_nothing_is_scored_or_a_file_is_damaged(plan):
    paths = score_files(plan)
    Path(paths[0]).write_text("{")
    assert so_far.said_so_far(plan, []) == []
    for path in paths:
        os.remove(path)
    assert so_far.said_so_far(plan, []) == []
