"""The flags that steps share: what a step is told (--settings), what it reads, and what it writes."""

import argparse
from pathlib import Path
from typing import Any

from workflow_scripts.common.settings import settings_of


def step_parser(description: str | None, kind: Any, **paths: str) -> argparse.ArgumentParser:
    """Return the parser of a step: --settings, read as the TypedDict `kind`, --output, --manifest, and its own `paths`.

    `paths` says what each other file or folder is, by its flag: parent_manifest is --parent-manifest. All are required.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--settings", type=settings_of(kind), required=True, help="every key of it, as JSON")
    own = {"output": "what is written", "manifest": "its manifest, written last"}
    for name, said in (paths | own).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, help=said)
    return parser
