"""Where the time of a run of a study went: whole processes by stage, and the share of the orchestration.

    make results
    .venv/bin/python -m benchmarks.stages results/tutor --page docs/performance.md

Two records are read. Snakemake's own (`.snakemake/metadata`) has the start and the end of every job, whole processes
with their imports, of every rule; `costs.csv` has what the jobs with a model say themselves: seconds of work alone, and
tokens. Of a job that ran more than once the last time counts, and so a study is to be run once, in a fresh clone.

Orchestration is what passes while no job runs: Snakemake's own time between jobs, before the first (from the start of
its log), and that of `make results` before it. Not covered: what Snakemake does while a job runs.
"""

import argparse
import csv
import json
import os
import platform
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError

BEGIN, END = "<!-- stages: begin -->", "<!-- stages: end -->"
# What decides how fast a CPU multiplies, by the kernel's names: without one of the last two there is no bfloat16.
FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}


class Job(NamedTuple):
    """A job as Snakemake recorded it: its rule, when it began and ended (seconds of the clock)."""

    rule: str
    start: float
    end: float


def jobs_of(metadata: Path, results: str) -> list[Job]:
    """Return the finished jobs of a study, and those that fetched and cleaned what it stands on, each once."""
    found: dict[str, Job] = {}
    for path in metadata.rglob("*"):
        if not path.is_file():
            continue
        output = output_of(path.relative_to(metadata))
        record = json.loads(path.read_text())
        own = output.startswith((f"{results}/", "data/"))
        if own and not record.get("incomplete") and record.get("endtime"):
            job = Job(record["rule"], record["starttime"], record["endtime"])
            # A job has a record for each of its outputs, and one command.
            kept = found.setdefault(record.get("shellcmd") or output, job)
            if job.end > kept.end + 1:
                found[record.get("shellcmd") or output] = job
    return list(found.values())


def output_of(record: Path) -> str:
    """Return the output that a record is of: its path is the output's in base64, in pieces where it is long."""
    pieces = [part.removeprefix("@") for part in record.parts]
    return urlsafe_b64decode("".join(pieces)).decode()


def started(logs: Path, first: float) -> float:
    """Return when the last Snakemake began that began before its first job, by the name of its log."""
    times = [
        datetime.strptime(path.name.split(".snakemake")[0], "%Y-%m-%dT%H%M%S.%f").timestamp()
        for path in logs.glob("*.snakemake.log")
    ]
    return max((time for time in times if time <= first), default=first)


def busy(jobs: Iterable[Job]) -> float:
    """Return the seconds in which at least one job ran."""
    total, until = 0.0, 0.0
    for job in sorted(jobs, key=lambda job: job.start):
        total += max(0.0, job.end - max(job.start, until))
        until = max(until, job.end)
    return total


def work_of(costs: Path) -> dict[str, dict[str, float]]:
    """Return {rule: {"wall_seconds", "tokens"}} of the totals of costs.csv."""
    with open(costs, newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["name"] == "total" and row["stage"] != "total"]
    return {
        row["stage"]: {name: float(row[name]) for name in ("wall_seconds", "tokens") if row[name]}
        for row in rows
    }


def table(jobs: list[Job], work: dict[str, dict[str, float]], since: float) -> list[str]:
    """Return the lines of the table, the longest stage first, then what the run took as a whole."""
    rules: dict[str, list[float]] = {}
    for job in jobs:
        rules.setdefault(job.rule, []).append(job.end - job.start)
    whole = sum(map(sum, rules.values()))
    lines = [
        "| rule | jobs | seconds, whole processes | share | of it with a model | tokens | tokens a second of that |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for rule, seconds in sorted(rules.items(), key=lambda item: -sum(item[1])):
        told = work.get(rule, {})
        worked, tokens = told.get("wall_seconds"), told.get("tokens")
        speed = f"{tokens / worked:.0f}" if tokens and worked else ""
        cells = [f"`{rule}`", len(seconds), f"{sum(seconds):.0f}", f"{sum(seconds) / whole:.0%}"]
        cells += [f"{worked:.0f}" if worked is not None else "", f"{tokens:.0f}" if tokens else "", speed]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    first, last = min(job.start for job in jobs), max(job.end for job in jobs)
    idle = last - since - busy(jobs)
    lines.append(f"| *all* | {len(jobs)} | {whole:.0f} | 100% | | | |")
    lines += [
        "",
        f"The run took {last - since:.0f} seconds of the clock; while no job ran, {idle:.0f} of them passed "
        f"({idle / (last - since):.0%}: the orchestration's share), {first - since:.0f} of them before the first job.",
    ]
    return lines


def machine() -> str:
    """Return what the figures were measured on, in words."""
    described = Path("/proc/cpuinfo")
    flags = set(described.read_text().split()) if described.is_file() else set()
    able = [name for flag, name in FLAGS.items() if flag in flags]
    return f"{os.cpu_count()} cores of {platform.machine()} with {', '.join(able) or 'no AVX'}"


def put(page: Path, lines: list[str]) -> None:
    """Write lines between a page's marks; PlumblineError where it has none."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise PlumblineError(f"{page}: has no lines {BEGIN} and {END}, between which the table goes")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="results/<study> of a finished run")
    parser.add_argument("--snakemake", type=Path, default=Path(".snakemake"), help="Snakemake's state")
    parser.add_argument("--page", type=Path, help="page to write the table into, in place of printing it")
    arguments = parser.parse_args()
    jobs = jobs_of(arguments.snakemake / "metadata", str(arguments.results))
    costs = arguments.results / "costs.csv"
    if not jobs or not costs.is_file():
        raise PlumblineError(
            f"{arguments.results}: no run of it came to its end here; `make results` makes {costs}"
        )
    since = started(arguments.snakemake / "log", min(job.start for job in jobs))
    lines = [f"On {machine()}:", "", *table(jobs, work_of(costs), since)]
    if arguments.page:
        put(arguments.page, lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
