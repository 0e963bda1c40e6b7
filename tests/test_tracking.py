"""Curves in dashboards: what is read back, and that what is trained is the same with and without.

The services' packages are not in the lock: fakes stand for them, with the parts of their published interfaces that are
called, and where a package itself is installed it is tried, too.
"""

import importlib.util
import random
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from tests.command import call
from tests.online import LENGTH, online_flags, ppo_settings, prompts
from tests.tiny import align_flags, pairs, preference_settings, write_reference
from tests.watched import watch_flags
from workflow_scripts.align import dpo, ppo
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.training import tracking
from workflow_scripts.common.training.tracking import SINKS, VARIABLE, Sinks
from workflow_scripts.study import machine

SERVICES = ("wandb", "mlflow", "trackio")
KEYS = ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR", "TRACKIO_SPACE_ID")


@pytest.fixture(autouse=True)
def of_a_study(tmp_path, monkeypatch) -> None:
    """Stand in a study's run, whose environment names no service's key."""
    monkeypatch.setenv(tracking.STUDY, str(tmp_path / "results/mine"))
    for name in (*KEYS, *tracking.NO_NEWS, "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def draw() -> None:
    """Draw random numbers where trainings draw theirs, as a package might."""
    random.random()
    np.random.rand()
    torch.rand(3)


class Told:
    """A fake of a service: what it was told, by the name of the run."""

    def __init__(self) -> None:
        self.begun: list[dict] = []
        self.rows: dict[str, list[tuple[int, dict]]] = {}
        self.ended: list[str] = []

    def run(self, key: str) -> SimpleNamespace:
        def log(data: dict, step: int | None = None) -> None:
            draw()
            self.rows.setdefault(key, []).append((step, dict(data)))

        return SimpleNamespace(log=log, finish=lambda: self.ended.append(key))


def fake_wandb(told: Told) -> ModuleType:
    module = ModuleType("wandb")

    def init(*, project, name, id, resume, dir, config, settings, mode=None):
        draw()
        told.begun.append({"project": project, "name": name, "id": id, "resume": resume, "mode": mode})
        told.begun[-1] |= {"config": config, "dir": dir}
        return told.run(id)

    module.init = init
    module.Settings = lambda *, silent, console: SimpleNamespace(silent=silent, console=console)
    return module


def fake_trackio(told: Told) -> ModuleType:
    module = ModuleType("trackio")

    def init(project, name=None, *, config=None, resume="never", embed=True):
        draw()
        told.begun.append({"project": project, "name": name, "resume": resume, "config": config})
        return told.run(name)

    module.init = init
    return module


def fake_mlflow(told: Told) -> ModuleType:
    module = ModuleType("mlflow")

    class MlflowClient:
        def __init__(self, tracking_uri: str) -> None:
            self.uri = tracking_uri

        def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
            known = {begun["project"] for begun in told.begun}
            return SimpleNamespace(experiment_id=name) if name in known else None

        def create_experiment(self, name: str) -> str:
            return name

        def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
            draw()
            key = f"run{len(told.begun)}"
            told.begun.append(
                {"project": experiment_id, "name": run_name, "id": key, "uri": self.uri, "config": {}}
            )
            return SimpleNamespace(info=SimpleNamespace(run_id=key))

        def log_param(self, run_id: str, key: str, value: object) -> None:
            told.begun[-1]["config"][key] = value

        def update_run(self, run_id: str, status: str) -> None:
            told.begun.append({"project": "mine", "id": run_id, "status": status})

        def log_batch(self, run_id: str, metrics: list) -> None:
            draw()
            row = {metric.key: metric.value for metric in metrics}
            told.rows.setdefault(run_id, []).append((metrics[0].step, row))

        def set_terminated(self, run_id: str) -> None:
            told.ended.append(run_id)

    module.MlflowClient = MlflowClient
    module.entities = SimpleNamespace(
        Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)
    )
    return module


FAKES = {"wandb": fake_wandb, "mlflow": fake_mlflow, "trackio": fake_trackio}


@pytest.fixture
def services(monkeypatch) -> dict[str, Told]:
    """Fakes in place of the packages: what each of them was told."""
    told = {name: Told() for name in SERVICES}
    for name, make in FAKES.items():
        monkeypatch.setitem(sys.modules, name, make(told[name]))
    return told


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
    assert list(SINKS) == ["tensorboard", *SERVICES]


def test_services_are_told_the_curve_and_the_model_is_the_same_to_the_byte(
    tiny_model, tmp_path, monkeypatch, services
):
    plain = run_dpo(tiny_model, tmp_path / "results/mine/policies/tiny.dpo/seed-1")
    monkeypatch.setenv(VARIABLE, " ".join(SERVICES))
    tracked = run_dpo(tiny_model, tmp_path / "results/mine/policies/tiny.dpo/seed-2")
    for name in ("model/model.safetensors", "curve.json"):
        assert sha256_of(plain / name) == sha256_of(tracked / name), name
    wanted = numbers_in(read_json(tracked / "curve.json"))
    for name, told in services.items():
        [(key, rows)] = told.rows.items()
        found = {(each, step): value for step, row in rows for each, value in row.items()}
        assert found == wanted, name
        [begun] = told.begun
        assert (begun["project"], begun["name"]) == ("mine", "tiny.dpo-2")
        assert begun["config"]["beta"] == 0.1 and not any(
            isinstance(value, dict) for value in begun["config"].values()
        )
        assert told.ended == [key]


def test_a_training_that_goes_on_goes_on_in_its_run_and_one_begun_anew_has_its_own(
    tmp_path, monkeypatch, services
):
    monkeypatch.setenv(VARIABLE, " ".join(SERVICES))
    for since in (0, 2, 0):
        sinks = Sinks(tmp_path / "seed-1/curve.json", since)
        sinks.write([{"step": since + 1, "train_loss": 1.0}])
        sinks.close()
    first, again, anew = services["wandb"].begun
    assert first["id"] == again["id"] != anew["id"] and again["resume"] == "allow"
    first, again, anew = services["mlflow"].begun
    assert first["id"] == again["id"] != anew["id"] and again["status"] == "RUNNING"
    assert [each["resume"] for each in services["trackio"].begun] == ["never", "allow", "never"]


def test_without_a_key_wandb_stays_here_and_with_one_the_package_decides(
    tmp_path, monkeypatch, services, capsys
):
    monkeypatch.setenv(VARIABLE, "wandb")
    Sinks(tmp_path / "seed-1/curve.json", 0)
    assert services["wandb"].begun[-1]["mode"] == "offline"
    assert "WANDB_API_KEY is not set" in capsys.readouterr().err
    for name, value in (("WANDB_API_KEY", "secret"), ("WANDB_MODE", "offline")):
        monkeypatch.setenv(name, value)
        Sinks(tmp_path / "seed-1/curve.json", 0)
        assert services["wandb"].begun[-1]["mode"] is None
        monkeypatch.delenv(name)
    assert "secret" not in str(services["wandb"].begun)


def test_mlflow_writes_files_of_the_study_unless_the_environment_says_where(tmp_path, monkeypatch, services):
    monkeypatch.setenv(VARIABLE, "mlflow")
    Sinks(tmp_path / "seed-1/curve.json", 0)
    assert services["mlflow"].begun[-1]["uri"] == (tmp_path / "results/mine/tracking/mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    Sinks(tmp_path / "seed-1/curve.json", 0)
    assert services["mlflow"].begun[-1]["uri"] == "http://127.0.0.1:1"


def test_a_service_that_fails_is_said_once_and_the_training_goes_on(tmp_path, monkeypatch, services, capsys):
    monkeypatch.setenv(VARIABLE, "trackio wandb")
    sinks = Sinks(tmp_path / "seed-1/curve.json", 0)

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("no way there")

    sinks.sinks["trackio"].run.log = broken
    sinks.write([{"step": 1, "train_loss": 1.0}, {"step": 2, "train_loss": 2.0}])
    sinks.write([{"step": 3, "train_loss": 3.0}])
    sinks.close()
    said = capsys.readouterr().err
    assert said.count("trackio is told no more of this training, which goes on: no way there") == 1
    [rows] = services["wandb"].rows.values()
    assert [step for step, _ in rows] == [1, 2, 3] and services["trackio"].ended == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv(VARIABLE, name)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PlumblineError, match=f"{name} cannot be loaded.*pip install {name}"):
        Sinks(tmp_path / "seed-1/curve.json", 0)


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_package_is_a_mistake_before_the_first_job(monkeypatch, name):
    study = SimpleNamespace(
        training_resources=SimpleNamespace(tracking=["tensorboard", name]), trainings=lambda: {"sft": None}
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    [found] = machine.missing_trackers(study)
    assert found.certain and f"{name} is not installed here" in found.text
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(origin="there"))
    assert [each.certain for each in machine.missing_trackers(study)] == [False] * (name == "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert list(machine.missing_trackers(study)) == []


def test_the_packages_themselves_are_told_the_curve(tiny_model, tmp_path, monkeypatch):
    here = [name for name in SERVICES if importlib.util.find_spec(name)]
    if not here:
        pytest.skip(f"none of {', '.join(SERVICES)} is installed: the lock does without them")
    plain = run_dpo(tiny_model, tmp_path / "results/mine/policies/tiny.dpo/seed-1")
    monkeypatch.setenv(VARIABLE, " ".join(here))
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked = run_dpo(tiny_model, tmp_path / "results/mine/policies/tiny.dpo/seed-2")
    for name in ("model/model.safetensors", "curve.json"):
        assert sha256_of(plain / name) == sha256_of(tracked / name), name
    losses = [row["train_loss"] for row in read_json(tracked / "curve.json") if "train_loss" in row]
    shared = tmp_path / "results/mine/tracking"
    runs = read_json(tracked / tracking.FOLDER / tracking.RUNS)
    if "wandb" in here:
        [file] = tracked.glob(f"tracking/wandb/offline-run-*-{runs['wandb']}/run-{runs['wandb']}.wandb")
        assert file.stat().st_size > 1000
    if "mlflow" in here:
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=(shared / "mlflow").as_uri())
        told = client.get_metric_history(runs["mlflow"], "train_loss")
        assert [each.value for each in sorted(told, key=lambda each: each.step)] == losses
        assert client.get_run(runs["mlflow"]).info.run_name == "tiny.dpo-2"
    if "trackio" in here:
        assert any("mine" in path.name for path in (shared / "trackio").rglob("*"))
