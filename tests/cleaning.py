"""Cleaning settings as the rule hands them over: the study's own defaults, and what a test sets in their place."""

from typing import Any

from workflow_scripts.study.datasets import Dataset

WITHOUT = {"source", "files", "history_turns", "exclude_groups_of"}  # these are not handed over as they are
WHOLE_SUBSET = {"by": "first", "ratio": None, "seed": 42}


def cleaning(**keys: Any) -> dict[str, Any]:
    """Return whole settings with these keys in place of the defaults; a split or a subset may be a part of one."""
    split = {"quotas": {"train": 1_000_000}, "per_file": False}
    dataset = Dataset(source="a", files=["a"], schema="tutorbot", split=split)
    whole = dataset.model_dump(by_alias=True, exclude=WITHOUT) | {"exclude_groups_of": []}
    by_quotas = {} if "by_file" in keys.get("split", {}) else {"quotas": split["quotas"]}
    keys["split"] = whole["split"] | {"quotas": {}} | by_quotas | keys.get("split", {})
    if keys.get("subset"):
        keys["subset"] = WHOLE_SUBSET | keys["subset"]
    return whole | keys
