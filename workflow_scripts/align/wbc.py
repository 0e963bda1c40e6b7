"""Weighted behaviour cloning (Wang et al. 2020; baseline of Baheti et al. 2024): w = R.

A negative reward un-learns its answer.
"""

from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, learn
from workflow_scripts.common.training.command import run_training

Settings = Offline


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return each row's reward, (rows, 1)."""
    return batch.reward[:, None]


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.wbc")


if __name__ == "__main__":
    run_training(main)
