"""Identity Preference Optimization (Azar et al. 2023, eq. 17), with log-ratios averaged over tokens.

L = (h − 1/(2β))², h = (log π − log π_ref)(y⁺)/|y⁺| − (log π − log π_ref)(y⁻)/|y⁻|. The paper leaves the length open;
its authors confirmed the average, which keeps β comparable across lengths.
"""

from torch import Tensor

from workflow_scripts.align.preference import PairLogps, Preference, align
from workflow_scripts.common.training.command import run_training

Settings = Preference


def loss(batch: PairLogps, settings: Settings) -> Tensor:
    """Return the mean IPO loss of a batch of pairs; 1/(4β²) where policy and reference agree."""
    chosen = (batch.chosen - batch.reference_chosen) / batch.chosen_tokens
    rejected = (batch.rejected - batch.reference_rejected) / batch.rejected_tokens
    return ((chosen - rejected - 1 / (2 * settings["beta"])) ** 2).mean()


def main() -> None:
    align(loss, Settings, "workflow_scripts.align.ipo")


if __name__ == "__main__":
    run_training(main)
