"""Clear up after a head process that was killed, so that no file ever has two writers.

The head is the snakemake that plans a study and starts its jobs. Killed (kill -9, a reboot, no memory left), it leaves
the folder locked and its jobs running: on this machine, and on a cluster. Started again at once, it would start the
same jobs beside them. `make results` therefore calls `python -m workflow_scripts.plan.orphans` first, which

1. refuses while a head is alive: on this machine, known by its process id, or perhaps on another, known by its host;
2. ends the processes the dead head left on this machine: what they had half done is resumed from its checkpoint;
3. cancels the SLURM jobs submitted from this folder, or with --wait lets them finish, and stays until the last is gone;
4. settles what jobs finished after the head's death. Snakemake has no record of them, and without one no later change
   of code or settings would make them stale. If the head noted what it was about to run (`note_head`, called as the
   Snakefile's `onstart`), its note becomes the record: the file is then as stale as it would be had the head lived.
   Without such a note the file is removed, and made again;
5. unlocks the folder.

What was still running has Snakemake's own mark of being incomplete, and `rerun-incomplete` runs it again. One head at
a time works in a folder. Not covered: jobs of other schedulers, outputs on other than a shared file system, heads that
run with `--nolock`, or folders unlocked by hand: after `snakemake --unlock` step 4 has no list of what was to be made.
"""

import argparse
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json, sha256_of, write_json

NOTE = Path("work/head.json")
STATE = Path(".snakemake")
HASHED_BYTES = 1_000_000  # Snakemake records the checksums of inputs up to this size
GRACE = 15.0  # seconds between asking a process to end and ending it


class SlurmJob(NamedTuple):
    """A job in SLURM's queue: its id, its state (RUNNING, COMPLETING ...) and the rule it runs, with its wildcards."""

    id: str
    state: str
    rule: str


# --- the head -------------------------------------------------------------------------------------------------------


def note_head(workflow: Any) -> None:
    """Note who this head is and what Snakemake would record of each job it is about to run; called by `onstart`."""
    persistence = workflow.persistence
    records = {}
    for job in workflow.dag.needrun_jobs():
        record = {
            "record_format_version": record_format(),
            "rule": job.rule.name,
            "code": persistence._code(job.rule),
            "params": persistence._params(job),
            "input": persistence._input(job),
            "log": persistence._log(job),
            "conda_env": persistence._conda_env(job),
            "software_stack_hash": persistence._software_stack_hash(job),
            "container_img_url": job.container_img_url,
        }
        records |= {str(output): record for output in job.output}
    write_json(NOTE, {"host": socket.gethostname(), "pid": os.getpid(), "records": records})


def files_to_make(workflow: Any) -> list[str]:
    """Return the outputs and logs of the jobs that Snakemake is about to run."""
    return [str(path) for job in workflow.dag.needrun_jobs() for path in (*job.output, *job.log)]


def record_format() -> int:
    """Return the version of the records that this Snakemake writes."""
    from snakemake.persistence import RECORD_FORMAT_VERSION

    return RECORD_FORMAT_VERSION


def refuse_a_living_head(note: dict, locked: bool, gone: bool) -> None:
    """Raise PlumblineError if the head that wrote a note is alive, or may be on a host that cannot be looked at."""
    host, pid = note["host"], note["pid"]
    if host == socket.gethostname() and is_head(pid):
        raise alive(pid)
    if host != socket.gethostname() and locked and not gone:
        raise PlumblineError(
            f"{Path.cwd()} is locked by a head process on {host} (process {pid}), which cannot be seen from here: "
            "go on there, or add --gone if you know that it has ended"
        )


def alive(pid: int) -> PlumblineError:
    """Return the error of a head that is at work already."""
    return PlumblineError(
        f"a head process is at work in {Path.cwd()} already: process {pid} of this machine. "
        f"Wait for it, or end it with `kill -INT {pid}`, which cancels its jobs too"
    )


def is_head(pid: int) -> bool:
    """Return whether a process of this machine is a snakemake that works in this folder and runs no single job."""
    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        named = any("snakemake" in word for word in words) and "--mode" not in words
        return named and process.cwd() == os.getcwd()
    except psutil.Error:
        return False


# --- what it left running ---------------------------------------------------------------------------------------------


def left_processes() -> list[psutil.Process]:
    """Return the processes of this machine that a head of this folder started, and their children.

    They have the folder as working directory and PLUMBLINE, which the Snakefile sets, in their environment. What
    belongs to a SLURM job is SLURM's to end. PlumblineError if the head is among their parents: then it is alive.
    """
    own = psutil.Process()
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if (
                process.pid not in spared
                and process.cwd() == os.getcwd()
                and "PLUMBLINE" in environment
                and environment.get("SLURM_JOB_ID") == os.environ.get("SLURM_JOB_ID")
            ):
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
                if head := next((each.pid for each in process.parents() if is_head(each.pid)), None):
                    raise alive(head)
        except psutil.Error:  # it has ended, or is another user's
            continue
    return list(found.values())


def end_processes(processes: list[psutil.Process]) -> None:
    """End processes: ask them to, and after GRACE seconds make them."""
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=GRACE)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=GRACE)


def slurm_jobs(locked: bool) -> list[SlurmJob]:
    """Return the jobs that Snakemake submitted to SLURM from this folder and that have not ended wholly.

    PlumblineError if SLURM does not answer and the folder is locked, so that there may be some.
    """
    if not shutil.which("squeue"):
        return []
    command = ["squeue", "--noheader", "--user", str(os.getuid()), "--format", "%i|%T|%Z|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        if not locked:
            return []
        raise PlumblineError(
            f"an earlier run was killed, and SLURM does not say which of its jobs run on "
            f"({(error.stderr or str(error)).strip()}); try again when it answers"
        ) from None
    jobs = []
    for line in done.stdout.splitlines():
        number, state, folder, comment = line.split("|", 3)
        if os.path.realpath(folder) == os.getcwd() and comment.startswith("rule_"):
            jobs.append(SlurmJob(number, state, comment.removeprefix("rule_")))
    return jobs


def cancel_jobs(jobs: list[SlurmJob]) -> None:
    """Tell SLURM to cancel jobs; one that ended in the meantime is no error."""
    for job in jobs:
        subprocess.run(["scancel", job.id], capture_output=True, check=False, timeout=120)


def await_end(jobs: Callable[[], list[SlurmJob]], poll: float = 2.0, remind: float = 60.0) -> None:
    """Return when no job is left, COMPLETING ones included, saying every `remind` seconds which are."""
    told = time.monotonic()
    while left := jobs():
        if time.monotonic() - told >= remind:
            say(f"still there: {named(left)}")
            told = time.monotonic()
        time.sleep(poll)


def named(jobs: list[SlurmJob]) -> str:
    """Return jobs in words, the first few of them."""
    words = [f"{job.id} ({job.rule}, {job.state})" for job in jobs[:5]]
    return ", ".join(words) + (f" and {len(jobs) - 5} more" if len(jobs) > 5 else "")


# --- what was finished unseen -----------------------------------------------------------------------------------------


def modified(path: Path) -> float:
    """Return when an output was made, as Snakemake reads it: of a folder by the stamp it leaves inside."""
    stamp = path / ".snakemake_timestamp"
    inside = stamp.is_file() and not path.is_symlink()
    return (stamp if inside else path).stat(follow_symlinks=False).st_mtime


def settle_unseen(persistence: Any, note: dict | None) -> tuple[list[str], list[str]]:
    """Record the outputs whose jobs finished unseen, or remove those that cannot be; return both lists.

    An output was finished unseen if the dead head was to make it, it is not marked incomplete, and Snakemake's record
    of it is missing or of another file of that name, which had another time. One from before that head is left alone.
    """
    since = NOTE.stat().st_mtime if note else 0.0
    due = dict.fromkeys(path for kind, path in persistence._read_locks() if kind == "output")
    incomplete = persistence._filter_incomplete_keys(due)
    recorded, removed = [], []
    for name in due:
        path = Path(name)
        if name in incomplete or not os.path.lexists(path) or modified(path) < since:
            continue
        known = persistence._read_record(name)
        if known and known.endtime == modified(path):
            continue
        if note and name in note["records"]:
            record_output(persistence, name, note["records"][name], since)
            recorded.append(name)
        else:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            removed.append(name)
    return recorded, removed


def record_output(persistence: Any, name: str, record: dict, since: float) -> None:
    """Give Snakemake the record of a finished output that its head would have written."""
    from snakemake.persistence import MetadataRecord

    small = [
        each for each in map(Path, record["input"]) if each.is_file() and each.stat().st_size < HASHED_BYTES
    ]
    times = {"starttime": since, "endtime": modified(Path(name)), "incomplete": False}
    checksums = {"input_checksums": {str(each): f"sha256:{sha256_of(each)}" for each in small}}
    persistence._write_record(name, MetadataRecord.model_validate({**record, **times, **checksums}))


def say(text: str) -> None:
    print(f"orphans: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--wait", action="store_true", help="let SLURM jobs finish instead of cancelling them"
    )
    parser.add_argument("--gone", action="store_true", help="the head process on another host has ended")
    arguments = parser.parse_args()
    note = read_json(NOTE) if NOTE.is_file() else None
    locks = [path.stat().st_mtime for path in (STATE / "locks").glob("*.lock")]
    if note:
        refuse_a_living_head(note, bool(locks), arguments.gone)
        if locks and NOTE.stat().st_mtime < min(locks):
            note = None  # an earlier head's: this one was killed before it could write its own

    if processes := left_processes():
        say(f"ending {len(processes)} processes that an earlier run left on this machine")
        end_processes(processes)
    if jobs := slurm_jobs(bool(locks)):
        say(
            f"{'waiting for' if arguments.wait else 'cancelling'} SLURM jobs that an earlier run left: {named(jobs)}"
        )
        if not arguments.wait:
            cancel_jobs(jobs)
        await_end(lambda: slurm_jobs(True))
    if not locks:
        return

    from snakemake.persistence.file import FilePersistence

    persistence = FilePersistence(path=STATE.absolute())
    recorded, removed = settle_unseen(persistence, note)
    if recorded:
        say(
            f"{len(recorded)} files were finished after the earlier run was killed: recorded as what it was making"
        )
    if removed:
        say(
            f"{len(removed)} files were finished after the earlier run was killed, under settings unknown: made again"
        )
    persistence.cleanup_locks()
    say("an earlier run was killed; its folder is unlocked")


if __name__ == "__main__":
    run(main)
