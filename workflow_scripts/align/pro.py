"""Preference Ranking Optimization (Song et al. 2024, eqs. 5 and 7) over k ranked answers; no reference model.

s_i is the mean log-prob of answer i's tokens (all of them, the first one too), r_i its reward, answers best first:
L = Σ_{k<n} −log [exp(s_k τ_kk) / Σ_{i≥k} exp(s_i τ_ki)] + w (n − 1)² · (−log π(y_1)),
τ_ki = r_k − r_i for i > k (the inverse of the paper's temperature), τ_kk = max_{i>k} τ_ki. Where an answer is ranked
lower but rewarded higher, τ is 0 (`gaps: clamped`): it neither pulls nor pushes; or negative (`gaps: signed`), as in
the published code: the pair is then learned the other way round.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.logprobs import ways_of
from workflow_scripts.common.training.command import run_training, training_parser
from workflow_scripts.common.training.row_trainer import LossOf, train_on_rows
from workflow_scripts.common.training.settings import PolicyTraining


class Settings(PolicyTraining):
    """What PRO reads; `candidates` is how many answers of a prompt it takes at most."""

    sft_weight: float
    candidates: int | None
    gaps: Literal["clamped", "signed"]


def ranking_loss(scores: Tensor, rewards: Tensor, gaps: str) -> Tensor:
    """Return the PRO loss of a prompt's answers, best first: `scores` (answers,) mean log-probs, `rewards` (answers,).

    ln 2 per stage of two answers whose scores are equal and 0; PlumblineError for a single answer.
    """
    if len(scores) < 2:
        raise PlumblineError("PRO ranks two answers or more; with one there is nothing to prefer")
    total = scores.new_zeros(())
    for stage in range(len(scores) - 1):
        sharpness = rewards[stage] - rewards[stage + 1 :]
        if gaps == "clamped":
            sharpness = sharpness.clamp(min=0)
        own = scores[stage] * sharpness.max()
        total = total + torch.logsumexp(torch.cat([own[None], scores[stage + 1 :] * sharpness]), 0) - own
    return total


def loss_over_answers(settings: Settings, logps_of: Any) -> LossOf:
    """Return the loss as a function of model and rows of ranked answers; accuracy is of the best answer's rank."""
    most = settings["candidates"]

    def loss_of(model: Any, rows: list[dict]) -> tuple[Tensor, dict[str, float]]:
        found = logps_of(model, [row["prompt"] for row in rows], [row["answers"][:most] for row in rows])
        losses, first = [], []
        for row, logps in zip(rows, found, strict=True):
            scores = torch.stack([answer.mean() for answer in logps])
            rewards = torch.tensor(row["rewards"][:most], device=scores.device, dtype=scores.dtype)
            likelihood = settings["sft_weight"] * (len(logps) - 1) ** 2 * -logps[0].sum()
            losses.append(ranking_loss(scores, rewards, settings["gaps"]) + likelihood)
            first.append(float(scores.argmax() == 0))
        return torch.stack(losses).mean(), {"accuracy": sum(first) / len(first)}

    return loss_of


def main() -> None:
    files = {"ranked": "parquet of ranked answers", "ranked_manifest": "its manifest"}
    arguments = training_parser(__doc__, Settings, **files).parse_args()
    settings = arguments.settings

    def loss_for(model: Any) -> tuple[LossOf, None]:
        return loss_over_answers(settings, ways_of(model, not settings["gradient_checkpointing"])), None

    train_on_rows(
        arguments, "workflow_scripts.align.pro", arguments.ranked, arguments.ranked_manifest, loss_for
    )


if __name__ == "__main__":
    run_training(main)
