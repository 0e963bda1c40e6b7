"""A training that will not end within its job's time limit: it saves a checkpoint and is queued again.

What it ends in is what it would have ended in without: it goes on from the checkpoint as after a kill. Its curve is the
same, too, where a turn of the job has room for the steps between two of its points: it then hands over right after one,
and else after any step, and the next point is the mean of the steps since.
"""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from workflow_scripts.common.time_limit import TimeLimit

SLOWEST = 1e8  # bytes a second that a checkpoint is taken to be written at, until one was


def saving_guess(weights: int, trained: int) -> float:
    """Return the seconds that a first checkpoint may take: 4 bytes a weight, 8 more of AdamW a trained one."""
    return (4 * weights + 8 * trained) / SLOWEST


def guess_of(model: torch.nn.Module) -> float:
    """Return the seconds that a model's first checkpoint may take; of weights that ZeRO shares out all count."""
    counts = [(getattr(each, "ds_numel", each.numel()), each.requires_grad) for each in model.parameters()]
    return saving_guess(sum(count for count, _ in counts), sum(count for count, trained in counts if trained))


def validations_within(step: int, steps: int, every: int, last: int) -> int:
    """Return how many of the `steps` steps after one end with a validation: every few, and the last of all."""
    end = min(step + steps, last)
    return end // every - step // every + (end == last and last % every > 0)


class HandingOver(TrainerCallback):
    """Asks after each step of a Trainer whether the next still fits; all processes hand over together."""

    def __init__(self, trainer: Any, limit: TimeLimit) -> None:
        self.trainer, self.limit, self.leaving = trainer, limit, False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.limit.begin(guess_of(self.trainer.model))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_training_stop:
            return
        steps = int(args.logging_steps) if control.should_log else 1
        validations, guess = 0, 0.0
        if args.eval_strategy != "no":
            validations = validations_within(state.global_step, steps, int(args.eval_steps), state.max_steps)
            guess = len(self.trainer.eval_dataset) / (
                args.train_batch_size * args.gradient_accumulation_steps
            )
        late = torch.tensor(
            int(self.limit.late(steps, validations, guess / args.world_size)), device=args.device
        )
        if args.world_size > 1:  # the first process knows the time
            late = self.trainer.accelerator.reduce(late, "sum")
        if late.item():
            self.leaving = control.should_save = True

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.limit.validated()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.limit.saved(self.trainer.saving)
        if self.leaving and not control.should_training_stop:  # patience may have ended it at this step
            self.limit.hand_over(f"step {state.global_step} of {state.max_steps}")
