"""Reward GOLD (Pang and He 2021; as Baheti et al. 2024 use it): w_t = R · max(π(y_t), floor).

The policy's own token probability stands in for the importance weight, `floor` (0.1) keeps unlikely tokens learnable.
"""

from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, learn
from workflow_scripts.common.training.command import run_training


class Settings(Offline):
    """What the method reads."""

    floor: float


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return R · max(p_t, floor), (rows, time)."""
    return batch.reward[:, None] * batch.logps.exp().clamp(min=settings["floor"])


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.r_gold")


if __name__ == "__main__":
    run_training(main)
