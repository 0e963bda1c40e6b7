"""What PPO computes with: settings, steps and curve, an answer's rewards and advantages, both losses, the next β."""

import math
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from workflow_scripts.align.online import OnlineTraining
from workflow_scripts.common.errors import PlumblineError

KL_GAIN, KL_ERROR = 0.1, 0.2  # K_β and the clip of e_t of the adaptive coefficient


class Settings(OnlineTraining):
    """What PPO reads; a step has rollout_batch answers, an update batch_size of them."""

    stop: list[str]
    rollout_batch: int
    ppo_epochs: int
    target_kl: float | None
    value_clip: float
    value_coef: float
    gamma: float
    lam: float
    kl_coef: float
    kl_control: Literal["fixed", "adaptive"]
    kl_control_target: float
    score_scaling: bool
    score_norm: bool
    score_clip: float | None


def steps_of(settings: Settings, prompts: int) -> int:
    """Return how many steps `epochs` over so many prompts are; what is no whole step is one more, but for drop_last."""
    steps = settings["epochs"] * prompts / settings["rollout_batch"]
    if settings["drop_last"] and steps < 1:
        raise PlumblineError(
            f"drop_last: {prompts} prompts are no whole rollout_batch of {settings['rollout_batch']}; lower it, or "
            "leave drop_last out"
        )
    return math.floor(steps) if settings["drop_last"] else math.ceil(steps)


def kl_rewards(logps: Tensor, reference: Tensor, score: float, kl_coef: float) -> Tensor:
    """Return one answer's rewards (time,): r_t = −β (log π(y_t) − log π_ref(y_t)) + [t = last] · score.

    Ziegler et al. 2019, eq. 2, its logarithm spread over the tokens.
    """
    rewards = -kl_coef * (logps - reference)
    rewards[-1] += score
    return rewards


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Return the generalised advantages (time,) of one answer's rewards and values, both (time,).

    δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γλ A_{t+1} (Schulman et al. 2016, eq. 16); V = A = 0 past the last
    token, whether the answer ended there or was cut.
    """
    advantages, following, value_after = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards.tolist()), reversed(values.tolist()), strict=True):
        following = reward + gamma * value_after - value + gamma * lam * following
        value_after = value
        advantages.append(following)
    return torch.tensor(advantages[::-1], dtype=values.dtype)


def whiten(values: Tensor) -> Tensor:
    """Return values (tokens,) of a whole batch, shifted to mean 0 and scaled to variance 1."""
    return (values - values.mean()) * torch.rsqrt(values.var(correction=0) + 1e-8)


def ppo_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return (each token's loss, whether the clip binds there), both (tokens,); Schulman et al. 2017, eq. 7.

    ρ = π(y_t) / π_old(y_t); loss = −min(ρ A, clip(ρ, 1 − ε, 1 + ε) A), flat in π where the clip binds.
    """
    ratio = (logps - old_logps).exp()
    free, bounded = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(free, bounded), bounded > free


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return each token's loss (tokens,): ½ max((V − R)², (clip(V, V_old ± ε) − R)²)."""
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (bounded - returns) ** 2)


def next_kl_coef(kl_coef: float, kl: float, settings: Settings) -> float:
    """Return the next β given this step's KL per answer: the same, or Ziegler et al. 2019, section 2.2.

    e = clip(KL / target − 1, −0.2, 0.2) and β ← β (1 + 0.1 e).
    """
    if settings["kl_control"] == "fixed":
        return kl_coef
    error = kl / settings["kl_control_target"] - 1
    return kl_coef * (1 + KL_GAIN * min(max(error, -KL_ERROR), KL_ERROR))


SO_FAR = ("step", "rows", "tokens")  # what a row counts from the start


def averaged(rows: list[dict], every: int) -> list[dict]:
    """Return one row per `every` steps, the mean of theirs, with the last one's step and what it had learned from."""
    groups = [rows[start : start + every] for start in range(0, len(rows), every)]
    return [
        {name: round(fmean(row[name] for row in group), 6) for name in group[0]}
        | {name: group[-1][name] for name in SO_FAR if name in group[-1]}
        for group in groups
    ]


def curve_with(looks: list[dict], rows: list[dict], every: int) -> list[dict]:
    """Return the curve of a run: its steps averaged, and among them the looks at its answers."""
    return sorted([*averaged(rows, every), *looks], key=lambda row: row["step"])
