"""How much room folders take, and which files were paid for. Nothing is changed here.

Room is what the disk has set aside (blocks, not lengths); a file under two names counts once, a link as itself and not
as what it leads to. Not covered: what a file system compresses or shares between copies.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512  # bytes, by POSIX
STORE = Path("work/judge")  # replies of endpoints, which were paid for
WEIGHTS = {".safetensors", ".gguf", ".pt", ".bin", ".h5", ".npz"}
ANSWERS = {
    "generations",
    "likelihoods",
    "verdicts",
    "rewards",
    "scores",
    "judging",
    "asking",
    "written",
    "items",
}
LOGS = {"logs", "costs", "tracking"}
RECORDED = {"request", "reply", "usage", "usd", "retries", "paid_by"}  # the keys of a reply that was paid for


class Paid(NamedTuple):
    """A reply that was paid for: its file, who paid (study/part), how much in US dollars."""

    file: Path
    study: str
    usd: float


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files and links below a folder, or the path itself where it is a file or a link."""
    if folder.is_symlink() or folder.is_file():
        yield folder
        return
    for base, names, files in os.walk(folder):
        yield from (Path(base, name) for name in files)
        yield from (path for name in names if (path := Path(base, name)).is_symlink())


def room(folder: Path) -> int:
    """Return the bytes that a folder takes; 0 where there is none."""
    seen: set[tuple[int, int]] = set()
    return sum(sized(path, seen) for path in files_below(folder))


def sized(path: Path, seen: set[tuple[int, int]]) -> int:
    """Return the bytes that a file takes, 0 where it is among the files `seen` before, or gone by now."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    if found.st_nlink > 1:
        if (found.st_dev, found.st_ino) in seen:
            return 0
        seen.add((found.st_dev, found.st_ino))
    return found.st_blocks * BLOCK


def kind_of(path: Path) -> str:
    """Return what a file of a study's results is, by its path below results/STUDY: weights, answers, logs or other."""
    if path.parts and path.parts[0] in LOGS:
        return "logs"
    if path.suffix in WEIGHTS:
        return "weights"
    return "answers" if ANSWERS & set(path.parts) else "other"


def of_study(results: Path) -> dict[str, int]:
    """Return the bytes of a study's results by kind."""
    found = dict.fromkeys(("weights", "answers", "logs", "other"), 0)
    seen: set[tuple[int, int]] = set()
    for path in files_below(results):
        found[kind_of(path.relative_to(results))] += sized(path, seen)
    return found


def hours_and_dollars(results: Path) -> tuple[float, float]:
    """Return (hours of all jobs one after another, US dollars) by a study's cost files; broken ones count nothing."""
    hours = dollars = 0.0
    for file in results.glob("costs/*/*.json"):
        cost = read(file)
        hours += number(cost, "wall_seconds") / 3600
        dollars += number(cost, "usd")
    return hours, dollars


def number(found: dict, key: str) -> float:
    value = found.get(key, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def read(file: Path) -> dict:
    """Return the object in a JSON file, {} where there is none to be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def paid_replies(store: Path = STORE) -> list[Paid]:
    """Return the replies of a store that were paid for; a file that is none of ours counts as one that cost nothing."""
    found = []
    for file in sorted(store.glob("verdicts/*/*.json")):
        entry = read(file)
        study = str(entry.get("paid_by", "")).partition("/")[0]
        found.append(Paid(file, study, number(entry, "usd")))
    return found


def recordings(folder: Path) -> list[Path]:
    """Return the files below a folder that hold recorded replies: they were paid for, wherever somebody put them."""
    return [path for path in files_below(folder) if path.suffix == ".jsonl" and is_recording(path)]


def is_recording(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8") as stream:
            first = json.loads(stream.readline())
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and first.keys() >= RECORDED


def gigabytes(count: int) -> str:
    """Return bytes in GB, with as many digits as tell something of a small folder."""
    digits = 3 if count < 9.95e7 else 2 if count < 9.95e9 else 0
    return f"{count / 1e9:,.{digits}f}"
