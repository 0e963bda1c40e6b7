"""Where each number comes from: provenance.json, a record per policy, seed and benchmark, with an id for results.csv.

A record holds facts (digests of code, templates, judges, settings) and the sha256 of the files behind the score: the
score file itself, verdicts, prompts, and the manifests of generations, weights and datasets, each of which holds the
digests of its own files. The id is a digest of the record, so a row of results.csv names exactly one state of all of
them. The digests of the study and of the lock file stand at the head, once for all records.

`--tables` writes the digests of finished tables to a file beside them, for `workflow_scripts.report.verify`.

Not covered: hashing what the manifests list (verify does that), times and costs (costs.csv has them), signatures.
"""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, read_json, sha256_of, write_json
from workflow_scripts.common.settings import settings_of


class Settings(TypedDict):
    """What is said of the study once for all records: digests by name."""

    facts: dict[str, str]


PROVENANCE = "provenance.json"
TABLES = "tables.json"
ID_DIGITS = 12
RESERVED = {"id", "files", "accepted"}


def record_key(policy: str, seed: int | str, benchmark: str) -> str:
    """Return the name of a record: policy|seed|benchmark."""
    return f"{policy}|{seed}|{benchmark}"


def record_id(key: str, record: dict) -> str:
    """Return a record's id: 12 hex digits of the digest of its name, its facts and its files' digests."""
    return digest([key, {name: value for name, value in record.items() if name != "id"}])[:ID_DIGITS]


def accepted_behind(paths: Iterable[Path]) -> dict[str, list[dict]]:
    """Return, by score file, the acceptances that it rests on: [{"why", "on", "changed", "jobs": [names]}].

    `paths` are those of accepted.json; what is in none of its jobs' scores was made by the code that is told.
    """
    found: dict[str, list[dict]] = {}
    for each in (each for path in paths for each in read_json(path)["accepted"]):
        told = {key: each[key] for key in ("why", "on", "changed")}
        for score in sorted({score for job in each["jobs"] for score in job["scores"]}):
            jobs = [job["job"] for job in each["jobs"] if score in job["scores"]]
            found.setdefault(score, []).append(told | {"jobs": jobs})
    return found


def make_record(entry: dict, hashed: dict[str, str], accepted: Sequence[dict] = ()) -> dict:
    """Return {"id", facts ..., "files": {path: sha256}} of an entry of the index; `hashed` has every path's sha256.

    Where the score rests on work that was `accepted` after its code or pins had changed, the record says so.

    entry: {"policy", "seed", "benchmark", "facts": {name: JSON value}, "files": [path]}. Raises PlumblineError for a
    fact that is called as one of the record's own keys.
    """
    key = record_key(entry["policy"], entry["seed"], entry["benchmark"])
    taken = RESERVED & set(entry["facts"])
    if taken:
        raise PlumblineError(f"{key}: a fact may not be called {sorted(taken)[0]!r}; rename it")
    record = entry["facts"] | {"files": {path: hashed[path] for path in entry["files"]}}
    if accepted:
        record["accepted"] = list(accepted)
    return {"id": record_id(key, record)} | record


def provenance(
    index: list[dict], facts: dict[str, str], accepted: Mapping[str, list[dict]] | None = None
) -> dict:
    """Return the value of provenance.json: the study's facts and "records", {policy|seed|benchmark: record}.

    index: an entry per score, see make_record; accepted: see accepted_behind. A file behind many scores is read once.
    Raises PlumblineError for a file that does not exist and for a score that is there twice.
    """
    keys = [record_key(entry["policy"], entry["seed"], entry["benchmark"]) for entry in index]
    if len(set(keys)) < len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise PlumblineError(f"{twice}: two records; a policy, seed and benchmark have one score")
    if "records" in facts:
        raise PlumblineError("provenance: a fact of the study may not be called 'records'; rename it")
    hashed: dict[str, str] = {}
    for key, entry in zip(keys, index, strict=True):
        for path in entry["files"]:
            if path not in hashed:
                hashed[path] = _existing_digest(path, key)
    return facts | {
        "records": {
            key: make_record(entry, hashed, (accepted or {}).get(entry.get("file", ""), ()))
            for key, entry in zip(keys, index, strict=True)
        }
    }


def _existing_digest(path: str, key: str) -> str:
    if not Path(path).is_file():
        raise PlumblineError(f"{key}: {path}: no such file; run the study again to make it")
    return sha256_of(path)


def table_digests(tables: list[Path], folder: Path) -> dict[str, str]:
    """Return {path relative to `folder`: sha256} of finished tables; PlumblineError where one does not exist."""
    return {os.path.relpath(path, folder): _existing_digest(str(path), TABLES) for path in tables}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--index", type=Path, help="scores.json: policy, seed, benchmark, facts, files of each score"
    )
    what.add_argument("--tables", nargs="+", type=Path, help="finished tables, for tables.json")
    parser.add_argument(
        "--settings", type=settings_of(Settings), help='with --index: {"facts": {name: digest}}'
    )
    parser.add_argument(
        "--accepted", nargs="*", default=[], type=Path, help="with --index: files of what was let stand"
    )
    parser.add_argument("--output", type=Path, required=True, help="provenance.json, or tables.json")
    arguments = parser.parse_args()
    if arguments.index and not arguments.settings:
        parser.error("--index needs --settings")
    if arguments.index:
        accepted = accepted_behind(arguments.accepted)
        value = provenance(read_json(arguments.index), arguments.settings["facts"], accepted)
    else:
        value = table_digests(arguments.tables, arguments.output.parent)
    write_json(arguments.output, value)


if __name__ == "__main__":
    run(main)
