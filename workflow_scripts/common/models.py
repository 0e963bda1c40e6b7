"""Load policies and tokenizers one way everywhere: safetensors only, no remote code unless the study says so."""

import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from workflow_scripts.common.errors import PlumblineError

transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)


def precision_of(wanted: str) -> torch.dtype:
    """Return the number format to compute in: `auto` is bfloat16 where the hardware multiplies it, else float32."""
    if wanted == "auto":
        if torch.cuda.is_available():
            wanted = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        else:
            able = torch.cpu.get_capabilities()
            wanted = "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wanted]


def load_tokenizer(folder: Path | str) -> Any:
    """Return the fast tokenizer of a model folder, with a padding token; masks need its character offsets."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise PlumblineError(f"{folder}: has no fast tokenizer, so tokens cannot be traced to characters")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_policy(
    folder: Path | str, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False, **more: Any
) -> Any:
    """Return the causal language model of a folder in evaluation mode; `more` goes to `from_pretrained`."""
    if not (Path(folder) / "config.json").is_file():
        raise PlumblineError(f"{folder}: no model here; delete its manifest and run again to make it anew")
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        attn_implementation="sdpa",
        **more,
    )
    return model.eval()
