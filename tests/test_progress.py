"""How far a job is: a small file beside its log, found by the log, which no job fails by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import call
from tests.online import LENGTH, online_flags, ppo_settings, prompts
from tests.tiny import (
    align_flags,
    conversations,
    pairs,
    preference_settings,
    run_sft,
    settings_of,
    write_reference,
    write_tokens,
)
from tests.workflow import ROOT
from workflow_scripts.align import dpo, ppo
from workflow_scripts.common import progress
from workflow_scripts.common.files import sha256_of
from workflow_scripts.common.progress import Progress, beside, counted
from workflow_scripts.console.reading import stand_of


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def told(tmp_path, monkeypatch) -> Path:
    """The file that this process tells its progress to, at once whenever there is something to tell."""
    path = tmp_path / "logs/train_sft/tiny.sft-1.progress.jsonl"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv(progress.VARIABLE, str(path))
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    monkeypatch.setattr(progress, "_begun", set())
    return path


def test_a_line_says_what_is_done_of_what_and_whose_it_is(told):
    one = Progress("training", "steps", 3)
    one.at(1, loss=2.5, tokens=100)
    one.at(2, loss=float("nan"))  # what is no number is left out, and what was said before stays
    one.at(3, reward=None)
    first, *_, last = rows_of(told)
    assert {name: first[name] for name in ("rule", "name", "stage", "done", "total", "unit")} == {
        "rule": "train_sft",
        "name": "tiny.sft-1",
        "stage": "training",
        "done": 0,
        "total": 3,
        "unit": "steps",
    }
    assert (last["done"], last["loss"], last["tokens"]) == (3, 2.5, 100)


def test_tokens_and_dollars_add_up(told):
    one = Progress("asking", "requests", 2)
    one.add(1, tokens=5, usd=0.25)
    one.add(1, tokens=7, usd=0.5)
    assert rows_of(told)[-1] | {"time": 0} == {
        "time": 0,
        "rule": "train_sft",
        "name": "tiny.sft-1",
        "stage": "asking",
        "done": 2,
        "total": 2,
        "unit": "requests",
        "tokens": 12,
        "usd": 0.75,
    }


def test_a_batch_is_done_when_the_next_is_asked_for(told):
    seen = []
    for batch in counted([[1, 2], [3]], "measuring", "replies", 3):
        seen.append((batch, rows_of(told)[-1]["done"]))
    assert seen == [([1, 2], 0), ([3], 2)]
    assert rows_of(told)[-1]["done"] == 3


def test_lines_come_once_a_second_at_most_and_the_last_always(told, monkeypatch):
    monkeypatch.setattr(progress, "OFTEN", 100.0)
    one = Progress("training", "steps", 1000)
    for step in range(1, 1001):
        one.at(step)
    assert [row["done"] for row in rows_of(told)] == [0, 1000]


def test_a_job_that_runs_again_begins_its_file_anew(told, monkeypatch):
    Progress("training", "steps", 9, done=8)
    monkeypatch.setattr(progress, "_begun", set())  # as in another process
    Progress("training", "steps", 9, done=2)
    assert [row["done"] for row in rows_of(told)] == [2]


def test_no_job_fails_by_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "nowhere/x.progress.jsonl"))
    Progress("training", "steps", 2).at(2)
    assert not (tmp_path / "nowhere").exists()


def test_of_several_processes_the_first_tells(told, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    Progress("training", "steps", 2).at(2)
    assert not told.exists()


@pytest.mark.parametrize(
    ("log", "tells"), [("logs/answer_prompts/tiny-1.log", True), ("logs/other.txt", False), ("x.log", False)]
)
def test_a_job_finds_the_file_by_the_log_that_its_shell_line_names(tmp_path, log, tells):
    path = tmp_path / log
    path.parent.mkdir(parents=True, exist_ok=True)
    code = "from workflow_scripts.common.progress import Progress; Progress('answering', 'answers', 2).add(2)"
    with open(path, "w") as stream:
        subprocess.run([sys.executable, "-c", code], stderr=stream, cwd=ROOT, check=True)
    assert path.read_text() == ""
    assert beside(path).exists() is tells
    if tells:
        assert rows_of(beside(path))[-1]["name"] == "tiny-1"


def test_the_launcher_hands_the_file_on_to_workers_that_have_no_log(tmp_path):
    log = tmp_path / "logs/train_sft/a-1.log"
    log.parent.mkdir(parents=True)
    (tmp_path / "worker.py").write_text(
        "import os, pathlib; pathlib.Path('seen').write_text(os.environ['PLUMBLINE_PROGRESS'])"
    )
    command = [sys.executable, "-m", "workflow_scripts.common.launch", "--gpus", "0", "--", "worker"]
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin:/bin"}
    with open(log, "w") as stream:
        subprocess.run(command, stderr=stream, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "seen").read_text() == str(beside(log))


def test_the_launcher_says_by_which_signal_a_job_was_ended(tmp_path):
    (tmp_path / "worker.py").write_text("import os; os.kill(os.getpid(), 9)")
    command = [sys.executable, "-m", "workflow_scripts.common.launch", "--gpus", "0", "--", "worker"]
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 137
    assert done.stderr.splitlines()[-1] == "ended by SIGKILL (signal 9)"


def test_pace_and_time_to_go_are_those_of_the_last_lines_since_the_job_began(tmp_path):
    log = tmp_path / "a.log"
    rows = [
        {"time": 90.0, "stage": "training", "done": 40, "total": 50, "tokens": 1},  # of an earlier run
        {"time": 110.0, "stage": "training", "done": 10, "total": 50, "tokens": 1000},
        {"time": 120.0, "stage": "training", "done": 20, "total": 50, "tokens": 3000},
    ]
    beside(log).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"time": 121, "do')
    stand = stand_of(str(log), since=100.0)
    assert (stand.last["done"], stand.speed, stand.left) == (20, 200.0, 30.0)
    assert stand_of(str(log), since=200.0) is None
    assert stand_of("", since=0.0) is None


def train_sft(model: Path, folder: Path) -> None:
    stored = folder.parent / "tokens"
    if not stored.exists():
        stored.mkdir(parents=True)
        write_tokens(model, conversations(6), conversations(2), stored)
    run_sft(model, stored, settings_of(max_steps=4, evaluate_every=2), folder)


def train_dpo(model: Path, folder: Path) -> None:
    stored = folder.parent / "reference"
    if not stored.exists():
        stored.mkdir(parents=True)
        write_reference(model, pairs(9), stored)
    call(dpo.main, *align_flags(model, stored, preference_settings(max_steps=4, evaluate_every=2), folder))


def train_ppo(model: Path, folder: Path) -> None:
    settings = ppo_settings(max_steps=3, evaluate_every=2, batch_size=8)
    call(ppo.main, *online_flags(model, prompts(12), settings, folder, LENGTH))


@pytest.mark.parametrize("train", [train_sft, train_dpo, train_ppo])
def test_what_is_trained_is_the_same_to_the_byte_whether_or_not_it_tells(
    tiny_model, tmp_path, told, monkeypatch, train
):
    train(tiny_model, tmp_path / "telling")
    told.unlink()  # what was asked of the parent before
    monkeypatch.setattr(progress, "_begun", set())
    train(tiny_model, tmp_path / "again")
    last = rows_of(told)[-1]
    assert last["stage"] == "training" and last["done"] == last["total"] > 0
    assert ("loss" in last or "reward" in last) and last["tokens"] > 0
    monkeypatch.delenv(progress.VARIABLE)
    train(tiny_model, tmp_path / "silent")
    for name in ("model/model.safetensors", "manifest.json", "curve.json"):
        assert sha256_of(tmp_path / "telling" / name) == sha256_of(tmp_path / "silent" / name), name
