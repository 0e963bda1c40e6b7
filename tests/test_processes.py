"""Two processes (gloo, on this CPU) train the weights that one does with the same rows a step."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import (
    ROOT,
    TEMPLATE,
    align_flags,
    call,
    conversations,
    pairs,
    preference_settings,
    settings_of,
    sft_flags,
    training_flags,
    write_reference,
    write_tokens,
)
from workflow_scripts.align import rewarded
from workflow_scripts.common.files import read_json, write_jsonl

STEPS = 3


def run(module: str, flags: list[str], processes: int) -> list[float]:
    """Run a training in fresh processes, as a job would; return the gradient norms it logged, which Adam would hide."""
    launch = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    command = [sys.executable, "-m", *(launch if processes > 1 else []), module, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(found) for found in re.findall(r"'grad_norm': '([^']+)'", done.stdout)]


def trained(
    module: str, flags_of: object, folder: Path, processes: int, **settings: object
) -> tuple[dict, list[float]]:
    """Return (weights, gradient norms) of a run whose step takes four rows, however many processes share them."""
    folder.mkdir()
    per_process = 4 // processes
    flags = flags_of(settings | {"per_device_batch": per_process, "max_steps": STEPS}, folder)
    norms = run(module, flags, processes)
    assert len(norms) == STEPS
    assert read_json(folder / "manifest.json")["steps"] == STEPS
    assert read_json(folder / "cost.json")["processes"] == processes
    return load_file(folder / "model" / "model.safetensors"), norms


def assert_equal(first: tuple, second: tuple, start: dict) -> None:
    """Hold two trainings to the same weights, to what the order of float32 sums may change, far from the start."""
    (one, norms), (two, others) = first, second
    assert norms == pytest.approx(others, rel=1e-2)
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    apart = max((one[name] - two[name]).abs().max().item() for name in one)
    assert moved > 1e-3
    assert apart < moved / 100


def write_rewarded(model: Path, folder: Path, count: int) -> Path:
    """Write rewarded rows with the model's own log-probs; return their folder."""
    rows = [
        {
            "id": f"r{number}",
            "group": f"g{number}",
            "messages": row["messages"][:-1],
            "reference": row["messages"][-1]["content"],
            "meta": {},
            "rewards": {"final_reward": 0.2 + 0.05 * number},
        }
        for number, row in enumerate(conversations(count))
    ]
    write_jsonl(folder / "annotated.jsonl", rows)
    settings = {"max_prompt_tokens": 160, "max_tokens": 256, "template": TEMPLATE, "history_turns": None}
    settings |= {"precision": "float32", "batch_size": 4, "trust_remote_code": False}
    flags = ["--parent", model, "--annotated", f"train={folder}/annotated.jsonl"]
    flags += ["--settings", json.dumps(settings), "--output", folder / "rows.parquet"]
    flags += ["--rejected", folder / "rejected.jsonl", "--manifest", folder / "manifest.json"]
    call(rewarded.main, *flags)
    return folder


@pytest.fixture(scope="module")
def start(tiny_model) -> dict[str, torch.Tensor]:
    return load_file(tiny_model / "model.safetensors")


def test_two_processes_align_as_one_does(tiny_model, tmp_path, start):
    stored = write_reference(tiny_model, pairs(12), tmp_path / "reference")

    def flags_of(settings: dict, folder: Path) -> list[str]:
        return align_flags(tiny_model, stored, preference_settings(**settings), folder)

    one, two = (
        trained("workflow_scripts.align.dpo", flags_of, tmp_path / f"by-{count}", count) for count in (1, 2)
    )
    assert_equal(one, two, start)


def test_two_processes_learn_from_rewarded_answers_as_one_does(tiny_model, tmp_path, start):
    stored = write_rewarded(tiny_model, tmp_path / "rewarded", 12)

    def flags_of(settings: dict, folder: Path) -> list[str]:
        own = {"sampling": "none", "clip": 0.9, "padding_free": False, "evaluate_every": 2}
        flags = training_flags(tiny_model, settings_of(**(settings | own)), folder)
        rows, manifest = stored / "rows.parquet", stored / "manifest.json"
        return [*flags, "--rewarded", str(rows), "--rewarded-manifest", str(manifest)]

    one, two = (
        trained("workflow_scripts.align.r_lol", flags_of, tmp_path / f"by-{count}", count) for count in (1, 2)
    )
    assert_equal(one, two, start)


@pytest.mark.parametrize("loss_norm", ["token", "example"])
def test_two_processes_fine_tune_as_one_does(tiny_model, tmp_path, start, loss_norm):
    tokens = write_tokens(tiny_model, conversations(12), conversations(2), tmp_path / "tokens")

    def flags_of(settings: dict, folder: Path) -> list[str]:
        own = {"pack_tokens": None, "loss_norm": loss_norm, "neftune_alpha": None, "kl": None}
        return sft_flags(tiny_model, tokens, settings_of(**own, **settings), folder)

    one, two = (
        trained("workflow_scripts.sft.train", flags_of, tmp_path / f"by-{count}", count) for count in (1, 2)
    )
    assert_equal(one, two, start)
