"""A-LoL (Baheti et al. 2024): w = max(R − V(x), 0) · clip(π(y|x) / π_ref(y|x), 1 − c, 1 + c).

The answer is one action, its advantage over what the reference is expected to earn on the prompt; answers without
one are not learned from. `clip: null` leaves the ratio as it is, up to the bound in `offline`.
"""

from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, clipped, learn, sequence_log_ratio
from workflow_scripts.common.training.command import run_training


class Settings(Offline):
    """What the method reads."""

    clip: float | None


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return the positive advantage times the clipped ratio of the whole answer, (rows, 1)."""
    return batch.advantage.clamp(min=0)[:, None] * clipped(sequence_log_ratio(batch), settings["clip"])


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.a_lol", "advantage", sequence_log_ratio)


if __name__ == "__main__":
    run_training(main)
