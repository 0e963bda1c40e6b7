"""Plumbline's console as a logger of Snakemake's: it shows a run on a terminal, or tells of it in plain lines.

Snakemake hands over its records from a thread of its own, in their order. What they say of jobs becomes the run (see
`run`), which is noted beside the logs and shown; what they say in words is shown only where it is more than
Snakemake's own account of what it does: warnings, errors, the last words. All of it stands in Snakemake's own log.

While the console is there, standard error is its own, and standard output as long as jobs run: what Python prints goes
above the screen; what jobs print past their logs goes to a file that is read on and shown, but for what a shell says of
one that was killed: that is a command line, and why it failed the console tells. With PLUMBLINE_VERBOSE, or in a dry
run, Snakemake's own output is seen.
"""

import contextlib
import io
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
from logging import LogRecord
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase

from workflow_scripts.console.endings import LAST_WORDS, Endings
from workflow_scripts.console.reading import Cost, Stand, cost_of, stand_of
from workflow_scripts.console.run import LONG, Job, Run, journal_of
from workflow_scripts.console.screen import screen
from workflow_scripts.console.words import clock, done_line, progress_line
from workflow_scripts.report.reasons import given_up, one_line

VERBOSE = "PLUMBLINE_VERBOSE"
TICK = 1.0  # seconds between two screens
LINE = 60.0  # seconds between two plain lines, more as a run grows old: a share of its age
SHARE = 20
COUNTED = 10.0  # seconds between two looks at what was spent
WIDEST = 400  # characters of a line that is not ours
LOGS = Path(".snakemake/log")
# Of what Snakemake says in passing, that which somebody at a terminal waits for or has asked for.
TOLD = re.compile(
    r"Nothing to be done|Unlocked|Terminating|Cancelling|Will exit|Trying to restart|Creating conda|Downloading and"
    r"|Environment for|Pulling|Touching|Activating singularity|Waiting at most"
)
# What it says of failed jobs, which the console says in its own words.
OWN_ACCOUNT = re.compile(
    r"CalledProcessError|Exiting because a job execution failed|At least one job did not complete"
)
SHELLS_ACCOUNT = re.compile(r"^\S*sh: line \d+: +\d+ \w+")  # "bash: line 1: 4711 Killed    python -m …"


class Above(io.TextIOBase):
    """Standard error while a screen is shown: whole lines go to `say`, which puts them above it."""

    def __init__(self, say: Any, terminal: Any) -> None:
        self.say, self.terminal, self.kept = say, terminal, ""

    def write(self, text: str) -> int:
        *lines, self.kept = (self.kept + text).split("\n")
        for line in lines:
            self.say(line)
        return len(text)

    def isatty(self) -> bool:
        return self.terminal.isatty()

    def fileno(self) -> int:
        return self.terminal.fileno()


def event_of(record: LogRecord) -> dict[str, Any] | None:
    """Return the event of a run that a record tells of, None where it tells of none."""
    kind, told = str(getattr(record, "event", "")), {"time": round(record.created, 2)}
    if kind == "run_info":
        jobs = {rule: count for rule, count in record.stats.items() if rule != "total"}
        logs = sorted(LOGS.glob("*.snakemake.log"))
        where = {"pid": os.getpid(), "host": socket.gethostname(), "log": str(logs[-1]) if logs else ""}
        return told | {"event": "started", "jobs": jobs} | where
    if kind == "job_info":
        words = record.rule_msg or " ".join([record.rule_name, *map(str, record.wildcards.values())])
        job = {"id": record.jobid, "rule": record.rule_name, "words": one_line(words)}
        return told | {"event": "job", "log": str(record.log[0]) if record.log else ""} | job
    if kind == "job_finished":
        return told | {"event": "done", "id": record.job_id}
    if kind == "progress":
        return told | {"event": "progress", "done": record.done, "total": record.total}
    return None


class LogHandler(LogHandlerBase):
    """The handler that Snakemake makes of it; of one run."""

    has_filter = True
    has_formatter = True
    needs_rulegraph = False
    writes_to_file = False

    def __post_init__(self) -> None:
        self.idle = bool(self.common_settings.dryrun)
        self.shows = not self.idle and not os.environ.get(VERBOSE)
        self.run, self.endings, self.cost = Run(), Endings(), Cost()
        self.journal: Path | None = None
        self.guard, self.closing = threading.RLock(), threading.Event()
        self.looked = self.spoke = time.time()
        self.live: Live | None = None
        self.half = b""  # of a line that a shell is printing
        if self.shows:
            self._take_over()

    @property
    def writes_to_stream(self) -> bool:
        return self.shows  # else Snakemake adds its own, beside this

    # --- standard error -------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        self.stderr, descriptor = sys.stderr, os.dup(2)
        os.set_inheritable(descriptor, False)
        self.terminal = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="replace")
        number, name = tempfile.mkstemp(prefix="plumbline-stderr-")
        self.strays = os.fdopen(number, "rb")
        writing = os.open(name, os.O_WRONLY | os.O_APPEND)  # with a place in the file of its own
        os.unlink(name)
        os.dup2(writing, 2)
        os.close(writing)
        self.stdout: int | None = None  # as it was, while it is ours
        sys.stderr = Above(self.say, self.terminal)
        on_screen = self.terminal.isatty() and os.environ.get("TERM") != "dumb"
        self.console = Console(
            file=self.terminal,
            force_terminal=on_screen,
            width=None if on_screen else WIDEST,
            no_color=self.common_settings.nocolor or None,
        )
        if on_screen:
            self.live = Live(
                get_renderable=self._screen,
                console=self.console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
                transient=True,
            )
            self.live.start()
        self.ticker = threading.Thread(target=self._tick_on, daemon=True)
        self.ticker.start()

    def _take_stdout(self) -> None:
        sys.stdout.flush()
        self.stdout = os.dup(1)
        os.set_inheritable(self.stdout, False)
        os.dup2(2, 1)

    def _give_back(self) -> None:
        self.closing.set()
        self.ticker.join()
        if self.stdout is not None:
            sys.stdout.flush()
            os.dup2(self.stdout, 1)
        if self.live:
            self.live.stop()
            self.live = None
        self._say_strays()
        sys.stderr.flush()
        sys.stderr = self.stderr
        os.dup2(self.terminal.fileno(), 2)

    def say(self, text: str, style: str = "") -> None:
        """Show a line, above the screen where there is one."""
        with self.guard:
            self.console.print(Text(text, style=style), soft_wrap=True)

    def _say_strays(self) -> None:
        """Show what jobs and their shells have printed since the last time."""
        self.half += self.strays.read()
        *lines, self.half = self.half.split(b"\n")
        for line in (line.decode(errors="replace") for line in lines):
            if line.strip() and not SHELLS_ACCOUNT.match(line):
                self.say(one_line(line))

    # --- what is shown as time goes by ----------------------------------------------------------------------------

    def _tick_on(self) -> None:
        while not self.closing.wait(TICK):
            with self.guard, contextlib.suppress(OSError):
                self._tick()

    def _tick(self) -> None:
        now = time.time()
        self._say_strays()
        if self.journal and now - self.looked > COUNTED:
            self.cost, self.looked = cost_of(self.journal.parents[1]), now
        if self.live:
            self.live.refresh()
        elif self.run.running() and now - self.spoke > max(LINE, (now - self.run.started) / SHARE):
            self.spoke = now
            self.say(progress_line(self.run, self._stands(), self.cost, now))

    def _stands(self) -> list[tuple[Job, Stand | None]]:
        return [(job, stand_of(job.log, job.started)) for job in self.run.running()]

    def _screen(self) -> Any:
        with self.guard:
            study = self.journal.parents[1].name if self.journal else ""
            return screen(study, self.run, self._stands(), self.cost, time.time())

    # --- records ----------------------------------------------------------------------------------------------------

    def emit(self, record: LogRecord) -> None:
        if self.idle:
            return
        with self.guard, contextlib.suppress(OSError):
            self.endings.filter(record)
            if str(getattr(record, "event", "")) == "job_error":
                self._fail(record)
            elif event := event_of(record):
                self._take(event)
            elif self.shows:
                self._say_record(record)

    def _take(self, event: dict[str, Any]) -> Job | None:
        """Take in an event of the run, note it, and say what there is to say of it in plain lines."""
        if event["event"] == "started":
            self._begin_journal()
            if self.shows and self.stdout is None:
                self._take_stdout()
        job = self.run.read(event)
        self._note(event)
        if event["event"] == "done" and job and self.shows and (said := self._given_up(job)):
            self.say(f"{clock(event['time'])}  warning: {job.words}: {said}", "yellow")
            return job
        if not self.shows or self.live:
            return job
        if event["event"] == "started":
            said = f"{self.run.total} jobs to do; Snakemake's own lines are in {self.run.log or LOGS}"
            self.say(f"{clock(event['time'])}  {said}")
        elif event["event"] == "done" and job and job.seconds(event["time"]) >= LONG:
            self.say(done_line(job, stand_of(job.log, job.started), event["time"]))
        return job

    def _given_up(self, job: Job) -> str:
        try:
            return given_up(job.rule, Path(job.log).read_text(encoding="utf-8", errors="replace"))
        except OSError:  # it has no log
            return ""

    def _fail(self, record: LogRecord) -> None:
        failed = self.endings.failed(
            record.rule_name, "", list(record.log or []), record.shellcmd, record.jobid
        )
        why = one_line(failed.why().reason)
        known = any(job.why == why for job in self.run.failed())
        job = self._take(
            {"event": "failed", "time": round(record.created, 2), "id": record.jobid, "why": why}
        )
        if self.shows and job:
            log = f"; its log is {job.log}" if job.log else ""
            said = "as above" if known else why
            self.say(f"{clock(record.created)}  failed: {job.words}: {said}{log}", "red")

    def _say_record(self, record: LogRecord) -> None:
        """Show a record in words, where it says more than the console does."""
        text = str(record.msg or "")
        if getattr(record, LAST_WORDS, False):
            self._end(well=record.levelname == "INFO")
            for line in text.splitlines():
                self.say(line)
        elif record.levelname == "INFO":
            if TOLD.match(text):
                self.say(one_line(text))
        elif record.levelname != "DEBUG" and not OWN_ACCOUNT.search(text):
            for line in text.splitlines():
                self.say(one_line(line, WIDEST), "red" if record.levelname == "ERROR" else "yellow")

    def _end(self, well: bool) -> None:
        """The run is over: its screen goes, what it came to stays."""
        if self.run.started and self.run.ended is None:
            self._take({"event": "ended", "time": round(time.time(), 2), "well": well})
            if self.live:
                self.live.stop()
                self.live = None

    def close(self) -> None:
        with self.guard:
            if not self.idle and not self.closing.is_set():
                self._end(well=not self.run.failed() and self.run.done == self.run.total)
                if not self.shows:
                    self.closing.set()
        if self.shows and not self.closing.is_set():
            self._give_back()
        super().close()

    # --- the journal --------------------------------------------------------------------------------------------------

    def _begin_journal(self) -> None:
        """Begin the file of the run's events, beside the logs of the study that the Snakefile has named by now."""
        if results := os.environ.get("RESULTS"):
            self.journal = journal_of(results)
            with contextlib.suppress(OSError):
                self.journal.parent.mkdir(parents=True, exist_ok=True)
                self.journal.write_text("", encoding="utf-8")

    def _note(self, event: dict[str, Any]) -> None:
        """Note an event for those who look on from elsewhere; on a full disk this console goes on without."""
        if self.journal:
            with contextlib.suppress(OSError), open(self.journal, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(event) + "\n")
