"""A-LoL with a KL penalty in place of the ratio (Baheti et al. 2024).

L = max(R − V(x), 0) · nll + β · (log π(y|x) − log π_ref(y|x)). The penalty is the one-sample estimate of the
divergence on answers that are not the policy's own; its gradient is −β ∇nll, so that the whole is (A − β) ∇nll:
w = max(R − V(x), 0) − β. That is `a_lol_ref_free` with shifted weights, and answers of an advantage below β are
un-learned. The stored reference only shifts the value, −β log π_ref(y|x), which is part of the loss reported.
"""

from torch import Tensor

from workflow_scripts.align.offline import Answers, Offline, learn
from workflow_scripts.common.training.command import run_training


class Settings(Offline):
    """What the method reads."""

    beta: float


def weights(batch: Answers, settings: Settings) -> Tensor:
    """Return the positive advantage less β, (rows, 1)."""
    return batch.advantage.clamp(min=0)[:, None] - settings["beta"]


def constant(batch: Answers, settings: Settings) -> Tensor:
    """Return −β log π_ref(y|x), what the loss has beside its weighted likelihood, (rows,)."""
    return -settings["beta"] * batch.reference.sum(1)


def main() -> None:
    learn(weights, Settings, "workflow_scripts.align.a_lol_kl", "advantage", constant=constant)


if __name__ == "__main__":
    run_training(main)
