"""The length-controlled win rate (Dubois et al. 2024): how often a policy would win if no answer were the longer one.

A logistic model explains the preferences by the difference in length, the difficulty of the instruction and the
policy; the rate is its mean prediction at no difference. The fit is the alpaca_eval package's own
(`fit_LogisticRegressionCV` of 0.6.6), so the rate equals its `length_controlled_winrate`. Where its `lc_standard_error`
is the spread of the predictions over instructions, which says nothing about another draw of instructions, we refit
on bootstrap samples. Without df_gamed.csv there is the package's minimal form, which is another measure: nothing holds
its length term back, and where hardly any answer is as long as the reference, the rate is a guess far outside the
data (19.6 where the full model says 5.9 for the published verdicts on alpaca-7b). Not covered: fetching df_gamed.csv,
and percentiles of the refits (the report takes them).
"""

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from alpaca_eval.metrics.glm_winrate import GLM_INFO, fit_LogisticRegressionCV

from workflow_scripts.common.errors import PlumblineError

# The package sets INFO for the whole process, which would print every request of every client.
logging.getLogger().setLevel(logging.WARNING)

FULL, MINIMAL = GLM_INFO["length_controlled_v1"], GLM_INFO["length_controlled_minimal"]
GAMED_COLUMNS = ("index", "instruction_difficulty", "preference", "std_delta_len", "not_gamed_baseline")
# The 805 instructions in the order that df_gamed.csv numbers them, by the set each comes from.
EVALUATION_SET = {"helpful_base": 129, "koala": 156, "oasst": 188, "selfinstruct": 252, "vicuna": 80}


class Judged(NamedTuple):
    """One row per judged answer: arrays of n."""

    preference: np.ndarray
    """For the policy, 0 to 1; NaN where the verdict failed."""
    shorter_by: np.ndarray
    """Characters of the reference answer less those of the policy's."""
    difficulty: np.ndarray | None
    """Of the instruction; None for the minimal model."""


def read_gamed(path: Path | str) -> pd.DataFrame:
    """Return the package's judged verbose and concise baselines; PlumblineError if a column is missing."""
    try:
        gamed = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise PlumblineError(f"{path}: not the df_gamed.csv of AlpacaEval ({error})") from None
    missing = [name for name in GAMED_COLUMNS if name not in gamed.columns]
    if missing:
        raise PlumblineError(
            f"{path}: not the df_gamed.csv of AlpacaEval: it has no column {', '.join(missing)}"
        )
    return gamed


def difficulties(gamed: pd.DataFrame, prompts: list[dict]) -> dict[str, float]:
    """Return each prompt's difficulty by its id, which is its place among AlpacaEval's 805 instructions.

    Raises PlumblineError where a prompt's set is not the one that stands at its place: the file numbers the
    instructions, and those of other prompts would be taken silently.
    """
    sets = [name for name, size in EVALUATION_SET.items() for _ in range(size)]
    by_place = gamed.drop_duplicates("index")["instruction_difficulty"]
    found = {}
    for row in prompts:
        place = int(row["id"]) if row["id"].isdigit() else len(sets)
        if place >= len(sets) or row["meta"].get("dataset") != sets[place] or place not in by_place.index:
            raise PlumblineError(
                f"prompt {row['id']!r} is none of AlpacaEval's 805 in their order, whose difficulties the gamed "
                "file holds; take those prompts, or set gamed: null"
            )
        found[row["id"]] = float(by_place[place])
    return found


def features(judged: Judged, counts: np.ndarray) -> pd.DataFrame:
    """Return the model's columns, in the package's order; lengths are in units of their spread over the sample."""
    spread = pd.Series(np.repeat(judged.shorter_by, counts)).std()
    scaled = judged.shorter_by / spread if spread > 0 else np.zeros(len(judged.shorter_by))
    columns = {"length": np.tanh(scaled)}
    if judged.difficulty is not None:
        columns["difficulty"] = judged.difficulty
    return pd.DataFrame(columns | {"policy": 1.0})


def gamed_features(gamed: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the gamed baselines' training rows and their weights: a prior on length and difficulty.

    Two baselines share the package's regularisation weight.
    """
    gamed = gamed[gamed["preference"].notna()]
    policy = gamed["not_gamed_baseline"].astype(float).to_numpy()
    columns = {
        "length": np.tanh(gamed["std_delta_len"].to_numpy()),
        "difficulty": gamed["instruction_difficulty"].to_numpy(),
        "policy": policy,
        "preference": gamed["preference"].to_numpy(),
    }
    return pd.DataFrame(columns), policy + FULL["regularize_to_baseline_lambda"] * (1 - policy) / 2


def predict(judged: Judged, counts: np.ndarray, gamed: tuple[pd.DataFrame, np.ndarray] | None) -> np.ndarray:
    """Return the preference, 0 to 1, that each row would have at equal lengths, fitted with row i counts[i] times.

    A row that counts twice is one row of weight two, so that cross-validation holds it out whole. With fewer
    rows than folds there is no cross-validation, and without any nothing speaks for either side: 0.5. Where all
    verdicts are 0, or all 1, that is the prediction too: a regression of one class alone takes it for the other.
    """
    columns = features(judged, counts)
    used = (counts > 0) & ~np.isnan(judged.preference)
    training, weights = columns[used].assign(preference=judged.preference[used]), counts[used].astype(float)
    if not len(training):
        return np.full(len(columns), 0.5)
    unanimous = training["preference"].min() == training["preference"].max()
    if gamed is None and unanimous and training["preference"].iloc[0] in (0, 1):
        return np.full(len(columns), float(training["preference"].iloc[0]))
    if gamed is not None:
        training, weights = pd.concat([gamed[0], training]), np.concatenate([gamed[1], weights])
    folds = (MINIMAL if gamed is None else FULL)["kwargs"]["n_splits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn announces the end of the package's `penalty`
        model = fit_LogisticRegressionCV(
            training, "preference", sample_weight=weights, n_splits=folds if len(training) >= folds else 0
        )
        return model.predict_proba(columns.assign(length=0.0))[:, 1]


def rate(predicted: np.ndarray, counts: np.ndarray) -> float:
    """Return the mean prediction, with row i counts[i] times."""
    return float(np.repeat(predicted, counts).mean())


def refit(
    judged: Judged,
    groups: list[str],
    gamed: tuple[pd.DataFrame, np.ndarray] | None,
    draws: int,
    seed: int,
) -> list[float]:
    """Return the rate of a full refit on each of `draws` bootstrap samples of the rows' groups.

    Draw b takes the same groups for every policy, for they hang on the groups and the seed alone. The gamed
    baselines stay as they are: they belong to the model, as a prior does. One refit of 805 rows takes 0.1 s.
    """
    names = list(dict.fromkeys(groups))
    place = {name: number for number, name in enumerate(names)}
    members = np.array([place[name] for name in groups])
    generator = np.random.default_rng(seed)
    rates = []
    for _ in range(draws):
        drawn = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names))[members]
        rates.append(rate(predict(judged, drawn, gamed), drawn))
    return rates
