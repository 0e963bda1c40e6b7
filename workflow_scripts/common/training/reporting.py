"""How far a training is, step by step, with what its curve last said: for whoever looks on while it goes."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from workflow_scripts.common.progress import Progress
from workflow_scripts.common.training.curve import curve_of

# What the curve calls it, and what is told of it.
TOLD = {
    "train_loss": "loss",
    "validation_loss": "validation_loss",
    "reward": "reward",
    "kl": "kl",
    "watch": "watch",
    "tokens": "tokens",
    "learning_rate": "learning_rate",
}


def told_of(row: dict[str, Any]) -> dict[str, float]:
    """Return what is told of a row of a curve."""
    return {new: row[old] for old, new in TOLD.items() if old in row}


class Reporting(TrainerCallback):
    """Tells how far a Trainer is; it looks on only. Of several processes the first tells."""

    progress: Progress | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress = Progress("training", "steps", state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.progress is not None:
            self.progress.at(state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        if self.progress is not None:
            for row in curve_of([(logs or {}) | {"step": state.global_step}]):
                self.progress.at(state.global_step, **told_of(row))
