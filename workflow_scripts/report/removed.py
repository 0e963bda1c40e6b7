"""Weights that were taken away on purpose at the end of a run (`keep_weights` of a study), and how a folder says so.

A policy's manifest stays as it was, so that nothing that rests on it is stale; beside it a note says which of the files
that it lists are gone, and why.
"""

from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json

NOTE = "weights_removed.json"
WEIGHTS = "model"


def removed_by(folder: Path | str) -> str | None:
    """Return what keep_weights was as a policy's weights were taken away; None where they were not, or are back."""
    note = Path(folder) / NOTE
    if (Path(folder) / WEIGHTS).exists() or not note.is_file():
        return None
    value = read_json(note)
    if not isinstance(value, dict) or "keep_weights" not in value:
        raise PlumblineError(f"{note}: does not say why weights are gone; delete it")
    return str(value["keep_weights"])
