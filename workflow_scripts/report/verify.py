"""Is everything behind a results table still what it was? Names each file, record, row and value that is not.

Hashed anew: the finished tables (tables.json), every file of every record (provenance.json), and every file that a
manifest among them lists: weights, dataset rows, generations. Compared: each record's id with its content, each row
of results.csv with the record it names, and each value and count with the score files. Finds edits, losses and
flipped bits.

Weights that the study's `keep_weights` has removed are named as that, and are no loss.

Not covered: files that no manifest lists (one put beside the weights), a forger who also rewrites tables.json, and
whether running the study again would give these files. Where rows rest on work that was let stand after a change of
code or pins (`make accept`), or on adopted weights, it says so.
"""

import argparse
import itertools
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, read_json, sha256_of
from workflow_scripts.report.provenance import ID_DIGITS, PROVENANCE, TABLES, record_id, record_key
from workflow_scripts.report.removed import removed_by
from workflow_scripts.report.rows import cell_name
from workflow_scripts.report.scores import ALL, load_score
from workflow_scripts.report.spreadsheets import number_text, read_csv
from workflow_scripts.report.statistics.cells import Cell, shared_items
from workflow_scripts.report.statistics.estimators import point_estimate

RESULTS = "results.csv"
INDEX = "scores.json"
NEEDED = {"policy", "seed", "seeds", "benchmark", "subset", "metric", "value", "n", "provenance"}
SHA256 = re.compile(r"[0-9a-f]{64}")
SHOWN = 16  # digits of a digest in a message: enough to find it in the output of sha256sum
NAMED = 3  # scores named behind a changed file
ROUNDING = 1e-5  # relative: the table has six digits, and another machine may add in another order


@dataclass
class Checked:
    """What was looked at, and what is wrong, in lines for people; `found`: digests of files, `wrong`: the bad files.

    removed: {manifest: what keep_weights was} of weights that a run has taken away on purpose.
    """

    files: int = 0
    bytes: int = 0
    rows: int = 0
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    found: dict[str, str | None] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    removed: dict[str, str] = field(default_factory=dict)


def check_file(checked: Checked, path: str, expected: str, why: str) -> None:
    """Note a file that has not the expected sha256, and `why` it matters; each file is read once."""
    path = os.path.normpath(path)
    if path not in checked.found:
        checked.found[path] = _hashed(checked, path)
    found = checked.found[path]
    if found != expected:
        checked.wrong.add(path)
    if found is None:
        checked.missing.append(f"{path}: expected sha256 {expected[:SHOWN]}, found no file to read; {why}")
    elif found != expected:
        checked.changed.append(f"{path}: expected sha256 {expected[:SHOWN]}, found {found[:SHOWN]}; {why}")


def _hashed(checked: Checked, path: str) -> str | None:
    try:
        found = sha256_of(path)
        checked.bytes += os.path.getsize(path)
    except OSError:
        return None
    checked.files += 1
    return found


def listed_files(path: str) -> dict[str, str]:
    """Return {path: sha256} of what a manifest lists, {} for any other file; its names are relative to it."""
    if not path.endswith(".json"):
        return {}
    try:
        value = read_json(path)
    except PlumblineError:
        return {}  # missing, or no JSON any more: the file itself has been named
    files = value.get("files") if isinstance(value, dict) else None
    if not _are_digests(files):
        return {}
    return {os.path.join(os.path.dirname(path), name): found for name, found in files.items()}


def _are_digests(files: Any) -> bool:
    return isinstance(files, dict) and all(SHA256.fullmatch(str(found)) for found in files.values())


def read_records(path: Path) -> dict[str, dict]:
    """Return the records of a provenance.json; PlumblineError where it has not that shape."""
    value = read_json(path)
    records = value.get("records") if isinstance(value, dict) else None
    if not isinstance(records, dict):
        raise PlumblineError(f"{path}: no 'records'; run the study again to write it anew")
    for key, record in records.items():
        if key.count("|") != 2 or not isinstance(record, dict) or not _are_digests(record.get("files")):
            raise PlumblineError(
                f"{path}: record {key!r} is not a policy|seed|benchmark with 'id' and 'files'; run the study again "
                "to write it anew"
            )
    return records


def check_records(checked: Checked, records: dict[str, dict], where: Path) -> None:
    """Check each record's id against its content, and the files of all records and of the manifests among them."""
    behind: dict[tuple[str, str], list[str]] = {}
    for key, record in records.items():
        content = record_id(key, record)
        if record.get("id") != content:
            checked.changed.append(
                f"{where}: record {key}: expected content of id {record.get('id')}, found content of id {content}"
            )
        for path, expected in record["files"].items():
            behind.setdefault((path, expected), []).append(key)
    for (path, expected), keys in behind.items():
        scores = _behind(keys)
        check_file(checked, path, expected, scores)
        for member, of_member in listed_files(path).items():
            if not os.path.exists(member) and (why := removed_by(os.path.dirname(path))):
                checked.removed[path] = why
            else:
                check_file(checked, member, of_member, f"listed in {path}, {scores}")


def _behind(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"behind {', '.join(keys[:NAMED])}{more}"


def check_tables(checked: Checked, path: Path) -> None:
    """Check the digests of the finished tables, {path relative to tables.json: sha256}."""
    if not path.is_file():
        checked.missing.append(f"{path}: expected the digests of the tables, found no file")
        return
    tables = read_json(path)
    if not _are_digests(tables):
        raise PlumblineError(
            f"{path}: expected the sha256 of each table; run the study again to write it anew"
        )
    for name, expected in tables.items():
        check_file(checked, str(path.parent / name), expected, f"listed in {path}")


def check_rows(checked: Checked, path: Path, records: dict[str, dict]) -> list[dict]:
    """Return the table's rows; check that each carries the id of its record, and that every record has a row.

    A row of several seeds carries the digest of its records' ids, in the order of the seeds as text.
    """
    try:
        rows = read_csv(path)
    except (OSError, PlumblineError):
        checked.missing.append(f"{path}: expected a results table, found no file to read")
        return []
    lacking = sorted(NEEDED - set(rows[0])) if rows else []
    if lacking:
        checked.changed.append(f"{path}: expected the column {lacking[0]!r}, found none")
        return []
    seen = set()
    wrong: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows, 2):  # line 1 is the header
        keys = _keys_of(row, records)
        seen.update(keys)
        allowed = _allowed_ids([records[key].get("id") for key in keys], row["seeds"])
        if row["provenance"] not in allowed:
            score = f"{row['policy']} seed {row['seed']} {row['benchmark']}"
            expected = " or ".join(map(str, allowed)) or "of a record, which is not there"
            wrong.setdefault((score, expected, row["provenance"] or "none"), []).append(number)
    for (score, expected, found), lines in wrong.items():
        where = f"{path}:{lines[0]}" + (f" and {len(lines) - 1} more rows" if len(lines) > 1 else "")
        checked.changed.append(f"{where}: {score}: expected provenance {expected}, found {found}")
    checked.rows += len(rows)
    checked.missing += [f"{path}: {key}: expected a row, found none" for key in records if key not in seen]
    return rows


def _keys_of(row: dict, records: dict[str, dict]) -> list[str]:
    """Return the names of the records behind a row, in the order of their seeds as text."""
    if row["seed"] != ALL:
        key = record_key(row["policy"], row["seed"], row["benchmark"])
        return [key] if key in records else []
    parts = [key.split("|") for key in records]
    seeds = sorted(
        seed for policy, seed, name in parts if (policy, name) == (row["policy"], row["benchmark"])
    )
    return [record_key(row["policy"], seed, row["benchmark"]) for seed in seeds]


def _allowed_ids(ids: list[str], seeds: str) -> list[str]:
    """Return the ids a row of so many seeds may carry: a cell that some seeds lack is made of the other ones."""
    picks = itertools.combinations(ids, int(seeds)) if seeds.isdecimal() and int(seeds) else []
    return [pick[0] if len(pick) == 1 else digest(pick)[:ID_DIGITS] for pick in picks]


def check_values(checked: Checked, path: Path, rows: list[dict], index: list[dict]) -> None:
    """Check each value and count of the table against the score files that `index` lists.

    Rows of a score file that is changed or missing are left out: it has been named, and its numbers say nothing.
    """
    files: dict[tuple, list[str]] = {}
    for entry in sorted(index, key=lambda entry: str(entry["seed"])):
        for seed in (str(entry["seed"]), ALL):
            files.setdefault((entry["policy"], seed, entry["benchmark"]), []).append(entry["file"])
    loaded: dict[str, dict] = {}
    for number, row in enumerate(rows, 2):
        own = files.get((row["policy"], row["seed"], row["benchmark"]), [])
        if any(os.path.normpath(file) in checked.wrong or not os.path.isfile(file) for file in own):
            continue
        for file in own:
            if file not in loaded:
                loaded[file] = load_score(file)["cells"]
        name = (row["subset"], row["metric"])
        cells = [loaded[file][name]["cell"] for file in own if name in loaded[file]]
        value, count = _estimate_of(cells)
        if not _same(value, row["value"]) or str(count) != row["n"]:
            checked.changed.append(
                f"{path}:{number}: {row['policy']} seed {row['seed']} {cell_name(row)}: "
                f"expected {_said(value, count)} (from {', '.join(own) or 'no score'}), "
                f"found {_said(row['value'], row['n'])}"
            )


def _estimate_of(cells: list[Cell]) -> tuple[float | None, int]:
    """Return the estimate over the seeds' shared items and how many these are; None where there are none."""
    shared = shared_items(cells) if cells else []
    if not shared or not shared[0].items:
        return None, 0
    return point_estimate(shared), len(shared[0].items)


def _same(value: float | None, text: str) -> bool:
    unknown = value is None or not math.isfinite(value)  # the table has no value that is not finite
    if unknown or not text:
        return unknown and not text
    try:
        return math.isclose(value, float(text), rel_tol=ROUNDING, abs_tol=1e-9)
    except ValueError:
        return False


def _said(value: float | str | None, count: int | str) -> str:
    number = (
        "no value"
        if value in (None, "")
        else f"value {value if isinstance(value, str) else number_text(value)}"
    )
    return f"{number} on {count} items"


def verify(folder: Path) -> Checked:
    """Return what was checked of a study's folder, and what was wrong; paths are those of the working directory.

    Raises PlumblineError when there is no provenance.json, or none of its files: another folder to start in.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        raise PlumblineError(
            f"{path}: no such file; run the study to its results first (make results STUDY=...)"
        )
    records = read_records(path)
    if not any(os.path.exists(name) for record in records.values() for name in record["files"]):
        raise PlumblineError(
            f"{path}: none of its files is here; start in the folder that the study was run in, "
            "if they were not deleted"
        )
    checked = Checked()
    check_tables(checked, folder / TABLES)
    check_records(checked, records, path)
    rows = check_rows(checked, folder / RESULTS, records)
    if (folder / INDEX).is_file():
        check_values(checked, folder / RESULTS, rows, read_json(folder / INDEX))
    else:
        checked.missing.append(f"{folder / INDEX}: expected the list of score files, found no file")
    return checked


def told_of(records: dict[str, dict]) -> list[str]:
    """Return a line for each acceptance that rows rest on, and for each adopted policy, with how many records do."""
    behind: dict[str, int] = {}
    for record in records.values():
        lines = [f"accepted on {each['on']}: {each['why']}" for each in record.get("accepted", [])]
        lines += [f"adopted, not trained here: {name}" for name in record.get("adopted", [])]
        for line in dict.fromkeys(lines):
            behind[line] = behind.get(line, 0) + 1
    return [f"{line} (behind {count} of {len(records)} scores)" for line, count in behind.items()]


def summary(checked: Checked) -> str:
    """Return how much was checked, and how much of it was wrong."""
    wrong = [
        f"{len(lines)} {what}"
        for what, lines in (("changed", checked.changed), ("missing", checked.missing))
        if lines
    ]
    count = (
        f"{checked.files} files ({checked.bytes / 1e9:.2f} GB) and {checked.rows} rows of {RESULTS} checked"
    )
    return f"{count}: {', '.join(wrong) or 'all as recorded'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="results/<study>; start it where the study was run")
    arguments = parser.parse_args()
    checked = verify(arguments.folder)
    for line in told_of(read_records(arguments.folder / PROVENANCE)):
        print(line)
    for path, why in checked.removed.items():
        print(f"weights removed on purpose (keep_weights: {why}), not checked: {os.path.dirname(path)}")
    for what, lines in (("changed", checked.changed), ("missing", checked.missing)):
        for line in lines:
            print(f"{what}: {line}")
    if checked.changed or checked.missing:
        raise PlumblineError(
            f"{arguments.folder}: {summary(checked)}; restore the files named above, or delete "
            f"{arguments.folder}/results.csv and run the study again: as long as the table is there, nothing looks for "
            "what it rests on"
        )
    print(f"{arguments.folder}: {summary(checked)}")


if __name__ == "__main__":
    run(main)
