"""The table of a run's stages: every job is counted once, and what no job fills is the orchestration's."""

import json
from base64 import urlsafe_b64encode
from datetime import datetime

import pytest

from benchmarks import stages
from tests.command import call
from workflow_scripts.common.errors import PlumblineError

AT = datetime(2026, 1, 1, 12, 0, 0).timestamp()


def record(folder, output: str, rule: str, start: float, end: float, **more) -> None:
    name = urlsafe_b64encode(output.encode()).decode()
    path = folder / ".snakemake/metadata" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    job = {
        "rule": rule,
        "starttime": AT + start,
        "endtime": AT + end,
        "incomplete": False,
        "shellcmd": output[:20],
    }
    path.write_text(json.dumps(job | more))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of five jobs from second 10 to second 100, of which two at once, in a folder with another study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake/log").mkdir(parents=True)
    for name in ("2026-01-01T115955.000000", "2026-01-01T110000.000000", "2026-01-01T130000.000000"):
        (tmp_path / f".snakemake/log/{name}.snakemake.log").touch()
    record(tmp_path, "data/sources/x/files", "fetch_source", 10, 20)
    record(tmp_path, "results/one/policies/a/model", "train_sft", 25, 65, shellcmd="train a")
    record(tmp_path, "results/one/policies/a/curve.json", "train_sft", 25.1, 65.1, shellcmd="train a")
    record(tmp_path, "results/one/policies/b/model", "train_sft", 45, 75, shellcmd="train b")
    record(tmp_path, "results/one/answered.json", "answer_prompts", 80, 100, shellcmd="answer")
    record(tmp_path, "results/one/scores/x.json", "score_answers", 80, 85, shellcmd="score")
    record(tmp_path, "results/other/scores/x.json", "score_answers", 0, 500, shellcmd="other")
    record(tmp_path, "results/one/half.json", "score_answers", 85, 95, shellcmd="half", incomplete=True)
    costs = "stage,policy,seed,name,wall_seconds,tokens\ntrain_sft,a,1,,60,3000\ntrain_sft,,,total,60,3000\n"
    (tmp_path / "results/one").mkdir(parents=True)
    (tmp_path / "results/one/costs.csv").write_text(
        costs + "answer_prompts,,,total,15,\ntotal,,,total,75,3000\n"
    )
    return tmp_path


def test_stages_stand_with_their_whole_processes_their_work_and_their_tokens(run, capsys):
    call(stages.main, "results/one")
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert rows[1:] == [
        ["`train_sft`", "2", "70", "67%", "60", "3000", "50"],
        ["`answer_prompts`", "1", "20", "19%", "15", "", ""],
        ["`fetch_source`", "1", "10", "10%", "", "", ""],
        ["`score_answers`", "1", "5", "5%", "", "", ""],
        ["*all*", "5", "105", "100%", "", "", ""],
    ]
    # From second −5, where its log begins, to 100; jobs run from 10 to 20, from 25 to 75 and from 80 to 100.
    assert "took 105 seconds of the clock; while no job ran, 25 of them passed (24%" in lines[-1]
    assert "15 of them before the first job" in lines[-1]


def test_the_table_goes_between_a_page_s_marks_and_takes_the_place_of_the_last(run):
    page = run / "page.md"
    page.write_text(f"Before.\n{stages.BEGIN}\nold\n{stages.END}\nAfter.\n")
    call(stages.main, "results/one", "--page", page)
    once = page.read_text()
    call(stages.main, "results/one", "--page", page)
    assert page.read_text() == once
    assert once.startswith(f"Before.\n{stages.BEGIN}\n\nOn ")
    assert once.endswith(f"\n{stages.END}\nAfter.\n")
    assert "old" not in once
    assert "`train_sft`" in once


def test_a_page_without_marks_and_a_study_that_did_not_run_are_refused(run):
    (run / "page.md").write_text("Nothing.")
    with pytest.raises(PlumblineError, match="has no lines"):
        call(stages.main, "results/one", "--page", run / "page.md")
    with pytest.raises(PlumblineError, match="no run of it came to its end"):
        call(stages.main, "results/two")


def test_a_job_that_ran_again_counts_as_it_ran_last(run):
    record(run, "results/one/answered.json", "answer_prompts", 200, 230, shellcmd="answer")
    jobs = stages.jobs_of(run / ".snakemake/metadata", "results/one")
    assert [job.end - job.start for job in jobs if job.rule == "answer_prompts"] == [30]
    assert len(jobs) == 5
