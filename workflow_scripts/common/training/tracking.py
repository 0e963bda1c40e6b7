"""Curves as they come, for dashboards: TensorBoard's event files, Weights & Biases, MLflow, trackio.

Sinks only: nothing reads them, no manifest knows them, and what is trained is the same to the byte with and without. A
study's `training_resources.tracking` names the sinks; the rules hand it over in the environment, where it makes nothing
stale. A package is imported where its sink is asked for; the lock has TensorBoard's alone. A service that fails is said
and left, and the training goes on. Keys are read from the environment by the packages themselves, never by us.

The project is the study, the run a policy with its seed. A training that goes on after a kill goes on in its run: what
the run is called there is kept in `runs.json`. What a service was told past the checkpoint is told again, alike.
"""

import contextlib
import importlib
import os
import random
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.training.curve import curve_of

VARIABLE = "PLUMBLINE_TRACKING"
STUDY = "RESULTS"  # the variable that names a study's folder, as jobs have it
FOLDER = "tracking"  # beside the curve, and in the study's folder
RUNS = "runs.json"
NO_NEWS = {  # what packages tell their makers, unless the environment says otherwise
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class Place(NamedTuple):
    """Where a training is followed: its own folder, and the study's; `since`: the step that a killed run goes on from.

    `settings` are the training's, for the dashboards that show them.
    """

    folder: Path
    study: Path
    project: str
    run: str
    since: int
    settings: Mapping[str, Any]

    def known(self, service: str) -> str | None:
        """Return what this training is called at a service, None where it has no run there yet."""
        path = self.folder / RUNS
        return read_json(path).get(service) if path.is_file() else None

    def keep(self, service: str, name: str) -> str:
        """Write down what this training is called at a service, and return it."""
        path = self.folder / RUNS
        write_json(path, (read_json(path) if path.is_file() else {}) | {service: name})
        return name


def place_of(curve: Path, since: int, settings: Mapping[str, Any]) -> Place:
    """Return where a training is followed whose curve will be in a file; of an earlier one nothing is left there."""
    folder = curve.parent / FOLDER
    if not since:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    study = os.environ.get(STUDY)
    seed = curve.parent.name.removeprefix("seed-")
    run = curve.parent.name if seed == curve.parent.name else f"{curve.parent.parent.name}-{seed}"
    shared = Path(study) / FOLDER if study else folder
    return Place(folder, shared.absolute(), Path(study).name if study else "plumbline", run, since, settings)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are one number, word or yes or no: what dashboards sort runs by."""
    return {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of the curve but its step."""
    return {name: value for name, value in row.items() if name != "step" and isinstance(value, int | float)}


def package(name: str, installed_as: str) -> Any:
    """Return a package that a sink needs; PlumblineError where it is not installed."""
    for variable, value in NO_NEWS.items():
        os.environ.setdefault(variable, value)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PlumblineError(
            f"training_resources.tracking: {name} cannot be loaded where this trains ({error}): "
            f"`python -m pip install {installed_as}` there, or leave it out of the list"
        ) from None


class EventFiles:
    """TensorBoard's event files of a run, by tensorboardX."""

    def __init__(self, place: Place) -> None:
        from tensorboardX import SummaryWriter

        # Dashboards drop what was written from this step on before.
        purged = place.since + 1 if place.since else None
        self.writer = SummaryWriter(str(place.folder), purge_step=purged, filename_suffix=f".{place.since}")

    def write(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row of the curve."""
        for name, value in numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, whose files are beside the curve; without a key it stays on this machine.

    WANDB_MODE=offline keeps it there as well; `wandb sync` sends it later. A step that was told before is not taken
    again, which alters nothing: a training that goes on makes the same numbers.
    """

    def __init__(self, place: Place) -> None:
        wandb = package("wandb", "wandb")
        away = {}
        if not os.environ.get("WANDB_MODE") and not os.environ.get("WANDB_API_KEY"):
            away = {"mode": "offline"}
            say(f"WANDB_API_KEY is not set: the run is kept in {place.folder}, and `wandb sync` sends it")
        self.run = wandb.init(
            project=place.project,
            name=place.run,
            id=place.known("wandb") or place.keep("wandb", secrets.token_hex(4)),
            resume="allow",
            dir=str(place.folder),
            config=plain(place.settings),
            settings=wandb.Settings(silent=True, console="off"),
            **away,
        )

    def write(self, row: dict[str, Any]) -> None:
        """Tell the numbers of a row of the curve."""
        self.run.log(numbers(row), step=row["step"])

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """A run of MLflow, in files of the study's folder or where MLFLOW_TRACKING_URI says; an experiment is a study."""

    def __init__(self, place: Place) -> None:
        # Files are its older store, which it asks to be told is meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow = package("mlflow", "mlflow-skinny")
        address = os.environ.get("MLFLOW_TRACKING_URI") or (place.study / "mlflow").as_uri()
        self.client = mlflow.MlflowClient(tracking_uri=address)
        self.metric = mlflow.entities.Metric
        found = place.known("mlflow")
        if found:
            self.client.update_run(found, status="RUNNING")
        else:
            made = self.client.create_run(self.experiment(place.project), run_name=place.run)
            found = place.keep("mlflow", made.info.run_id)
            for name, value in plain(place.settings).items():
                self.client.log_param(found, name, value)
        self.run = found

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which another training may make at the same time."""
        known = self.client.get_experiment_by_name(name)
        if known is None:
            try:
                return self.client.create_experiment(name)
            except Exception:
                known = self.client.get_experiment_by_name(name)
                if known is None:
                    raise
        return known.experiment_id

    def write(self, row: dict[str, Any]) -> None:
        """Tell the numbers of a row of the curve."""
        now = int(time.time() * 1000)
        told = [self.metric(name, float(value), now, row["step"]) for name, value in numbers(row).items()]
        self.client.log_batch(self.run, metrics=told)

    def close(self) -> None:
        self.client.set_terminated(self.run)


class Trackio:
    """A run of trackio, in the study's folder, or where TRACKIO_DIR or TRACKIO_SPACE_ID says."""

    def __init__(self, place: Place) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(place.study / "trackio"))
        trackio = package("trackio", "trackio")
        self.run = trackio.init(
            project=place.project,
            name=place.run,
            config=plain(place.settings),
            resume="allow" if place.since else "never",
            embed=False,
        )

    def write(self, row: dict[str, Any]) -> None:
        """Tell the numbers of a row of the curve."""
        self.run.log(numbers(row), step=row["step"])

    def close(self) -> None:
        self.run.finish()


# By a study's `training_resources.tracking`.
SINKS = {"tensorboard": EventFiles, "wandb": WeightsAndBiases, "mlflow": Mlflow, "trackio": Trackio}


def followed() -> list[str]:
    """Return the sinks that the environment names."""
    return os.environ.get(VARIABLE, "").split()


def say(line: str) -> None:
    """Print a line into the training's log."""
    print(f"tracking: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def nothing_drawn() -> Iterator[None]:
    """Leave the random numbers that a training draws as they are, whatever a package draws for itself."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class Sinks:
    """All sinks of a run, opened at once; `curve` is the file that its curve will be in."""

    def __init__(self, curve: Path, since: int, settings: Mapping[str, Any] | None = None) -> None:
        self.sinks: dict[str, Any] = {}
        names = followed() if processes.number() == 0 else []
        place = place_of(curve, since, settings or {}) if names else None
        for name in names:
            with self.going_on(name):
                self.sinks[name] = SINKS[name](place)

    @contextlib.contextmanager
    def going_on(self, name: str) -> Iterator[None]:
        """Go on without a sink that fails, and say so; one whose package is missing is the user's to mend."""
        with nothing_drawn():
            try:
                yield
            except PlumblineError:
                raise
            except Exception as error:
                reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
                say(f"warning: {name} is told no more of this training, which goes on: {reason}")
                self.sinks.pop(name, None)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write rows of the curve to every sink."""
        for name, sink in list(self.sinks.items()):
            with self.going_on(name):
                for row in rows:
                    sink.write(row)

    def close(self) -> None:
        for name, sink in list(self.sinks.items()):
            with self.going_on(name):
                sink.close()


class Tracking(TrainerCallback):
    """Writes what a Trainer logs to the sinks, as rows of its curve; of several processes the first writes."""

    def __init__(self, curve: Path, settings: Mapping[str, Any]) -> None:
        self.curve, self.settings = curve, settings
        self.sinks: Sinks | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.sinks = Sinks(self.curve, state.global_step, self.settings)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        if self.sinks is not None:
            self.sinks.write(curve_of([(logs or {}) | {"step": state.global_step}]))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.sinks is not None:
            self.sinks.close()
