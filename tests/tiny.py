"""A tiny random Llama with a tokenizer of its own, and training runs on it, for tests that need a model."""

import json
import sys
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workflow_scripts.align import dpo, ipo, kto, reference
from workflow_scripts.align.preference import align
from workflow_scripts.common.files import write_jsonl, write_manifest
from workflow_scripts.sft import tokenise
from workflow_scripts.sft import train as sft_train

torch.set_num_threads(1)  # the sums of a killed and of an unbroken run must be made in one order

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text())["tutor"]
LOSSES = {"dpo": dpo.loss, "ipo": ipo.loss, "kto": kto.loss}
QUESTIONS = [
    "What does a cell wall do?",
    "Why is the sky blue",
    "Is a whale a fish, or is it a mammal? I keep mixing the two up.",
    "Name two gases.",
    "How do plants make sugar out of light, water and air?",
    "Where does digestion begin",
    "What is osmosis?",
    "Which blood cells carry oxygen, and what is the name of the pigment in them?",
]
ANSWERS = [
    "Think of what holds a plant upright. Which part of the cell would that be?",
    "No.",
    "Good! Now say why.",
    "That is right: what happens to the blue part of the light on its way through the air?",
    "Yes",
    "Not quite. Where does its young get milk from?",
    "Try once more, with the word water.",
    "It is the mouth, so think about chewing first and about the stomach after it.",
]


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a random 2-layer Llama (hidden 32, vocabulary about 200) and its fast tokenizer as a folder."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], show_progress=False
    )
    texts = [*QUESTIONS, *ANSWERS, "System: Tutor the student.\nStudent: \n\nTutorbot: "] * 3
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,  # log-probs far from uniform, gradients far from rounding
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


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
    return {
        "epochs": 1,
        "max_steps": None,
        "per_device_batch": 4,
        "accumulate": 1,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup": 0.1,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "adam_beta2": 0.999,
        "optimizer": "adamw_torch",
        "precision": "float32",
        "gradient_checkpointing": False,
        "log_every": 1,
        "evaluate_every": 1000,
        "checkpoint_every": 1000,
        "trust_remote_code": False,
        "keep": "last",
        "patience": None,
        "lora": None,
        "quantise": None,
    } | changed


def preference_settings(**changed: object) -> dict:
    """Return the settings of DPO, IPO and KTO together; each method reads its own."""
    own = {
        "beta": 0.1,
        "share_prompts": True,
        "sft_weight": 0.0,
        "loss": "sigmoid",
        "logp_reduction": "sum",
        "reference_free": False,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
    }
    return settings_of(**(own | changed))


def call(main: object, *flags: object) -> None:
    """Call a step's main as its command line would."""
    kept, sys.argv = sys.argv, ["step", *map(str, flags)]
    try:
        main()
    finally:
        sys.argv = kept


def manifest_of(model: Path) -> Path:
    """Return the manifest of a model folder, beside it, writing it if need be."""
    manifest = model.parent / f"{model.name}-manifest.json"
    if not manifest.exists():
        write_manifest(manifest, [model])
    return manifest


def write_reference(model: Path, rows: list[dict], folder: Path, batch_size: int = 4) -> Path:
    """Run align.reference on pairs; return the folder with rows.parquet and manifest.json."""
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
    call(reference.main, *flags, "--manifest", folder / "manifest.json")
    return folder


def write_tokens(
    model: Path, train: list[dict], validation: list[dict], folder: Path, limit: int = 256
) -> Path:
    """Run sft.tokenise on conversations; return the folder with a parquet a split and manifest.json."""
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "validation.jsonl", validation)
    settings = {"max_tokens": limit, "overflow": "cut", "template": TEMPLATE, "history_turns": None}
    settings |= {"objective": "it", "im_mask": "paper"}
    splits = [f"{name}={folder / name}.jsonl" for name in ("train", "validation")]
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
    settings = {"pack_tokens": None, "neftune_alpha": None, "kl": None, "loss_norm": "token"} | settings
    own = ["--tokens", str(tokens), "--tokens-manifest", str(tokens / "manifest.json")]
    return training_flags(model, settings, folder, work) + own


def align_flags(
    model: Path, stored: Path, settings: dict, folder: Path, work: Path | None = None
) -> list[str]:
    """Return the command line of align.dpo, ipo and kto."""
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
    flags = align_flags(model, stored, settings, folder, work)
    call(
        lambda: align(LOSSES[method], f"workflow_scripts.align.{method}", mismatched=method == "kto"), *flags
    )
    return folder / "model"
