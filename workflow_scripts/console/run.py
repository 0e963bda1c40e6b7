"""A run as it stands: what its jobs are, by the events that the head tells of them.

The head writes the same events to `logs/run.jsonl` of the study's results, a line each, so that whoever looks on from
elsewhere (`make status`, another machine of a cluster) reads the same run. The file is of the last run alone.

Events, each with "event" and "time" (seconds since 1970): "started" {"pid", "host", "log": Snakemake's own, "jobs":
{rule: how many}}; "job" {"id", "rule", "words", "log"}; "done" {"id"}; "failed" {"id", "why"}; "progress" {"done",
"total"}; "ended" {"well": nothing failed}.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow_scripts.console.stages import ELSE, in_order, stage_of

LONG = 5.0  # seconds: what takes longer is worth a line of its own


@dataclass
class Job:
    """A job that has begun: `words` say what it does, `log` is its log or "" where it has none."""

    id: int
    rule: str
    words: str
    log: str
    started: float
    ended: float | None = None
    why: str | None = None  # it failed

    def seconds(self, now: float) -> float:
        """Return how long it has worked, or did."""
        return max(0.0, (self.ended or now) - self.started)


@dataclass
class Run:
    """All that is known of a run."""

    started: float | None = None
    ended: float | None = None
    well: bool | None = None
    pid: int = 0
    host: str = ""
    log: str = ""
    due: Counter = field(default_factory=Counter)  # jobs of each stage, as planned
    finished: Counter = field(default_factory=Counter)  # of these
    jobs: dict[int, Job] = field(default_factory=dict)
    done: int = 0
    total: int = 0

    def read(self, event: dict[str, Any]) -> Job | None:
        """Take in an event; return the job that it is about."""
        kind, time = event["event"], event["time"]
        if kind == "started":
            self.__init__(started=time, pid=event["pid"], host=event["host"], log=event["log"])
            for rule, count in event["jobs"].items():
                self.due[stage_of(rule)] += count
            self.total = self.due.total()
        elif kind == "job":
            told = (event[name] for name in ("id", "rule", "words", "log"))
            self.jobs[event["id"]] = Job(*told, started=time)
        elif kind == "progress":
            self.done, self.total = event["done"], event["total"]
        elif kind == "ended":
            self.ended, self.well = time, event["well"]
        return self._job_ended(event) if kind in ("done", "failed") else self.jobs.get(event.get("id"))

    def _job_ended(self, event: dict[str, Any]) -> Job | None:
        job = self.jobs.get(event["id"])
        if job is None or job.ended:
            return None
        job.ended = event["time"]
        if event["event"] == "failed":
            job.why = event["why"]
        else:
            stage = stage_of(job.rule)
            self.finished[stage] += 1
            # What a checkpoint has added while it ran.
            self.due[stage] = max(self.due[stage], self.finished[stage])
        return job

    def running(self) -> list[Job]:
        """Return the jobs at work, those that began first at first."""
        return [job for job in self.jobs.values() if job.ended is None and self.ended is None]

    def failed(self) -> list[Job]:
        """Return the jobs that failed."""
        return [job for job in self.jobs.values() if job.why is not None]

    def rules_of(self, stage: str) -> set[str]:
        """Return the rules of a stage of which a job has begun."""
        return {job.rule for job in self.jobs.values() if stage_of(job.rule) == stage}

    def stages(self) -> list[tuple[str, int, int]]:
        """Return (stage, its jobs that are done, all of them) in the order of the workflow."""
        shown = {stage for stage in self.due if stage != ELSE}
        return [(stage, self.finished[stage], self.due[stage]) for stage in in_order(shown)]


def journal_of(results: Path | str) -> Path:
    """Return where the head notes the events of a study's last run."""
    return Path(results) / "logs" / "run.jsonl"


def run_of(journal: Path) -> Run | None:
    """Return the run that a journal tells of; None where there is none. A line that is being written is left out."""
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    run = Run()
    for line in lines:
        try:
            run.read(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
    return run if run.started else None
