"""What a training is told that is watched, on the tiny model's prompts: for the tests of it."""

import json
from pathlib import Path

from tests.generation import GREEDY
from tests.online import prompts
from tests.reward_settings import rule_reward
from tests.tiny import TEMPLATE, conversations
from workflow_scripts.common.files import write_jsonl, write_manifest

LENGTH = {"long": rule_reward("length", words=6, weight=1.0)}


def watching(**changed: object) -> dict:
    """Return what a rule hands over of a watch, with some of it changed."""
    return {
        "metric": "final_reward",
        "best": "max",
        "shown": 2,
        "template": TEMPLATE,
        "context": 256,
        "rewards": LENGTH,
        "wordnet": None,
    } | changed


def watch_flags(folder: Path, count: int = 6, sampling: dict | None = None, **changed: object) -> list[str]:
    """Return the flags of a watched training, writing the prompts and the rows to fit on into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "watch.jsonl", prompts(count))
    drawn = GREEDY | {"max_new_tokens": 8} | (sampling or {})
    write_manifest(folder / "watch.json", [folder / "watch.jsonl"], count=count, sampling=drawn)
    write_jsonl(folder / "watch-fit.jsonl", conversations(4))
    flags = ["--watch", json.dumps(watching(**changed)), "--watch-prompts", str(folder / "watch.json")]
    return [*flags, "--watch-fit-rows", str(folder / "watch-fit.jsonl")]
