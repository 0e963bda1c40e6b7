"""The console of a run: on a pseudo-terminal, in plain lines, and what it leaves to Snakemake's own output."""

import json
import re
import subprocess
import sys

import pytest

from tests.toy_run import in_lines, on_terminal, surroundings, toy
from tests.workflow import ROOT
from workflow_scripts.console.run import Run, journal_of, run_of
from workflow_scripts.console.stages import ELSE, in_order, stages_of_rules
from workflow_scripts.console.words import dollars, number, short_time

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A run without a terminal, one of whose jobs is killed: its folder, exit status and lines."""
    folder = toy(tmp_path_factory.mktemp("lines"), ["table", "dpo"], seconds=6)
    done = in_lines(folder)
    return folder, done.returncode, done.stdout.splitlines()


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    """The same on a pseudo-terminal."""
    folder = toy(tmp_path_factory.mktemp("terminal"), ["table", "dpo"], seconds=5)
    return folder, *on_terminal(folder)


def test_without_a_terminal_there_is_a_line_for_each_heavy_job_and_no_more(lines):
    _, status, said = lines
    assert status == 1
    assert "warning: a doubt of the study" in said and "said past the log" in said
    (begun,) = (line for line in said if "jobs to do" in line)
    assert re.search(
        r"5 jobs to do; Snakemake's own lines are in \.snakemake/log/\S+\.snakemake\.log$", begun
    )
    heavy = [line for line in said if "  done: " in line]
    assert len(heavy) == 1
    assert re.search(
        r"done: Fine-tuning tiny\.sft \(seed 1\), in \d+ s \(40/40 steps, loss 0\.1\)$", heavy[0]
    )
    assert len(said) < 12


def test_a_killed_job_is_told_by_its_words_and_its_signal_and_no_command_line_is_shown(lines):
    _, _, said = lines
    (told,) = (line for line in said if "failed: " in line)
    assert "failed: Aligning tiny.dpo (seed 1): killed by SIGKILL (signal 9): out of memory" in told
    assert told.endswith("its log is results/toy/logs/train_aligned/tiny.dpo-1.log")
    assert not any("JSON" in line or "Killed" in line for line in said)


def test_on_a_terminal_stages_have_bars_and_jobs_say_where_they_stand(terminal):
    _, status, screen = terminal
    assert status == 1
    text = ESCAPES.sub("", screen)
    assert re.search(r"Plumbline  toy  \d of 5 jobs", text)
    assert re.search(r"  sft +─{30} +0/1", text) and re.search(r"  download +━{30} +1/1", text)
    assert re.search(
        r"Fine-tuning tiny\.sft \(seed 1\): \d+/40 steps, loss [\d.]+, [\d ]+ tokens/s, \d+ s to go", text
    )
    assert "results/toy/logs/train_sft/tiny.sft-1.log" in text
    assert "warning: a doubt of the study\r" in text and "said past the log\r" in text
    assert "failed: Aligning tiny.dpo (seed 1): killed by SIGKILL (signal 9)" in text
    assert "JSON" not in text and "Select jobs" not in text
    assert "\x1b[?25h" in screen.rpartition("\x1b[?25l")[2]  # the cursor is given back


@pytest.mark.parametrize("name", ["lines", "terminal"])
def test_snakemakes_own_lines_and_the_events_of_the_run_are_kept(name, request):
    folder = request.getfixturevalue(name)[0]
    (log,) = (folder / ".snakemake/log").glob("*.snakemake.log")
    assert "Finished jobid" in log.read_text() and "long JSON" in log.read_text()
    run = run_of(journal_of(folder / "results/toy"))
    assert (run.done, run.total, run.well) == (3, 5, False)
    assert run.stages() == [("download", 1, 1), ("sft", 1, 1), ("align", 0, 1), ("report", 1, 1)]
    assert [job.words for job in run.failed()] == ["Aligning tiny.dpo (seed 1)"]
    assert run.running() == []
    assert run.log == str(log.relative_to(folder))


def test_where_the_runs_events_cannot_be_noted_the_console_says_all_the_same(tmp_path):
    folder = toy(tmp_path, ["table", "dpo"], seconds=0.1)
    journal_of(folder / "results/toy").mkdir(
        parents=True
    )  # as on a disk that is full: no file can be written there
    done = in_lines(folder)
    said = done.stdout.splitlines()
    assert done.returncode == 1
    assert any("failed: Aligning tiny.dpo (seed 1): killed by SIGKILL" in line for line in said)
    assert any("jobs to do;" in line for line in said)


def test_a_dry_run_and_a_verbose_one_are_snakemakes_own(tmp_path):
    folder = toy(tmp_path, ["table"], seconds=0.1)
    plain = [sys.executable, "-m", "snakemake", "--cores", "1", "-n"]
    bare = subprocess.run(plain, cwd=folder, env=surroundings(), capture_output=True, text=True, check=True)
    ours = in_lines(folder, "-n")
    times = re.compile(r"\[\w+ \w+ +\d+ [\d:]+ \d+\]|Date: .*|Workflow ID: .*|Command: .*")
    assert sorted(times.sub("", ours.stdout).splitlines()) == sorted(
        times.sub("", bare.stdout + bare.stderr).splitlines()
    )
    assert not journal_of(folder / "results/toy").exists()
    verbose = in_lines(folder, PLUMBLINE_VERBOSE="1")
    assert verbose.returncode == 0
    assert "Finished jobid: 2" in verbose.stdout and "jobs to do;" not in verbose.stdout
    assert run_of(journal_of(folder / "results/toy")).well is True
    again = in_lines(folder)
    assert "Nothing to be done (all requested files are present and up to date)." in again.stdout


def test_what_goes_wrong_before_the_first_job_is_seen(tmp_path):
    folder = toy(tmp_path, ["nothing-makes-this"])
    done = in_lines(folder)
    assert done.returncode == 1
    assert "nothing-makes-this" in done.stdout and "Missing input files" in done.stdout
    (folder / "Snakefile").write_text("raise SystemExit('error: a mistake in the study')\n")
    assert "error: a mistake in the study" in in_lines(folder).stdout


def test_every_rule_has_a_stage_and_stages_stand_as_the_workflow_goes():
    rules = set()
    for path in (ROOT / "rules").glob("*.smk"):
        rules |= set(re.findall(r"^(?:rule|checkpoint) (\w+):", path.read_text(), re.MULTILINE))
    assert set(stages_of_rules()) == rules
    assert in_order({"report", "sft", ELSE, "clean"}) == ["clean", "sft", "report", ELSE]


def test_a_line_of_the_journal_that_is_half_written_is_left_out(tmp_path):
    journal = tmp_path / "run.jsonl"
    begun = {"event": "started", "time": 1.0, "pid": 1, "host": "a", "log": "", "jobs": {"train_sft": 2}}
    job = {"event": "job", "time": 2.0, "id": 3, "rule": "train_sft", "words": "w", "log": "l"}
    journal.write_text(json.dumps(begun) + "\n" + json.dumps(job) + '\n{"event": "done", "ti')
    run = run_of(journal)
    assert [each.id for each in run.running()] == [3]
    assert run_of(tmp_path / "none.jsonl") is None
    journal.write_text("")
    assert run_of(journal) is None


def test_jobs_that_a_checkpoint_adds_count_and_a_job_tried_again_has_not_failed():
    run = Run()
    run.read({"event": "started", "time": 1.0, "pid": 1, "host": "a", "log": "", "jobs": {"train_sft": 1}})
    for place in (1, 2):
        told = {"id": place, "rule": "train_sft", "words": "w", "log": ""}
        run.read({"event": "job", "time": 2.0} | told)
        run.read({"event": "failed", "time": 3.0, "id": place, "why": "no memory"})
        run.read({"event": "job", "time": 4.0} | told)
        run.read({"event": "done", "time": 9.0, "id": place})
    assert run.stages() == [("sft", 2, 2)] and run.failed() == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (short_time(40), "40 s"),
        (short_time(150), "2 min"),
        (short_time(9000), "2.5 h"),
        (number(4123.7), "4 124"),
        (number(2.34567), "2.346"),
        (dollars(0), "$0.00"),
        (dollars(0.0012), "$0.0012"),
        (dollars(1.5), "$1.50"),
    ],
)
def test_times_numbers_and_money_are_short(said, expected):
    assert said == expected
