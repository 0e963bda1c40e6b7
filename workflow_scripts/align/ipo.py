"""Identity Preference Optimization (Azar et al. 2023, eq. 17), with log-ratios averaged over tokens.

L = (h − 1/(2β))², h = (log π − log π_ref)(y⁺)/|y⁺| − (log π − log π_ref)(y⁻)/|y⁻|. The paper leaves the length open;
its authors confirmed the average, which keeps β comparable across lengths.
"""

from torch import Tensor

from workflow_scripts.align.preference import PairLogps, Rewards, WithReference, align, log_ratios, per_token
from workflow_scripts.common.training.command import run_training

Settings = WithReference


def rewards(batch: PairLogps, settings: Settings) -> Rewards:
    """Return the log-ratio of each reply, averaged over its tokens."""
    return per_token(log_ratios(batch), batch)


def loss(rewards: Rewards, batch: PairLogps, settings: Settings) -> Tensor:
    """Return the mean IPO loss of a batch of pairs; 1/(4β²) where policy and reference agree."""
    return ((rewards.chosen - rewards.rejected - 1 / (2 * settings["beta"])) ** 2).mean()


def main() -> None:
    align(rewards, loss, Settings, "workflow_scripts.align.ipo")


if __name__ == "__main__":
    run_training(main)
