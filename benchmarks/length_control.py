"""How often the interval of the length-controlled win rate holds the true rate, beside the package's standard error.

Run: `.venv/bin/python -m benchmarks.length_control --datasets 200` (about 100 refits times 0.05 s a data set). The data
sets are drawn from the model itself, so the true rate is known; the prompts are drawn anew each time.
"""

import argparse
import time

import numpy as np
import pandas as pd

from workflow_scripts.score.length_control import Judged, gamed_features, predict, rate, refit

POLICY, DIFFICULTY, LENGTH = -0.5, 0.8, 1.5  # coefficients of the true model


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def true_rate(full: bool) -> float:
    """Return the win rate at equal lengths over all prompts: difficulties are standard normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((weights * sigmoid(POLICY + full * DIFFICULTY * points)).sum() / weights.sum())


def draw(generator: np.random.Generator, prompts: int, full: bool) -> tuple[Judged, pd.DataFrame | None]:
    """Return judged answers to new prompts and, for the full model, the judged verbose and concise baselines."""
    difficulty = generator.normal(size=prompts)
    longer = generator.normal(0.3, 1, size=prompts)  # reference less policy, in its spread
    chance = sigmoid(POLICY + full * DIFFICULTY * difficulty + LENGTH * np.tanh(longer / longer.std(ddof=1)))
    preference = (generator.random(prompts) < chance).astype(float)
    if not full:
        return Judged(preference, 500 * longer, None), None
    gamed_length = np.concatenate([generator.normal(shift, 1, size=prompts) for shift in (-1, 1)])
    both = np.tile(difficulty, 2)
    gamed_chance = sigmoid(DIFFICULTY * both + LENGTH * np.tanh(gamed_length))
    gamed = pd.DataFrame(
        {
            "index": np.tile(np.arange(prompts), 2),
            "instruction_difficulty": both,
            "preference": (generator.random(2 * prompts) < gamed_chance).astype(float),
            "std_delta_len": gamed_length,
            "not_gamed_baseline": False,
        }
    )
    return Judged(preference, 500 * longer, difficulty), gamed


def estimates(
    generator: np.random.Generator, prompts: int, draws: int, full: bool
) -> tuple[float, np.ndarray, float]:
    """Return a data set's rate, its refits (draws,), and the package's lc_standard_error, all from 0 to 1."""
    judged, gamed = draw(generator, prompts, full)
    prior = None if gamed is None else gamed_features(gamed)
    once = np.ones(prompts, dtype=int)
    predicted = predict(judged, once, prior)
    groups = [str(number) for number in range(prompts)]
    rates = refit(judged, groups, prior, draws, seed=0) if draws else []
    return rate(predicted, once), np.array(rates), float(pd.Series(predicted).sem())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--draws", type=int, default=100)
    arguments = parser.parse_args()
    for full in (False, True):
        truth, generator = true_rate(full), np.random.default_rng(0)
        started = time.perf_counter()
        found = [
            estimates(generator, arguments.prompts, arguments.draws, full) for _ in range(arguments.datasets)
        ]
        seconds = (time.perf_counter() - started) / len(found) / (arguments.draws + 1)
        points = np.array([point for point, _, _ in found])
        ends = np.array([np.percentile(rates, [2.5, 97.5]) for _, rates, _ in found])
        errors = np.array([error for _, _, error in found])
        held = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
        package = (np.abs(points - truth) <= 1.96 * errors).mean()
        print(
            f"{'full   ' if full else 'minimal'}  true {truth:.3f}  mean estimate {points.mean():.3f}  "
            f"spread of estimates {points.std():.3f}  of refits {np.mean([r.std() for _, r, _ in found]):.3f}  "
            f"lc_standard_error {errors.mean():.3f}  95 % intervals that hold the truth: refits {held:.1%}, "
            f"package {package:.1%}  {1000 * seconds:.0f} ms a refit"
        )


if __name__ == "__main__":
    main()
