"""Rewarded answers and what is stored of their parent on the tiny model, for the tests of offline training."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from tests.command import call
from tests.tiny import ANSWERS, TEMPLATE, conversations
from workflow_scripts.align import rewarded_reference
from workflow_scripts.common.files import write_jsonl

TOKENS = {"max_prompt_tokens": 160, "max_tokens": 256, "template": TEMPLATE, "history_turns": None}


def annotated(prompts: int, candidates: int = 2, first: int = 0) -> list[dict]:
    """Return annotated answers, `candidates` a prompt, with rewards between 0 and 1."""
    return [
        {
            "id": f"{row['id']}#{rank}",
            "group": row["group"],
            "messages": row["messages"][:-1],
            "reference": ANSWERS[(number * 3 + rank) % len(ANSWERS)],
            "meta": {"rank": rank},
            "rewards": {"final_reward": round((number * 7 + rank * 3) % 10 / 10 + 0.05, 2)},
        }
        for number, row in list(enumerate(conversations(first + prompts)))[first:]
        for rank in range(candidates)
    ]


def write_rewarded(
    model: Path, folder: Path, train: list[dict], validation: list[dict] | None = None, **changed
):
    """Run align.rewarded_reference; return the folder with rows.parquet, rejected.jsonl and manifest.json."""
    settings = {**TOKENS, "precision": "float32", "batch_size": 4, "trust_remote_code": False} | changed
    write_jsonl(folder / "train.jsonl", train)
    flags = ["--parent", model, "--annotated", f"tutor={folder / 'train.jsonl'}"]
    if validation:
        write_jsonl(folder / "validation.jsonl", validation)
        flags.append(f"validation={folder / 'validation.jsonl'}")
    flags += ["--settings", json.dumps(settings), "--output", folder / "rows.parquet"]
    flags += ["--rejected", folder / "rejected.jsonl", "--manifest", folder / "manifest.json"]
    call(rewarded_reference.main, *flags)
    return folder


def rows_of(folder: Path) -> list[dict]:
    """Return the rewarded rows of a folder."""
    return pyarrow.parquet.read_table(folder / "rows.parquet").to_pylist()
