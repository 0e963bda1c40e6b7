"""Which files a `path` names: itself, those of a folder, those that a pattern fits; each of a kind that can be read."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from workflow_scripts.clean.reading import read_rows
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.place import ROOT
from workflow_scripts.common.raw_files import PLAIN, binary_table, suffix_of
from workflow_scripts.study.datasets import Dataset
from workflow_scripts.study.messages import nearest, shown

TABLES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
KINDS = f"{', '.join([*TABLES, *PLAIN])}; each also packed (.gz, .bz2, .xz, .zst)"
ABOUT_ROWS = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)  # what stands beside rows
CHEAP = 16 * 2**20  # bytes of a file whose rows are counted


def found_files(paths: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return {name: path} of the files that paths name, in order, and what was left out of folders and patterns.

    Paths are relative to the repository, or absolute. PlumblineError for one that names nothing that can be read.
    """
    found: list[str] = []
    left_out: list[str] = []
    for path in paths:
        here = ROOT / path
        if here.is_file():
            if not readable_kind(path):
                raise PlumblineError(f"{path}: is of no kind that can be read as rows ({KINDS})")
            found.append(path)
            continue
        if here.is_dir():
            listed = sorted(os.path.join(path, name) for name in os.listdir(here) if not name.startswith("."))
        elif glob.has_magic(path):
            listed = sorted(glob.glob(path, root_dir=ROOT, recursive=True))
        else:
            near = nearest(here.name, os.listdir(here.parent) if here.parent.is_dir() else [])
            raise PlumblineError(f"no such file or folder {shown(path)} (relative to the repository){near}")
        taken, others = of_rows([name for name in listed if (ROOT / name).is_file()])
        folders = [f"{name}/" for name in listed if (ROOT / name).is_dir()]
        if not taken:
            there = ", ".join(map(bare_name, [*others, *folders][:8])) or "nothing"
            told = "is a folder without" if here.is_dir() else "fits no"
            raise PlumblineError(
                f"{path}: {told} files that can be read as rows ({KINDS}); there is: {there}"
            )
        found += taken
        left_out += [*others, *(folders if here.is_dir() else [])]
    return names_of(list(dict.fromkeys(found))), list(map(bare_name, left_out))


def bare_name(path: str) -> str:
    """Return the last part of a path, of a folder with its slash."""
    return path[path.rstrip("/").rfind("/") + 1 :]


def readable(files: Iterable[str], repo: str) -> tuple[list[str], list[str]]:
    """Return which files of a repository can be read as rows, and the others; PlumblineError if none can."""
    taken, others = of_rows(list(files))
    if not taken:
        raise PlumblineError(
            f"{repo}: has no files that can be read as rows ({KINDS}); there is: {', '.join(others[:8])}"
        )
    return taken, others


def of_rows(names: list[str]) -> tuple[list[str], list[str]]:
    """Return those of a folder's files that hold rows, and the others: what describes them, and texts beside tables."""
    rows = [name for name in names if suffix_of(name) in TABLES and os.path.basename(name) not in ABOUT_ROWS]
    taken = rows or [name for name in names if suffix_of(name) in PLAIN]
    return taken, [name for name in names if name not in taken]


def readable_kind(path: str) -> bool:
    """Tell whether a file that is named itself can be read as rows: by its name, or by how it begins."""
    return suffix_of(path) in (*TABLES, *PLAIN) or binary_table(ROOT / path) is not None


def names_of(paths: list[str]) -> dict[str, str]:
    """Return {name: path}, the names as short as they can be and still differ."""
    bases = [PurePosixPath(path).name for path in paths]
    if len(set(bases)) == len(bases):
        return dict(zip(bases, paths, strict=True))
    whole = [os.path.abspath(ROOT / path) for path in paths]
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    return {os.path.relpath(path, common): as_said for path, as_said in zip(whole, paths, strict=True)}


def counted(files: dict[str, Path], part: Dataset) -> int | None:
    """Return how many rows files hold, by their names in a data set, where that is cheap to know; else None."""
    if sum(path.stat().st_size for path in files.values()) > CHEAP:
        return None
    named = part.columns_of_files()
    return sum(
        1
        for name, path in files.items()
        for _ in read_rows(path, part.max_chars, named.get(name, []), part.sample_by)
    )
