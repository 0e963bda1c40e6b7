"""Krippendorff's α: the worked examples of his paper, and what it has to be."""

import numpy as np
import pytest

from workflow_scripts.report.agreement import compare
from workflow_scripts.report.statistics.alpha import alpha

# Krippendorff 2011, examples A (two observers, binary) and C (four observers, categories, some data missing).
MEG, OWEN = "0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"
FOUR = """
    1 2 3 3 2 1 4 1 2 . . .
    1 2 3 3 2 2 4 1 2 5 . 3
    . 3 3 3 2 3 4 2 2 5 1 .
    1 2 3 3 2 4 4 1 2 5 1 .
"""


def ratings_of(*raters: str) -> np.ndarray:
    rows = [[np.nan if word == "." else float(word) for word in rater.split()] for rater in raters]
    return np.array(rows).T


def once(ratings: np.ndarray, nominal: bool = False) -> float:
    return float(alpha(np.ones((1, len(ratings))), ratings, nominal)[0])


def by_pairs(ratings: np.ndarray, distance) -> float:
    """α pair by pair, as it is defined: disagreement within items over that among all values."""
    rows = [[value for value in row if not np.isnan(value)] for row in ratings]
    rows = [row for row in rows if len(row) > 1]
    every = [value for row in rows for value in row]
    within = sum(distance(a, b) / (len(row) - 1) for row in rows for a in row for b in row) / len(every)
    among = sum(distance(a, b) for a in every for b in every) / (len(every) * (len(every) - 1))
    return 1 - within / among


def test_the_worked_examples_come_out():
    assert once(ratings_of(MEG, OWEN), nominal=True) == pytest.approx(0.095, abs=5e-4)
    four = ratings_of(*FOUR.strip().splitlines())
    assert once(four, nominal=True) == pytest.approx(0.743, abs=5e-4)
    assert once(four) == pytest.approx(0.849, abs=5e-4)


@pytest.mark.parametrize("nominal", [False, True])
def test_it_is_what_it_is_pair_by_pair_and_a_weight_is_so_many_items(nominal):
    generator = np.random.default_rng(0)
    ratings = generator.integers(1, 5, (20, 3)).astype(float)
    ratings[generator.random((20, 3)) < 0.2] = np.nan
    distance = (lambda a, b: float(a != b)) if nominal else (lambda a, b: (a - b) ** 2)
    assert once(ratings, nominal) == pytest.approx(by_pairs(ratings, distance))
    weights = generator.integers(0, 4, 20)
    repeated = np.repeat(ratings, weights, axis=0)
    assert alpha(weights[None, :].astype(float), ratings, nominal)[0] == pytest.approx(
        once(repeated, nominal)
    )


def test_equal_raters_have_one_and_equal_values_none():
    assert once(ratings_of("1 2 3", "1 2 3")) == once(ratings_of("1 2 3", "1 2 3"), nominal=True) == 1
    assert np.isnan(once(ratings_of("7.3 7.3 7.3", "7.3 7.3 7.3")))
    assert np.isnan(once(ratings_of("2 2", "2 2"), nominal=True))
    assert np.isnan(once(ratings_of("1 2", ". .")))


def test_judges_are_compared_by_it_ratings_by_distance_and_verdicts_by_equality():
    first, second = ratings_of(MEG, OWEN).T
    settings = {"draws": 300, "seed": 0, "confidence": 0.95}
    for nominal in (False, True):
        rows = {row["measure"]: row for row in compare(first, second, list("abcdefghij"), settings, nominal)}
        row = rows["alpha"]
        assert row["value"] == pytest.approx(once(np.column_stack([first, second]), nominal))
        assert row["ci_low"] < row["value"] < row["ci_high"]
    near = compare(np.array([1.0, 5, 9, 2]), np.array([2.0, 6, 8, 2]), list("abcd"), settings)
    apart = compare(np.array([1.0, 5, 9, 2]), np.array([2.0, 6, 8, 2]), list("abcd"), settings, nominal=True)
    of = [next(row["value"] for row in rows if row["measure"] == "alpha") for rows in (near, apart)]
    assert of[0] > 0.9 > of[1]
