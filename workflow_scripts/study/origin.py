"""Which file a folder of results was made from: results/<study>/made_from.json.

A study is called by what stands in its file, and its results lie under that name: two files of one name would write
over each other's results. So a run notes its file, and refuses another one as long as the first is there and still
goes by the name. Nothing is stale by the note. Not covered: a study that is put together from several files at once,
of which the last one counts.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.study.basics import NAME
from workflow_scripts.study.reading import extended, read_yaml

NOTE = "made_from.json"


def named(path: Path | str) -> str:
    """Return what a study's file calls itself, or what the study that it extends does; PlumblineError for no name."""
    name = extended(read_yaml(path)).get("study")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise PlumblineError(f"{path}: study: {name!r}: must be a name of letters, digits, _ and -")
    return name


def trouble_with_name(study: str, path: Path | str, results: Path | str = "results") -> str | None:
    """Return why a file must not write into the results of a study of this name, None where it may.

    Says on standard error where the results' file has been moved or renamed, which is no trouble.
    """
    note = Path(results) / study / NOTE
    if not note.is_file():
        return None
    before = read_json(note)
    if not isinstance(before, dict) or not isinstance(before.get("file"), str):
        raise PlumblineError(f"{note}: does not say which file the results were made from; delete it")
    file, called = before["file"], before.get("called")
    if same(file, path):
        return None
    if not os.path.exists(file) or calls_itself(file) not in (called, None):
        gone = f"{file}, which is gone or has another name by now"
        print(f"note: {note.parent} was made from {gone}; {path} goes on with it", file=sys.stderr)
        return None
    return (
        f"study: {study}: {note.parent} was made from {file}, which is a study of that name, too, and this run would "
        f"write over its results. Call this study something else (study: …), or, if {path} takes the other's place, "
        f"delete {note}"
    )


def note_origin(study: str, path: Path | str, results: Path | str = "results") -> None:
    """Note that the results of a study are made from this file; a file that says so already is left alone."""
    note = Path(results) / study / NOTE
    value = {"file": os.path.relpath(path), "called": calls_itself(path)}
    if not note.is_file() or read_json(note) != value:
        write_json(note, value)


def settle_origin(study: str, files: Sequence[Path | str]) -> None:
    """Note which file a run's results are made from; PlumblineError where they are another file's."""
    if not files:
        return
    if trouble := trouble_with_name(study, files[-1]):
        raise PlumblineError(trouble)
    note_origin(study, files[-1])


def same(file: str, path: Path | str) -> bool:
    return os.path.realpath(file) == os.path.realpath(path)


def calls_itself(path: Path | str) -> str | None:
    """Return the name in a study's file, None where there is none to be read."""
    try:
        return named(path)
    except PlumblineError:
        return None
