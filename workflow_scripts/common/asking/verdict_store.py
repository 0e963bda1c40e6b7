"""A judge's verdicts, one JSON file each, named by the content of the request that they answer.

Covers reading, writing and who may ask for which verdict: safe for several processes and for a kill at any byte; and
recordings, files of verdicts that travel with a study, so that it runs where no endpoint is. This makes one of all that
a study paid for:

    python -m workflow_scripts.common.asking.verdict_store --study NAME --output FILE

Not covered: what a request or a verdict means, and clearing the store: a verdict is kept until somebody deletes it.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import canonical_json, digest, finished_file, read_jsonl, write_jsonl

SHARD = 3  # hex digits of the key that share a lock: 4096 empty files at most, and seldom two requests on one


def verdict_path(store: Path, key: str) -> Path:
    """Return where the verdict on a request is kept; `key` is the digest of the request."""
    return store / "verdicts" / key[:2] / f"{key}.json"


def read_verdict(store: Path, key: str) -> dict | None:
    """Return the stored verdict, or None where there is none, or none that is whole and answers this request."""
    try:
        entry = json.loads(verdict_path(store, key).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return entry if isinstance(entry, dict) and digest(entry.get("request")) == key else None


def write_verdict(store: Path, key: str, entry: dict) -> None:
    """Keep a verdict that was paid for; the caller holds `lock_of` its key.

    It is on the disk before its name appears: a verdict costs money, so it outlasts a power cut too.
    """
    path = verdict_path(store, key)
    for leftover in path.parent.glob(f".{path.name}.*"):  # of a writer that was killed: the lock is ours now
        leftover.unlink()
    with finished_file(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write(canonical_json(entry) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def lock_of(store: Path, key: str) -> filelock.FileLock:
    """Return the lock to hold while a verdict is asked for; the system frees it when its holder dies."""
    folder = store / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / f"{key[:SHARD]}.lock")


def read_recorded(path: Path | str) -> dict[str, dict]:
    """Return the entries of a recording by the digest of their requests; PlumblineError where a line is none.

    A recording without any is none either.
    """
    found = {}
    for number, entry in enumerate(read_jsonl(path), 1):
        if not {"request", "reply", "usage", "usd", "retries", "paid_by"} <= entry.keys():
            raise PlumblineError(
                f"{path}: row {number} is no recorded reply; record the study's replies anew"
            )
        found[digest(entry["request"])] = entry
    if not found:
        raise PlumblineError(f"{path}: holds no recorded reply; record the study's replies anew")
    return found


def paid_entries(store: Path, study: str) -> Iterator[dict]:
    """Yield the entries of a store that a study paid for, by their names."""
    for path in sorted(store.glob("verdicts/*/*.json")):
        entry = read_verdict(store, path.stem)
        if entry is not None and entry["paid_by"].partition("/")[0] == study:
            yield entry


def main() -> None:
    """Write the replies that a study paid for into one file, which a judge's `recorded` can name."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--store", type=Path, default=Path("work/judge"), help="folder of the replies paid for"
    )
    parser.add_argument("--study", required=True, help="whose replies")
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    # Who replays them pays nothing: neither the payer nor the retries are theirs.
    rows = [entry | {"paid_by": "", "retries": 0} for entry in paid_entries(arguments.store, arguments.study)]
    if not rows:
        raise PlumblineError(f"{arguments.store} holds nothing that study {arguments.study!r} paid for")
    print(f"{write_jsonl(arguments.output, rows)} replies written to {arguments.output}")


if __name__ == "__main__":
    run(main)
