"""Prompts, settings and command lines of online training on the tiny model, for its tests."""

import json
import shutil
from pathlib import Path

from tests.reward_settings import rule_reward
from tests.tiny import TEMPLATE, conversations, settings_of, training_flags
from workflow_scripts.common.files import write_json, write_jsonl, write_manifest
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.turns import turns_of

LENGTH = {"long": rule_reward("length", words=6, weight=1.0)}


def prompts(count: int) -> list[dict]:
    """Return a prompt set of conversations' first turns."""
    turns = [turns_of(row)[0] for row in conversations(count)]
    return [turn | {"followups": [], "reference": [turn["reference"]]} for turn in turns]


def online_settings(**changed: object) -> dict:
    """Return what every online method reads, with some of it changed."""
    own = {
        "template": TEMPLATE,
        "max_prompt_tokens": 64,
        "max_new_tokens": 8,
        "temperature": 1.0,
        "top_p": 1.0,
        "clip": 0.2,
        "missing_end_penalty": None,
    }
    return settings_of(**(own | changed))


def ending_at(model: Path, token: str, folder: Path) -> Path:
    """Return a copy of a model whose generation settings name a token that ends a text, beside the tokenizer's own."""
    shutil.copytree(model, folder)
    tokenizer = load_tokenizer(model)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(token)]
    write_json(folder / "generation_config.json", {"eos_token_id": ends})
    return folder


def online_flags(model: Path, rows: list[dict], settings: dict, folder: Path, rewards: dict) -> list[str]:
    """Return the command line of align.ppo and align.rloo, writing the prompts into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "prompts.jsonl", rows)
    write_manifest(folder / "prompts.json", [folder / "prompts.jsonl"], count=len(rows))
    write_jsonl(folder / "fit.jsonl", conversations(4))
    own = ["--prompts", folder / "prompts.jsonl", "--prompts-manifest", folder / "prompts.json"]
    own += ["--rewards", json.dumps({"rewards": rewards}), "--fit-rows", folder / "fit.jsonl"]
    return [*training_flags(model, settings, folder), *map(str, own)]
