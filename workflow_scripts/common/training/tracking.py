"""Curves as they come, for dashboards: TensorBoard's event files, beside a policy's curve.

Sinks only: nothing reads them, no manifest knows them, and what is trained is the same to the byte with and without. A
study's `training_resources.tracking` names the sinks; the rules hand it over in the environment, where it makes nothing
stale. Not covered: services with accounts.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from workflow_scripts.common.training.curve import curve_of

VARIABLE = "PLUMBLINE_TRACKING"
FOLDER = "tracking"  # beside the curve


class EventFiles:
    """TensorBoard's event files of a run, by tensorboardX; `since`: the step that a killed run goes on from."""

    def __init__(self, folder: Path, since: int) -> None:
        from tensorboardX import SummaryWriter

        if not since:  # of an earlier training, of which nothing is gone on with
            shutil.rmtree(folder, ignore_errors=True)
        purged = since + 1 if since else None  # dashboards drop what was written from this step on before
        self.writer = SummaryWriter(str(folder), purge_step=purged, filename_suffix=f".{since}")

    def write(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row of the curve."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


# By a study's `training_resources.tracking`.
SINKS = {"tensorboard": EventFiles}


def followed() -> list[str]:
    """Return the sinks that the environment names."""
    return os.environ.get(VARIABLE, "").split()


class Sinks:
    """All sinks of a run, opened at once; `curve` is the file that its curve will be in."""

    def __init__(self, curve: Path, since: int) -> None:
        self.sinks = [SINKS[name](curve.parent / FOLDER, since) for name in followed()]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write rows of the curve to every sink."""
        for sink in self.sinks:
            for row in rows:
                sink.write(row)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


class Tracking(TrainerCallback):
    """Writes what a Trainer logs to the sinks, as rows of its curve; of several processes the first writes."""

    def __init__(self, curve: Path) -> None:
        self.curve = curve
        self.sinks: Sinks | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.sinks = Sinks(self.curve, state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        if self.sinks is not None:
            self.sinks.write(curve_of([(logs or {}) | {"step": state.global_step}]))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.sinks is not None:
            self.sinks.close()
