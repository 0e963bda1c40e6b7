"""A judge's verdicts, one JSON file each, named by the content of the request that they answer.

Covers reading, writing and who may ask for which verdict: safe for several processes and for a kill at any byte.
Not covered: what a request or a verdict means, and clearing the store: a verdict is kept until somebody deletes it.
"""

import json
import os
from pathlib import Path

import filelock

from workflow_scripts.common.files import canonical_json, digest, finished_file

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
