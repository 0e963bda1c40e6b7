"""What the console says, in plain words: times, where a job stands, a line of progress."""

import time
from typing import Any

from workflow_scripts.console.reading import Cost, Stand
from workflow_scripts.console.run import Job, Run

# What a job tells beside how far it is, and how it is called: the first that is there of each line.
FACTS = (("loss", "loss"), ("validation_loss", "validation loss"), ("reward", "reward"))


def short_time(seconds: float) -> str:
    """Return a time in few characters: 40 s, 3 min, 2.5 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def number(value: float) -> str:
    """Return a number as it is read at a glance: four digits, a blank at the thousands."""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 999.95 else f"{value:.4g}"


def dollars(usd: float) -> str:
    """Return an amount of money, to the cent, or finer where it is less."""
    return f"${usd:.2f}" if usd >= 0.01 or not usd else f"${usd:.4f}"


def far(last: dict[str, Any]) -> str:
    """Return how far a job is: 120/300 steps."""
    done, total = number(last["done"]), last.get("total")
    said = f"{done}/{number(total)}" if total is not None else done
    return f"{said} {last.get('unit', '')}".rstrip()


def facts(last: dict[str, Any]) -> list[str]:
    """Return what a job tells beside how far it is."""
    return [f"{words} {number(last[name])}" for name, words in FACTS if name in last]


def stand_words(stand: Stand | None, seconds: float) -> str:
    """Return where a job stands that has worked for so many seconds."""
    if stand is None:
        return f"since {short_time(seconds)}"
    parts = [far(stand.last), *facts(stand.last)]
    parts += [f"{number(stand.speed)} tokens/s"] if stand.speed else []
    parts += [f"{short_time(stand.left)} to go"] if stand.left else []
    parts += [dollars(stand.last["usd"])] if stand.last.get("usd") else []
    return ", ".join(parts)


def clock(now: float) -> str:
    """Return the time of the day."""
    return time.strftime("%H:%M:%S", time.localtime(now))


def counts(run: Run, cost: Cost, now: float) -> str:
    """Return a run in one line: how long, how much is done, what failed, what it cost."""
    failed = len(run.failed())
    parts = [f"{run.done} of {run.total} jobs"]
    parts += [f"{failed} failed"] if failed else []
    parts += [short_time((run.ended or now) - run.started)] if run.started else []
    parts += [f"{dollars(cost.usd)} spent"] if cost.usd else []
    return ", ".join(parts)


def progress_line(run: Run, stands: list[tuple[Job, Stand | None]], cost: Cost, now: float) -> str:
    """Return a run and the jobs at work in a plain line."""
    at_work = [f"{job.words}: {stand_words(stand, job.seconds(now))}" for job, stand in stands[:2]]
    more = [f"and {len(stands) - 2} jobs more"] if len(stands) > 2 else []
    return f"{clock(now)}  " + " | ".join([counts(run, cost, now), *at_work, *more])


def done_line(job: Job, stand: Stand | None, now: float) -> str:
    """Return a finished job in a plain line."""
    told = [far(stand.last), *facts(stand.last)] if stand else []
    return f"{clock(now)}  done: {job.words}, in {short_time(job.seconds(now))}" + (
        f" ({', '.join(told)})" if told else ""
    )
