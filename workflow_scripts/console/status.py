"""Say how a run stands, from another terminal: `make status STUDY=studies/x.yaml`.

By files alone: what the head has noted of its jobs, and what these tell of themselves beside their logs. So it can be
asked on any machine that sees the folder, and a run on a cluster shows as one here does. Not covered: jobs of a
Snakemake that was started otherwise than by `make results`, but for those that have lately told how far they are.
"""

import argparse
import os
import socket
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.text import Text

from workflow_scripts.common.errors import run
from workflow_scripts.common.progress import ENDING, LOG
from workflow_scripts.console.reading import Stand, cost_of, stand_of
from workflow_scripts.console.run import Job, Run, journal_of, run_of
from workflow_scripts.console.screen import screen
from workflow_scripts.console.words import dollars, number, short_time, stand_words
from workflow_scripts.study.reading import extended, read_yaml

RESULTS = Path("results")
FRESH = 300.0  # seconds after which who tells nothing counts as gone, where a head cannot be looked at
WIDE = 120  # characters of a line where there is no terminal


def head_lives(run: Run) -> bool | None:
    """Return whether the head of a run is alive; None where it is on another machine."""
    if run.host != socket.gethostname():
        return None
    try:
        return psutil.Process(run.pid).create_time() <= run.started + 1
    except psutil.Error:
        return False


def last_sign(journal: Path, run: Run) -> float:
    """Return when a run was last heard of: the head, or a job of it."""
    told = [stand.last["time"] for job in run.running() if (stand := stand_of(job.log, job.started))]
    return max([journal.stat().st_mtime, *told])


def state_words(journal: Path, run: Run, now: float) -> str:
    """Return whether a run goes on, in words."""
    if run.ended is not None:
        how = "ended well" if run.well else "ended with failures"
        return f"It {how}, {short_time(now - run.ended)} ago. Nothing runs."
    alive, silent = head_lives(run), now - last_sign(journal, run)
    if alive:
        return f"It runs: process {run.pid} of this machine. Snakemake's own lines: {run.log}"
    if alive is None and silent < FRESH:
        return f"It runs: process {run.pid} on {run.host}, heard of {short_time(silent)} ago."
    if alive is None:
        return (
            f"Not heard of for {short_time(silent)}: process {run.pid} on {run.host} is at a long job, or has ended "
            "without a word."
        )
    return (
        f"Nothing runs: its head, process {run.pid}, has ended without a word (killed, or the machine restarted); "
        "`make results` goes on where it was."
    )


def lately(results: Path, now: float) -> list[tuple[Job, Stand]]:
    """Return the jobs that have lately told how far they are, whoever started them."""
    found = []
    for path in sorted(results.glob(f"logs/*/*{ENDING}")):
        log = str(path).removesuffix(ENDING) + LOG
        stand = stand_of(log, now - FRESH)
        unfinished = stand is not None and stand.last["done"] != stand.last.get("total")
        if unfinished:
            words = f"{path.parent.name} {path.name.removesuffix(ENDING)}"
            found.append((Job(0, path.parent.name, words, log, stand.last["time"]), stand))
    return found


def elsewhere(but: str) -> list[str]:
    """Return the other studies of this folder that run."""
    running = []
    for path in sorted(RESULTS.glob("*/logs/run.jsonl")):
        found = run_of(path)
        if path.parents[1].name != but and found and found.ended is None and head_lives(found) is not False:
            running.append(path.parents[1].name)
    return running


def tell(study: str, console: Console) -> None:
    """Say how a study's run stands."""
    results, now = RESULTS / study, time.time()
    journal, cost = journal_of(results), cost_of(results)
    found = run_of(journal)
    if found is None:
        console.print(
            Text(f"{study}: no run of `make results` has left a note in {journal}. Nothing of it runs.")
        )
        for job, stand in lately(results, now):
            console.print(Text(f"  but this has told of itself: {job.words}: {stand_words(stand, 0)}"))
    else:
        stands = [(job, stand_of(job.log, job.started)) for job in found.running()]
        console.print(screen(study, found, stands, cost, now))
        for job in found.failed():
            console.print(Text(f"failed: {job.words}: {job.why}\n  its log: {job.log}", style="red"))
        console.print(Text(state_words(journal, found, now)))
    if cost.seconds:
        parts = [f"{short_time(cost.seconds)} of jobs", f"{number(cost.tokens)} tokens", dollars(cost.usd)]
        console.print(Text(f"The study so far: {', '.join(parts)}"))
    if others := elsewhere(study):
        console.print(Text(f"Other studies that run here: {', '.join(others)}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", default="config.yaml", help="the study's YAML")
    file = parser.parse_args().study
    study = extended(read_yaml(file) | {}).get("study", "")
    tell(str(study), Console(width=None if os.isatty(1) else WIDE, highlight=False))


if __name__ == "__main__":
    run(main)
