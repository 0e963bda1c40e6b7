"""A step of our SFT and of our DPO against stock TRL on padded batches: the same rows, the same loss, side by side.

Run after `make results`:

    .venv/bin/python -m benchmarks.trainers results/tutor/policies/tiny.sft/seed-1/model \\
        --tokens results/tutor/tokens/tiny.sft/rows/train.parquet \\
        --pairs results/tutor/reference/mistakes/tiny.sft/seed-1/rows.parquet

Every batch goes forward and backward through both trainers in turn, so noise of the machine meets both alike: read the
ratio. Tokens are those of the rows; padding counts for nobody. The DPO reference of TRL is a live model, as its default
is; ours is read from a file, whose making is timed apart and stands on a line of its own.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from datasets import Dataset
from transformers import TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from workflow_scripts.align import dpo
from workflow_scripts.align.preference import loss_over_pairs
from workflow_scripts.common.logprobs import shared_prompt_logps
from workflow_scripts.common.models import load_policy, load_tokenizer, precision_of
from workflow_scripts.common.training.row_trainer import RowTrainer
from workflow_scripts.sft.train import LearnedPositionsTrainer

ROWS, BATCHES, ROUNDS = 8, 6, 2


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


def step_of(trainer: Any) -> Callable[[list[dict]], float]:
    """Return a function that takes a trainer forward and backward through some rows and returns their loss."""
    model = trainer.accelerator.prepare_model(trainer.model).train()

    def step(rows: list[dict]) -> float:
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        loss = trainer.compute_loss(model, inputs)
        loss.backward()
        model.zero_grad()
        return loss.item()

    return step


def compare(name: str, batches: list[list[dict]], tokens: Callable[[dict], int], steps: dict) -> None:
    """Time each way's best of several rounds over all batches, taking turns, and print tokens a second."""
    seconds = {way: [float("inf")] * len(batches) for way in steps}
    losses: dict[str, list[float]] = {way: [0.0] * len(batches) for way in steps}
    for _ in range(ROUNDS):
        for place, batch in enumerate(batches):
            for way, step in steps.items():
                started = time.perf_counter()
                losses[way][place] = step(batch)
                seconds[way][place] = min(seconds[way][place], time.perf_counter() - started)
    count = sum(tokens(row) for batch in batches for row in batch)
    print(f"{name}: {len(batches)} batches of {ROWS} rows, {count} tokens")
    for way in steps:
        print(
            f"  {way:<28} {count / sum(seconds[way]):7.0f} tokens/s   loss {sum(losses[way]) / len(batches):.4f}"
        )
    first, second = list(steps)[:2]
    apart = max(abs(a - b) for a, b in zip(losses[first], losses[second], strict=True))
    print(f"  ratio {sum(seconds[first]) / sum(seconds[second]):.2f}, losses at most {apart:.4f} apart")


def batches_of(path: Path, columns: list[str]) -> list[list[dict]]:
    """Return batches of rows drawn from a parquet file, so that lengths are mixed as in training."""
    rows = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    random.Random(0).shuffle(rows)
    return [rows[start : start + ROWS] for start in range(0, min(len(rows), ROWS * BATCHES), ROWS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--tokens", type=Path, required=True, help="token rows of an SFT run")
    parser.add_argument("--pairs", type=Path, required=True, help="reference file of a set of pairs")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.model)
    device = "GPU" if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(f"{device}, {precision_of('auto')}, best of {ROUNDS} rounds")

    batches = batches_of(arguments.tokens, ["input_ids", "labels"])
    data = Dataset.from_list([row for batch in batches for row in batch])
    shared = {"train_dataset": data, "processing_class": tokenizer}
    stock = SFTTrainer(
        model=load_policy(arguments.model), args=arguments_of(SFTConfig, max_length=None), **shared
    )
    ours = LearnedPositionsTrainer(
        settings={"neftune_alpha": None, "kl": None, "loss_norm": "token"},
        model=load_policy(arguments.model),
        args=arguments_of(SFTConfig, max_length=None, padding_free=True),
        **shared,
    )
    steps = {"stock TRL, padded": step_of(stock), "ours, padding-free": step_of(ours)}
    compare("SFT", batches, lambda row: len(row["input_ids"]), steps)

    names = ["prompt", "chosen", "rejected", "reference_chosen", "reference_rejected"]
    batches = batches_of(arguments.pairs, names)
    renamed = [{f"{name}_ids": row[name] for name in names[:3]} for batch in batches for row in batch]
    stock = TokenisedDPOTrainer(
        model=load_policy(arguments.model),
        ref_model=load_policy(arguments.model),
        args=arguments_of(DPOConfig, max_length=None, beta=0.1),
        train_dataset=Dataset.from_list(renamed),
        processing_class=tokenizer,
    )
    settings = {"beta": 0.1, "loss": "sigmoid", "logp_reduction": "sum", "reference_free": False}
    settings |= {"sft_weight": 0.0, "share_prompts": True}
    ours = RowTrainer(
        loss_of=loss_over_pairs(dpo.rewards, dpo.loss, settings, shared_prompt_logps),
        model=load_policy(arguments.model),
        args=arguments_of(TrainingArguments, remove_unused_columns=False),
        train_dataset=data,
        processing_class=tokenizer,
    )
    stock_step, reference = step_of(stock), load_policy(arguments.model).to(ours.model.device)

    def make_reference(rows: list[dict]) -> float:
        dtype = precision_of("auto")
        with (
            torch.inference_mode(),
            torch.autocast(reference.device.type, dtype, enabled=dtype != torch.float32),
        ):
            said = shared_prompt_logps(
                reference, [row["prompt"] for row in rows], [[row["chosen"], row["rejected"]] for row in rows]
            )
        return sum(float(each.sum()) for pair in said for each in pair) / len(rows)

    steps = {
        "stock TRL, padded": lambda rows: stock_step(
            [{f"{name}_ids": row[name] for name in names[:3]} for row in rows]
        ),
        "ours, prompts shared": step_of(ours),
        "  and the reference, once": make_reference,
    }
    compare(
        "DPO", batches, lambda row: 2 * len(row["prompt"]) + len(row["chosen"]) + len(row["rejected"]), steps
    )


if __name__ == "__main__":
    main()
