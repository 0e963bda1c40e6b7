"""Estimates and intervals against scipy, scikit-learn and closed forms."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report.statistics import (
    Cell,
    bootstrap_weights,
    holm,
    interval,
    macro_f1,
    paired_difference,
    perplexity,
    point_estimate,
    read_cell,
    seed_of,
    shared_items,
)

RNG = np.random.default_rng(0)
DRAWS = 4000


def mean_cell(values, groups=None) -> Cell:
    items = tuple(map(str, range(len(values))))
    return Cell(
        items,
        tuple(map(str, groups)) if groups is not None else items,
        "mean",
        {"value": np.array(values, float)},
    )


def f1_cell(gold, predicted, fidelity="paper") -> Cell:
    items = tuple(map(str, range(len(gold))))
    return Cell(
        items, items, "macro_f1", {"gold": np.array(gold), "predicted": np.array(predicted)}, fidelity
    )


def test_the_interval_of_a_mean_is_scipy_s():
    values = RNG.normal(size=200)
    ours = interval([mean_cell(values)], DRAWS, seed=1)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=DRAWS, method="percentile", rng=2
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error():
    values = RNG.normal(size=500)
    found = interval([mean_cell(values)], DRAWS, seed=1)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(500), rel=0.08)


def test_whole_groups_are_drawn_together():
    groups = ("a", "a", "a", "b", "c", "c")
    weights = bootstrap_weights(groups, 100, 3)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, [0, 3, 4]].sum(axis=1) == 3).all()


def test_items_that_repeat_within_groups_do_not_narrow_the_interval():
    values = RNG.normal(size=50)
    alone = interval([mean_cell(values)], DRAWS, seed=1)
    groups = np.repeat(np.arange(50), 10)
    repeated = interval([mean_cell(np.repeat(values, 10), groups)], DRAWS, seed=1)
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    hits = 0
    for number in range(200):
        values = np.random.default_rng(number).normal(loc=1.0, size=60)
        found = interval([mean_cell(values)], 500, seed=number)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_perplexity_pools_tokens():
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    nll, tokens = np.array([2.0, 6.0]), np.array([2.0, 4.0])
    assert perplexity(weights, nll, tokens) == pytest.approx([np.exp(8 / 6), np.exp(1.0)])


def test_macro_f1_over_gold_labels_is_scikit_learn_s_and_the_scorer_s():
    gold = RNG.choice(list("abcd"), 300)
    predicted = np.where(RNG.random(300) < 0.6, gold, RNG.choice(["a", "b", "", "x"], 300))
    expected = f1_score(gold, predicted, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert macro_f1(np.ones((1, 300)), gold, predicted)[0] == pytest.approx(expected)
    drop = f1_score(gold, predicted, labels=sorted({*gold, *predicted})[1:], average="macro", zero_division=0)
    assert macro_f1(np.ones((1, 300)), gold, predicted, "code")[0] == pytest.approx(drop)


def test_the_worked_example_of_the_published_macro_f1():
    assert point_estimate([f1_cell(list("abb"), ["a", "b", ""], "code")]) == pytest.approx(0.8333, abs=1e-3)
    assert point_estimate([f1_cell(list("abb"), ["a", "b", "a"], "code")]) == pytest.approx(0.6667, abs=1e-3)


def test_a_weight_counts_an_item_so_often():
    gold, predicted = np.array(list("aabb")), np.array(list("abbb"))
    twice = macro_f1(np.array([[2.0, 1.0, 1.0, 1.0]]), gold, predicted)[0]
    spelled = macro_f1(np.ones((1, 5)), np.array(list("aaabb")), np.array(list("aabbb")))[0]
    assert twice == pytest.approx(spelled)


def test_a_paired_difference_is_sharper_than_two_intervals():
    first = RNG.normal(size=200)
    second = first - 0.1 + RNG.normal(scale=0.05, size=200)
    found = paired_difference([mean_cell(first)], [mean_cell(second)], DRAWS, seed=1)
    alone = interval([mean_cell(first)], DRAWS, seed=1)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.low > 0
    assert found.high - found.low < (alone.high - alone.low) / 5
    assert found.p_value < 0.01


def test_a_policy_does_not_differ_from_itself():
    cell = mean_cell(RNG.normal(size=30))
    found = paired_difference([cell], [cell], DRAWS, seed=1)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_the_p_value_is_even_under_no_difference():
    p_values = []
    for number in range(150):
        rng = np.random.default_rng(number)
        pair = [mean_cell(rng.normal(size=60)) for _ in range(2)]
        p_values.append(paired_difference([pair[0]], [pair[1]], 400, seed=number).p_value)
    assert np.mean(np.array(p_values) < 0.05) < 0.12
    assert 0.35 < np.mean(p_values) < 0.65


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_failed_verdicts_leave_the_items_that_both_have():
    first, second = mean_cell([1, 2, 3]), mean_cell([1, 2, 3, 4])
    shared = shared_items([second, first])
    assert [cell.items for cell in shared] == [("0", "1", "2")] * 2
    other = Cell(("0",), ("elsewhere",), "mean", {"value": np.array([1.0])})
    with pytest.raises(PlumblineError, match="in group"):
        shared_items([first, other])


def test_one_item_and_equal_items_have_no_width():
    for values in ([0.3], [0.3] * 20):
        found = interval([mean_cell(values)], 200, seed=1)
        assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": {"value": [float("nan"), 1]}}, "finite"),
        ({"columns": {"value": [1]}}, "entries"),
        ({"estimator": "median"}, "unknown estimator"),
        ({"items": ["x", "x"]}, "twice"),
        ({"items": [], "groups": [], "columns": {"value": []}}, "no items"),
    ],
)
def test_a_broken_cell_is_refused_with_its_place(changed, message):
    raw = {"estimator": "mean", "items": ["x", "y"], "groups": ["g", "g"], "columns": {"value": [0, 1]}}
    with pytest.raises(PlumblineError, match=message) as caught:
        read_cell(raw | changed, "scores.json: cells[0]")
    assert "scores.json: cells[0]" in str(caught.value)


def test_seeds_come_from_the_names_alone():
    assert seed_of(0, "tutor", "evaluation", "accuracy") == seed_of(0, "tutor", "evaluation", "accuracy")
    assert seed_of(0, "tutor", "evaluation") != seed_of(1, "tutor", "evaluation")


def test_a_ratio_is_a_sum_over_a_sum_and_its_interval_that_of_the_log_perplexity():
    groups = [str(number // 3) for number in range(60)]
    nll, tokens = RNG.gamma(2.0, 5.0, 60), RNG.integers(1, 30, 60).astype(float)
    items = tuple(map(str, range(60)))
    ratio = Cell(items, tuple(groups), "ratio", {"numerator": nll, "denominator": tokens})
    other = Cell(items, tuple(groups), "perplexity", {"nll": nll, "tokens": tokens})
    ours, theirs = (interval([cell], DRAWS, seed=1) for cell in (ratio, other))
    assert ours.value == pytest.approx(nll.sum() / tokens.sum(), rel=1e-12)
    assert ours.value == pytest.approx(np.log(theirs.value), rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx((np.log(theirs.low), np.log(theirs.high)), rel=1e-4)


def test_a_ratio_over_nothing_is_refused():
    raw = {"items": ["a"], "groups": ["a"], "estimator": "ratio"}
    with pytest.raises(PlumblineError, match="denominator of item 'a' is not above 0"):
        read_cell(raw | {"columns": {"numerator": [1.0], "denominator": [0.0]}}, "here")
