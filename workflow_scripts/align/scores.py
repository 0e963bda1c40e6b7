"""The scores that PPO's answers earn: shifted and scaled by those of all answers before them."""

import math
from statistics import fmean
from typing import NamedTuple

from typing_extensions import TypedDict


class Scaling(TypedDict):
    """What is done to scores."""

    score_scaling: bool
    score_norm: bool
    score_clip: float | None


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of all scores so far (Chan et al. 1983, eq. 2.1)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def updated(self, scores: list[float]) -> "Moments":
        """Return the moments with more scores taken in."""
        added, mean = len(scores), fmean(scores)
        count, apart = self.count + added, mean - self.mean
        squares = sum((score - mean) ** 2 for score in scores) + apart**2 * self.count * added / count
        return Moments(count, self.mean + apart * added / count, self.squares + squares)


NO_SCORES = Moments()


def scaled_scores(scores: list[float], moments: Moments, settings: Scaling) -> list[float]:
    """Return scores less the running mean (`score_norm`), over the running deviation (`score_scaling`), clipped."""
    shift = moments.mean if settings["score_norm"] else 0.0
    deviation = math.sqrt(moments.squares / max(moments.count - 1, 1))
    scale = deviation if settings["score_scaling"] and deviation > 1e-8 else 1.0
    limit = math.inf if settings["score_clip"] is None else settings["score_clip"]
    return [min(max((score - shift) / scale, -limit), limit) for score in scores]
