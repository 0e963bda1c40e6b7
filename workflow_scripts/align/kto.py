"""Kahneman-Tversky Optimization (Ethayarajh et al. 2024, eqs. 7 and 8) on both sides of each pair.

r = log π − log π_ref summed over the completion; z = max(0, mean of r over mismatched completions), no gradient, over
all of an optimiser step, whichever pass and process its pairs are in, and without dropout (TRL takes a pass's own). A
mismatched completion is another prompt's (TRL takes the neighbour's in the batch, which may answer the same prompt);
where all pairs have one prompt there is none, and z is 0.
L = w⁺ (1 − σ(β(r − z))) for a chosen completion, w⁻ (1 − σ(β(z − r))) for a rejected one; mean over both.
"""

import torch
from torch import Tensor

from workflow_scripts.align.preference import PairLogps, Rewards, WithReference, align, log_ratios
from workflow_scripts.common.training.command import run_training


class Settings(WithReference):
    """What KTO reads."""

    desirable_weight: float
    undesirable_weight: float


def rewards(batch: PairLogps, settings: Settings) -> Rewards:
    """Return the log-ratio of each reply."""
    return log_ratios(batch)


def loss(rewards: Rewards, batch: PairLogps, settings: Settings) -> Tensor:
    """Return the mean KTO loss of a batch of pairs; (w⁺ + w⁻)/4 where policy and reference agree."""
    divergence = batch.divergence.clamp(min=0).detach()
    chosen, rejected = rewards.chosen - divergence, divergence - rewards.rejected
    desirable = settings["desirable_weight"] * (1 - torch.sigmoid(settings["beta"] * chosen))
    undesirable = settings["undesirable_weight"] * (1 - torch.sigmoid(settings["beta"] * rejected))
    return torch.cat([desirable, undesirable]).mean()


def main() -> None:
    align(rewards, loss, Settings, "workflow_scripts.align.kto", mismatched=True)


if __name__ == "__main__":
    run_training(main)
