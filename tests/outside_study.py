"""A small study with policies from elsewhere: a random model, an endpoint, ready answers."""

from pathlib import Path
from typing import Any

import yaml

from workflow_scripts.common.files import write_json, write_jsonl

NAME = "outside"
FLAGS = ("--configfile", "studies/outside.yaml")
KEY = "sk-a-key-that-nobody-may-read"
TALK = [
    {"question_id": 1, "category": "writing", "turns": ["Name a plant.", "And another one."]},
    {"question_id": 2, "category": "roleplay", "turns": ["Be a bee.", "Now sleep."]},
]
WINS = [
    {"instruction": f"Describe a {thing}.", "output": f"A {thing} is a thing.", "dataset": "own"}
    for thing in ("rose", "fern", "beech")
]


def study_of(model: Path, files: Path, url: str) -> dict[str, Any]:
    """Return the study as a mapping, its own files written into a folder."""
    write_jsonl(files / "talk.jsonl", TALK)
    write_json(files / "wins.json", WINS)
    # As AlpacaEval writes them; one instruction has no answer.
    outputs = [
        {key: row[key] for key in ("instruction", "output")} | {"generator": "else"} for row in WINS[:2]
    ]
    write_json(files / "outputs.json", outputs)
    weights = {path.name: str(path) for path in sorted(model.iterdir())}
    lessons = {
        "simulate": {
            "rows": "alpaca",
            "problems": "data/bundled/biology_problems.jsonl",
            "seed": 7,
            "count": 40,
        }
    }
    return {
        "study": NAME,
        "sources": {
            "weights": {"files": dict.fromkeys(weights), "places": [{"file": {"files": weights}}]},
            "lessons": lessons,
        },
        "models": {"tiny": {"source": "weights", "template": "alpaca", "context": 512}},
        "datasets": {
            "lessons": {"source": "lessons", "files": ["instruction-data.json"], "schema": "alpaca"}
            | {"split": {"quotas": {"train": 8, "validation": 2, "test": 3}}}
        },
        "runs": {
            "sft": {"method": "sft", "parent": "tiny", "dataset": "lessons", "split": "train", "max_steps": 2}
            | {"learning_rate": 1e-3, "max_tokens": 512, "batch_size": 2, "precision": "float32"}
        },
        "policies": {
            "hosted": {"judge": "endpoint"},
            "ready": {"answers": {"wins": str(files / "outputs.json")}},
        },
        "judges": {
            "endpoint": {"kind": "openai", "model": "m", "base_url": url, "api_key_env": "OUTSIDE_KEY"}
            | {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 2.0},
            "longer": {"kind": "rule", "rule": "length"},
        },
        "engine": {"precision": "float32"},
        "benchmarks": {
            "talk": {"kind": "mt_bench", "questions": str(files / "talk.jsonl"), "judge": "longer"}
            | {"max_new_tokens": 8, "temperatures": {"writing": 0.7}},
            "wins": {"kind": "alpaca_eval", "prompts": str(files / "wins.json"), "judge": "longer"}
            | {"max_new_tokens": 8, "stop": ["STOP"]},
            "read": {"kind": "loss", "dataset": "lessons", "split": "test", "max_tokens": 512},
        },
        "report": {"baseline": "tiny", "draws": 50},
    }


def write_study(folder: Path, study: dict[str, Any]) -> None:
    """Write the study into a copy of the repository."""
    (folder / "studies/outside.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
