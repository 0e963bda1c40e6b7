"""The time that SLURM leaves a job, and how a job that will not end in it hands over to itself.

A job that its time limit cuts off has failed: it loses what it did since its last checkpoint, and Snakemake submits it
again once fewer times. So a job that can go on from where it was asks, after each step, whether the next one and a
checkpoint still fit. If not, it saves what it has and has SLURM queue it again (`scontrol requeue`): it keeps its
number, so Snakemake sees a job that waits and then runs, and nothing has failed. It needs no signal, which would have
to find its way through Snakemake, `srun` and the launcher.

Whoever hands over has made a step, and leaves a note of how long one takes, and a validation: the next
turn of the job that finds less time than that from the start fails at once, and says so, where it would queue itself
again for ever.

Not covered: schedulers other than SLURM; a job inside an allocation that somebody made by hand, which is theirs to
queue again (Snakemake's own jobs are known by their comment).
"""

import math
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NoReturn

from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.progress import log_beside, progress_file

MARGIN = 1.5  # what is ahead may take so many times as long as it did before
RESERVE = 30.0  # seconds to come to an end in, whatever the steps take
FRESH = 300.0  # seconds for which SLURM's answer is believed: a limit can be changed while a job runs
ENDING = 600.0  # seconds that SLURM has to end a job that it has queued again
OURS = "rule_"  # how the comment of every job begins that Snakemake submitted
NOTE, EARLIER = "handed_over.json", "earlier.log"


def fits(left: float, ahead: float, saving: float) -> bool:
    """Return whether work of `ahead` seconds and a checkpoint of `saving` seconds fit into the `left` ones."""
    return left >= MARGIN * (ahead + saving) + RESERVE


def seconds_in(text: str) -> float | None:
    """Return the seconds of SLURM's days-hours:minutes:seconds, None for what is no time (UNLIMITED, NOT_SET)."""
    days, _, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in [days or "0", *parts]) or not 2 <= len(parts) <= 3:
        return None
    hours, minutes, seconds = [0, *map(int, parts)][-3:]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def said_by(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Return what one of SLURM's commands says; where it does not run or answer, as if it had failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def handed_over(work: Path) -> int:
    """Return how often the work in a folder was handed over so far."""
    return read_json(work / NOTE)["times"] if (work / NOTE).is_file() else 0


class TimeLimit:
    """What a job knows of its time; `work` is its folder of resumable state, where it leaves its note.

    Outside SLURM there is no limit, and nothing is asked or said. Of many processes that work together each has one,
    and the first alone asks and tells.
    """

    def __init__(self, work: Path) -> None:
        self.job = os.environ.get("SLURM_JOB_ID")
        self.tells = self.job is not None and processes.number() == 0
        self.work = work
        self.before = read_json(work / NOTE) if (work / NOTE).is_file() else {}
        self.steps, self.longest, self.spent = (
            0,
            0.0,
            0.0,
        )  # of this turn: how many, the longest, all; in seconds
        self.validating = self.before.get("validation_seconds")  # seconds of a validation, once one was
        self.saving = self.before.get("saving_seconds", 0.0)  # seconds of a checkpoint
        self.saves = 0  # in this turn
        self.ticked = time.monotonic()
        self.end: float | None = None  # by this machine's monotonic clock
        self.asked, self.why_none = -math.inf, ""

    def recall(self) -> None:
        """Say again what the log said before this job was handed over: its new turn writes the log anew."""
        if not self.tells or not self.before:
            return
        if (self.work / EARLIER).is_file():
            print((self.work / EARLIER).read_text(encoding="utf-8", errors="replace"), end="")
        print(f"--- going on after hand-over {self.before['times']} ---", flush=True)

    def left(self, fresh: bool = False) -> float | None:
        """Return the seconds that are left; None where there is no limit, or it is not for this job to hand over."""
        now = time.monotonic()
        if self.tells and (fresh or now - self.asked >= FRESH):
            self._ask(now)
        return None if self.end is None else self.end - now

    def _ask(self, now: float) -> None:
        """Ask SLURM how much time is left; where it does not answer, what it said before still holds."""
        self.asked = now
        done = said_by(["squeue", "-h", "-j", self.job or "", "-o", "%L|%k"])
        text, _, comment = done.stdout.strip().partition("|")
        if done.returncode or not text:
            self.why_none = f"squeue does not say how long it may run: {done.stderr.strip() or 'no answer'}"
            return
        said, self.why_none = seconds_in(text), f"SLURM sets no limit ({text})"
        if not comment.startswith(OURS):
            said, self.why_none = None, "it is part of a job that Snakemake did not submit"
        self.end = None if said is None else now + said

    def begin(self, saving: float = 0.0) -> None:
        """Say how much time there is; PlumblineError if it is known to be too little for a step and a checkpoint.

        `saving` is a guess at the seconds of a checkpoint, until one was written.
        """
        self.ticked = time.monotonic()
        self.saving = self.before.get("saving_seconds", saving)
        left, step = self.left(), self.before.get("step_seconds", 0.0)
        ahead = step + (self.validating or 0.0)
        if left is None:
            if self.tells:
                print(f"this job will not hand over to itself: {self.why_none}", flush=True)
            return
        print(f"{left:.0f} s are left of this job's time limit; it hands over before they end", flush=True)
        if step and not fits(left, ahead, self.saving):
            # What is tried again may be quicker: it shall not fail for what this one knew.
            write_json(self.work / NOTE, {"times": self.before["times"]})
            raise PlumblineError(
                f"the job's time limit is too short: once it had begun {left:.0f} s were left, and a step takes up to "
                f"{step:.0f} s{self._validation_text()} and a checkpoint {self.saving:.0f} s; raise runtime in the "
                "profile's set-resources, or runtime_minutes in the study's resources"
            )

    def saved(self, seconds: float) -> None:
        """Note how long a checkpoint took."""
        self.saving = max(seconds, self.saving) if self.saves else seconds
        self.saves += 1
        self.ticked = time.monotonic()

    def validated(self) -> None:
        """Note that a validation has ended, which began when the last step had."""
        now = time.monotonic()
        self.validating, self.ticked = max(self.validating or 0.0, now - self.ticked), now

    def late(
        self, steps: int = 1, validations: int = 0, guess: float = 0.0, took: float | None = None
    ) -> bool:
        """Note that a step has ended; return whether so many more, with validations, and a checkpoint no longer fit.

        guess: a validation in steps, until one was; took: seconds of the step, where several are made at once; None:
        all since the last one. A process other than the first never says that it is late.
        """
        now = time.monotonic()
        took = now - self.ticked if took is None else took
        self.steps, self.spent, self.ticked = self.steps + 1, self.spent + took, now
        self.longest = max(self.longest, took)
        validation = guess * self.longest if self.validating is None else self.validating
        ahead = max(self.longest, steps * self.spent / self.steps) + validations * validation
        left = self.left()
        if left is None or fits(left, ahead, self.saving):
            return False
        left = self.left(fresh=True)  # it may have been given more
        return left is not None and not fits(left, ahead, self.saving)

    def hand_over(self, done: str) -> NoReturn:
        """Queue this job again and wait for its end; PlumblineError if SLURM refuses. `done` is saved: "step 40"."""
        if self.tells:
            self._leave_note(done)
            answer = said_by(["scontrol", "requeue", self.job or ""])
            if answer.returncode:
                self._take_note_back()
                raise PlumblineError(
                    f"SLURM does not queue this job again: {(answer.stderr or answer.stdout).strip()}; all is saved up "
                    f"to {done}, and run again it goes on from there. With slurm-requeue: true in the profile it does "
                    "so by itself, where the cluster allows it"
                )
        time.sleep(ENDING)
        raise PlumblineError(f"SLURM queued this job again, and did not end it within {ENDING:.0f} s")

    def _leave_note(self, done: str) -> None:
        times = self.before.get("times", 0) + 1
        left = self.left() or 0.0
        print(
            f"handing over at {done}: {left:.0f} s are left of this job's time limit, a step takes up to "
            f"{self.longest:.0f} s{self._validation_text()} and a checkpoint {self.saving:.0f} s. SLURM is asked to "
            f"queue it again (hand-over {times})",
            flush=True,
        )
        if (progress := progress_file()) and log_beside(progress).is_file():
            shutil.copyfile(log_beside(progress), self.work / EARLIER)  # the next turn writes over it
        facts = {"times": times, "step_seconds": self.longest, "saving_seconds": self.saving}
        known = {} if self.validating is None else {"validation_seconds": self.validating}
        write_json(self.work / NOTE, facts | known)

    def _validation_text(self) -> str:
        return "" if self.validating is None else f", a validation {self.validating:.0f} s"

    def _take_note_back(self) -> None:
        if self.before:
            write_json(self.work / NOTE, self.before)
        else:
            (self.work / NOTE).unlink()
