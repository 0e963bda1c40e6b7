"""A step of our SFT and of our DPO against stock TRL on padded batches: the same rows, the same loss, side by side.

    .venv/bin/python -m benchmarks.trainers data/models/base-*/model

The model is any folder (MODEL of `benchmarks/study.yaml` is in data/models once a study has fetched it).

Every batch goes forward and backward through both trainers in turn, so noise of the machine meets both alike: read the
ratio. Tokens are those of the rows; padding counts for nobody. The DPO reference of TRL is a live model, as its default
is; ours is read from a file, whose making is timed apart and stands on a line of its own.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow.parquet
import torch
from datasets import Dataset
from transformers import TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks.rows import benchmarks_plan, pairs, refer_to_pairs, tokens_for_sft
from workflow_scripts.align import dpo
from workflow_scripts.align.preference import loss_over_pairs
from workflow_scripts.common.logprobs import shared_prompt_logps
from workflow_scripts.common.models import load_policy, load_tokenizer, precision_of
from workflow_scripts.common.training.row_trainer import RowTrainer
from workflow_scripts.plan import training
from workflow_scripts.plan.plan import Plan
from workflow_scripts.sft.train import LearnedPositionsTrainer

ROWS, ROUNDS = 8, 2
# On a CPU the seconds of this process alone, whatever else the machine does.
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def arguments_of(kind: type[TrainingArguments], **more: Any) -> TrainingArguments:
    """Return the same arguments for either trainer."""
    on_cpu = not torch.cuda.is_available()
    own = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": ROWS,
        "bf16": precision_of("auto") == torch.bfloat16,
        "use_cpu": on_cpu,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return kind(**own, **more)


def step_of(trainer: Any, rows_in_step: bool = False) -> Callable[[list[dict]], float]:
    """Return a function that takes a trainer forward and backward through some rows and returns their loss.

    rows_in_step: whether its loss is to be told how many rows the step has.
    """
    model = trainer.accelerator.prepare_model(trainer.model).train()

    def step(rows: list[dict]) -> float:
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        loss = trainer.compute_loss(
            model, inputs, **({"num_items_in_batch": len(rows)} if rows_in_step else {})
        )
        loss.backward()
        model.zero_grad()
        return loss.item()

    return step


class Compared(NamedTuple):
    """Tokens a second by way, and the mean tokens of a row (of DPO's: of both sequences together).

    computed: of these tokens, what a way puts through the policy, where it is not all.
    """

    speeds: dict[str, float]
    length: float
    computed: Mapping[str, float] = MappingProxyType({})


def measured(step: Callable[[list[dict]], float], rows: list[dict]) -> tuple[float, float, float]:
    """Return (loss, seconds, bytes that a GPU held beside what it held before: 0 on a CPU) of one step."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    held, started = torch.cuda.memory_allocated() if on_gpu else 0, CLOCK()
    loss = step(rows)
    if on_gpu:
        torch.cuda.synchronize()
    return loss, CLOCK() - started, (torch.cuda.max_memory_allocated() if on_gpu else 0) - held


def compare(name: str, batches: list[list[dict]], tokens: Callable[[dict], int], steps: dict) -> Compared:
    """Time each way's best of several rounds over all batches, taking turns; print and return tokens a second.

    On a GPU the most that a step holds beside the weights is printed, too: activations and gradients. See CLOCK.
    """
    peaks = dict.fromkeys(steps, 0.0)
    seconds = {way: [float("inf")] * len(batches) for way in steps}
    losses: dict[str, list[float]] = {way: [0.0] * len(batches) for way in steps}
    for _ in range(ROUNDS):
        for place, batch in enumerate(batches):
            for way, step in steps.items():
                losses[way][place], took, held = measured(step, batch)
                seconds[way][place] = min(seconds[way][place], took)
                peaks[way] = max(peaks[way], held)
    count = sum(tokens(row) for batch in batches for row in batch)
    print(f"{name}: {len(batches)} batches of {len(batches[0])} rows, {count} tokens")
    for way in steps:
        peak = f"   {peaks[way] / 1e9:.2f} GB beside the weights" if peaks[way] else ""
        print(
            f"  {way:<28} {count / sum(seconds[way]):7.0f} tokens/s   "
            f"loss {sum(losses[way]) / len(batches):.4f}{peak}"
        )
    first, second = list(steps)[:2]
    apart = max(abs(a - b) for a, b in zip(losses[first], losses[second], strict=True))
    print(f"  ratio {sum(seconds[first]) / sum(seconds[second]):.2f}, losses at most {apart:.4f} apart")
    return Compared(
        {way: count / sum(seconds[way]) for way in steps}, count / sum(len(batch) for batch in batches)
    )


def batches_of(path: Path, columns: list[str], batches: int) -> list[list[dict]]:
    """Return batches of rows drawn from a parquet file, so that lengths are mixed as in training."""
    rows = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    random.Random(0).shuffle(rows)
    return [rows[start : start + ROWS] for start in range(0, min(len(rows), ROWS * batches), ROWS)]


def compare_sft(model: Path, plan: Plan, batches: list[list[dict]]) -> Compared:
    """Time a step of fine-tuning, stock and ours; return tokens a second."""
    data = Dataset.from_list([row for batch in batches for row in batch])
    shared = {"train_dataset": data, "processing_class": load_tokenizer(model)}
    stock = SFTTrainer(model=load_policy(model), args=arguments_of(SFTConfig, max_length=None), **shared)
    ours = LearnedPositionsTrainer(
        settings=json.loads(training.training_settings(plan, "base.sft")),
        model=load_policy(model),
        args=arguments_of(SFTConfig, max_length=None, padding_free=True),
        **shared,
    )
    steps = {"stock TRL, padded": step_of(stock), "ours, padding-free": step_of(ours)}
    return compare("SFT", batches, lambda row: len(row["input_ids"]), steps)


def reference_maker(model: Path) -> Callable[[list[dict]], float]:
    """Return a function that computes what the reference says of some pairs, as the reference file's maker does."""
    reference, dtype = load_policy(model), precision_of("auto")
    reference = reference.to("cuda" if torch.cuda.is_available() else "cpu")

    def make(rows: list[dict]) -> float:
        prompts = [row["prompt"] for row in rows]
        completions = [[row["chosen"], row["rejected"]] for row in rows]
        autocast = torch.autocast(reference.device.type, dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), autocast:
            said = shared_prompt_logps(reference, prompts, completions)
        return sum(float(each.sum()) for pair in said for each in pair) / len(rows)

    return make


def compare_dpo(model: Path, plan: Plan, batches: list[list[dict]]) -> Compared:
    """Time a step of DPO, stock and ours, and the making of our reference; return tokens a second."""

    def renamed(rows: list[dict]) -> list[dict]:
        return [{f"{name}_ids": row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]

    rows = [row for batch in batches for row in batch]
    settings = json.loads(training.training_settings(plan, "base.dpo"))
    stock = TokenisedDPOTrainer(
        model=load_policy(model),
        ref_model=load_policy(model),
        args=arguments_of(DPOConfig, max_length=None, beta=settings["beta"]),
        train_dataset=Dataset.from_list(renamed(rows)),
        processing_class=load_tokenizer(model),
    )
    ours = RowTrainer(
        loss_of=loss_over_pairs(dpo.rewards, dpo.loss, settings, shared_prompt_logps),
        model=load_policy(model),
        args=arguments_of(TrainingArguments, remove_unused_columns=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model),
    )
    stock_step = step_of(stock)
    steps = {
        "stock TRL, padded": lambda rows: stock_step(renamed(rows)),
        "ours, prompts shared": step_of(ours, rows_in_step=True),
        "  and the reference, once": reference_maker(model),
    }

    def tokens(row: dict) -> int:
        return 2 * len(row["prompt"]) + len(row["chosen"]) + len(row["rejected"])

    once = 1 - sum(len(row["prompt"]) for row in rows) / sum(map(tokens, rows))
    return compare("DPO", batches, tokens, steps)._replace(computed={"ours, prompts shared": once})


def compare_one(what: str, model: Path, batches: int) -> Compared:
    """Compare a step of "SFT" or "DPO" over so many batches; return what came out."""
    plan, count = benchmarks_plan(), ROWS * batches
    with tempfile.TemporaryDirectory() as name:
        if what == "SFT":
            tokens = tokens_for_sft(plan, model, Path(name), count)
            return compare_sft(model, plan, batches_of(tokens, ["input_ids", "labels"], batches))
        stored, _ = refer_to_pairs(plan, model, Path(name), pairs(count))
        columns = ["prompt", "chosen", "rejected", "reference_chosen", "reference_rejected"]
        return compare_dpo(model, plan, batches_of(stored, columns, batches))


def say_how() -> None:
    """Print what is timed on, and how."""
    device = "GPU" if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    clock = "seconds" if torch.cuda.is_available() else "CPU seconds"
    print(f"{device}, {precision_of('auto')}, best of {ROUNDS} rounds, {clock}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--batches", type=int, default=6, help=f"of {ROWS} rows")
    arguments = parser.parse_args()
    say_how()
    for what in ("SFT", "DPO"):
        compare_one(what, arguments.model, arguments.batches)


if __name__ == "__main__":
    main()
