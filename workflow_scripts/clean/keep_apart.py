"""Take out of what is learned from the questions that other datasets hold out for benchmarks and validation.

Two rows ask the same where their first user turns are the same text but for case, spacing and compatibility forms of
characters, as groups compare them; where either dataset groups by problem, but also for what stands behind "Facts:" and
a "Q." in front. An instruction that a template put in other words is compared as it came, too. Rows of splits that are
not learned from stay, and so does all of the account; what goes is added to it.
"""

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from workflow_scripts.clean.ledger import count_reasons
from workflow_scripts.clean.mix import size_of, turns_in
from workflow_scripts.clean.turns import problem_key, text_key
from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_folder, read_json, read_jsonl, write_jsonl, write_manifest

Row = dict[str, Any]
HELD_OUT = "question is held out in "


class Settings(TypedDict):
    """What the step reads: the splits that are learned from; {dataset/split: whether it is compared by problem}."""

    learned: list[str]
    by_problem: dict[str, bool]


def questions_of(row: Row) -> list[str]:
    """Return what a row asks first, and its instruction with its input as they came, if it has them."""
    asked = next((message["content"] for message in row["messages"] if message["role"] == "user"), None)
    instruction, extra = (row.get("meta", {}).get(key) for key in ("instruction", "input"))
    given = [instruction, extra] if isinstance(instruction, str) and isinstance(extra, str) else []
    return [text for text in (asked, "\n\n".join(filter(None, given))) if text]


def keys_of(row: Row, by_problem: bool) -> set[str]:
    """Return the keys that a row's questions are compared by."""
    return {key for text in questions_of(row) if (key := (problem_key if by_problem else text_key)(text))}


def held_out_keys(held_out: dict[str, list[Row]], by_problem: dict[str, bool]) -> dict[tuple[bool, str], str]:
    """Return {(whether by problem, key): the first dataset/split that asks it}."""
    found: dict[tuple[bool, str], str] = {}
    for name, rows in held_out.items():
        for row in rows:
            for key in keys_of(row, by_problem[name]):
                found.setdefault((by_problem[name], key), name)
    return found


def taken_out(rows: Iterable[Row], held_out: dict[tuple[bool, str], str]) -> tuple[list[Row], list[Row]]:
    """Return (the rows that stay, an entry of the account for each that goes)."""
    kept, rejected = [], []
    for row in rows:
        keys = [(by, key) for by in (False, True) for key in sorted(keys_of(row, by))]
        home = next((held_out[key] for key in keys if key in held_out), None)
        if home is None:
            kept.append(row)
        else:
            place = {"file": row["meta"]["file"], "index": row["meta"]["index"], "line": None}
            found = {
                "level": "row",
                "reason": f"{HELD_OUT}{home}",
                "detail": row["id"],
                "turns": turns_in(row),
            }
            rejected.append(place | found)
    return kept, rejected


def recounted(counts: dict[str, Any], rejected: list[Row]) -> dict[str, Any]:
    """Return the counts per file with rows moved from kept to rejected."""
    rows, turns = Counter(entry["file"] for entry in rejected), Counter[str]()
    for entry in rejected:
        turns[entry["file"]] += entry["turns"]
    return {
        file: {
            unit: count | {"kept": count["kept"] - gone[file], "rejected": count["rejected"] + gone[file]}
            for unit, count, gone in (("rows", found["rows"], rows), ("turns", found["turns"], turns))
        }
        for file, found in counts.items()
    }


def told(rejected: list[Row], sizes: dict[str, int], learned: list[str]) -> str:
    """Return the line for the console."""
    whole = sum(sizes[split] for split in learned)
    homes = Counter(entry["reason"].removeprefix(HELD_OUT) for entry in rejected)
    where = ", ".join(f"{home} {count}" for home, count in sorted(homes.items()))
    return f"kept apart: {len(rejected)} of {whole} rows of {', '.join(learned)} taken out" + (
        f", whose questions are held out elsewhere ({where})" if where else ""
    )


def keep_apart(
    cleaned: Path, held_out: dict[str, Path], settings: Settings, output: Path, manifest: Path
) -> None:
    """Write the rows of a cleaned dataset without those whose question is held out, and their account.

    cleaned: the manifest of the cleaned rows; held_out: {dataset/split: its rows}. PlumblineError where a split that is
    learned from would have no row left.
    """
    before, source = read_json(cleaned), cleaned.parent / "rows"
    keys = held_out_keys({name: read_jsonl(path) for name, path in held_out.items()}, settings["by_problem"])
    rejected, splits = read_jsonl(source / "rejected.jsonl"), {}
    gone: list[Row] = []
    for split in settings["learned"]:
        splits[split], out = taken_out(read_jsonl(source / f"{split}.jsonl"), keys)
        gone += out
        if out and not splits[split]:
            raise PlumblineError(
                f"{source / f'{split}.jsonl'}: nothing is left to learn from: each of its {len(out)} rows asks what is "
                f"held out in {', '.join(held_out)}; give other rows, or set allow_overlap: true, and the table says so"
            )
    with finished_folder(output) as folder:
        for name in {Path(name).stem for name in before["files"]} - splits.keys() - {"rejected"}:
            shutil.copyfile(source / f"{name}.jsonl", folder / f"{name}.jsonl")
        for split, rows in splits.items():
            write_jsonl(folder / f"{split}.jsonl", rows)
        write_jsonl(folder / "rejected.jsonl", [*rejected, *gone])
    kept = {name: value for name, value in before.items() if name != "files"}
    kept |= {
        "counts": recounted(before["counts"], gone),
        "splits": before["splits"] | {split: size_of(rows) for split, rows in splits.items()},
        "rejected": count_reasons([*rejected, *gone]),
    }
    write_manifest(manifest, sorted(output.glob("*.jsonl")), **kept)
    sizes = {split: found["conversations"] for split, found in before["splits"].items()}
    print(told(gone, sizes, settings["learned"]), file=sys.stderr)


def files_of(words: list[str]) -> dict[str, Path]:
    """Return {dataset/split: file} of words NAME/SPLIT=FILE."""
    parted = (word.partition("=") for word in words)
    return {name: Path(path) for name, _, path in parted}


def main() -> None:
    """Read the flags and take the rows out."""
    parser: argparse.ArgumentParser = step_parser(__doc__, Settings, cleaned="manifest of the cleaned rows")
    parser.add_argument(
        "--held-out", nargs="+", required=True, help="DATASET/SPLIT=FILE of each file of rows"
    )
    given = parser.parse_args()
    keep_apart(given.cleaned, files_of(given.held_out), given.settings, given.output, given.manifest)


if __name__ == "__main__":
    run(main)
