"""QLoRA on a CPU: adapters learn on weights in four bits, and what is saved, in 32 bits, is what was trained."""

import sys
from pathlib import Path

import pytest
import torch

from tests.launching import command_of, four_bits, run, train
from tests.online import LENGTH, online_flags, ppo_settings, prompts
from tests.resuming import kill_once_checkpointed
from tests.tiny import conversations, distance, settings_of, sft_flags, weights_of, write_tokens
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.models import load_policy

pytestmark = four_bits
MODULE, BESIDE = "workflow_scripts.sft.train", Path(sys.prefix) / "four-bits"
LORA = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "down_proj"], "merge": True}
OWN = {"batch_of": "rows", "pack_tokens": None, "loss_norm": "token", "neftune_alpha": None, "kl": None}
LEARNING = OWN | {
    "batch_size": 4,
    "per_device_batch": 4,
    "max_steps": 6,
    "learning_rate": 1e-2,
    "evaluate_every": 6,
}


@pytest.fixture(scope="module")
def tokens(tiny_model, tmp_path_factory) -> Path:
    return write_tokens(tiny_model, conversations(12), conversations(6), tmp_path_factory.mktemp("tokens"))


def flags_of(model: Path, tokens: Path, folder: Path, **settings: object) -> list[str]:
    folder.mkdir(exist_ok=True)
    return sft_flags(
        model, tokens, settings_of(**{"quantise": "nf4", "lora": LORA} | LEARNING | settings), folder
    )


def validated(model: Path, tokens: Path, folder: Path) -> float:
    """Return the validation loss of a policy as it is, by a training that moves nothing."""
    still = {"quantise": None, "lora": None, "max_steps": 1, "learning_rate": 1e-30, "evaluate_every": 1}
    train(command_of(MODULE, flags_of(model, tokens, folder, **still), None))
    return read_json(folder / "curve.json")[-1]["validation_loss"]


@pytest.mark.parametrize(("double", "targets"), [(True, LORA["targets"]), (False, "all-linear")])
def test_what_is_saved_is_what_was_trained(tiny_model, tokens, tmp_path, double, targets):
    own = {"quantise_double": double, "lora": LORA | {"targets": targets}}
    flags = flags_of(tiny_model, tokens, tmp_path / "run", **own)
    train(command_of(MODULE, flags, None), BESIDE)
    curve = read_json(tmp_path / "run/curve.json")
    # a gradient's norm in 32 bits: it has the type of the adapters, which TRL rounds to bfloat16
    norm = torch.tensor(curve[0]["grad_norm"])
    assert float(norm.bfloat16()) != pytest.approx(float(norm), rel=1e-6)
    before = validated(tiny_model, tokens, tmp_path / "before")
    told = curve[-1]["validation_loss"]
    assert told < before - 0.1
    assert validated(tmp_path / "run/model", tokens, tmp_path / "saved") == pytest.approx(told, abs=1e-5)


def test_the_saved_policy_is_a_plain_one_whose_layers_without_adapters_were_rounded(
    tiny_model, tokens, tmp_path
):
    train(command_of(MODULE, flags_of(tiny_model, tokens, tmp_path / "run"), None), BESIDE)
    assert "quantization_config" not in read_json(tmp_path / "run/model/config.json")
    policy = load_policy(tmp_path / "run/model")
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    saved, start = weights_of(tmp_path / "run/model"), weights_of(tiny_model)
    assert saved.keys() == start.keys()
    rounded = [name for name in start if name.endswith(("k_proj.weight", "up_proj.weight"))]
    kept = [name for name in start if "norm" in name or "embed" in name or "lm_head" in name]
    assert rounded and kept
    for name in rounded:
        steps = {
            round(value, 6) for value in saved[name].flatten()[:64].tolist()
        }  # of one block: 16 levels at most
        assert 1 < len(steps) <= 16 and 0 < (saved[name] - start[name]).abs().max() < 0.2
    assert all(torch.equal(saved[name], start[name]) for name in kept)


def test_the_same_bytes_again_and_after_a_checkpoint_by_two_processes_the_same_weights(
    tiny_model, tokens, tmp_path
):
    for name in ("first", "again"):
        train(command_of(MODULE, flags_of(tiny_model, tokens, tmp_path / name), None), BESIDE)
    first, again = (tmp_path / name / "model/model.safetensors" for name in ("first", "again"))
    assert sha256_of(first) == sha256_of(again)
    train(command_of(MODULE, flags_of(tiny_model, tokens, tmp_path / "two")), BESIDE)
    moved = distance(weights_of(tmp_path / "first/model"), weights_of(tiny_model))
    assert distance(weights_of(tmp_path / "first/model"), weights_of(tmp_path / "two/model")) < moved / 100


def test_adapters_that_are_kept_alone_name_the_policy_they_are_for(tiny_model, tokens, tmp_path):
    flags = flags_of(tiny_model, tokens, tmp_path / "run", lora=LORA | {"merge": False})
    train(command_of(MODULE, flags, None), BESIDE)
    assert (tmp_path / "run/model/adapter_model.safetensors").is_file()
    load_policy(tmp_path / "run/model")
    done = run(command_of(MODULE, flags_of(tmp_path / "run/model", tokens, tmp_path / "child"), None), BESIDE)
    assert (
        done.returncode == 1 and "is an adapter; set lora.merge: true in the run that made it" in done.stderr
    )


def test_a_killed_run_goes_on_to_the_bytes_of_an_unbroken_one(tiny_model, tokens, tmp_path, monkeypatch):
    settings = {"checkpoint_every": 2, "evaluate_every": 100}
    train(command_of(MODULE, flags_of(tiny_model, tokens, tmp_path / "whole", **settings), None), BESIDE)
    flags = flags_of(tiny_model, tokens, tmp_path / "broken", **settings)
    monkeypatch.setenv("PYTHONPATH", str(BESIDE))
    kill_once_checkpointed(MODULE, flags, tmp_path / "broken/work", 4)
    assert "resuming from" in train(command_of(MODULE, flags, None), BESIDE)
    whole, broken = (tmp_path / name / "model/model.safetensors" for name in ("whole", "broken"))
    assert sha256_of(whole) == sha256_of(broken)


def test_ppo_learns_on_four_bits_and_saves_a_plain_policy(tiny_model, tmp_path):
    settings = ppo_settings(quantise="nf4", lora=LORA)
    flags = online_flags(tiny_model, prompts(12), settings, tmp_path / "run", LENGTH)
    train(command_of("workflow_scripts.align.ppo", flags, None), BESIDE)
    saved, start = weights_of(tmp_path / "run/model"), weights_of(tiny_model)
    assert saved.keys() == start.keys()
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    first = read_json(tmp_path / "run/curve.json")[0]
    assert abs(first["kl"]) < 1e-3 or first["step"] > 1
