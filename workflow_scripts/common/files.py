"""Reading and writing files so that a finished name always holds finished bytes, and content decides staleness.

Covers JSON, JSON Lines, content digests and manifests. Not covered: large tensors (safetensors writes its own).
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.raw_files import (
    TableRow,
    bare,
    is_table,
    open_text,
    parse_json,
    read_table,
    read_text,
)


def sha256_of(path: Path | str) -> str:
    """Return the hex sha256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """Return the hex sha256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@contextlib.contextmanager
def finished_file(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success rename it to `path`, on failure remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o644)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def finished_folder(path: Path | str) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if path.is_symlink():  # into a shared store, which others read
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path | str) -> Any:
    """Return a JSON file's value; PlumblineError with the file and line if it is not JSON."""
    return parse_json(read_text(path), path)


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON with sorted keys."""
    with finished_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_jsonl(path: Path | str) -> list[dict]:
    """Return the rows of a JSON Lines file; of files by others also those of a JSON list or of a table.

    PlumblineError, with the line, if one does not parse or is no object.
    """
    if is_table(path):
        return [_cells(row, path) for row in read_table(path)]
    rows: list[dict] = []
    with open_text(path) as stream:
        for number, line in enumerate(map(bare, stream), 1):
            if not rows and line.lstrip().startswith("["):
                found = parse_json(f"{line}\n{stream.read()}", path, number)
                return [_object(row, f"{path}: row {place}") for place, row in enumerate(found, 1)]
            if not rows and line.strip() == "{":
                raise PlumblineError(f"{path}: a list of rows is needed, not one dict over several lines")
            if line.strip():
                rows.append(_object(parse_json(line, path, number), f"{path}:{number}"))
    return rows


def _cells(row: TableRow, path: Path | str) -> dict:
    if row.cells is None:
        raise PlumblineError(f"{path}:{row.line}: {row.fault}; mend the row")
    return row.cells


def _object(row: Any, where: str) -> dict:
    if not isinstance(row, dict):
        raise PlumblineError(f"{where}: a row must be an object {{...}}, not {type(row).__name__}")
    return row


def write_jsonl(path: Path | str, rows: Iterable[dict]) -> int:
    """Write rows as JSON Lines and return how many there were."""
    count = 0
    with finished_file(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_manifest(path: Path | str, files: Iterable[Path | str], **facts: Any) -> None:
    """Write `{files: {name relative to the manifest: sha256}, **facts}`; folders are taken file by file.

    A manifest holds nothing that changes from run to run, so equal artefacts have equal manifests.
    """
    base = Path(path).parent
    found: dict[str, str] = {}
    for item in map(Path, files):
        members = sorted(item.rglob("*")) if item.is_dir() else [item]
        found |= {os.path.relpath(member, base): sha256_of(member) for member in members if member.is_file()}
    write_json(path, {"files": found, **facts})
