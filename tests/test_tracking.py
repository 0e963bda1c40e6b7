"""Curves in TensorBoard's event files: what is read back, and that what is trained is the same with and without."""

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.command import call
from tests.online import LENGTH, online_flags, ppo_settings, prompts
from tests.tiny import align_flags, pairs, preference_settings, write_reference
from tests.watched import watch_flags
from workflow_scripts.align import dpo, ppo
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.training import tracking
from workflow_scripts.common.training.tracking import SINKS, VARIABLE, Sinks


def events_of(folder: Path) -> list[Event]:
    """Return what the event files of a folder hold: records of a length, its checksum, bytes, their checksum."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        raw, at = path.read_bytes(), 0
        while at < len(raw):
            (length,) = struct.unpack("<Q", raw[at : at + 8])
            found.append(Event.FromString(raw[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def scalars_of(folder: Path) -> dict[tuple[str, int], float]:
    """Return {(name, step): value} of the event files of a folder."""
    return {
        (value.tag, event.step): value.simple_value
        for event in events_of(folder)
        for value in event.summary.value
    }


def numbers_in(curve: list[dict]) -> dict[tuple[str, int], float]:
    """Return {(name, step): value} of the rows of a curve."""
    return {
        (name, row["step"]): value
        for row in curve
        for name, value in row.items()
        if name not in ("step", "answers")
    }


def run_dpo(model: Path, folder: Path) -> Path:
    stored = folder.parent / "stored"
    if not stored.exists():
        stored.mkdir(parents=True)
        write_reference(model, pairs(9), stored)
    settings = preference_settings(max_steps=4, evaluate_every=2)
    call(dpo.main, *align_flags(model, stored, settings, folder), *watch_flags(folder / "w"))
    return folder


def run_ppo(model: Path, folder: Path) -> Path:
    settings = ppo_settings(max_steps=3, evaluate_every=2, batch_size=8)
    flags = online_flags(model, prompts(12), settings, folder, LENGTH)
    call(ppo.main, *flags, *watch_flags(folder / "w"))
    return folder


@pytest.mark.parametrize("run", [run_dpo, run_ppo])
def test_event_files_hold_the_curve_and_the_model_is_the_same_to_the_byte(
    tiny_model, tmp_path, monkeypatch, run
):
    plain = run(tiny_model, tmp_path / "plain")
    monkeypatch.setenv(VARIABLE, "tensorboard")
    tracked = run(tiny_model, tmp_path / "tracked")
    assert not (plain / tracking.FOLDER).exists()
    for name in ("model/model.safetensors", "manifest.json", "curve.json"):
        assert sha256_of(plain / name) == sha256_of(tracked / name), name
    wanted = numbers_in(read_json(tracked / "curve.json"))
    found = scalars_of(tracked / tracking.FOLDER)
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted, rel=1e-4, abs=2e-6)
    assert {"watch", "rows", "tokens"} <= {name for name, _ in found}


def test_a_run_that_goes_on_takes_the_place_of_what_was_written_past_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "tensorboard")
    for since, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        sinks = Sinks(tmp_path / "curve.json", since)
        sinks.write([{"step": step, "train_loss": 1.0 / step} for step in steps])
        sinks.close()
    restarts = [
        event.step for event in events_of(tmp_path / tracking.FOLDER) if event.session_log.status == 1
    ]
    assert restarts == [3]  # dashboards drop what was written at and after this step before
    assert {step for _, step in scalars_of(tmp_path / tracking.FOLDER)} == {1, 2, 3, 4}
    sinks = Sinks(tmp_path / "curve.json", 0)  # begun anew: nothing of it is left
    sinks.write([{"step": 1, "train_loss": 7.0}])
    sinks.close()
    assert scalars_of(tmp_path / tracking.FOLDER) == {("train_loss", 1): 7.0}


def test_nothing_is_written_where_nothing_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    sinks = Sinks(tmp_path / "curve.json", 0)
    sinks.write([{"step": 1, "train_loss": 1.0}])
    sinks.close()
    assert list(tmp_path.iterdir()) == []
    assert list(SINKS) == ["tensorboard"]
