"""When a job hands over to itself before its time limit, and what it leaves; a real SLURM: test_slurm_time_limit.py.

Here two scripts play SLURM: `squeue` says how much time is left, and `scontrol requeue` ends who calls it.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.generation import QUESTIONS, WARM, Study, rows_of
from tests.launching import command_of
from tests.online import ppo_settings, run_ppo
from tests.resuming import RESUMED
from tests.tiny import ROOT, conversations, settings_of, sft_flags, write_tokens
from workflow_scripts.common import time_limit
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.time_limit import NOTE, TimeLimit, fits, handed_over, seconds_in
from workflow_scripts.common.training.handing_over import saving_guess, validations_within

SFT = "workflow_scripts.sft.train"
ENOUGH = "1-00:00:00"


class Slurm:
    """What plays SLURM: `left` is what squeue says, and each `scontrol` is noted in `told`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.write("scontrol", 'echo "$@" >> told; kill -TERM $PPID')
        self.say(ENOUGH)

    def write(self, name: str, line: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\ncd {self.folder}\n{line}\n")
        path.chmod(0o755)

    def say(self, left: str, comment: str = "rule_train_sft_wildcards_tiny.sft_1") -> None:
        self.write("squeue", f"echo '{left}|{comment}'")

    def told(self) -> list[str]:
        path = self.folder / "told"
        return path.read_text().splitlines() if path.exists() else []

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }

    def run(self, command: list[str]) -> subprocess.CompletedProcess:
        """Run what a job of this SLURM runs."""
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    made = Slurm(tmp_path / "slurm")
    monkeypatch.delenv("RANK", raising=False)
    return made


@pytest.fixture
def inside(slurm, monkeypatch):
    """Make this process a job of it; nobody ends it there."""
    for name in ("PATH", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, slurm.environment()[name])
    return slurm


@pytest.fixture
def unended(inside, monkeypatch):
    """Have SLURM queue this process again and not end it: then it fails at once, with that message."""
    inside.write("scontrol", 'echo "$@" >> told')
    monkeypatch.setattr(time_limit, "ENDING", 0.0)
    return inside


# The decision.


@pytest.mark.parametrize(
    ("left", "ahead", "saving", "enough"),
    [(210, 60, 60, True), (209, 60, 60, False), (30, 0, 0, True), (29, 0, 0, False), (-5, 1, 1, False)],
)
def test_what_fits_has_half_as_much_again_and_half_a_minute_beside(left, ahead, saving, enough):
    assert fits(left, ahead, saving) is enough


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:59", 59),
        ("10:00", 600),
        ("11:59:32", 43172),
        ("2-00:00:01", 172801),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_slurm_s_times_are_read(text, seconds):
    assert seconds_in(text) == seconds


def test_a_first_checkpoint_of_eight_billion_weights_is_taken_to_last_a_quarter_of_an_hour():
    assert 900 < saving_guess(8_000_000_000, 8_000_000_000) < 1000
    assert saving_guess(8_000_000_000, 0) == 320


def test_outside_slurm_nothing_is_asked_and_nothing_is_late(tmp_path, slurm, monkeypatch, capsys):
    monkeypatch.setenv("PATH", slurm.environment()["PATH"])
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slurm.say("0:01")
    limit = TimeLimit(tmp_path)
    limit.begin()
    assert (limit.left(), limit.late()) == (None, False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("left", "late"), [("0:29", True), ("0:40", False), ("UNLIMITED", False)])
def test_a_job_is_late_by_what_slurm_says_is_left(tmp_path, inside, left, late):
    inside.say(left)
    limit = TimeLimit(tmp_path)
    limit.begin()
    assert limit.late() is late


@pytest.mark.parametrize(
    ("squeue", "why"),
    [
        ("echo '0:01|(null)'", "it is part of a job that Snakemake did not submit"),
        (
            "echo 'Unable to contact' >&2; exit 1",
            "squeue does not say how long it may run: Unable to contact",
        ),
        ("echo 'UNLIMITED|rule_train_sft'", "SLURM sets no limit (UNLIMITED)"),
    ],
)
def test_a_job_that_will_not_hand_over_says_why(tmp_path, inside, capsys, squeue, why):
    inside.write("squeue", squeue)
    limit = TimeLimit(tmp_path)
    limit.begin()
    assert (limit.left(), limit.late()) == (None, False)
    assert why in capsys.readouterr().out


def test_a_checkpoint_s_seconds_are_a_guess_until_one_was_written(tmp_path, inside):
    inside.say("20:00")
    limit = TimeLimit(tmp_path)
    limit.begin(saving=1000)
    assert limit.late()
    limit.saved(3)
    assert not limit.late()
    assert limit.saving == 3


def test_steps_to_the_next_point_of_the_curve_have_to_fit_together(tmp_path, inside, monkeypatch):
    inside.say("10:00")
    limit = TimeLimit(tmp_path)
    limit.begin()
    assert not limit.late(30, took=10)
    assert limit.late(60, took=10)


def test_a_validation_that_comes_with_the_next_step_has_to_fit_and_is_remembered(tmp_path, inside, unended):
    inside.say("10:00")
    limit = TimeLimit(tmp_path)
    limit.begin()
    assert not limit.late(1, 1, guess=30, took=10)
    assert limit.late(1, 1, guess=50, took=10)  # nobody knows yet how long one takes
    limit.ticked -= 370
    limit.validated()
    assert limit.late(1, 1, guess=1, took=10)
    assert not limit.late(1, 0, took=10) and limit.longest == 10
    with pytest.raises(PlumblineError, match="did not end it"):
        limit.hand_over("step 4")
    inside.say("10:30")
    again = TimeLimit(tmp_path)
    again.begin()
    inside.say("9:00")
    assert again.end is not None
    again.end -= 90
    assert again.late(1, 1, took=10) and not again.late(1, 0, took=10)
    with pytest.raises(PlumblineError, match="a step takes up to 10 s, a validation 370 s and a checkpoint"):
        TimeLimit(tmp_path).begin()


@pytest.mark.parametrize(
    ("step", "steps", "every", "last", "count"),
    [
        (8, 1, 10, 50, 0),
        (9, 1, 10, 50, 1),
        (10, 1, 10, 50, 0),
        (9, 12, 10, 50, 2),
        (51, 1, 10, 52, 1),
        (49, 5, 10, 50, 1),
    ],
)
def test_validations_come_every_few_steps_and_with_the_last(step, steps, every, last, count):
    assert validations_within(step, steps, every, last) == count


def test_more_time_that_a_job_was_given_is_asked_for_before_it_hands_over(tmp_path, inside):
    inside.say("0:10")
    limit = TimeLimit(tmp_path)
    limit.begin()
    inside.say(ENOUGH)
    assert not limit.late()


def test_a_limit_that_is_known_to_be_too_short_for_a_step_fails_once_and_says_so(tmp_path, inside):
    (tmp_path / NOTE).write_text('{"times": 2, "step_seconds": 500.0, "saving_seconds": 100.0}')
    inside.say("10:00")
    with pytest.raises(
        PlumblineError, match="too short: once it had begun 600 s were left, and a step takes up to 500 s"
    ):
        TimeLimit(tmp_path).begin()
    assert handed_over(tmp_path) == 2
    TimeLimit(tmp_path).begin()  # tried again with other settings it may be quicker


def test_where_slurm_does_not_queue_again_the_job_fails_and_says_what_is_saved(tmp_path, inside):
    inside.write("scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    with pytest.raises(
        PlumblineError, match=r"presently disabled; all is saved up to step 40, .* slurm-requeue: true"
    ):
        TimeLimit(tmp_path).hand_over("step 40")
    assert handed_over(tmp_path) == 0


# Trainings and answers.


@pytest.mark.parametrize(("processes", "log_every"), [(1, 1), (2, 2)])
def test_a_training_handed_over_ends_with_the_bytes_of_one_left_alone(
    tiny_model, tmp_path, slurm, processes, log_every
):
    tokens = write_tokens(tiny_model, conversations(8), conversations(4), tmp_path / "tokens")
    settings = settings_of(**RESUMED | {"max_steps": 5, "checkpoint_every": 4, "log_every": log_every})

    def train(folder: Path) -> subprocess.CompletedProcess:
        flags = sft_flags(tiny_model, tokens, settings, folder)
        return slurm.run(command_of(SFT, flags, "fsdp" if processes > 1 else None, processes))

    calm = train(tmp_path / "calm")
    assert calm.returncode == 0, calm.stdout[-3000:]
    slurm.say("0:20")  # less than the half minute that it wants to end in
    assert train(tmp_path / "hasty").returncode != 0
    assert slurm.told() == ["requeue 7"]
    slurm.say(ENOUGH)
    done = train(tmp_path / "hasty")
    assert done.returncode == 0, done.stdout[-3000:]
    assert slurm.told() == ["requeue 7"]
    assert done.stdout.count("going on after hand-over 1") == done.stdout.count("checkpoint-1") == 1
    assert read_json(tmp_path / "hasty/cost.json")["hand_overs"] == 1
    assert "hand_overs" not in read_json(tmp_path / "calm/cost.json")
    # Of the two steps that make a point of the curve, the first turn made one.
    curve = ["curve.json"] if log_every == 1 else []
    for name in ("model/model.safetensors", "manifest.json", *curve):
        assert (tmp_path / "hasty" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


def test_ppo_handed_over_ends_with_the_bytes_of_one_left_alone(tiny_model, tmp_path, unended, capsys):
    settings = ppo_settings(max_steps=5, checkpoint_every=3, log_every=2)
    calm = run_ppo(tiny_model, settings, tmp_path / "calm")
    unended.say("0:20")
    with pytest.raises(PlumblineError, match="did not end it"):
        run_ppo(tiny_model, settings, tmp_path / "hasty")
    assert "handing over at step 1 of 5" in capsys.readouterr().out
    unended.say(ENOUGH)
    hasty = run_ppo(tiny_model, settings, tmp_path / "hasty")
    assert "checkpoint-1" in capsys.readouterr().out
    assert unended.told() == ["requeue 7"]
    for name in ("model/model.safetensors", "manifest.json", "curve.json"):
        assert (hasty / name).read_bytes() == (calm / name).read_bytes()
    assert read_json(hasty / "cost.json")["hand_overs"] == 1


@pytest.mark.parametrize("shards", [1, 2])
def test_answers_are_handed_over_between_batches_and_no_batch_is_made_twice(
    tiny_model, tmp_path, unended, capsys, shards
):
    def study(name: str) -> Study:
        (tmp_path / name).mkdir()
        made = Study(tmp_path / name, tiny_model)
        made.add("asked", rows_of(QUESTIONS), **WARM | {"batch_size": 2})
        return made

    calm, hasty = study("calm"), study("hasty")
    calm.answer("asked")
    unended.say("0:20")
    with pytest.raises(PlumblineError, match="did not end it"):
        hasty.answer("asked", shards=shards)
    # Each engine ends what it is at, and begins no more.
    assert f"handing over at {2 * shards} of 5 answers" in capsys.readouterr().out
    unended.say(ENOUGH)
    hasty.answer("asked", shards=shards)
    assert hasty.collect("asked") == calm.collect("asked")
    assert unended.told() == ["requeue 7"]
    cost, whole = read_json(hasty.folder / "cost.out"), read_json(calm.folder / "cost.out")
    assert (cost["hand_overs"], cost["tokens"]) == (1, whole["tokens"])


def test_engines_that_share_answers_get_on_in_every_turn_and_are_late_by_a_batch_not_by_all_they_will_make(
    tiny_model, tmp_path, unended
):
    study = Study(tmp_path, tiny_model)
    study.add("asked", rows_of([f"Question {number}?" for number in range(64)]), **WARM | {"batch_size": 16})
    unended.say("10:00")
    study.answer("asked", shards=2)
    assert unended.told() == []
