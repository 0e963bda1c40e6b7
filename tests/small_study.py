"""The default study cut to a few rows and two policies, for tests that run all of it."""

from pathlib import Path

import yaml

from tests.workflow import ROOT

PROBLEMS = [
    {
        "task_id": f"Toy/{number}",
        "prompt": f"def add_{number}(x):\n",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        "entry_point": f"add_{number}",
    }
    for number in range(3)
]


def small_study(model: Path, humaneval: Path) -> dict:
    """The default study with a random model, few rows, one aligned policy, and sources that need no network."""
    study = yaml.safe_load((ROOT / "config.yaml").read_text())
    study["sources"]["random"] = {
        "files": {path.name: None for path in sorted(model.iterdir())},
        "places": [{"file": {"files": {path.name: str(path) for path in sorted(model.iterdir())}}}],
    }
    study["sources"]["human_eval"] = {
        "files": {"HumanEval.jsonl": None},
        "places": [{"file": {"files": {"HumanEval.jsonl": str(humaneval)}}}],
    }
    del study["sources"]["stories15m"]
    study["models"]["tiny"] = {"source": "random", "template": "tutor", "context": 1024}
    brief = {"dialogues_per_problem": 1, "ppl_pairs": 4, "preferences": 16}
    for source in ("dialogues", "novices"):
        study["sources"][source]["simulate"] |= brief
    quotas = {"others": 60, "preference": 4, "validation": 4, "test": 4}
    study["datasets"]["tutor"]["split"]["quotas"] = quotas
    study["datasets"]["novices"]["split"]["quotas"] = {"sft": 12, "offline": 2, "value": 2}
    brief = {"max_steps": 2, "batch_size": 4, "checkpoint_every": 1, "log_every": 1, "precision": "float32"}
    study["reward_models"]["tutor_rm"] |= {**brief, "per_device_batch": 4, "max_tokens": 256}
    del study["values"]
    study["runs"] = {
        "sft": study["runs"]["sft"]
        | brief
        | {"batch_size": 1, "pack_tokens": 2048, "max_tokens": 2048, "evaluate_every": 2},
        "dpo": study["runs"]["dpo"] | brief | {"batch_size": 2, "per_device_batch": 2},
    }
    study["pairs"]["mistakes"] |= {
        "limit": 4,
        "max_new_tokens": 8,
        "max_prompt_tokens": 700,
        "max_tokens": 1000,
    }
    study["engine"] = {"precision": "float32"}
    benchmarks = study["benchmarks"]
    benchmarks["tutor"] |= {"limit": 4, "max_new_tokens": 8}
    benchmarks["judged"] |= {"limit": 4, "max_new_tokens": 8}
    benchmarks["pair_perplexity"]["max_tokens"] = 2048
    benchmarks["humaneval"] |= {"max_new_tokens": 4}
    benchmarks["biology_quiz"]["limit"] = 4
    benchmarks["mt_bench"] |= {"limit": 2, "max_new_tokens": 4}
    benchmarks["alpaca_eval"] |= {"limit": 2, "max_new_tokens": 4}
    return study
