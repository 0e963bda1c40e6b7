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


def stand_of(state: dict) -> dict:
    """Return what a checkpoint's state says of the training up to it: see trainer.Shared."""
    return [entry for entry in state["log_history"] if "seconds" in entry][-1]


def last_checkpoint(work: Path, bound_to: str | None = None) -> Path | None:
    """Return the newest whole checkpoint of a work folder; what a kill left half-written is removed.

    Where only those can go on with it who wrote it (`bound_to`, both here and there), and they are others, all are
    removed, which is said.
    """
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text())
            whole.append((state["global_step"], folder, state))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder)
    if not whole:
        return None
    step, newest, state = max(whole, key=lambda found: found[0])
    wrote = stand_of(state)["bound_to"] if state.get("log_history") else None
    if wrote == bound_to:
        return newest
    why = (
        f"only {wrote}, who wrote it, can go on"
        if wrote
        else f"{bound_to} cannot go on, who did not write it"
    )
    print(
        f"note: with the checkpoint of step {step} {why}: this training starts from the beginning", flush=True
    )
    for _, folder, _ in whole:
        shutil.rmtree(folder)
    return None
