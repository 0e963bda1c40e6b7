"""Run a module as `python -m MODULE ARGS` would, but do nothing more once it has written the checkpoint of a step.

So a test can kill a training between its checkpoint and its end, however slow or fast the machine is.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, trainer

LONG = 600  # seconds; the test has killed it long before


def halt_at(step: int) -> type[TrainerCallback]:
    """Return what each Trainer calls by default, and which after a step's checkpoint does not return."""

    class Halting(trainer.DEFAULT_CALLBACKS[0]):
        def on_save(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
        ) -> None:
            if state.global_step == step:
                time.sleep(LONG)

    return Halting


def halt_ppo_at(step: int) -> None:
    """Let PPO, whose loop is its own, not return from writing that checkpoint."""
    from workflow_scripts.align.ppo_learner import Learner, State

    own = Learner.save

    def save(self: Learner, folder: Path, state: State) -> None:
        own(self, folder, state)
        if state.step == step:
            time.sleep(LONG)

    Learner.save = save


if __name__ == "__main__":
    step = int(sys.argv[1])
    trainer.DEFAULT_CALLBACKS[0] = halt_at(step)
    if sys.argv[2].endswith(".ppo"):
        halt_ppo_at(step)
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
