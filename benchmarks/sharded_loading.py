"""The memory that processes take to load a policy that they share, and to write it out of their shares again.

    .venv/bin/python -m benchmarks.sharded_loading --millions 50 150 400 --processes 2 4 --parallel fsdp zero3

Random Llamas are written as safetensors and loaded as a training loads them, by processes on CPUs (gloo). Each first
loads and writes a tiny one, so that all that is imported is there: what it then takes more, at its highest, is told,
of the process that takes most. A share is 4 bytes a parameter over all processes; to load may take 1.3 shares and one
layer (what is larger of a layer and the embedding).
Writing is told as what it takes beside the share, which is held already.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.startup import begin_collecting

MIB = 2**20
SHAPES = {
    0: (64, 2, 500),
    50: (512, 12, 8000),
    150: (768, 18, 16000),
    400: (1152, 22, 24000),
}  # width, layers, tokens
SETTINGS = {
    "quantise": None,
    "lora": None,
    "dropout": None,
    "precision": "float32",
    "trust_remote_code": False,
    "gradient_checkpointing": False,
}


def make_llama(millions: int, folder: Path, dtype: torch.dtype) -> tuple[int, int]:
    """Write a random Llama of about so many million parameters; return (its parameters, the largest part's)."""
    width, layers, tokens = SHAPES[millions]
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder)
    layer = sum(weight.numel() for weight in model.model.layers[0].parameters())
    return model.num_parameters(), max(layer, model.model.embed_tokens.weight.numel())


def held(name: str) -> int:
    """Return what this process holds (VmRSS), or held at most (VmHWM), in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def most_held(work: Any) -> tuple[Any, int]:
    """Return (what `work` returns, by how many bytes this process held more meanwhile)."""
    torch.distributed.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted anew
    before = held("VmRSS")
    made = work()
    return made, held("VmHWM") - before


def take_part(folder: Path, to: Path) -> None:
    """Load and write a policy as one of its processes; say what that took."""
    begin_collecting()  # as a training does
    from workflow_scripts.common.training.loading import load_trainable
    from workflow_scripts.common.training.streaming import whole_weights, write_shared

    def write(model: Any) -> None:
        if os.environ["RANK"] == "0":
            to.mkdir()
            write_shared(model, to)
        else:
            for _ in whole_weights(model):
                pass

    write(load_trainable(folder.parent / "tiny", SETTINGS, 0))
    if os.environ["RANK"] == "0":
        for file in [*to.iterdir()]:
            file.unlink()
        to.rmdir()
    model, loading = most_held(lambda: load_trainable(folder, SETTINGS, 0))
    _, writing = most_held(lambda: write(model))
    line = json.dumps({"loading": loading, "writing": writing}) + "\n"
    os.write(1, line.encode())  # at once: no two are mixed


def shared(folder: Path, processes: int, parallel: str, to: Path) -> list[dict[str, int]]:
    """Return what each of so many processes says of a policy that they share by FSDP or ZeRO."""
    launch = [
        "workflow_scripts.common.launch",
        "--gpus",
        "0",
        "--parallel",
        parallel,
        "--processes",
        str(processes),
    ]
    own = ["tests.fsdp_on_cpu"] if parallel == "fsdp" else []
    own += ["benchmarks.sharded_loading", "--part", str(folder), str(to)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, "--", *own],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, nargs="+", default=[50, 150, 400], choices=SHAPES)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--parallel", nargs="+", default=["fsdp"], choices=("fsdp", "zero3"))
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="of the files")
    parser.add_argument("--part", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        take_part(*arguments.part)
        return
    dtype = getattr(torch, arguments.dtype)
    print(
        "parameters  processes  parallel     whole     share  1.3 shares + layer   loading   writing  (MiB)"
    )
    with tempfile.TemporaryDirectory() as place:
        make_llama(0, Path(place, "tiny"), dtype)
        for millions in arguments.millions:
            folder = Path(place, f"of-{millions}")
            count, layer = make_llama(millions, folder, dtype)
            for processes, parallel in itertools.product(arguments.processes, arguments.parallel):
                said = shared(folder, processes, parallel, Path(place, f"{millions}-{processes}-{parallel}"))
                assert len(said) == processes
                share = 4 * count / processes
                sizes = [4 * count, share, 1.3 * share + 4 * layer]
                sizes += [max(one[what] for one in said) for what in ("loading", "writing")]
                whole, share, bound, loading, writing = (size / MIB for size in sizes)
                print(
                    f"{count / 1e6:8.1f} M {processes:10d} {parallel:>9} {whole:9.0f} {share:9.0f} {bound:19.0f} "
                    f"{loading:9.0f} {writing:9.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
