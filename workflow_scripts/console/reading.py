"""What jobs tell of themselves, read from the files beside their logs: how far, how fast, how long still."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.progress import beside

TAIL = 16_384  # bytes from the end of a file: about a hundred lines
WINDOW = 20  # lines over which a pace is taken


class Stand(NamedTuple):
    """Where a job stands: its last line, tokens a second and seconds to go, None where nobody can say."""

    last: dict[str, Any]
    speed: float | None
    left: float | None


def last_lines(path: Path, most: int = TAIL) -> list[dict[str, Any]]:
    """Return the lines in the last `most` bytes of a file of JSON lines that can be read; none without a file."""
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most))
            lines = stream.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines[1 if size > most else 0 :]:  # the first may be half a line
        try:
            row = json.loads(line)
            known = isinstance(row["time"] + row["done"], int | float)
        except (ValueError, KeyError, TypeError):
            continue
        if known:
            found.append(row)
    return found


def pace(rows: list[dict[str, Any]], name: str) -> float | None:
    """Return how much a number grows a second over some lines, None where it does not."""
    told = [(row["time"], row[name]) for row in rows if row.get(name) is not None]
    if len(told) < 2:
        return None
    (first, before), (last, after) = told[0], told[-1]
    return (after - before) / (last - first) if last > first and after > before else None


def stand_of(log: str, since: float) -> Stand | None:
    """Return where a job stands that has begun at `since`, by its log; None where it has told nothing yet."""
    rows = [row for row in last_lines(beside(log)) if row["time"] >= since - 1] if log else []
    if not rows:
        return None
    rows = [row for row in rows if row.get("stage") == rows[-1].get("stage")][-WINDOW:]
    last, speed = rows[-1], pace(rows, "done")
    total = last.get("total")
    left = (total - last["done"]) / speed if speed and total else None
    return Stand(last, pace(rows, "tokens"), left)


class Cost(NamedTuple):
    """What a study's jobs have taken so far, by their cost files: those that finished."""

    seconds: float = 0.0
    tokens: int = 0
    usd: float = 0.0


def cost_of(results: Path) -> Cost:
    """Return what a study's finished jobs took: seconds of all jobs added up, tokens, US dollars."""
    total = Cost()
    for path in results.glob("costs/*/*.json"):
        try:
            found = read_json(path)
            judged = found.get("prompt_tokens", 0) + found.get("completion_tokens", 0)
            total = Cost(
                total.seconds + found.get("wall_seconds", 0.0),
                total.tokens + round(found.get("tokens", 0) + judged),
                total.usd + found.get("usd", 0.0),
            )
        except (PlumblineError, OSError, ValueError, TypeError, AttributeError):
            continue
    return total
