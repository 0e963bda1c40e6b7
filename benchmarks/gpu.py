"""What one GPU does: a step of SFT and of DPO beside stock TRL, and answers beside plain transformers and vLLM.

    .venv/bin/python -m benchmarks.gpu data/models/base-*/model                 about twelve minutes on one card
    .venv/bin/python -m benchmarks.gpu data/models/base-*/model --shape toy     the same on a CPU, to see that it runs

The model that is timed has random weights in the shape named (of Llama 3.2 1B by default) and the tokenizer of the
folder given, so nothing has to be fetched. Tokens a second, peak memory and equal losses are those of
`benchmarks.trainers`, answers those of `benchmarks.answering` and, where `make gpu` has put vLLM, `benchmarks.engines`.

MFU (model FLOPs utilisation, Chowdhery et al. 2022, appendix B) is what the tokens need over what the device could do:
6 FLOPs a weight and token, without the embeddings that are only looked up, and the products of attention over half of
the mean length, since it is causal. What the device could do is its data sheet's (dense, 16 bits), or, for one that is
not in the table and for a CPU, what a large product of matrices reaches here. A reference that is read as the policy
learns counts for nothing, and a prompt that two answers share, read once, once. A step is timed forward and backward,
without the optimiser's. A part that the card has no memory for is told of, and the others go on.
"""

import argparse
import contextlib
import gc
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import answering, trainers
from benchmarks.rows import call, turns
from workflow_scripts.common.files import write_jsonl, write_manifest
from workflow_scripts.common.models import load_tokenizer, precision_of

VLLM = Path(".venv-vllm/bin/python")
# FLOPs a second, of data sheets; of names that begin alike the longer first.
PEAKS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
}
PEAKS |= {"L40S": 362e12}
SEED = 1


class Shape(NamedTuple):
    """A Llama's layers and widths."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    inner: int


SHAPES = {"1b": Shape(16, 2048, 32, 8, 8192), "toy": Shape(2, 64, 4, 2, 128)}


def write_model(shape: Shape, tokenizer_of: Path, folder: Path) -> LlamaForCausalLM:
    """Write a model of random weights with a tokenizer; return it."""
    tokenizer = load_tokenizer(tokenizer_of)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.inner,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def weights_multiplied(model: LlamaForCausalLM) -> int:
    """Return how many weights a token is multiplied with: all but those that are only looked up."""
    return sum(weight.numel() for weight in model.parameters()) - model.get_input_embeddings().weight.numel()


def flops_per_token(config: LlamaConfig, weights: int, length: float) -> float:
    """Return what forward and backward need for a token of a sequence of so many, through so many weights."""
    return 6 * weights + 12 * config.num_hidden_layers * config.hidden_size * length / 2


def peak_flops() -> tuple[float, str]:
    """Return (FLOPs a second that this device could do, where that is from)."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    for known, peak in PEAKS.items():
        if known in name and "MIG" not in name:  # a slice of a card
            return peak, "its data sheet"
    device, width = ("cuda", 8192) if name else ("cpu", 1024)
    matrix = torch.randn(width, width, device=device, dtype=precision_of("auto"))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * width**3 / best, f"a product of matrices of {width} × {width}"


def answers_by_vllm(model: Path, folder: Path, count: int, new_tokens: int) -> None:
    """Compare answers of vLLM and ours, in the environment that has it; say so where there is none."""
    if not VLLM.exists():
        print("vLLM: not installed (`make gpu`), so not compared")
        return
    rows = turns(count)
    sampling = {
        "temperature": 0.0,
        "top_p": 1.0,
        "samples": 1,
        "max_new_tokens": new_tokens,
        "batch_size": count,
    }
    sampling |= {"min_new_tokens": 0, "beams": 1, "repetition_penalty": 1.0, "stop": []}
    write_jsonl(folder / "asked.jsonl", rows)
    write_manifest(folder / "asked.json", [folder / "asked.jsonl"], count=len(rows), sampling=sampling)
    command = [
        VLLM,
        "-m",
        "benchmarks.engines",
        model,
        "--prompts",
        folder / "asked.json",
        "--context",
        "2048",
    ]
    if status := subprocess.run(list(map(str, command)), check=False).returncode:
        print(f"vLLM: ended with status {status}, so not compared")


@contextlib.contextmanager
def alone(what: str) -> Iterator[None]:
    """Say that a part was left out where the device has no memory for it; what it held is free after it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        print(f"{what}: left out, the device has no memory for it: {str(error).splitlines()[0]}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, help="model folder whose tokenizer is taken")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--batches", type=int, default=6, help=f"of {trainers.ROWS} rows, for each training")
    parser.add_argument("--count", type=int, default=256, help="prompts to answer")
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens of an answer")
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    started, (peak, source) = time.monotonic(), peak_flops()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(SHAPES[arguments.shape], arguments.tokenizer, folder / "model")
        weights = sum(weight.numel() for weight in model.parameters())
        print(f"{device}: {peak / 1e12:.3g} TFLOPs a second by {source}; {weights / 1e6:.1f} M weights")
        config, multiplied = model.config, weights_multiplied(model)
        del model
        trainers.say_how()
        for training in ("SFT", "DPO"):
            with alone(training):
                speeds, length, computed = trainers.compare_one(training, folder / "model", arguments.batches)
                need = flops_per_token(config, multiplied, length / (2 if training == "DPO" else 1))
                for way, speed in list(speeds.items())[:2]:
                    print(f"{training} {way}: MFU {100 * speed * computed.get(way, 1) * need / peak:.1f} %")
        flags = ["--count", arguments.count, "--batch-size", arguments.count]
        with alone("answers"):
            call(answering.main, folder / "model", *flags, "--new-tokens", arguments.new_tokens)
        answers_by_vllm(folder / "model", folder, arguments.count, arguments.new_tokens)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
