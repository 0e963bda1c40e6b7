"""The step that prepares a model, run in this process."""

import json
from pathlib import Path

from tests.command import call
from tests.tiny import TEMPLATE
from workflow_scripts.common.files import read_json
from workflow_scripts.download import prepare_model


def prepare(source: Path, output: Path, **settings: object) -> dict:
    """Run download.prepare_model; return the manifest, which is written beside the model's folder."""
    manifest = f"{output}.json"
    usual = {"weights": None, "tokenizer": None, "add_pad": False, "check": None, "template": TEMPLATE}
    whole = json.dumps(usual | settings)
    call(
        prepare_model.main,
        *("--source", source, "--settings", whole, "--output", output, "--manifest", manifest),
    )
    return read_json(manifest)
