"""Run a module as `python -m MODULE ARGS` would, but do nothing more once it has written the checkpoint of a step.

So a test can kill a training between its checkpoint and its end, however slow or fast the machine is.
"""

import runpy
import sys
import time
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


if __name__ == "__main__":
    step = int(sys.argv[1])
    trainer.DEFAULT_CALLBACKS[0] = halt_at(step)
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
