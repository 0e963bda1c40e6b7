"""Several cleaned datasets as one: rows of each by weight, drawn by seed, no group in two splits, all of it counted.

Each split of the mixture is made of the same split of its datasets. With `rows` there are at most so many in a split,
shared out by weight, and fewer where a dataset runs out: weights hold, whatever there is. Without `rows` a weight says
how much of a dataset is taken: 0.1 a tenth, 3 all of it three times (Tulu V2 has its hard-coded rows ten times).
"""

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from workflow_scripts.clean.ledger import count_reasons, tell
from workflow_scripts.clean.selecting import apportion
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_folder, read_jsonl, sha256_of, write_jsonl, write_manifest
from workflow_scripts.common.settings import settings_of

Row = dict[str, Any]
ELSEWHERE, OUTSIDE = "group is in another split", "outside the mixture"


class Settings(TypedDict):
    """What the step reads: {dataset: weight}; whose groups mean nothing in another dataset is in `own_groups`."""

    mixture: dict[str, float]
    rows: int | None
    by: Literal["random", "first"]
    seed: int
    own_groups: list[str]


def renamed(row: Row, dataset: str, own_group: bool) -> Row:
    """Return a dataset's row as one of the mixture: its id says whose it is, and so does a group of its own."""
    group = f"{dataset}/{row['group']}" if own_group else row["group"]
    return row | {"id": f"{dataset}/{row['id']}", "group": group}


def dataset_of(row: Row) -> str:
    """Return the dataset that a row of the mixture comes from."""
    return row["id"].partition("/")[0]


def shares_of(sizes: dict[str, int], settings: Settings) -> dict[str, int]:
    """Return how many rows each dataset gives to a split, of which it has `sizes`; more than it has, if so weighted."""
    weights = {name: Fraction(str(settings["mixture"][name])) for name in sizes}
    if settings["rows"] is None:
        return {name: math.floor(weight * sizes[name]) for name, weight in weights.items()}
    whole = sum(weights.values())
    most = min(sizes[name] * whole / weight for name, weight in weights.items())
    return apportion(min(settings["rows"], math.floor(most)), weights)


def in_random_order(rows: list[Row], count: int, draws: random.Random) -> list[Row]:
    """Return so many rows as there are wanted, drawn; each is drawn once before any is drawn again."""
    order = [row for _ in range(math.ceil(count / len(rows))) for row in draws.sample(rows, k=len(rows))]
    return order[:count]


def first_rows(rows: list[Row], count: int, draws: random.Random) -> list[Row]:
    """Return so many rows as there are wanted, from the first on, and from the first on again behind the last."""
    return [rows[place % len(rows)] for place in range(count)]


ORDERS: dict[str, Callable[[list[Row], int, random.Random], list[Row]]] = {
    "random": in_random_order,
    "first": first_rows,
}


def mix_split(
    split: str, datasets: dict[str, list[Row]], settings: Settings
) -> tuple[list[Row], dict[str, int]]:
    """Return a split of the mixture, and how many rows each dataset gave.

    A row that is taken again has an id of its own.
    """
    shares = shares_of({name: len(rows) for name, rows in datasets.items()}, settings)
    draws = random.Random(f"{settings['seed']} {split}")
    taken: list[Row] = []
    for name, rows in datasets.items():
        times: Counter[str] = Counter()
        for row in ORDERS[settings["by"]](rows, shares[name], draws) if shares[name] else ():
            times[row["id"]] += 1
            again = times[row["id"]]
            taken.append(row if again == 1 else row | {"id": f"{name}/{again}/{row['id'].partition('/')[2]}"})
    if settings["by"] == "random":
        draws.shuffle(taken)
    return taken, shares


def turns_in(row: Row) -> int:
    """Return how many turns a row has, its candidates among them, as cleaning counts them."""
    said = sum(message["role"] != "system" for message in row["messages"])
    return said + len(row.get("candidates", []))


def size_of(rows: list[Row]) -> dict[str, int]:
    """Return how many conversations, groups and turns a split of finished rows has."""
    groups = {row["group"] for row in rows}
    return {"conversations": len(rows), "groups": len(groups), "turns": sum(map(turns_in, rows))}


def apart(
    splits: dict[str, dict[str, list[Row]]], own_groups: list[str]
) -> tuple[dict[str, dict[str, list[Row]]], list[Row]]:
    """Return {split: {dataset: rows}} with ids and groups of the mixture, no group in two splits, and what fell out.

    A group stays in the first split that any dataset has it in.
    """
    home: dict[str, str] = {}
    kept: dict[str, dict[str, list[Row]]] = {}
    lost = []
    for split, datasets in splits.items():
        kept[split] = {name: [] for name in datasets}
        for name, rows in datasets.items():
            for row in (renamed(row, name, name in own_groups) for row in rows):
                if home.setdefault(row["group"], split) == split:
                    kept[split][name].append(row)
                else:
                    lost.append(refusal(row, split, ELSEWHERE, home[row["group"]]))
    return kept, lost


def refusal(row: Row, split: str, reason: str, detail: str = "") -> Row:
    """Return what is written of a row that is in no split of the mixture."""
    found = {"level": "row", "reason": reason, "detail": detail, "turns": turns_in(row)}
    return {"file": f"{dataset_of(row)}/{split}", "id": row["id"], **found}


def counts_of(files: list[str], mixed: dict[str, list[Row]], rejected: list[Row]) -> dict[str, Any]:
    """Return {dataset/split: what was read, kept and rejected of it}; a row that is taken again is read again."""
    kept = {file: Counter[str]() for file in files}
    lost = {file: Counter[str]() for file in files}
    for split, rows in mixed.items():
        for row in rows:
            kept[f"{dataset_of(row)}/{split}"].update(rows=1, turns=turns_in(row))
    for row in rejected:
        lost[row["file"]].update(rows=1, turns=row["turns"])
    return {
        file: {
            unit: {
                "read": kept[file][unit] + lost[file][unit],
                "kept": kept[file][unit],
                "rejected": lost[file][unit],
            }
            for unit in ("rows", "turns")
        }
        for file in files
    }


def said(split: str, sizes: dict[str, int], shares: dict[str, int], wanted: int | None) -> list[str]:
    """Return what is to be said of a split: what each dataset gave, and why there are fewer rows than wanted."""
    given = ", ".join(f"{share} of the {sizes[name]} of {name}" for name, share in shares.items())
    lines = [f"{split}: {sum(shares.values())} rows, {given}"]
    if wanted and sum(shares.values()) < wanted:
        short = min(shares, key=lambda name: sizes[name] - shares[name])
        lines.append(f"{split}: not {wanted} rows, as {short} has no more for its share")
    return lines


def mix(files: dict[str, dict[str, str]], settings: Settings, output: str, manifest: str) -> None:
    """Mix {split: {dataset: file of rows}} into `<output>/<split>.jsonl`, rejected.jsonl and the manifest.

    PlumblineError if a split stays empty.
    """
    read = {split: {name: read_jsonl(path) for name, path in found.items()} for split, found in files.items()}
    splits, rejected = apart(read, settings["own_groups"])
    mixed: dict[str, list[Row]] = {}
    shares: dict[str, dict[str, int]] = {}
    for split, datasets in splits.items():
        sizes = {name: len(rows) for name, rows in datasets.items()}
        mixed[split], shares[split] = mix_split(split, datasets, settings)
        taken = {row["id"] for row in mixed[split]}
        if not taken:
            there = ", ".join(f"{size} rows of {name}" for name, size in sizes.items())
            raise PlumblineError(
                f"split '{split}' of the mixture stays empty, made of {there}: give more, or other weights"
            )
        rejected += [
            refusal(row, split, OUTSIDE)
            for rows in datasets.values()
            for row in rows
            if row["id"] not in taken
        ]
        for line in said(split, sizes, shares[split], settings["rows"]):
            print(line, file=sys.stderr)

    with finished_folder(output) as folder:
        for split, rows in mixed.items():
            write_jsonl(folder / f"{split}.jsonl", rows)
        write_jsonl(folder / "rejected.jsonl", rejected)
    names = [f"{name}/{split}" for split, found in files.items() for name in found]
    counts, reasons = counts_of(names, mixed, rejected), count_reasons(rejected)
    again = sum(
        max(share - len(splits[split][name]), 0) for split in shares for name, share in shares[split].items()
    )
    notes = {"rows taken again": again} if again else {}
    write_manifest(
        manifest,
        [Path(output) / f"{name}.jsonl" for name in [*mixed, "rejected"]],
        counts=counts,
        splits={split: size_of(rows) for split, rows in mixed.items()},
        made_of={
            f"{name}/{split}": sha256_of(path)
            for split, found in files.items()
            for name, path in found.items()
        },
        rejected=reasons,
        notes=notes,
    )
    for line in tell(counts, reasons, notes):
        print(line, file=sys.stderr)


def files_of(words: list[str]) -> dict[str, dict[str, str]]:
    """Return {split: {dataset: file}} of words NAME/SPLIT=FILE."""
    files: dict[str, dict[str, str]] = {}
    for word in words:
        name, _, path = word.partition("=")
        dataset, _, split = name.partition("/")
        files.setdefault(split, {})[dataset] = path
    return files


def main() -> None:
    """Read the flags and mix the rows they name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", required=True, help="DATASET/SPLIT=FILE of each file of rows")
    parser.add_argument("--settings", required=True, type=settings_of(Settings), help="the mixture, as JSON")
    parser.add_argument("--output", required=True, help="folder for the splits and rejected.jsonl")
    parser.add_argument("--manifest", required=True)
    arguments = parser.parse_args()
    mix(files_of(arguments.rows), arguments.settings, arguments.output, arguments.manifest)


if __name__ == "__main__":
    run(main)
