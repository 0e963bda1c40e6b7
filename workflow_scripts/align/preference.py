"""Train a policy on preference pairs against stored reference log-probs; the loss is the caller's (dpo, ipo, kto).

No reference model is loaded: what it says is in the reference file. Each method is a module with one small `loss`
function over `PairLogps` and three lines of `main`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workflow_scripts.common.logprobs import ways_of
from workflow_scripts.common.row_trainer import LossOf, train_on_rows
from workflow_scripts.common.training import add_training_flags


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


def pair_logps(model: Any, rows: list[dict], logps_of: Any, mismatched: bool) -> PairLogps:
    """Return what a policy says about pairs, beside what its reference said."""
    prompts = [row["prompt"] for row in rows]
    found = logps_of(model, prompts, [[row["chosen"], row["rejected"]] for row in rows])

    def stored(name: str) -> Tensor:
        return torch.tensor([sum(row[f"reference_{name}"]) for row in rows], device=model.device)

    def tokens(name: str) -> Tensor:
        return torch.tensor([float(len(row[name])) for row in rows], device=model.device)

    others = reference_others = None
    if mismatched:
        names = ("mismatched_chosen", "mismatched_rejected")
        with torch.no_grad():
            said = logps_of(model, prompts, [[row[name] for name in names] for row in rows])
        others = sums([each for pair in said for each in pair])
        reference_others = torch.stack([stored(name) for name in names], 1).flatten()
    return PairLogps(
        sums([chosen for chosen, _ in found]),
        sums([rejected for _, rejected in found]),
        stored("chosen"),
        stored("rejected"),
        tokens("chosen"),
        tokens("rejected"),
        others,
        reference_others,
    )


def loss_over_pairs(loss: Loss, settings: dict, mismatched: bool, logps_of: Any) -> LossOf:
    """Return the loss as a function of model and pair rows; margin and accuracy are of the implicit rewards."""

    def loss_of(model: Any, rows: list[dict]) -> tuple[Tensor, dict[str, float]]:
        batch = pair_logps(model, rows, logps_of, mismatched)
        margin = (batch.chosen - batch.reference_chosen - batch.rejected + batch.reference_rejected).detach()
        seen = {"margin": margin.mean().item(), "accuracy": (margin > 0).float().mean().item()}
        return loss(batch, settings), seen

    return loss_of


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

    def loss_for(model: Any) -> LossOf:
        return loss_over_pairs(loss, settings, mismatched, ways_of(model, settings["share_prompts"]))

    train_on_rows(arguments, module, arguments.reference, arguments.reference_manifest, loss_for)
