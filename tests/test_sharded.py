"""Sharded training (FSDP, ZeRO) on two CPU processes: the same weights as one process, resumed, with moments in memory.

Adapters are in test_sharded_adapters.py: two files, so that two cores can share them.

What needs DeepSpeed is skipped where `make deepspeed` has not been run; the first run with offloading compiles its
optimiser.
"""

from pathlib import Path

import pytest
import torch

from tests.launching import command_of, deepspeed, norms_of, train
from tests.resuming import kill_all_once_checkpointed
from tests.tiny import (
    align_flags,
    conversations,
    distance,
    pairs,
    preference_settings,
    run_align,
    settings_of,
    sft_flags,
    weights_of,
    write_reference,
    write_tokens,
)
from tests.tiny_model import make_tiny_model
from workflow_scripts.common.files import read_json

STEPS = 4
DPO = {"batch_size": 4, "per_device_batch": 2, "max_steps": STEPS, "checkpoint_every": 2}


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


@pytest.mark.parametrize(
    "parallel", ["fsdp", pytest.param("zero2", marks=deepspeed), pytest.param("zero3", marks=deepspeed)]
)
@pytest.mark.parametrize("start", ["read in parts", "read whole"])
def test_a_head_that_is_the_embedding_is_trained_as_one_though_its_rows_cannot_be_shared_evenly(
    start, parallel, tmp_path
):
    model = make_tiny_model(tmp_path / "tied", tied=True)
    if start == "read whole":  # adapters that were left unmerged are read by each process
        lora = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "merge": False}
        stored = write_reference(model, pairs(14), tmp_path / "before")
        first = preference_settings(max_steps=2, warmup=0.0, learning_rate=1e-2, lora=lora)
        model = run_align("dpo", model, stored, first, tmp_path / "adapters")
    stored = write_reference(model, pairs(14), tmp_path / "reference")
    found = {}
    for how in (None, parallel):
        (folder := tmp_path / str(how)).mkdir()
        flags = align_flags(model, stored, preference_settings(**DPO), folder)
        norms = norms_of(train(command_of("workflow_scripts.align.dpo", flags, how)))
        found[how] = norms, weights_of(folder / "model")
    (norms, one), (others, two) = found.values()
    assert others == pytest.approx(norms, rel=1e-3)
    assert distance(one, two) < 1e-5


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"keep": "best", "evaluate_every": 1},
        {"kl": {"weight": 0.5, "form": "full"}},
        {"gradient_checkpointing": True},
    ],
    ids=lambda more: next(iter(more), "plain"),
)
def test_a_fine_tuning_that_reads_ahead_trains_every_weight_of_one_process(more, tiny_model, tmp_path):
    # Before it trains it asks the policy whether rows can be packed: what that pass leaves whole are not the weights.
    tokens = write_tokens(tiny_model, conversations(8), conversations(4), tmp_path / "tokens")
    settings = settings_of(
        epochs=2, max_steps=STEPS, per_device_batch=2, checkpoint_every=2, learning_rate=1e-2, **more
    )
    found = {}
    for name, parallel in (("one", None), ("two", "fsdp")):
        train(
            command_of(
                "workflow_scripts.sft.train",
                sft_flags(tiny_model, tokens, settings, tmp_path / name),
                parallel,
            )
        )
        found[name] = weights_of(tmp_path / name / "model")
    start = weights_of(tiny_model)
    for weight, before in start.items():
        moved = (found["one"][weight] - before).abs().max()
        assert moved > 1e-4, weight
        assert (found["two"][weight] - found["one"][weight]).abs().max() < moved / 50, weight


@pytest.mark.parametrize(
    "parallel", ["fsdp", pytest.param("zero2", marks=deepspeed), pytest.param("zero3", marks=deepspeed)]
)
def test_a_sharded_run_that_was_killed_is_resumed_to_the_weights_of_an_unbroken_one(
    parallel, dpo, sharded, tiny_model, stored, tmp_path
):
    if parallel not in sharded:
        sharded[parallel] = dpo(parallel)
    flags = align_flags(tiny_model, stored, preference_settings(**DPO), tmp_path)
    command = command_of("workflow_scripts.align.dpo", flags, parallel)
    kill_all_once_checkpointed("workflow_scripts.align.dpo", flags, parallel, tmp_path)
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
