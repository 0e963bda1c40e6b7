"""What happens where a training comes to numbers that are not finite: it ends, nothing is saved, the study goes on.

By hand the command ends with `Diverged` and its status. Within a study (`--note-divergence`) that is an outcome like
another: the training writes its divergence down in a manifest without weights, and each job that would go on from it
hands the note on in place of results (this module's own command line, before the job's own in every such rule), down
to the table, whose rows have a note and no value. So one run's learning rate costs no other run its numbers, and what
has diverged is not trained again until its settings change.

A note is {"step", "learning_rate", "quantity", "whose"}; it stands in a job's JSON outputs, or in its only file.

In the same way goes through what there is no cell for: a policy from elsewhere has no likelihoods, and may have answers
to some benchmarks alone. Its note is {"text"}, under a key of its own; --because writes it.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, write_json

STATUS = 3  # of a command whose training diverged
KEY = "diverged"
LEFT_OUT = "left_out"
OWN, ANCESTOR = "training", "an ancestor's training"
ADVICE = (
    "No weights are written. Lower learning_rate (or max_grad_norm, or warm up longer), or look for broken rows among "
    "the data"
)


class Diverged(PlumblineError):
    """A training that came to a loss, gradient, weight or other `quantity` that is not finite; `curve` is its past."""

    status = STATUS

    def __init__(
        self,
        step: int,
        learning_rate: float,
        quantity: str,
        whose: str = OWN,
        curve: list[dict] | None = None,
    ) -> None:
        self.note = {"step": step, "learning_rate": learning_rate, "quantity": quantity, "whose": whose}
        self.curve = curve or []
        super().__init__(f"{note_text(self.note)}. {ADVICE}")


def note_text(note: dict) -> str:
    """Return a note in words, as the table has it."""
    if "text" in note:
        return note["text"]
    return (
        f"{note['whose']} diverged at step {note['step']} (learning rate {note['learning_rate']:g}): "
        f"{note['quantity']} not finite"
    )


def divergence_of(path: Path | str) -> dict | None:
    """Return the note that a JSON or JSON Lines file of the workflow hands on, None if it is an ordinary one."""
    path = Path(path)
    if path.suffix not in (".json", ".jsonl") or not path.is_file():
        return None
    with open(path, encoding="utf-8", errors="replace") as stream:
        text = stream.readline() if path.suffix == ".jsonl" else stream.read()
    if f'"{KEY}"' not in text and f'"{LEFT_OUT}"' not in text:  # nearly always: no need to parse it
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    for key, keys in ((KEY, {"step", "learning_rate", "quantity", "whose"}), (LEFT_OUT, {"text"})):
        note = value.get(key) if isinstance(value, dict) else None
        if isinstance(note, dict) and keys <= set(note):
            return note
    return None


def hand_on(note: dict, outputs: list[Path], curve: list[dict] | None = None) -> None:
    """Write a job's outputs as those of one that could not be done: the note in its JSON files, all else empty.

    Names without a suffix are folders. A job without a JSON file has the note as the only row of its JSON Lines.
    """
    curves = [
        path for path in outputs if path.name == "curve.json" and path.with_name("manifest.json") in outputs
    ]
    jsons = [path for path in outputs if path.suffix == ".json" and path not in curves]
    value = {LEFT_OUT if "text" in note else KEY: note, "files": {}, "refused": note_text(note)}
    for path in outputs:
        if path in jsons:
            continue
        if not path.suffix:
            if path.is_symlink():  # into a shared store
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
            continue
        with finished_file(path) as temporary:
            if path in curves:
                temporary.write_text(json.dumps(curve or [], indent=2) + "\n", encoding="utf-8")
            elif path.suffix == ".jsonl" and not jsons:
                temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
    for path in jsons:  # a manifest is written last
        write_json(path, value)


def add_note_flag(parser: Any) -> None:
    """Add the flag by which a study's training writes its divergence down instead of failing."""
    parser.add_argument(
        "--note-divergence",
        action="store_true",
        help="write a divergence into the manifest, without weights, and end with status 0, so that a study goes on",
    )


def main() -> None:
    """Hand a divergence on from a job's inputs to its outputs; status 1, and nothing written, where there is none."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inputs", type=Path, nargs="*", default=[])
    parser.add_argument("--outputs", type=Path, nargs="+", required=True)
    parser.add_argument("--whose", help="whose training it is to this job, where the note calls it its own")
    parser.add_argument("--because", help="why there is nothing to be made, whatever the inputs")
    arguments = parser.parse_args()
    if arguments.because:
        return hand_on({"text": arguments.because}, arguments.outputs)
    note = next(filter(None, map(divergence_of, arguments.inputs)), None)
    if note is None:
        sys.exit(1)
    if arguments.whose and note.get("whose") in (OWN, ANCESTOR):
        note = note | {"whose": arguments.whose}
    hand_on(note, arguments.outputs)
    print(f"skipped: {note_text(note)}", file=sys.stderr)
    return None


if __name__ == "__main__":
    run(main)
