"""Train a policy on preference pairs against stored reference log-probs; the loss is the caller's (dpo, ipo, kto).

No reference model is loaded: what it says is in the reference file. Each method is a module with one small `loss`
function over `PairLogps` and three lines of `main`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer, TrainingArguments

from workflow_scripts.common.code import code_of
from workflow_scripts.common.logprobs import plain_logps, prepare_plain, shared_prompt_logps
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.training import (
    add_training_flags,
    counts_of,
    save_trained,
    train,
    training_arguments,
    work_folder,
)


class PairLogps(NamedTuple):
    """Log-probs of a batch of pairs, each (pairs,), summed over the completion's tokens, in nats.

    `mismatched` and `reference_mismatched` are (2 × pairs,) and None unless the method asks for them; no gradient
    flows through them.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    mismatched: Tensor | None = None
    reference_mismatched: Tensor | None = None


Loss = Callable[[PairLogps, dict], Tensor]


def sums(logps: list[Tensor]) -> Tensor:
    """Return the sum of each row's log-probs, (rows,)."""
    return torch.stack([row.sum() for row in logps])


class PreferenceTrainer(Trainer):
    """A transformers Trainer whose batches are lists of pair rows and whose loss is a function of their log-probs."""

    def __init__(self, *, loss: Loss, settings: dict, mismatched: bool, **arguments: Any) -> None:
        super().__init__(data_collator=list, **arguments)
        self.loss, self.settings, self.mismatched = loss, settings, mismatched
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs: scale it for accumulation
        self.pair_logps = shared_prompt_logps if settings["share_prompts"] else plain_logps
        self.seen: dict[str, list[float]] = {"margin": [], "accuracy": []}

    def _prepare_inputs(self, inputs: list[dict]) -> list[dict]:
        return inputs  # rows of token lists; tensors are made on the model's device

    def compute_loss(self, model: Any, inputs: list[dict], **_: Any) -> Tensor:
        with self.compute_loss_context_manager():
            batch = self.logps_of(model, inputs)
            loss = self.loss(batch, self.settings)
        margin = batch.chosen - batch.reference_chosen - batch.rejected + batch.reference_rejected
        self.seen["margin"].append(margin.mean().item())
        self.seen["accuracy"].append((margin > 0).float().mean().item())
        return loss

    def logps_of(self, model: Any, rows: list[dict]) -> PairLogps:
        prompts = [row["prompt"] for row in rows]
        found = self.pair_logps(model, prompts, [[row["chosen"], row["rejected"]] for row in rows])

        def stored(name: str) -> Tensor:
            return torch.tensor([sum(row[f"reference_{name}"]) for row in rows], device=model.device)

        def tokens(name: str) -> Tensor:
            return torch.tensor([float(len(row[name])) for row in rows], device=model.device)

        mismatched = reference_mismatched = None
        if self.mismatched:
            names = ("mismatched_chosen", "mismatched_rejected")
            with torch.no_grad():
                others = self.pair_logps(model, prompts, [[row[name] for name in names] for row in rows])
            mismatched = sums([each for pair in others for each in pair])
            reference_mismatched = torch.stack([stored(name) for name in names], 1).flatten()
        return PairLogps(
            sums([chosen for chosen, _ in found]),
            sums([rejected for _, rejected in found]),
            stored("chosen"),
            stored("rejected"),
            tokens("chosen"),
            tokens("rejected"),
            mismatched,
            reference_mismatched,
        )

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self.seen.items() if values}
            self.seen = {"margin": [], "accuracy": []}
        super().log(logs, *arguments, **named)


def align(loss: Loss, module: str, mismatched: bool = False) -> None:
    """Run one method from the command line: parse, train (resuming if it can), write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_flags(parser)
    parser.add_argument(
        "--reference", type=Path, required=True, help="parquet of pairs and reference log-probs"
    )
    parser.add_argument("--reference-manifest", type=Path, required=True)
    arguments = parser.parse_args()
    settings = arguments.settings
    inputs = [arguments.parent_manifest, arguments.reference_manifest]
    work = work_folder(arguments.work, inputs, settings, arguments.seed, code_of(module))
    tokenizer = load_tokenizer(arguments.parent)
    model = load_policy(arguments.parent, trust_remote_code=settings["trust_remote_code"])
    if not settings["share_prompts"]:
        prepare_plain(model)
    trainer = PreferenceTrainer(
        loss=loss,
        settings=settings,
        mismatched=mismatched,
        model=model,
        args=TrainingArguments(
            **training_arguments(settings, work, arguments.seed, evaluate=False), remove_unused_columns=False
        ),
        train_dataset=Dataset.from_parquet(str(arguments.reference), keep_in_memory=True),
        processing_class=tokenizer,
    )
    seconds = train(trainer, work)
    tokens = counts_of(arguments.reference_manifest)["tokens"] * trainer.state.epoch
    save_trained(trainer, tokenizer, arguments, work, seconds, tokens=tokens)
