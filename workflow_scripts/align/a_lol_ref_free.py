"""A-LoL without the reference's ratio (Baheti et al. 2024): w = max(R − V(x), 0).

`clamp: false` is what the published code does for HH: w = R − V(x), and a negative advantage un-learns its answer.
"""

from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, learn
from workflow_scripts.common.training.command import run_training


class Settings(Offline):
    """What the method reads."""

    clamp: bool


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return the advantage of each row, positive unless `clamp` is off, (rows, 1)."""
    advantage = batch.advantage.clamp(min=0) if settings["clamp"] else batch.advantage
    return advantage[:, None]


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.a_lol_ref_free", "advantage")


if __name__ == "__main__":
    run_training(main)
