"""A-LoL sequence (Baheti et al. 2024): w_t = max(R − V(x), 0) · clip(π(y_t) / π_ref(y_t), 1 − c, 1 + c).

Despite its name the ratio is each token's own, so that one unlikely token does not decide for the whole answer.
`clip: null` leaves the ratios as they are, up to the bound in `offline`.
"""

from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, clipped, learn, token_log_ratio
from workflow_scripts.common.training.command import run_training


class Settings(Offline):
    """What the method reads."""

    clip: float | None


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return the positive advantage times each token's clipped ratio, (rows, time)."""
    return batch.advantage.clamp(min=0)[:, None] * clipped(token_log_ratio(batch), settings["clip"])


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.a_lol_seq", "advantage", token_log_ratio)


if __name__ == "__main__":
    run_training(main)
