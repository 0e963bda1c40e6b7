"""Training runs, and what they need, on the tiny model: for tests that need a trained policy."""

import importlib
import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from tests.command import call
from tests.tiny_model import ANSWERS, QUESTIONS
from workflow_scripts.align import pair_reference
from workflow_scripts.common.files import write_jsonl, write_manifest
from workflow_scripts.sft import tokenise
from workflow_scripts.sft import train as sft_train
from workflow_scripts.study.methods import methods_on

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text())["tutor"]
TOKENISING: dict = {}  # what a test hands sft.tokenise beside
METHODS = {name: importlib.import_module(f"workflow_scripts.align.{name}") for name in methods_on("pairs")}


def conversations(count: int) -> list[dict]:
    """Return conversations of one, two or three exchanges, all different."""
    rows = []
    for number in range(count):
        messages = [{"role": "system", "content": "Tutor the student."}]
        for turn in range(1 + number % 3):
            asked = QUESTIONS[(number + 3 * turn) % len(QUESTIONS)]
            told = ANSWERS[(number * 5 + turn) % len(ANSWERS)]
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        rows.append({"id": f"c{number}", "group": f"g{number}", "messages": messages, "meta": {}})
    return rows


def pairs(count: int) -> list[dict]:
    """Return preference pairs whose prompts and replies differ in length."""
    return [
        {
            "id": row["id"],
            "messages": row["messages"][:-1],
            "chosen": ANSWERS[number % len(ANSWERS)],
            "rejected": ANSWERS[(number + 1 + number % 3) % len(ANSWERS)],
            "split": "train",
        }
        for number, row in enumerate(conversations(count))
    ]


def settings_of(**changed: object) -> dict:
    """Return the settings of a training run, as the rules hand them over, with some of them changed."""
    settings = {
        "epochs": 1,
        "max_steps": None,
        "drop_last": False,
        "batch_size": None,
        "per_device_batch": 4,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup": 0.1,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "optimizer": "adamw_torch",
        "precision": "float32",
        "dropout": None,
        "gradient_checkpointing": False,
        "log_every": 1,
        "evaluate_every": 1000,
        "checkpoint_every": 1000,
        "trust_remote_code": False,
        "keep": "last",
        "patience": None,
        "lora": None,
        "quantise": None,
        "quantise_double": True,
    } | changed
    return settings | {"batch_size": settings["batch_size"] or settings["per_device_batch"]}


def preference_settings(**changed: object) -> dict:
    """Return the settings of DPO, IPO and KTO together; `align_flags` hands each method its own."""
    own = {
        "beta": 0.1,
        "share_prompts": True,
        "sft_weight": 0.0,
        "loss": "sigmoid",
        "label_smoothing": 0.0,
        "logp_reduction": "sum",
        "reference_free": False,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
    }
    return settings_of(**(own | changed))


def own_settings(kind: type, settings: dict) -> dict:
    """Return those of some settings that a script reads; `kind` says which."""
    return {name: settings[name] for name in kind.__annotations__ if name in settings}


def manifest_of(model: Path) -> Path:
    """Return the manifest of a model folder, beside it, writing it if need be."""
    manifest = model.parent / f"{model.name}-manifest.json"
    if not manifest.exists():
        write_manifest(manifest, [model])
    return manifest


def write_reference(model: Path, rows: list[dict], folder: Path, batch_size: int = 4) -> Path:
    """Run align.pair_reference on pairs; return the folder with rows.parquet and manifest.json."""
    write_jsonl(folder / "pairs.jsonl", rows)
    settings = {
        "max_prompt_tokens": 160,
        "max_tokens": 256,
        "template": TEMPLATE,
        "precision": "float32",
        "trust_remote_code": False,
        "batch_size": batch_size,
    }
    flags = ["--parent", model, "--pairs", folder / "pairs.jsonl", "--settings", json.dumps(settings)]
    flags += ["--output", folder / "rows.parquet", "--rejected", folder / "rejected.jsonl"]
    call(pair_reference.main, *flags, "--manifest", folder / "manifest.json")
    return folder


def write_tokens(
    model: Path,
    train: list[dict],
    validation: list[dict],
    folder: Path,
    limit: int = 256,
    overflow: str = "cut",
) -> Path:
    """Run sft.tokenise on conversations; return the folder with a parquet a split that has rows and manifest.json."""
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "validation.jsonl", validation)
    settings = {"max_tokens": limit, "overflow": overflow, "template": TEMPLATE, "history_turns": None}
    settings |= {
        "objective": "it",
        "im_mask": "paper",
        "it_mask": "reply",
        "lm_text": "plain",
        "lm_rows": None,
    }
    settings |= TOKENISING
    splits = [f"train={folder}/train.jsonl"]
    splits += [f"validation={folder}/validation.jsonl"] if validation else []
    flags = ["--splits", *splits, "--tokenizer", model, "--settings", json.dumps(settings)]
    call(tokenise.main, *flags, "--output", folder, "--manifest", folder / "manifest.json")
    return folder


def training_flags(model: Path, settings: dict, folder: Path, work: Path | None = None) -> list[str]:
    """Return the flags every training step has, writing into a folder."""
    flags = ["--parent", model, "--parent-manifest", manifest_of(model), "--settings", json.dumps(settings)]
    flags += ["--seed", 1, "--work", work or folder / "work", "--output", folder / "model"]
    flags += ["--manifest", folder / "manifest.json", "--curve", folder / "curve.json"]
    return [str(flag) for flag in [*flags, "--cost", folder / "cost.json"]]


def sft_flags(model: Path, tokens: Path, settings: dict, folder: Path, work: Path | None = None) -> list[str]:
    """Return the command line of sft.train; what a test leaves out of sft's own settings is plain."""
    settings = {
        "pack_tokens": None,
        "batch_of": "packs",
        "neftune_alpha": None,
        "kl": None,
        "loss_norm": "token",
    } | settings
    own = ["--tokens", str(tokens), "--tokens-manifest", str(tokens / "manifest.json")]
    return training_flags(model, settings, folder, work) + own


def align_flags(
    model: Path, stored: Path, settings: dict, folder: Path, work: Path | None = None, method: str = "dpo"
) -> list[str]:
    """Return the command line of align.dpo, ipo, kto or simpo."""
    settings = own_settings(METHODS[method].Settings, settings)
    own = ["--reference", str(stored / "rows.parquet"), "--reference-manifest", str(stored / "manifest.json")]
    return training_flags(model, settings, folder, work) + own


def run_sft(model: Path, tokens: Path, settings: dict, folder: Path, work: Path | None = None) -> Path:
    """Run sft.train in this process; return the trained model's folder."""
    call(sft_train.main, *sft_flags(model, tokens, settings, folder, work))
    return folder / "model"


def run_align(
    method: str, model: Path, stored: Path, settings: dict, folder: Path, work: Path | None = None
) -> Path:
    """Run align.<method> in this process; return the trained model's folder."""
    call(METHODS[method].main, *align_flags(model, stored, settings, folder, work, method))
    return folder / "model"


def is_whole(state: Path) -> bool:
    """Tell whether a checkpoint's last file is written to its end."""
    try:
        return bool(json.loads(state.read_text()))
    except ValueError:
        return False


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model folder by their names."""
    return load_file(model / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between two models' weights."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)
