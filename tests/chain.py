"""A study that runs every stage in a minute: a tiny random model is tuned, aligned on rewarded answers and scored."""

from pathlib import Path

import yaml

RUN = {
    "learning_rate": 1.0e-3,
    "max_steps": 4,
    "batch_size": 4,
    "per_device_batch": 4,
    "warmup": 0.0,
    "precision": "float32",
    "log_every": 1,
    "checkpoint_every": 1,
    "threads": 1,
}


def chain_of(model: Path, name: str = "chain", **more: object) -> dict:
    """Return the study as the value of its YAML; `model` is a folder of safetensors, `more` are further keys of it."""
    files = sorted(path for path in model.iterdir() if path.is_file())
    learned = {"annotation": "good", "split": "train", "validation": "validation"}
    return {
        "study": name,
        "sources": {
            "weights": {
                "files": {path.name: None for path in files},
                "places": [{"file": {"files": {path.name: str(path) for path in files}}}],
            },
            "rows": {
                "simulate": {
                    "rows": "alpaca",
                    "problems": "data/bundled/biology_problems.jsonl",
                    "seed": 7,
                    "count": 40,
                }
            },
        },
        "models": {"tiny": {"source": "weights", "template": "tutor", "context": 512}},
        "datasets": {
            "chat": {
                "source": "rows",
                "files": ["instruction-data.json"],
                "schema": "alpaca",
                "split": {"quotas": {"train": 20, "validation": 5, "test": 5}},
            }
        },
        "annotations": {
            "good": {
                "dataset": "chat",
                "splits": ["train", "validation"],
                "fit_split": "train",
                "rewards": {"length": {"rule": "length", "words": 20}},
            }
        },
        "runs": {
            "sft": RUN
            | {
                "method": "sft",
                "parent": "tiny",
                "dataset": "chat",
                "split": "train",
                "validation": "validation",
            }
            | {"max_tokens": 256, "pack_tokens": None},
            "nll": RUN | learned | {"method": "nll", "parent": "sft"},
        },
        "benchmarks": {
            "words": {
                "kind": "text_overlap",
                "dataset": "chat",
                "split": "test",
                "metrics": ["length", "distinct"],
                "max_new_tokens": 6,
            }
        },
        "engine": {"precision": "float32"},
        "training_resources": {"mem_mb": 1500, "runtime_minutes": 20},
        "generation_resources": {"cpus": 1, "mem_mb": 1500, "runtime_minutes": 20},
        "report": {"baseline": "tiny.sft", "draws": 50, "samples": 1},
    } | more


def write_chain(folder: Path, model: Path, name: str = "chain", **more: object) -> dict:
    """Write the study as a folder's config.yaml, and return it."""
    study = chain_of(model, name, **more)
    (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return study
