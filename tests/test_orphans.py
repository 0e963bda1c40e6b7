"""What a head process killed on one machine leaves behind: who still runs, which files are trusted, who may start.

The clusters' part, with a real SLURM, is in test_slurm.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.workflow import ROOT

SNAKEFILE = """
import os
from workflow_scripts.plan.orphans import note_head

os.environ["PLUMBLINE"] = workflow.basedir

onstart:
    note_head(workflow)

rule all:
    input: "first.txt", "second.txt"

rule first:
    output: "first.txt"
    params: beta=config.get("beta", 1)
    shell: "echo {params.beta} > {output}"

# While it runs it says so, ten times a second and by its process id.
rule second:
    input: "first.txt"
    output: "second.txt"
    params: beta=config.get("beta", 1)
    shell: "for i in $(seq {config[tenths]}); do echo $$ >> writers; sleep 0.1; done; echo {params.beta} > {output}"

rule third:
    input: "second.txt"
    output: "third.txt"
    shell: "cp {input} {output}"
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def snakemake(folder: Path, tenths: int, beta: int = 1, *flags: str) -> subprocess.Popen:
    """Start a head in a folder; its second job takes so many tenths of a second."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete", *flags]
    command += ["--config", f"tenths={tenths}", f"beta={beta}"]
    with open(folder / "log", "a") as log:
        return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)


def orphans(folder: Path, *flags: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "workflow_scripts.plan.orphans", *flags]
    environment = ENVIRONMENT | {"PATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def planned(folder: Path, beta: int = 1) -> set[str]:
    """Return the rules that a run would run."""
    (folder / "log").unlink(missing_ok=True)
    head = snakemake(folder, 1, beta, "--dry-run")
    text = (folder / "log").read_text() if head.wait() == 0 else ""
    assert "Nothing to be done" in text or "This was a dry-run" in text, (folder / "log").read_text()
    return {rule for rule in ("first", "second") if f"rule {rule}:" in text}


def writers(folder: Path) -> list[str]:
    """Return the process ids of those who wrote, in the order of their writing."""
    path = folder / "writers"
    return path.read_text().split() if path.exists() else []


def await_writer(folder: Path) -> int:
    end = time.monotonic() + 240
    while not writers(folder):
        assert time.monotonic() < end, (folder / "log").read_text()[-2000:]
        time.sleep(0.1)
    return int(writers(folder)[0])


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    yield tmp_path
    end_all_in(tmp_path)


@pytest.fixture
def killed(folder) -> Path:
    """A folder whose head was killed while its second job ran."""
    head = snakemake(folder, 600)
    await_writer(folder)
    head.kill()
    head.wait()
    return folder


def test_where_nothing_ran_nothing_is_said_or_done(folder):
    done = orphans(folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_living_head_is_named_and_left_alone(folder):
    head = snakemake(folder, 30)
    await_writer(folder)
    done = orphans(folder)
    assert done.returncode == 1
    assert f"process {head.pid}" in done.stderr and f"kill -INT {head.pid}" in done.stderr
    assert head.wait(60) == 0
    assert len(set(writers(folder))) == 1
    assert orphans(folder).returncode == 0


def test_after_a_kill_the_next_run_is_the_only_writer(killed):
    (left,) = {int(writer) for writer in writers(killed)}
    assert psutil.pid_exists(left)
    refused = snakemake(killed, 1)
    assert refused.wait() == 1 and "cannot be locked" in (killed / "log").read_text()
    done = orphans(killed)
    assert done.returncode == 0, done.stderr
    assert "left on this machine" in done.stdout and "unlocked" in done.stdout
    assert not psutil.pid_exists(left)
    before = len(writers(killed))
    assert snakemake(killed, 2).wait() == 0
    assert str(left) not in writers(killed)[before:]
    assert planned(killed) == set()


def test_processes_that_no_head_started_are_spared(killed):
    other = subprocess.Popen(["sleep", "60"], cwd=killed)
    assert orphans(killed).returncode == 0
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_head_on_a_host_out_of_sight_keeps_its_folder_until_its_end_is_vouched_for(killed):
    note = killed / "work/head.json"
    times = note.stat()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"host": "login2"}))
    os.utime(note, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = orphans(killed)
    assert done.returncode == 1 and "login2" in done.stderr and "--gone" in done.stderr
    assert orphans(killed, "--gone").returncode == 0
    assert not any((killed / ".snakemake").glob("locks/*"))


def test_nothing_is_unlocked_while_slurm_does_not_say_who_runs(killed, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "bin/squeue").chmod(0o755)
    done = orphans(killed, path=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert done.returncode == 1 and "Unable to contact slurm controller" in done.stderr
    assert any((killed / ".snakemake").glob("locks/*"))


def end_all_in(folder: Path) -> None:
    """Kill every process that works in a folder."""
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder):
                process.kill()
        except psutil.Error:
            continue


def finish_unseen(folder: Path, text: str) -> None:
    """Have the killed head's second job finish, as a cluster's would: its file is there, not marked incomplete."""
    end_all_in(folder)
    (folder / "second.txt").write_text(text)
    for mark in (folder / ".snakemake/incomplete").iterdir():
        mark.unlink()


def test_what_finished_unseen_is_kept_and_goes_stale_with_its_settings(killed):
    finish_unseen(killed, "1")
    done = orphans(killed)
    assert "1 files were finished" in done.stdout and "recorded" in done.stdout
    assert planned(killed) == set()
    assert planned(killed, beta=2) == {"first", "second"}
    (killed / "first.txt").touch()
    assert planned(killed) == set(), "the checksums of its inputs are recorded too"


def test_what_finished_unseen_is_made_again_where_nobody_noted_its_settings(killed):
    (killed / "work/head.json").unlink()
    finish_unseen(killed, "1")
    done = orphans(killed)
    assert "1 files were finished" in done.stdout and "made again" in done.stdout
    assert not (killed / "second.txt").exists()
    assert (killed / "first.txt").exists(), "what the head saw finished is kept"
    assert planned(killed) == {"second"}


def test_what_was_cut_short_is_made_again(killed):
    end_all_in(killed)
    (killed / "second.txt").write_text("ha")
    assert "were finished" not in orphans(killed).stdout
    assert planned(killed) == {"second"}


def test_a_file_from_before_the_killed_run_is_left_as_it_is(folder):
    (folder / "third.txt").write_text("brought along")
    head = snakemake(folder, 600, 1, "third.txt", "--forcerun", "second")
    await_writer(folder)
    head.kill()
    head.wait()
    assert "were finished" not in orphans(folder).stdout
    assert (folder / "third.txt").read_text() == "brought along"


def test_a_file_of_a_killed_run_is_not_taken_for_one_of_the_run_before(folder):
    assert snakemake(folder, 1, beta=1).wait() == 0
    (folder / "writers").unlink()
    head = snakemake(folder, 600, beta=2)
    await_writer(folder)
    head.send_signal(signal.SIGKILL)
    head.wait()
    finish_unseen(folder, "2")
    assert orphans(folder).returncode == 0
    assert planned(folder, beta=2) == set()
    assert planned(folder, beta=1) == {"first", "second"}
