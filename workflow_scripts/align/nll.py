"""Plain likelihood of the answers, whatever their reward: the baseline of the offline methods, w = 1.

With `sampling: good_random` it gets the same filter as A-LoL (reviewers of Baheti et al. 2024 asked for it).
"""

import torch
from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, learn
from workflow_scripts.common.training.command import run_training

Settings = Offline


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return 1 for each row, (rows, 1)."""
    return torch.ones_like(batch.reward)[:, None]


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.nll")


if __name__ == "__main__":
    run_training(main)
