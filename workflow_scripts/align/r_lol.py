"""R-LoL (Baheti et al. 2024): w = R · clip(π(y|x) / π_ref(y|x), 1 − c, 1 + c), the answer one action.

`clip: null` leaves the ratio as it is, up to the bound in `offline`.
"""

from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, clipped, learn, sequence_log_ratio
from workflow_scripts.common.training.command import run_training


class Settings(Offline):
    """What the method reads."""

    clip: float | None


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return R times the clipped ratio of the whole answer, (rows, 1)."""
    return batch.reward[:, None] * clipped(sequence_log_ratio(batch), settings["clip"])


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.r_lol", log_ratio=sequence_log_ratio)


if __name__ == "__main__":
    run_training(main)
