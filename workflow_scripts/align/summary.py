"""What a run's rewards and advantages look like, in six numbers; for the manifests."""

from collections.abc import Sequence

import numpy as np


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return mean, median, standard deviation (of the values themselves), min, max and 10th percentile."""
    found = np.asarray(values, dtype=np.float64)
    return {
        "mean": round(float(found.mean()), 6),
        "median": round(float(np.median(found)), 6),
        "std": round(float(found.std()), 6),
        "min": round(float(found.min()), 6),
        "max": round(float(found.max()), 6),
        "percentile_10": round(float(np.percentile(found, 10)), 6),
    }


def positive_share(values: Sequence[float]) -> float:
    """Return the share of values above zero: what keeps a row in training."""
    return round(float((np.asarray(values) > 0).mean()), 6)
