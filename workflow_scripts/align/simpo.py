"""Simple Preference Optimization (Meng et al. 2024, eq. 6), and a likelihood term on the chosen reply.

r(y) = log π(y)/|y|, averaged over the completion's tokens as generation ranks its candidates; no reference is read.
L = −log σ(β (r(y⁺) − r(y⁻)) − γ) − w · r(y⁺), with γ = β · `gamma_beta_ratio`, so that the ratio is the margin in nats
a token that a pair has to win by, and w = `sft_weight`.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from workflow_scripts.align.preference import OnPairs, PairLogps, Rewards, align, per_token
from workflow_scripts.common.training.command import run_training


class Settings(OnPairs):
    """What SimPO reads."""

    beta: float
    gamma_beta_ratio: float
    sft_weight: float


def rewards(batch: PairLogps, settings: Settings) -> Rewards:
    """Return the log-prob of each reply, averaged over its tokens."""
    return per_token(Rewards(batch.chosen, batch.rejected), batch)


def loss(rewards: Rewards, batch: PairLogps, settings: Settings) -> Tensor:
    """Return the mean SimPO loss of a batch of pairs; ln 2 where each wins by just the margin asked for."""
    beyond = rewards.chosen - rewards.rejected - settings["gamma_beta_ratio"]
    return (-logsigmoid(settings["beta"] * beyond) - settings["sft_weight"] * rewards.chosen).mean()


def main() -> None:
    align(rewards, loss, Settings, "workflow_scripts.align.simpo")


if __name__ == "__main__":
    run_training(main)
