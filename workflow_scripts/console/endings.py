"""The end of a run, by way of Snakemake's logger: how the commands of failed jobs ended, which Snakemake tells in words
and nowhere else; and our last words, which so come behind all that was said before, console or no console.
"""

import logging
from collections.abc import Sequence
from typing import Any

from workflow_scripts.report.last_words import Failed
from workflow_scripts.report.reasons import exit_status

LOGGER = "snakemake.logging"
LAST_WORDS = "plumbline_last_words"  # what a record of them has: they are shown as they are

USUAL = (100, 1)  # Snakemake's own limit of jobs in so many seconds


class Endings(logging.Filter):
    """Listens to Snakemake's logger, whoever writes it down, and lets all of it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []  # of errors: each names a command whole
        self.messages: dict[int, str] = {}  # by job: what its executor says, a scheduler's state say

    def filter(self, record: logging.LogRecord) -> bool:
        event = str(getattr(record, "event", ""))
        if event == "error":
            self.texts.append(str(record.msg))
        elif event == "job_error":
            self.messages[record.jobid] = str(record.rule_msg or "")
        return True

    def status_of(self, command: str | None) -> int | None:
        """Return the exit status of a command that failed, None where nothing was said of it."""
        told = [text for text in self.texts if command and command.strip() in text]
        return exit_status(told[-1]) if told else None

    def failed(self, rule: str, words: str, logs: list[str], command: str | None, number: int) -> Failed:
        """Return what is known of a failed job."""
        return Failed(rule, words, logs, self.status_of(command), self.messages.get(number, ""))


def failed_jobs(workflow: Any, endings: Endings) -> list[Failed]:
    """Return the jobs of a workflow that failed; nothing where it was not a job that stopped it."""
    failed = workflow.scheduler.failed if workflow.scheduler else ()
    return [
        endings.failed(
            job.rule.name, job.message or job.rule.name, list(map(str, job.log)), job.shellcmd, job.jobid
        )
        for job in failed
        if not job.is_group()
    ]


def look_when_due(scheduler: Any) -> None:
    """Have a scheduler look at its jobs when one has ended, and not once a second, and once more for each that has.

    Snakemake's own limit of 100 jobs a second begins such a clock with each job: after 150 of them the head is busier
    than they are. A limit that somebody asks for stays.
    """
    limit = scheduler.job_rate_limiter if scheduler else None
    if limit and (limit.max_jobs, limit.timespan) == USUAL:
        scheduler.job_rate_limiter = None


def listen() -> Endings:
    """Return what listens to Snakemake's logger from now on."""
    endings = Endings()
    logging.getLogger(LOGGER).addFilter(endings)
    return endings


def say_last(lines: Sequence[str], level: int = logging.INFO) -> None:
    """Say the last words of a run: what an error is, at logging.ERROR."""
    if lines:
        logging.getLogger(LOGGER).log(level, "\n".join(lines), extra={LAST_WORDS: True})
