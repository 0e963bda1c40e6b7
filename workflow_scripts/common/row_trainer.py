"""A transformers Trainer over lists of rows: ragged token lists go in, a function of model and rows is the loss.

Preference, ranked and offline-RL training share it. Covers logging what the loss function saw, exact evaluation,
walking the rows in a given order, and a whole run from its command line. Not covered: SFT, whose batches TRL packs.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from workflow_scripts.common.code import code_of
from workflow_scripts.common.logprobs import through_forward
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.training import (
    callbacks_of,
    counts_of,
    load_trainable,
    save_trained,
    train,
    training_arguments,
    work_folder,
)

# (model, rows) → mean loss over the rows, and numbers to log (each a mean over the rows)
LossOf = Callable[[Any, list[dict]], tuple[Tensor, dict[str, float]]]


def read_splits(path: Path) -> tuple[Dataset, Dataset]:
    """Return the training and the validation rows of a parquet file with a column `split`; the latter may be none."""
    rows = Dataset.from_parquet(str(path), keep_in_memory=True)
    places = {"train": [], "validation": []}
    for place, split in enumerate(rows["split"]):
        places[split].append(place)
    return rows.select(places["train"]), rows.select(places["validation"])


class RowTrainer(Trainer):
    """A Trainer whose batches are lists of rows; `in_order` walks them as they stand instead of shuffling."""

    def __init__(self, *, loss_of: LossOf, in_order: bool = False, **arguments: Any) -> None:
        through_forward(arguments["model"])
        super().__init__(data_collator=list, **arguments)
        self.loss_of, self.in_order = loss_of, in_order
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows: scale it for accumulation
        self.seen: dict[str, list[float]] = defaultdict(list)

    def _prepare_inputs(self, inputs: list[dict]) -> list[dict]:
        return inputs  # rows of token lists; tensors are made on the model's device

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset) if self.in_order else super()._get_train_sampler(dataset)

    def compute_loss(self, model: Any, inputs: list[dict], **_: Any) -> Tensor:
        with self.compute_loss_context_manager():
            loss, seen = model(self.loss_of, inputs)
        for name, value in seen.items():
            self.seen[name].append(value)
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return {"eval_loss"}, the exact mean over the validation rows, after logging it; every process has it."""
        rows, size, model = self.eval_dataset, self.args.eval_batch_size, self.model_wrapped
        model.eval()
        total = 0.0
        with torch.no_grad(), self.compute_loss_context_manager():
            for start in range(0, len(rows), size):
                batch = [rows[index] for index in range(start, min(start + size, len(rows)))]
                total += model(self.loss_of, batch)[0].item() * len(batch)
        model.train()
        metrics = {"eval_loss": total / len(rows)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self.seen.items()}
            self.seen.clear()
        super().log(logs, *arguments, **named)


def train_on_rows(
    arguments: Any, module: str, rows: Path, manifest: Path, loss_for: Callable[[Any], LossOf]
) -> None:
    """Run a training from the flags every training step has: load, train (resuming if it can), write.

    `rows` is a parquet file with a column `split`, `manifest` stands beside it; `loss_for(model)` gives the loss.
    """
    settings = arguments.settings
    inputs = [arguments.parent_manifest, manifest]
    work = work_folder(arguments.work, inputs, settings, arguments.seed, code_of(module))
    tokenizer = load_tokenizer(arguments.parent)
    learned, held_out = read_splits(rows)
    model = load_trainable(arguments.parent, settings, arguments.seed)
    trainer = RowTrainer(
        loss_of=loss_for(model),
        model=model,
        args=TrainingArguments(
            **training_arguments(settings, work, arguments.seed, evaluate=len(held_out) > 0),
            remove_unused_columns=False,
        ),
        train_dataset=learned,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks_of(settings),
    )
    seconds = train(trainer, work)
    save_trained(
        trainer,
        tokenizer,
        arguments,
        work,
        seconds,
        tokens=counts_of(manifest)["tokens"] * trainer.state.epoch,
    )
