"""PPO on two processes (gloo, on this CPU) learns what one does, goes on as one, and draws the same again."""

from pathlib import Path

import pytest

from tests.launching import command_of, train
from tests.online import LENGTH, online_flags, ppo_settings, prompts
from tests.resuming import kill_all_once_checkpointed
from tests.tiny import distance, weights_of
from workflow_scripts.common.files import read_json, sha256_of

MODULE = "workflow_scripts.align.ppo"
# Of the nucleus one token is left, so nothing depends on what a process draws.
SURE = {
    "top_p": 1e-6,
    "max_steps": 4,
    "checkpoint_every": 2,
    "ppo_epochs": 1,
    "per_device_batch": 2,
    "log_every": 1,
}


def flags_of(model: Path, folder: Path, **settings: object) -> list[str]:
    return online_flags(model, prompts(12), ppo_settings(**settings), folder, LENGTH)


@pytest.fixture(scope="module")
def one(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    train(command_of(MODULE, flags_of(tiny_model, folder, **SURE), None))
    return folder


def assert_learned_alike(one: Path, other: Path, start: Path) -> None:
    """Hold two runs to the same curves and weights, to the order of float32 sums, far from the start."""
    moved = distance(weights_of(one / "model"), weights_of(start))
    assert moved > 1e-3
    assert distance(weights_of(one / "model"), weights_of(other / "model")) < moved / 100
    for first, second in zip(read_json(one / "curve.json"), read_json(other / "curve.json"), strict=True):
        assert first == pytest.approx(second, rel=1e-2, abs=1e-4)


def test_two_processes_learn_from_the_same_answers_what_one_does(one, tiny_model, tmp_path):
    said = train(command_of(MODULE, flags_of(tiny_model, tmp_path, **SURE)))
    assert_learned_alike(one, tmp_path, tiny_model)
    assert said.count('{"step"') == SURE["max_steps"]  # one of them tells
    assert read_json(tmp_path / "cost.json")["processes"] == 2


def test_one_process_goes_on_with_what_two_began(one, tiny_model, tmp_path):
    flags = flags_of(tiny_model, tmp_path, **SURE)
    kill_all_once_checkpointed(MODULE, flags, "ddp", tmp_path)
    said = train(command_of(MODULE, flags, None))
    assert "resuming from" in said and said.count('{"step"') == 2
    assert_learned_alike(one, tmp_path, tiny_model)


def test_two_processes_draw_the_same_answers_again_and_each_its_own(tiny_model, tmp_path):
    settings = {"max_steps": 2, "kl_control": "adaptive", "top_p": 0.95}
    for name in ("first", "again"):
        train(command_of(MODULE, flags_of(tiny_model, tmp_path / name, **settings)))
    for name in ("model/model.safetensors", "curve.json", "manifest.json"):
        assert sha256_of(tmp_path / "first" / name) == sha256_of(tmp_path / "again" / name), name
