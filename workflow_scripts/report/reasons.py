"""Why a job failed, in one line, and the key to change where one helps: by its log and by how its command ended.

Covers memory (a GPU's, the machine's, the system's own hand), signals by name, a full disk, what is not finite, an
endpoint that is down, the limits of a scheduler. Of anything else the reason is what its log says last.
"""

import re
import signal
from typing import NamedTuple

from workflow_scripts.common.errors import FULL_IN_WORDS

LONGEST = 220  # characters of a line
SHELL = 128  # what a shell adds to the number of the signal that ended a command
ENDED = re.compile(
    r"returned non-zero exit status (\d+)|died with <Signals\.(\w+): (\d+)>"
)  # in Snakemake's own words
UNSEEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")  # colours, and what moves a cursor


class Why(NamedTuple):
    """Why a job failed, and what to do about it ("" where only its log can say)."""

    reason: str
    advice: str


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return a text from anywhere as one line to show: without control characters, and cut where it is long."""
    line = " ".join(UNSEEN.sub("", text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def exit_status(words: str) -> int | None:
    """Return the exit status, 128 and more for a signal, that Snakemake's words of a failed command tell."""
    for found in reversed(list(ENDED.finditer(words))):
        return int(found[1]) if found[1] else SHELL + int(found[3])
    return None


def last_said(log: str) -> list[str]:
    """Return the lines of a log that say something, fit to be shown."""
    return [line for line in map(one_line, log.splitlines()) if line]


# --- what to change ------------------------------------------------------------------------------------------------

TRAINS = re.compile(r"train_|fit_value")
ANSWERS = re.compile(r"answer_")


def smaller(rule: str) -> str:
    """Return the keys that make a job of a rule take less memory."""
    if TRAINS.match(rule):
        return "a smaller per_device_batch (memory alone) or max_tokens of its run"
    if ANSWERS.match(rule):
        return "a smaller batch_size, max_new_tokens or limit of what it answers"
    return "a smaller batch_size or max_tokens of what it works on"


def resources(rule: str) -> str:
    """Return where it says what a job of a rule asks for."""
    return f"{'training' if TRAINS.match(rule) else 'generation'}_resources, or the profile"


def memory_advice(rule: str) -> str:
    """Return what to do about a job of a rule that takes more memory than the machine has."""
    return f"{smaller(rule)}; on a cluster more mem_mb ({resources(rule)}); here fewer jobs at once (CORES=1)"


# --- what a log says -----------------------------------------------------------------------------------------------

NO_GPU_MEMORY = re.compile(r"(?:CUDA|HIP) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
ASKED = re.compile(r"[Tt]ried to allocate (\S+ ?(?:[KMGT]i?B|bytes)?)")
NO_MEMORY = re.compile(
    r"can't allocate memory|Cannot allocate memory|MemoryError|std::bad_alloc|no memory left|oom[-_ ]kill|"
    r"OUT_OF_MEMORY|OutOfMemory",
    re.IGNORECASE,
)
SIGNALLED = re.compile(
    r"ended by (?:(SIG\w+) )?\(?signal (\d+)\)?|Signal (\d+) \((SIG\w+)\)|exitcode ?: ?-(\d+)"
)
NOT_FINITE = re.compile(r"diverged at step|not finite|contains? nan|\bnan\b.{0,40}\bloss\b", re.IGNORECASE)
DIVERGED = re.compile(r"error: .* diverged at step ")  # which no job fails by: the table says it
NO_JUDGE = re.compile(
    r"cannot be reached|requests in a row without a reply|Connection refused|no connection in time"
)
TIMED_OUT = re.compile(r"DUE TO TIME LIMIT|TIMEOUT")


def signal_words(number: int) -> str:
    """Return a signal by its name."""
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


def by_signal(number: int, rule: str) -> Why:
    """Return why a job ended that a signal ended."""
    name = signal_words(number)
    if number == signal.SIGKILL:
        said = f"killed by {name}: out of memory, most likely, for that is how the system ends who takes too much"
        return Why(said, f"if nobody ended it by hand: {memory_advice(rule)}")
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return Why(f"ended from outside by {name}: by hand, by a scheduler or by a shutdown", "")
    if number == signal.SIGBUS:
        return Why(
            f"ended by {name}: a disk, or the shared memory in /dev/shm, is full", "free some and go on"
        )
    return Why(
        f"crashed with {name}: a fault of a library, not of the study",
        "go on; if it comes again, its log is what to report",
    )


def signal_of(tail: str, status: int | None) -> int | None:
    """Return the signal that ended a job, by its exit status or by what its launcher says last."""
    if status is not None and SHELL < status <= SHELL + 64:
        return status - SHELL
    for found in reversed(list(SIGNALLED.finditer(tail))):
        return int(found[2] or found[3] or found[5])
    return None


def given_up(rule: str, log: str) -> str:
    """Return what a training says that ended well, as a job, and came to nothing: that it diverged; else ""."""
    last = next(iter(last_said(log)[-1:]), "")
    return last.removeprefix("error: ") if TRAINS.match(rule) and DIVERGED.match(last) else ""


def why_failed(rule: str, log: str, status: int | None = None) -> Why:
    """Return why a job of a rule failed, by the text of its log and its exit status where that is known."""
    said = last_said(log)
    tail = "\n".join(said[-40:])
    last_error = next((line for line in reversed(said) if line.startswith("error: ")), "")
    if FULL_IN_WORDS.search(tail) or "no space left in" in tail:
        where = re.search(r"no space left in ([^:(]+?) \(", tail)
        return Why(
            f"no space left {f'in {where[1]}' if where else 'on the disk'}",
            "free some (`du -sh results work data`), or make results, work or data a link to another disk; TMPDIR "
            "names where temporary files go",
        )
    if NO_GPU_MEMORY.search(tail):
        asked = ASKED.search(tail)
        more = f": {asked[1].strip().rstrip('.')} more were asked for than were free" if asked else ""
        return Why(
            f"out of memory on the GPU{more}",
            f"{smaller(rule)}{', gradient_checkpointing: true, or lora' if TRAINS.match(rule) else ''}",
        )
    if number := signal_of(tail, status):
        return by_signal(number, rule)
    if NO_MEMORY.search(tail):
        asked = ASKED.search(tail)
        more = f": {asked[1].strip().rstrip('.')} were asked for at once" if asked else ""
        return Why(f"out of memory on this machine{more}", memory_advice(rule))
    if NO_JUDGE.search(tail):
        return Why(
            last_error.removeprefix("error: ").partition("; ")[0] or f"no endpoint answers: {said[-1]}",
            "start it, or correct base_url of the judge (or of the policy that it is); what it has answered is kept, "
            "and is not paid for again",
        )
    if TIMED_OUT.search(tail):
        return Why(
            "it took longer than the scheduler lets it",
            f"raise runtime_minutes ({resources(rule)}: runtime); it goes on where it was",
        )
    if NOT_FINITE.search(tail):
        return Why(
            last_error.removeprefix("error: ") or said[-1],
            "lower learning_rate or max_grad_norm, or warm up longer",
        )
    if said:
        return Why((last_error or said[-1]).removeprefix("error: "), "")
    how = f" (exit status {status})" if status is not None else ""
    return Why(f"it ended{how} without a word in its log", "")
