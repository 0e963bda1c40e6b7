"""The command line that all trainings share, and what becomes of one that diverges."""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow_scripts.common import processes
from workflow_scripts.common.diverged import Diverged, add_note_flag, hand_on
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.training.machine import with_machine
from workflow_scripts.common.training.saving import cost_of
from workflow_scripts.common.training.watching import add_watch_flags


def run_training(main: Callable[[], None]) -> None:
    """Call a training's `main` as `errors.run` does; with --note-divergence, a divergence is written down, status 0.

    Of several processes, which all come to it at the same step, the first writes.
    """

    def noting() -> None:
        started = time.monotonic()
        try:
            main()
        except Diverged as error:
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            parser.add_argument("--note-divergence", action="store_true")
            for name in ("manifest", "curve", "cost", "output", "work"):
                parser.add_argument(f"--{name}", type=Path)
            flags, _ = parser.parse_known_args()
            if not flags.note_divergence:
                raise
            print(f"error: {error}. The study goes on without it.", file=sys.stderr, flush=True)
            if processes.number() == 0:
                if flags.work:
                    shutil.rmtree(flags.work, ignore_errors=True)
                if flags.cost:
                    write_json(flags.cost, cost_of(time.monotonic() - started, processes.count()))
                hand_on(error.note, [flags.output, flags.curve, flags.manifest], error.curve)

    run(noting)


def training_parser(
    description: str | None, kind: Any, watched: bool = True, **paths: str
) -> argparse.ArgumentParser:
    """Return the parser of a training: the flags that all have, and `paths` of its own.

    watched: its answers can be looked at on the way.
    """
    shared = {
        "parent": "model folder to start from",
        "parent_manifest": "what the parent is stale by",
        "work": "folder for resumable state",
        "curve": "the loss curve to write",
        "cost": "seconds and tokens to write",
        "output": "what is written",
        "manifest": "its manifest, written last",
    }
    parser = argparse.ArgumentParser(description=description)
    read = with_machine(settings_of(kind))
    parser.add_argument("--settings", type=read, required=True, help="every key of it, as JSON")
    for name, said in (shared | paths).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, help=said)
    parser.add_argument("--seed", type=int, required=True)
    add_note_flag(parser)
    if watched:
        add_watch_flags(parser)
    else:
        parser.set_defaults(watch=None)
    return parser


def counts_of(manifest: Path) -> dict:
    """Return the `counts` of a manifest."""
    return read_json(manifest).get("counts", {})


def template_of(manifest: Path) -> dict | None:
    """Return the template that rows were written in, as their manifest says."""
    return read_json(manifest).get("template")
