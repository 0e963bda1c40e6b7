"""Train a policy on preference pairs and stored reference log-probs; the loss is the caller's (dpo, ipo, kto, simpo).

No reference model is loaded: what it says is in the reference file. Each method is a module with two small functions
and three lines of `main`: `rewards` says what a reply is worth to it, given the log-probs of a pair (`PairLogps`), and
`loss` is made of these rewards alone where it compares the replies. So the margin and the accuracy that are logged,
which are of the same rewards, are what is trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workflow_scripts.common.logprobs import ways_of
from workflow_scripts.common.training.command import training_parser
from workflow_scripts.common.training.row_trainer import LossOf, SumsOf, train_on_rows
from workflow_scripts.common.training.settings import PolicyTraining


class OnPairs(PolicyTraining):
    """What every method on pairs reads."""

    share_prompts: bool


class WithReference(OnPairs):
    """What a method reads that holds the policy to its reference."""

    beta: float


class PairLogps(NamedTuple):
    """Log-probs of a batch of pairs, each (pairs,), summed over the completion's tokens, in nats.

    `divergence` (): the mean of log π − log π_ref over the mismatched completions of all pairs of the optimiser step,
    whichever pass and process they are in, 0 where none has one; None unless the method asks for it.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    divergence: Tensor | None = None


class Rewards(NamedTuple):
    """What the replies of each pair are worth to a method, (pairs,) each: nats, or nats a token where it averages."""

    chosen: Tensor
    rejected: Tensor


RewardsOf = Callable[[PairLogps, Any], Rewards]
Loss = Callable[[Rewards, PairLogps, Any], Tensor]


def log_ratios(batch: PairLogps) -> Rewards:
    """Return log π − log π_ref of each reply."""
    return Rewards(batch.chosen - batch.reference_chosen, batch.rejected - batch.reference_rejected)


def per_token(rewards: Rewards, batch: PairLogps) -> Rewards:
    """Return rewards over the number of their reply's tokens."""
    return Rewards(rewards.chosen / batch.chosen_tokens, rewards.rejected / batch.rejected_tokens)


def sums(logps: list[Tensor]) -> Tensor:
    """Return the sum of each row's log-probs, (rows,)."""
    return torch.stack([row.sum() for row in logps])


def stored(rows: list[dict], name: str, model: Any) -> Tensor:
    """Return what the reference said of a completion of each row, (rows,)."""
    return torch.tensor([sum(row[f"reference_{name}"]) for row in rows], device=model.device)


def pair_logps(model: Any, rows: list[dict], logps_of: Any, divergence: Tensor | None) -> PairLogps:
    """Return what a policy says about pairs, beside what its reference said."""
    prompts = [row["prompt"] for row in rows]
    found = logps_of(model, prompts, [[row["chosen"], row["rejected"]] for row in rows])

    def tokens(name: str) -> Tensor:
        return torch.tensor([float(len(row[name])) for row in rows], device=model.device)

    return PairLogps(
        sums([chosen for chosen, _ in found]),
        sums([rejected for _, rejected in found]),
        stored(rows, "chosen", model),
        stored(rows, "rejected", model),
        tokens("chosen"),
        tokens("rejected"),
        divergence,
    )


def divergence_over(logps_of: Any) -> SumsOf:
    """Return the function that gives (Σ log π − log π_ref over the mismatched completions of rows, how many), (2,).

    A row without any counts for nothing, but passes its own completions: every process has to pass (see RowTrainer).
    """

    def sums_of(model: Any, rows: list[dict]) -> Tensor:
        kinds = ["mismatched_" if row["mismatched_chosen"] else "" for row in rows]
        names = [(f"{kind}chosen", f"{kind}rejected") for kind in kinds]
        said = logps_of(
            model,
            [row["prompt"] for row in rows],
            [[row[name] for name in pair] for row, pair in zip(rows, names, strict=True)],
        )
        ratios = sums([each for pair in said for each in pair])
        theirs = [
            sum(row[f"reference_{name}"]) for row, pair in zip(rows, names, strict=True) for name in pair
        ]
        counted = ratios.new_tensor([bool(kind) for kind in kinds for _ in range(2)])
        ratios = (ratios - ratios.new_tensor(theirs)) * counted
        return torch.stack([ratios.sum(), counted.sum()])

    return sums_of


def loss_over_pairs(rewards_of: RewardsOf, loss: Loss, settings: OnPairs, logps_of: Any) -> LossOf:
    """Return the loss as a function of model and pair rows; margin and accuracy are of the rewards it is made of.

    Where `divergence_over` is asked for, the loss is given what it says of the whole step.
    """

    def loss_of(
        model: Any, rows: list[dict], mismatched: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        divergence = None if mismatched is None else mismatched[0] / mismatched[1].clamp(min=1)
        batch = pair_logps(model, rows, logps_of, divergence)
        rewards = rewards_of(batch, settings)
        margin = (rewards.chosen - rewards.rejected).detach()
        seen = {"margin": margin.mean().item(), "accuracy": (margin > 0).float().mean().item()}
        return loss(rewards, batch, settings), seen

    return loss_of


def align(
    rewards_of: RewardsOf, loss: Loss, kind: type[OnPairs], module: str, mismatched: bool = False
) -> None:
    """Run one method from the command line: parse, train (resuming if it can), write.

    kind: what its settings are; mismatched: whether it asks for the divergence.
    """
    files = {"reference": "parquet of pairs and reference log-probs", "reference_manifest": "its manifest"}
    arguments = training_parser(__doc__, kind, **files).parse_args()
    settings = arguments.settings

    def loss_for(model: Any) -> tuple[LossOf, SumsOf | None]:
        logps_of = ways_of(model, settings["share_prompts"])
        return loss_over_pairs(rewards_of, loss, settings, logps_of), divergence_over(
            logps_of
        ) if mismatched else None

    train_on_rows(arguments, module, arguments.reference, arguments.reference_manifest, loss_for)
