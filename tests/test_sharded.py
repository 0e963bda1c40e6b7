"""Sharded training (FSDP, ZeRO) on two CPU processes: the same weights as one process, resumed, with adapters.

What needs DeepSpeed is skipped where `make deepspeed` has not been run; the first run with offloading compiles its optimiser.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.launching import command_of, norms_of, train
from tests.tiny import (
    ROOT,
    align_flags,
    conversations,
    distance,
    is_whole,
    pairs,
    preference_settings,
    run_align,
    settings_of,
    sft_flags,
    weights_of,
    write_reference,
    write_tokens,
)
from workflow_scripts.common import logprobs
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import load_policy

STEPS = 4
DPO = {"batch_size": 4, "per_device_batch": 2, "max_steps": STEPS, "checkpoint_every": 2}
LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "merge": True}
deepspeed = pytest.mark.skipif(
    not (Path(sys.prefix) / "deepspeed").is_dir(), reason="DeepSpeed is not installed (make deepspeed)"
)


@pytest.fixture(scope="module")
def stored(tiny_model, tmp_path_factory) -> Path:
    return write_reference(tiny_model, pairs(14), tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def dpo(tiny_model, stored, tmp_path_factory):
    """Return a function: (parallel, settings) → (folder of a finished run of DPO, what it printed)."""

    def trained(parallel: str | None, **settings: object) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(parallel or "one")
        flags = align_flags(tiny_model, stored, preference_settings(**(DPO | settings)), folder)
        return folder, train(command_of("workflow_scripts.align.dpo", flags, parallel))

    return trained


@pytest.fixture(scope="module")
def one(dpo) -> tuple[Path, str]:
    """DPO on one process."""
    return dpo(None)


@pytest.fixture(scope="module")
def sharded(dpo) -> dict[str, tuple[Path, str]]:
    """DPO on two processes by each way of sharding, once it has been asked for."""
    return {}


def hold_to_one(found: tuple[Path, str], one: tuple[Path, str], start: Path) -> None:
    """Hold a sharded run to the weights, the gradient norms and the curve of one process."""
    (folder, printed), (whole, said) = found, one
    moved = distance(weights_of(whole / "model"), weights_of(start))
    assert moved > 1e-3
    assert distance(weights_of(whole / "model"), weights_of(folder / "model")) < moved / 100
    assert all(weight.dtype == torch.float32 for weight in weights_of(folder / "model").values())
    assert len(norms_of(said)) == STEPS
    assert norms_of(printed) == pytest.approx(norms_of(said), rel=1e-2)
    assert (folder / "model/config.json").read_text() == (whole / "model/config.json").read_text()
    assert read_json(folder / "manifest.json")["steps"] == STEPS
    assert read_json(folder / "cost.json")["processes"] == 2


@pytest.mark.parametrize(
    "parallel", ["fsdp", pytest.param("zero2", marks=deepspeed), pytest.param("zero3", marks=deepspeed)]
)
def test_a_sharded_run_trains_the_weights_of_one_process(parallel, dpo, one, sharded, tiny_model):
    sharded[parallel] = dpo(parallel)
    hold_to_one(sharded[parallel], one, tiny_model)


def started_by(folder: Path) -> list[psutil.Process]:
    """Return the processes that have a folder among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("zero3", marks=deepspeed)])
def test_a_sharded_run_that_was_killed_is_resumed_to_the_weights_of_an_unbroken_one(
    parallel, dpo, sharded, tiny_model, stored, tmp_path
):
    if parallel not in sharded:
        sharded[parallel] = dpo(parallel)
    flags = align_flags(tiny_model, stored, preference_settings(**DPO), tmp_path)
    command = command_of("workflow_scripts.align.dpo", flags, parallel)
    halted = command_of("tests.halting", ["2", "workflow_scripts.align.dpo", *flags], parallel)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        halted, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as job:
        deadline = time.monotonic() + 240
        while not any(map(is_whole, tmp_path.glob("work/*/checkpoint-2/trainer_state.json"))):
            assert job.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for process in started_by(tmp_path):
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with the one that had started it
                process.kill()
    while started_by(tmp_path):
        time.sleep(0.05)
    assert not (tmp_path / "model").exists()
    [state] = tmp_path.glob("work/*/checkpoint-2")
    assert (
        len(list(state.glob("rng_state_*.pth"))) == 2
    )  # of both processes, or it would not have counted as whole
    printed = train(command)
    assert printed.count("resuming from") == 1
    assert len(norms_of(printed)) == STEPS - 2
    unbroken, _ = sharded[parallel]
    assert distance(weights_of(unbroken / "model"), weights_of(tmp_path / "model")) < 1e-6
    assert (tmp_path / "curve.json").read_text() == (unbroken / "curve.json").read_text()


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("zero3", marks=deepspeed)])
def test_adapters_trained_in_shards_are_merged_into_whole_weights_of_the_best_checkpoint(
    parallel, tiny_model, tmp_path
):
    # Enough rows in a pass that the LM head's logits are made in chunks, and again for their gradient.
    tokens = write_tokens(tiny_model, conversations(72), conversations(3), tmp_path / "tokens")
    settings = {
        "batch_size": 72,
        "per_device_batch": 36,
        "max_steps": STEPS,
        "epochs": STEPS,
        "learning_rate": 1e-2,
    }
    settings |= {"lora": LORA, "keep": "best", "evaluate_every": 2, "gradient_checkpointing": True}
    folders = {}
    for how in (None, parallel):
        folders[how] = tmp_path / str(how)
        folders[how].mkdir()
        flags = sft_flags(tiny_model, tokens, settings_of(**settings), folders[how])
        printed = train(command_of("workflow_scripts.sft.train", flags, how))
        assert (
            f"a step: 72 rows = {'2 processes × 1 pass' if how else '1 process × 2 passes'} of 36" in printed
        )
    counts = read_json(tokens / "manifest.json")["counts"]["train"]
    assert counts["tokens"] / 2 > 2 * logprobs.CHUNK
    one, many = weights_of(folders[None] / "model"), weights_of(folders[parallel] / "model")
    moved = distance(one, weights_of(tiny_model))
    assert moved > 1e-3
    assert distance(one, many) < moved / 100
    manifests = [read_json(folder / "manifest.json") for folder in folders.values()]
    assert manifests[0]["best_step"] == manifests[1]["best_step"] == STEPS
    curves = [json.loads((folder / "curve.json").read_text()) for folder in folders.values()]
    losses = [[row["validation_loss"] for row in curve if "validation_loss" in row] for curve in curves]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_policy_kept_as_adapters_alone_loads_as_the_merged_one(tiny_model, stored, tmp_path):
    settings = {"max_steps": 2, "warmup": 0, "schedule": "constant", "learning_rate": 1e-2}
    merged, alone = (
        run_align(
            "dpo",
            tiny_model,
            stored,
            preference_settings(**settings, lora=LORA | {"targets": ["v_proj", "q_proj"], "merge": merge}),
            tmp_path / str(merge),
        )
        for merge in (True, False)
    )
    files = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    files |= {"generation_config.json", "chat_template.jinja"}
    assert {path.name for path in alone.iterdir()} == files
    config = read_json(alone / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(tiny_model)
    assert config["target_modules"] == ["q_proj", "v_proj"]  # in one order, whatever the hash seed
    found, expected = load_policy(alone).state_dict(), load_policy(merged).state_dict()
    assert distance(expected, load_policy(tiny_model).state_dict()) > 1e-3
    assert distance(found, expected) < 1e-6


@deepspeed
def test_weights_and_moments_in_the_machines_memory_train_in_bfloat16_and_stay_in_32_bits(
    dpo, one, tiny_model
):
    folder, printed = dpo("zero3-offload", precision="bfloat16")
    whole, said = one
    found = weights_of(folder / "model")
    assert norms_of(printed) == pytest.approx(norms_of(said), rel=0.1)
    assert all(weight.dtype == torch.float32 for weight in found.values())
    assert any((weight != weight.bfloat16().float()).any() for weight in found.values())
    moved = distance(weights_of(whole / "model"), weights_of(tiny_model))
    assert 0 < distance(found, weights_of(whole / "model")) < 2 * moved
