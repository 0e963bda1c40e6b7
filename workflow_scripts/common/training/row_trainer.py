"""A transformers Trainer over lists of rows: ragged token lists go in, a function of model and rows is the loss.

Preference, ranked and offline-RL training share it. Covers logging what the loss function saw, exact evaluation,
walking the rows in a given order, and a whole run from its command line. However many processes share the rows of a
step, its loss is the mean over them: the last step of an epoch, too, and what is logged. Not covered: SFT, whose
batches TRL packs.
"""

from collections.abc import Callable
from itertools import islice
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
from workflow_scripts.common.training.arguments import callbacks_of, training_arguments
from workflow_scripts.common.training.batches import ProcessShare, share_steps
from workflow_scripts.common.training.checkpoints import work_folder
from workflow_scripts.common.training.command import counts_of, template_of
from workflow_scripts.common.training.loading import load_trainable
from workflow_scripts.common.training.saving import save_trained
from workflow_scripts.common.training.trainer import Shared, train
from workflow_scripts.common.training.watching import watch_of, watched_state

# (model, rows) → mean loss over the rows, and numbers to log (each a mean over the rows)
LossOf = Callable[[Any, list[dict]], tuple[Tensor, dict[str, float]]]
# (model, rows) → sums over the rows, without a gradient; where there is one, a LossOf takes (model, rows, what it gives
# for all rows of the step together)
SumsOf = Callable[[Any, list[dict]], Tensor]


TEXTS = ("prompt", "completion", "chosen", "rejected", "chosen_ids", "rejected_ids")  # columns of token ids


def tokens_of(row: dict) -> int:
    """Return how many tokens a row has that is learned from: its prompt and its replies, each once."""
    texts = [row[name] for name in TEXTS if name in row]
    return sum(map(len, [*texts, *row.get("answers", [])]))


def read_splits(path: Path) -> tuple[Dataset, Dataset]:
    """Return the training and the validation rows of a parquet file with a column `split`; the latter may be none."""
    rows = Dataset.from_parquet(str(path), keep_in_memory=True)
    places = {"train": [], "validation": []}
    for place, split in enumerate(rows["split"]):
        places[split].append(place)
    return rows.select(places["train"]), rows.select(places["validation"])


class RowTrainer(Shared, Trainer):
    """A Trainer whose batches are lists of rows; `in_order` walks them as they stand instead of shuffling.

    sums_of: what the loss has to know of all rows of a step before it sees some of them (KTO's divergence).
    drop_last: leave out what is left of an epoch behind its last whole step.
    """

    def __init__(
        self,
        *,
        loss_of: LossOf,
        sums_of: SumsOf | None = None,
        in_order: bool = False,
        drop_last: bool = False,
        **arguments: Any,
    ) -> None:
        through_forward(arguments["model"])
        super().__init__(data_collator=list, **arguments)
        self.loss_of, self.sums_of, self.in_order, self.drop_last = loss_of, sums_of, in_order, drop_last
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the whole step's rows itself
        self.step_sums: list[Tensor] = []  # of the step under way, or none
        self.seen: dict[str, Tensor] = {}  # Σ rows · value and Σ rows since the last log

    def _prepare_inputs(self, inputs: list[dict]) -> list[dict]:
        return inputs  # rows of token lists; tensors are made on the model's device

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset) if self.in_order else super()._get_train_sampler(dataset)

    def get_train_dataloader(self) -> Any:
        return share_steps(super().get_train_dataloader(), self.args, list, self.drop_last)

    def summed(self, numbers: Tensor) -> Tensor:
        """Return numbers added up over all processes."""
        return self.accelerator.reduce(numbers, "sum")

    def sums_over(self, batches: list[list[dict]]) -> list[Tensor]:
        """Return [what `sums_of` says of all processes' batches], without dropout; [] where nobody asks."""
        if self.sums_of is None:
            return []
        model, total = self.model_wrapped, 0
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            for rows in batches:
                taken = 1 if rows else 0  # what stands in for a process's missing rows counts for nothing
                total = total + taken * model(self.sums_of, rows or [self.train_dataset[0]])
        model.train()
        return [self.summed(total)]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, int]:
        """Return this process's passes of an optimiser step, and how many rows all processes have in it."""
        batches = list(islice(epoch_iterator, num_batches))
        self.step_sums = self.sums_over(batches)
        rows = sum(map(len, batches))
        self.count(rows, sum(tokens_of(row) for batch in batches for row in batch))
        return batches, int(self.summed(torch.tensor(rows, device=device)))

    def compute_loss(self, model: Any, inputs: list[dict], num_items_in_batch: int, **_: Any) -> Tensor:
        rows = inputs or [self.train_dataset[0]]  # nothing left for this process, but it has to pass, too
        with self.compute_loss_context_manager():
            loss, seen = model(self.loss_of, rows, *self.step_sums)
        for name, value in seen.items():
            taken = [value * len(inputs) if inputs else 0.0, len(inputs)]
            self.seen[name] = self.seen.get(name, 0) + torch.tensor(taken, dtype=torch.float64)
        # The gradients of the processes are averaged.
        return loss * (len(inputs) * self.accelerator.num_processes / num_items_in_batch)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the exact means over the validation rows, {"eval_loss", "eval_<seen>"}, and a look at answers.

        Every process has them. Where there are no validation rows, there is the look alone.
        """
        return self.tell(self.validated() if len(self.eval_dataset) else {})

    def validated(self) -> dict[str, float]:
        """Return the exact means over the validation rows."""
        model, dataset, seen = self.model_wrapped, self.eval_dataset, {}
        places = range(len(dataset))
        size, processes = self.args.eval_batch_size, self.args.world_size
        share = ProcessShare(places, size * processes, size, processes, self.args.process_index)
        batches = [[dataset[index] for index in batch] for batch in share]
        sums = self.sums_over(batches)
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            for rows in batches:
                loss, values = model(self.loss_of, rows or [dataset[0]], *sums)
                for name, value in ({"eval_loss": loss.item()} | values).items():
                    seen[name] = seen.get(name, 0.0) + value * len(rows)
        model.train()
        totals = self.summed(torch.tensor(list(seen.values()), dtype=torch.float64, device=self.args.device))
        means = dict(zip(seen, (totals / len(dataset)).tolist(), strict=True))
        return {name if name == "eval_loss" else f"eval_{name}": value for name, value in means.items()}

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if "loss" in logs:
            for name in self.seen:
                total, rows = self.summed(self.seen[name].to(self.args.device)).tolist()
                logs[name] = total / rows
            self.seen.clear()
        super().log(logs, *arguments, **named)


def train_on_rows(
    arguments: Any,
    module: str,
    rows: Path,
    manifest: Path,
    loss_for: Callable[[Any], tuple[LossOf, SumsOf | None]],
) -> None:
    """Run a training from the flags every training step has: load, train (resuming if it can), write.

    `rows` is a parquet file with a column `split`, `manifest` stands beside it; `loss_for(model)` gives
    the loss, and the sums over a step that it takes, if it does.
    """
    settings = arguments.settings
    inputs, depends = [arguments.parent_manifest, manifest], settings | watched_state(arguments)
    work = work_folder(arguments.work, inputs, depends, arguments.seed, code_of(module))
    tokenizer = load_tokenizer(arguments.parent)
    learned, held_out = read_splits(rows)
    model = load_trainable(arguments.parent, settings, arguments.seed)
    loss_of, sums_of = loss_for(model)
    trainer = RowTrainer(
        loss_of=loss_of,
        sums_of=sums_of,
        drop_last=settings["drop_last"],
        model=model,
        args=TrainingArguments(
            **training_arguments(settings, work, arguments.seed, len(held_out) > 0, arguments.watch),
            remove_unused_columns=False,
        ),
        train_dataset=learned,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks_of(arguments),
        watch=watch_of(arguments, tokenizer),
    )
    seconds = train(trainer, work)
    save_trained(
        trainer,
        tokenizer,
        arguments,
        work,
        seconds,
        tokens=counts_of(manifest)["tokens"] * trainer.state.epoch,
        template=template_of(manifest),
    )
