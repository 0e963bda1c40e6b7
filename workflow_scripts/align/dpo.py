"""Direct Preference Optimization (Rafailov et al. 2023, eq. 7), its hinge form, and the chosen reply's likelihood.

Δ = [log π(y⁺) − log π_ref(y⁺)] − [log π(y⁻) − log π_ref(y⁻)], log-probs summed over the completion or averaged
(`logp_reduction`: the papers sum, Raschka's chapter averages, which makes β weaker by the length); `reference_free`
leaves π_ref out. L = −(1 − ε) log σ(β Δ) − ε log σ(−β Δ), ε = `label_smoothing` (Mitchell 2023), or max(0, 1 − β Δ)
as in SLiC and RSO (Zhao et al. 2023; Liu et al. 2024, eq. 7), − w · log π(y⁺)/|y⁺| with w = `sft_weight` (Pang et al.
2024, eq. 1).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from workflow_scripts.align.preference import PairLogps, Rewards, WithReference, align, log_ratios, per_token
from workflow_scripts.common.training.command import run_training


class Settings(WithReference):
    """What DPO reads."""

    loss: Literal["sigmoid", "hinge"]
    label_smoothing: float
    logp_reduction: Literal["sum", "mean"]
    reference_free: bool
    sft_weight: float


def rewards(batch: PairLogps, settings: Settings) -> Rewards:
    """Return the log-ratio of each reply, or its log-prob if there is no reference; summed or averaged over tokens."""
    of_replies = Rewards(batch.chosen, batch.rejected) if settings["reference_free"] else log_ratios(batch)
    return per_token(of_replies, batch) if settings["logp_reduction"] == "mean" else of_replies


def loss(rewards: Rewards, batch: PairLogps, settings: Settings) -> Tensor:
    """Return the mean DPO loss of a batch of pairs; where policy and reference agree ln 2, or 1 for the hinge."""
    gap = settings["beta"] * (rewards.chosen - rewards.rejected)
    preference = torch.relu(1 - gap) if settings["loss"] == "hinge" else -logsigmoid(gap)
    if settings["label_smoothing"]:  # −log σ(−x) = x − log σ(x)
        preference = preference + settings["label_smoothing"] * gap
    likelihood = -batch.chosen / batch.chosen_tokens
    return (preference + settings["sft_weight"] * likelihood).mean()


def main() -> None:
    align(rewards, loss, Settings, "workflow_scripts.align.dpo")


if __name__ == "__main__":
    run_training(main)
