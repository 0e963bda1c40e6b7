"""Prompts, settings and command lines of online training on the tiny model, for its tests."""

import json
import shutil
from pathlib import Path

from tests.command import call
from tests.reward_settings import rule_reward
from tests.tiny import TEMPLATE, conversations, settings_of, training_flags
from workflow_scripts.align import ppo
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
        "engine": "transformers",
        "gpu_memory_share": 0.3,
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


def ppo_settings(**changed: object) -> dict:
    """Return what PPO reads, with some of it changed."""
    own = {
        "stop": [],
        "rollout_batch": 8,
        "ppo_epochs": 2,
        "value_clip": 0.2,
        "value_coef": 0.1,
        "gamma": 1.0,
        "lam": 0.95,
        "kl_coef": 0.05,
        "kl_control": "fixed",
        "kl_control_target": 6.0,
        "target_kl": None,
        "score_scaling": True,
        "score_norm": True,
        "score_clip": None,
        "max_steps": 2,
        "schedule": "constant",
        "warmup": 0.0,
    }
    return online_settings(**(own | changed))


def run_ppo(model: Path, settings: dict, folder: Path, rows: int = 12, rewards: dict = LENGTH) -> Path:
    """Run align.ppo in this process; return the folder that it writes into."""
    call(ppo.main, *online_flags(model, prompts(rows), settings, folder, rewards))
    return folder
