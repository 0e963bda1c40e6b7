"""Adapters on sharded weights (FSDP, ZeRO) on two CPU processes: merged into whole weights, or kept alone.

What needs DeepSpeed is skipped where `make deepspeed` has not been run.
"""

import json
import os

import pytest

from tests.launching import command_of, deepspeed, train
from tests.tiny import (
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
from workflow_scripts.common import logprobs
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import load_policy

STEPS = 4
LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "merge": True}


@pytest.mark.parametrize(
    "parallel", ["fsdp", pytest.param("zero2", marks=deepspeed), pytest.param("zero3", marks=deepspeed)]
)
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


def test_a_policy_kept_as_adapters_alone_loads_as_the_merged_one(tiny_model, tmp_path):
    stored = write_reference(tiny_model, pairs(14), tmp_path / "reference")
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
    assert config["base_model_name_or_path"] == os.path.relpath(tiny_model, alone)
    assert config["target_modules"] == ["q_proj", "v_proj"]  # in one order, whatever the hash seed
    found, expected = load_policy(alone).state_dict(), load_policy(merged).state_dict()
    assert distance(expected, load_policy(tiny_model).state_dict()) > 1e-3
    assert all(weight.requires_grad for weight in load_policy(alone).parameters())
    assert distance(found, expected) < 1e-6
