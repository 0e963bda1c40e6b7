"""Cleaning settings as the rule hands them over: the study's own defaults, and what a test sets in their place."""

from pathlib import Path
from typing import Any

from workflow_scripts.clean import clean
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.study.datasets import Dataset

WITHOUT = {
    *("path", "hf", "revision", "hf_config", "hf_split", "shape"),
    "source",
    "files",
    "history_turns",
    "exclude_groups_of",
    "reject_other_assistants",
    "retrieve",
    "license",
}  # not handed over as they are
WHOLE_NEAR_DUPLICATES = {"threshold": 0.9, "fields": None, "remove": [], "candidates": None}
WHOLE_SUBSET = {"rows": None, "share": None, "by": "first", "ratio": None, "seed": 42}


def cleaning(**keys: Any) -> dict[str, Any]:
    """Return whole settings with these keys in place of the defaults; a split or a subset may be a part of one."""
    split = {"quotas": {"train": 1_000_000}, "per_file": False}
    dataset = Dataset(source="a", files=["a"], schema="tutorbot", split=split)
    whole = dataset.model_dump(by_alias=True, exclude=WITHOUT) | {"exclude_groups_of": [], "renames": {}}
    by_quotas = {} if "by_file" in keys.get("split", {}) else {"quotas": split["quotas"]}
    keys["split"] = whole["split"] | {"quotas": {}} | by_quotas | keys.get("split", {})
    if keys.get("subset"):
        keys["subset"] = WHOLE_SUBSET | keys["subset"]
    if keys.get("near_duplicates") is not None:
        keys["near_duplicates"] = WHOLE_NEAR_DUPLICATES | keys["near_duplicates"]
    return whole | keys


def cleaned_files(folder: Path, *paths: Path, **keys: Any) -> tuple[dict[str, Any], dict[str, list[dict]]]:
    """Return the manifest of files that are cleaned into a folder, and {file without its ending: rows}."""
    output, manifest = folder / "clean", folder / "manifest.json"
    clean.clean_files([str(path) for path in paths], cleaning(**keys), str(output), str(manifest))
    return read_json(manifest), {path.stem: read_jsonl(path) for path in output.glob("*.jsonl")}
