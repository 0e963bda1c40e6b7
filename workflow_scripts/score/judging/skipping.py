"""Which prompts a study's file leaves out of what is judged: by their ids, or by the rows that they come from.

The file is JSON: a list of prompt ids, or for each raw file the places of rows in it, counted from 0, as Leftover
Lunch's file of bad test rows has them (Baheti et al. 2024).
"""

import sys
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json

SHAPES = 'give a list of prompt ids, or an object of {"raw file": [places of rows, counted from 0]}'


def skipped_by(path: Path, prompts: list[dict]) -> list[str]:
    """Return the ids of the prompts that a file names, and say on standard error how many entries name none.

    PlumblineError where it is neither of the two shapes, or names rows of none of the files the prompts come from.
    """
    named = read_json(path)
    if isinstance(named, dict):
        return skipped_rows(path, named, prompts)
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise PlumblineError(f"{path}: {SHAPES}")
    found = [prompt["id"] for prompt in prompts if prompt["id"] in set(named)]
    tell(path, len(found), len(prompts), len(set(named) - set(found)), len(set(named)))
    return found


def skipped_rows(path: Path, named: dict[str, Any], prompts: list[dict]) -> list[str]:
    """Return the ids of the prompts whose rows an object of files and places names."""
    for file, places in named.items():
        if not isinstance(places, list) or not all(type(place) is int for place in places):
            raise PlumblineError(f"{path}: {file!r}: {SHAPES}")
    rows = {prompt["id"]: (prompt["meta"].get("file"), prompt["meta"].get("index")) for prompt in prompts}
    files = sorted({str(file) for file, _ in rows.values()})
    wanted = {(file, place) for file in named.keys() & set(files) for place in named[file]}
    if not named.keys() & set(files):
        raise PlumblineError(
            f"{path}: has rows of {', '.join(sorted(named))}, and the prompts come from {', '.join(files)}"
        )
    found = [name for name, row in rows.items() if row in wanted]
    tell(path, len(found), len(prompts), len(wanted - set(rows.values())), len(wanted))
    return found


def tell(path: Path, found: int, prompts: int, missed: int, named: int) -> None:
    """Say how many prompts are skipped, and how many entries are none of them (a limit leaves prompts out, too)."""
    print(
        f"{path}: {found} of {prompts} prompts are skipped; {missed} of {named} entries are no prompt here",
        file=sys.stderr,
    )
