"""How the rows of an optimiser step are shared: passes of one process, and processes beside each other."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers import TrainingArguments

from workflow_scripts.common.errors import PlumblineError


def split_batch(batch_size: int, per_device_batch: int, processes: int) -> tuple[int, int]:
    """Return (rows of a forward pass, passes of a step on each process): on all processes together, batch_size rows.

    A pass takes the most rows up to per_device_batch that divide a process's share, so that all passes are of one size.
    PlumblineError where the processes cannot share a step evenly.
    """
    share, left = divmod(batch_size, processes)
    if left:
        fewer = max(count for count in range(1, processes) if batch_size % count == 0)
        fits = [str(each * processes) for each in (share, share + 1) if each]
        raise PlumblineError(
            f"batch_size {batch_size}: {processes} processes cannot share so many rows evenly; take {fewer} of them, "
            f"or set batch_size to {' or '.join(fits)}"
        )
    rows = max(size for size in range(1, min(per_device_batch, share) + 1) if share % size == 0)
    return rows, share // rows


def step_text(rows: int, passes: int, processes: int) -> str:
    """Return how an optimiser step is made up, for the log."""
    shared = "1 process" if processes == 1 else f"{processes} processes"
    made = "1 pass" if passes == 1 else f"{passes} passes"
    return f"a step: {rows * passes * processes} rows = {shared} × {made} of {rows}"


class ProcessShare(BatchSampler):
    """The rows of one process's forward passes: of every `batch_size` rows that a sampler gives, this process's part.

    A step is cut into passes of `rows`. What is left at the end of an epoch is a smaller step, shared as evenly as may
    be and no row twice; where a process has fewer passes to make of it than another, it is given empty ones, for all
    have to pass together. With `drop_last` there is no such step.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        rows: int,
        processes: int,
        process: int,
        drop_last: bool = False,
    ) -> None:
        self.sampler, self.batch_size, self.rows = sampler, batch_size, rows
        self.processes, self.process, self.drop_last = processes, process, drop_last

    def passes(self, count: int) -> int:
        """Return how many passes every process makes of a step of `count` rows."""
        return math.ceil(math.ceil(count / self.processes) / self.rows)

    def __len__(self) -> int:
        full, left = divmod(len(self.sampler), self.batch_size)
        return full * self.passes(self.batch_size) + (0 if self.drop_last else self.passes(left))

    def __iter__(self) -> Iterator[list[int]]:
        for step in BatchSampler(self.sampler, self.batch_size, self.drop_last):
            first = len(step) * self.process // self.processes
            end = len(step) * (self.process + 1) // self.processes
            own = step[first:end]
            for number in range(self.passes(len(step))):
                yield own[number * self.rows : (number + 1) * self.rows]


def share_steps(
    loader: DataLoader, arguments: TrainingArguments, collate: Callable[[list], Any], drop_last: bool
) -> DataLoader:
    """Return a Trainer's training loader, the rows of each step shared out by `ProcessShare` in its sampler's order.

    As it stands the loader would fill up the last step of an epoch with rows from its start, as many as there are
    processes to fill: another step than one process makes. `collate` is given [] where a process has nothing left.
    PlumblineError where `drop_last` leaves out all there is.
    """
    rows, processes = arguments.per_device_train_batch_size, arguments.world_size
    size = rows * processes * arguments.gradient_accumulation_steps
    theirs = loader.batch_sampler
    sampler = (theirs.batch_sampler if isinstance(theirs, BatchSamplerShard) else theirs).sampler
    left = len(sampler) % size if drop_last else 0
    if left == len(sampler):
        raise PlumblineError(
            f"drop_last: {left} rows are no whole batch of {size}, so there is nothing left to learn from; lower "
            "batch_size, or leave drop_last out"
        )
    if left and arguments.process_index == 0:
        print(f"drop_last: {left} of {len(sampler)} rows are left out of each epoch", flush=True)
    share = ProcessShare(sampler, size, rows, processes, arguments.process_index, drop_last)
    return DataLoaderShard(loader.dataset, device=loader.device, batch_sampler=share, collate_fn=collate)
