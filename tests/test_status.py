"""`make status`: how a run stands, from another terminal, by files alone."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.workflow import ROOT
from workflow_scripts.common.files import write_json
from workflow_scripts.common.progress import beside
from workflow_scripts.console import status
from workflow_scripts.console.reading import cost_of
from workflow_scripts.console.run import journal_of

LOG = "results/mine/logs/train_sft/tiny.sft-1.log"


def note(
    folder: Path, *events: dict, pid: int, host: str = "", study: str = "mine", age: float = 60.0
) -> Path:
    """Write the journal of a run that began `age` seconds ago: two trainings and a table are due."""
    begun = time.time() - age
    started = {"event": "started", "pid": pid, "host": host or socket.gethostname(), "log": "snakemake.log"}
    job = {"event": "job", "id": 1, "rule": "train_sft", "words": "Fine-tuning tiny.sft (seed 1)", "log": LOG}
    told = [started | {"jobs": {"train_sft": 2, "build_table": 1}}, job, *events]
    path = journal_of(folder / "results" / study)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"time": begun} | event) + "\n" for event in told))
    return path


def tells(folder: Path, done: int, ago: float = 1.0) -> None:
    """Have the training tell how far it is."""
    path = beside(folder / LOG)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "time": time.time() - ago - back,
            "stage": "training",
            "done": done - back,
            "total": 300,
            "unit": "steps",
        }
        | {"loss": 2.5, "tokens": 1000 * (done - back)}
        for back in (10, 5, 0)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def said(tmp_path, monkeypatch):
    """What is said of the study `mine` in an empty folder that tests fill."""
    monkeypatch.chdir(tmp_path)

    def say() -> str:
        console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        status.tell("mine", console)
        return console.export_text()

    return say


def test_a_run_that_goes_shows_stages_jobs_and_what_it_has_cost(said, tmp_path):
    note(tmp_path, pid=1)
    tells(tmp_path, done=100)
    write_json(tmp_path / "results/mine/costs/train_sft/a-1.json", {"wall_seconds": 120.0, "tokens": 5000})
    judged = {"prompt_tokens": 90, "completion_tokens": 10, "usd": 0.5}
    write_json(tmp_path / "results/mine/costs/judge_answers/b.json", judged)
    text = said()
    assert "Plumbline  mine  0 of 3 jobs, 60 s, $0.50 spent" in text
    assert "Fine-tuning tiny.sft (seed 1): 100/300 steps, loss 2.5, 1 000 tokens/s, 3 min to go" in text
    assert LOG in text and "It runs: process 1 of this machine" in text
    assert "The study so far: 2 min of jobs, 5 100 tokens, $0.50" in text
    assert cost_of(tmp_path / "results/none").usd == 0


def test_what_failed_is_named_with_its_log_when_nothing_runs_any_more(said, tmp_path):
    failed = {"event": "failed", "id": 1, "why": "out of memory on the GPU"}
    note(tmp_path, failed, {"event": "ended", "well": False}, pid=os.getpid())
    text = said()
    assert "failed: Fine-tuning tiny.sft (seed 1): out of memory on the GPU" in text
    assert f"its log: {LOG}" in text
    assert "It ended with failures, 60 s ago. Nothing runs." in text
    assert "at work" not in text


def test_a_head_that_was_killed_is_not_taken_to_be_at_work(said, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note(tmp_path, pid=gone.pid)
    assert f"Nothing runs: its head, process {gone.pid}, has ended without a word" in said()
    note(tmp_path, pid=os.getpid(), age=10_000_000)  # its number is another process's by now
    assert "has ended without a word" in said()


def test_a_head_on_another_machine_counts_as_alive_as_long_as_it_or_a_job_is_heard_of(said, tmp_path):
    path = note(tmp_path, pid=1, host="elsewhere", age=4000)
    os.utime(path, (time.time() - 4000,) * 2)
    assert "Not heard of for 67 min: process 1 on elsewhere" in said()
    tells(tmp_path, done=50, ago=2)
    assert "It runs: process 1 on elsewhere, heard of" in said()


def test_without_a_note_it_says_so_and_names_what_has_told_of_itself_lately(said, tmp_path):
    assert "mine: no run of `make results` has left a note" in said()
    tells(tmp_path, done=50)
    assert "but this has told of itself: train_sft tiny.sft-1: 50/300 steps" in said()
    note(tmp_path, pid=1, study="other")
    assert "Other studies that run here: other" in said()


def test_the_command_takes_a_studys_file_and_the_name_that_it_extends(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: studies/tutor_seeds.yaml\n")
    command = [sys.executable, "-m", "workflow_scripts.console.status", "--", str(tmp_path / "mine.yaml")]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.startswith("tutor_seeds: no run"), done.stderr
