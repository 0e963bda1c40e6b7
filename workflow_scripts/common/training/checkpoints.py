"""Where a training's resumable state is, and which of it counts."""

import json
import os
import shutil
from pathlib import Path

from workflow_scripts.common.files import digest, sha256_of


def work_folder(base: Path, inputs: list[Path], settings: dict, seed: int, code: dict[str, str]) -> Path:
    """Return base/<fingerprint>, making it, and remove the folders of other fingerprints: their state is stale.

    Of many processes the first of each machine alone removes.
    """
    contents = [sha256_of(path) for path in inputs]
    fingerprint = digest({"inputs": contents, "settings": settings, "seed": seed, "code": code})[:16]
    for other in base.glob("*") if os.environ.get("LOCAL_RANK", "0") == "0" else ():
        if other.name != fingerprint:
            shutil.rmtree(other, ignore_errors=True)  # another node's first process may do so too
    folder = base / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest whole checkpoint of a work folder; what a kill left half-written is removed."""
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            whole.append((json.loads((folder / "trainer_state.json").read_text())["global_step"], folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder)
    return max(whole)[1] if whole else None
