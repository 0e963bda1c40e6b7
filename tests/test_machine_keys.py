"""What alters no result reaches a training by its environment, and makes nothing stale."""

import json

import pytest

from tests.command import call
from tests.tiny import conversations, distance, settings_of, sft_flags, weights_of, write_tokens
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.training.machine import VARIABLE
from workflow_scripts.sft import train as sft_train
from workflow_scripts.study.training import OF_THE_MACHINE


def run(tiny_model, tokens, folder, settings: dict, monkeypatch, work=None, **keys: object):
    """Fine-tune with the keys of the machine in the environment alone; return the model's folder."""
    own = {key: settings[key] for key in OF_THE_MACHINE if key in settings} | keys
    handed = {key: value for key, value in settings.items() if key not in OF_THE_MACHINE}
    monkeypatch.setenv(
        VARIABLE, json.dumps([[{"log_every": 9}, ["runs.other"]], [own, ["runs.dpo", "runs.sft"]]])
    )
    call(sft_train.main, *sft_flags(tiny_model, tokens, handed | {"machine_of": "runs.sft"}, folder, work))
    return folder / "model"


@pytest.fixture
def tokens(tiny_model, tmp_path):
    return write_tokens(tiny_model, conversations(8), conversations(2), tmp_path / "tokens")


@pytest.mark.parametrize(
    "keys",
    [
        {"per_device_batch": 1},
        {"gradient_checkpointing": True},
        {"log_every": 4, "checkpoint_every": 1},
    ],
)
def test_weights_are_the_same_whatever_they_are(tiny_model, tokens, tmp_path, monkeypatch, keys):
    settings = settings_of(batch_size=4, epochs=2)
    one = run(tiny_model, tokens, tmp_path / "one", settings, monkeypatch)
    other = run(tiny_model, tokens, tmp_path / "other", settings, monkeypatch, **keys)
    assert distance(weights_of(one), weights_of(tiny_model)) > 1e-3
    assert distance(weights_of(one), weights_of(other)) < 1e-5
    for name in ("steps",):
        assert (
            read_json(one.parent / "manifest.json")[name] == read_json(other.parent / "manifest.json")[name]
        )


def test_a_killed_training_starts_anew_where_they_have_changed_and_goes_on_where_they_have_not(
    tiny_model, tokens, tmp_path, monkeypatch, capsys
):
    settings, work = settings_of(batch_size=4, epochs=2, checkpoint_every=1), tmp_path / "work"
    whole = run(tiny_model, tokens, tmp_path / "whole", settings, monkeypatch)
    save = sft_train.save_trained

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name, keys, says in (("same", {}, True), ("changed", {"per_device_batch": 1}, False)):
        monkeypatch.setattr(sft_train, "save_trained", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_model, tokens, tmp_path / name, settings, monkeypatch, work)
        monkeypatch.setattr(sft_train, "save_trained", save)
        capsys.readouterr()
        model = run(tiny_model, tokens, tmp_path / name, settings, monkeypatch, work, **keys)
        assert ("resuming from" in capsys.readouterr().out) == says
        assert distance(weights_of(whole), weights_of(model)) < 1e-5


def test_a_job_that_is_told_nothing_says_what_is_missing(tiny_model, tokens, tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    flags = sft_flags(tiny_model, tokens, {"machine_of": "runs.sft"}, tmp_path)
    with pytest.raises(PlumblineError, match=rf"settings.machine_of: \${VARIABLE} says nothing of runs.sft"):
        call(sft_train.main, *flags)
