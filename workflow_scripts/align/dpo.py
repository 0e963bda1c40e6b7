"""Direct Preference Optimization (Rafailov et al. 2023, eq. 7), its hinge form, and a likelihood term on the chosen reply.

Δ = [log π(y⁺) − log π_ref(y⁺)] − [log π(y⁻) − log π_ref(y⁻)], log-probs summed over the completion or averaged
(`logp_reduction`: the papers sum, Raschka's chapter averages, which makes β weaker by the length); `reference_free`
leaves π_ref out. L = −log σ(β Δ), or max(0, 1 − β Δ) as in SLiC and RSO (Zhao et al. 2023; Liu et al. 2024, eq. 7),
− w · log π(y⁺)/|y⁺| with w = `sft_weight` (Pang et al. 2024, eq. 1).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from workflow_scripts.align.preference import PairLogps, Preference, align
from workflow_scripts.common.training.command import run_training


class Settings(Preference):
    """What DPO reads."""

    loss: Literal["sigmoid", "hinge"]
    logp_reduction: Literal["sum", "mean"]
    reference_free: bool
    sft_weight: float


def loss(batch: PairLogps, settings: Settings) -> Tensor:
    """Return the mean DPO loss of a batch of pairs; where policy and reference agree ln 2, or 1 for the hinge."""
    chosen, rejected = batch.chosen, batch.rejected
    if not settings["reference_free"]:
        chosen, rejected = chosen - batch.reference_chosen, rejected - batch.reference_rejected
    if settings["logp_reduction"] == "mean":
        chosen, rejected = chosen / batch.chosen_tokens, rejected / batch.rejected_tokens
    gap = settings["beta"] * (chosen - rejected)
    preference = torch.relu(1 - gap) if settings["loss"] == "hinge" else -logsigmoid(gap)
    likelihood = -batch.chosen / batch.chosen_tokens
    return (preference + settings["sft_weight"] * likelihood).mean()


def main() -> None:
    align(loss, Settings, "workflow_scripts.align.dpo")


if __name__ == "__main__":
    run_training(main)
