"""Intervals over trainings and items: against closed forms, and how often they hold a truth that is known."""

import numpy as np
import pytest
import scipy.stats

from benchmarks import coverage
from workflow_scripts.report.statistics.cells import Cell
from workflow_scripts.report.statistics.differences import paired_difference
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.report.statistics.intervals import interval
from workflow_scripts.report.statistics.two_level import (
    Spread,
    leave_one_out,
    spread_of,
    spread_of_difference,
)

RNG = np.random.default_rng(0)


def cell(estimator="mean", bounds=None, **columns) -> Cell:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    items = tuple(str(number) for number in range(len(next(iter(arrays.values())))))
    return Cell(items, items, estimator, arrays, bounds=bounds)


def means(table) -> list[Cell]:
    return [cell(value=row) for row in np.asarray(table, float)]


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of rows, columns and their interaction of a table with one number each."""
    rows, columns = table.shape
    of_rows, of_columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - of_rows[:, None] - of_columns + table.mean()
    return (
        columns * of_rows.var(ddof=1),
        rows * of_columns.var(ddof=1),
        (rest**2).sum() / ((rows - 1) * (columns - 1)),
    )


def test_the_variance_of_a_mean_is_that_of_the_two_way_table_of_seeds_and_groups():
    table = RNG.normal(size=(3, 1)) + 2 * RNG.normal(size=(1, 14)) + RNG.normal(size=(3, 14))
    seeds, groups, rest = mean_squares(table)
    spread = spread_of(means(table))
    assert spread.parts[0] == pytest.approx((seeds / 42, 2))
    assert spread.parts[1] == pytest.approx(((groups - rest) / 42, 13))
    assert spread.standard_error**2 == pytest.approx((seeds + groups - rest) / 42)


def test_leaving_out_a_group_is_the_estimate_without_its_items():
    groups = ("b", "a", "b", "c")
    whole = Cell(("0", "1", "2", "3"), groups, "mean", {"value": np.array([1.0, 2.0, 5.0, 9.0])})
    assert leave_one_out(whole) == pytest.approx([5.0, 5.5, 8 / 3])  # without a, b, c


def test_where_only_seeds_differ_the_interval_is_student_s_over_seeds():
    values = np.array([0.3, 0.5, 0.9])
    found = interval(means(np.repeat(values[:, None], 8, axis=1)), 100, 1)
    theirs = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx(theirs)
    assert found.method == "two_level_t"


def test_where_seeds_agree_the_interval_is_student_s_over_groups():
    row = RNG.normal(size=20)
    found = interval(means([row, row, row]), 100, 1)
    theirs = scipy.stats.t.interval(0.95, 19, row.mean(), scipy.stats.sem(row))
    assert (found.low, found.high) == pytest.approx(theirs)


def test_between_the_two_t_is_cochran_s_weighted_mean():
    spread = Spread(((0.03, 1), (0.01, 25)))
    t = scipy.stats.t.ppf(0.975, [1, 25])
    assert spread.quantile(0.975) == pytest.approx(0.75 * t[0] + 0.25 * t[1])


@pytest.mark.parametrize("difference", [0.0, 0.01, 0.4, -2.0, 50.0, 1e6])
def test_the_p_value_is_that_of_the_interval_that_just_holds_0(difference):
    spread = Spread(((0.03, 2), (0.01, 25)))
    p = spread.p_value(difference)
    assert -spread.quantile(p / 2) * spread.standard_error == pytest.approx(
        abs(difference), rel=1e-6, abs=1e-9
    )


def test_two_seeds_far_apart_mark_no_difference_as_real():
    """A study had perplexities 1174 and 112, the table 643 ± 213, and a difference of 5 was bold."""
    tokens = np.full(12, 100.0)

    def policy(perplexities):
        noise = RNG.normal(0, 0.1, 12)
        return [
            cell("perplexity", nll=(np.log(value) + noise) * tokens, tokens=tokens) for value in perplexities
        ]

    parent, child = policy([1174, 112]), policy([1169, 107])
    found = interval(parent, 2000, 1)
    assert found.low < 112 and found.high > 1174
    assert found.value == pytest.approx(np.sqrt(1174 * 112), rel=0.1)
    change = paired_difference(child, parent, 2000, 1)
    assert change.low < 0 < change.high and change.p_value > 0.05


def test_a_difference_is_paired_by_seed_where_both_have_the_same_seeds():
    luck, groups = RNG.normal(size=(3, 1)), RNG.normal(size=(1, 10))
    parent = luck + groups + RNG.normal(0, 0.01, (3, 10))
    child = parent + 0.1 + RNG.normal(0, 0.01, (3, 10))
    found = paired_difference(means(child), means(parent), 100, 1)
    apart = means(child - parent)
    paired = spread_of_difference(means(child), means(parent), paired=True)
    assert np.array(paired.parts) == pytest.approx(np.array(spread_of(apart).parts))
    assert found.low > 0
    loose = paired_difference(means(child), means(parent), 100, 1, same_seeds=False)
    assert loose.value == found.value and loose.low < 0 < loose.high


def test_other_seeds_add_their_luck_up():
    ours, theirs = RNG.normal(size=(3, 10)), RNG.normal(size=(4, 10))
    spread = spread_of_difference(means(ours), means(theirs), paired=False)
    (first, first_df), (second, second_df), (shared, groups) = spread.parts
    assert first == pytest.approx(ours.mean(axis=1).var(ddof=1) / 3)
    assert second == pytest.approx(theirs.mean(axis=1).var(ddof=1) / 4)
    assert (first_df, second_df, groups) == (2, 3, 9)
    covariance = np.cov(np.vstack([ours, theirs])) / 10
    off = [
        (block.sum() - np.trace(block)) / (len(block) * (len(block) - 1))
        for block in (covariance[:3, :3], covariance[3:, 3:])
    ]
    assert shared == pytest.approx(max(0.0, sum(off) - 2 * covariance[:3, 3:].mean()))


def test_a_policy_that_is_trained_is_compared_with_one_that_is_not_over_its_seeds():
    base, children = RNG.normal(size=10), RNG.normal(size=(3, 10))
    found = paired_difference(means(children), means([base]), 100, 1)
    alone = interval(means(children - base), 100, 1)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


def test_a_perplexity_of_seeds_is_averaged_in_nats_and_its_interval_is_that_of_the_nats():
    tokens = np.full(9, 7.0)
    nats = RNG.normal(1.0, 0.3, (3, 9))
    cells = [cell("perplexity", nll=row * tokens, tokens=tokens) for row in nats]
    found, of_nats = interval(cells, 100, 1), interval(means(nats), 100, 1)
    assert point_estimate(cells) == pytest.approx(np.exp(nats.mean()))
    assert (found.low, found.high) == pytest.approx(np.exp([of_nats.low, of_nats.high]), rel=1e-3)
    assert found.method == "two_level_log_t"


def test_what_has_a_scale_keeps_to_it():
    rates = (RNG.random((2, 30)) < [[0.7], [0.99]]).astype(float)
    found = interval([cell(value=row, bounds=(0.0, 1.0)) for row in rates], 100, 1, bounds=(0.0, 1.0))
    assert 0 <= found.low < found.value < found.high <= 1
    assert found.method == "two_level_korn_graubard"
    gold = np.array(list("ab" * 15))
    guesses = [gold, np.where(np.arange(30) < 8, "a", gold)]
    found = interval([cell("macro_f1", gold=gold, predicted=guess) for guess in guesses], 100, 1)
    assert 0 <= found.low < found.value < found.high <= 1


def test_a_difference_of_what_has_a_scale_is_no_wider_than_that():
    gold = np.array(list("ab" * 6))
    good = [np.where(np.arange(12) < wrong, "b", gold) for wrong in (0, 3)]
    bad = [np.where(np.arange(12) < wrong, "b", gold) for wrong in (11, 8)]
    first, second = (
        [cell("macro_f1", gold=gold, predicted=guess) for guess in guesses] for guesses in (good, bad)
    )
    found = paired_difference(first, second, 100, 1)
    assert found.low >= -1 and found.high == 1


def test_seeds_and_groups_that_all_agree_leave_what_was_not_seen():
    ones = [cell(value=np.ones(20), bounds=(0.0, 1.0))] * 3
    found = interval(ones, 100, 1, bounds=(0.0, 1.0))
    assert (found.low, found.high) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert interval([cell(value=np.ones(20))] * 3, 100, 1).note == "all values equal: no interval"
    same = paired_difference(ones, ones, 100, 1, bounds=(0.0, 1.0))
    assert same.value == 0 and same.low < 0 < same.high and same.p_value == 1


def test_one_group_has_no_interval_however_many_seeds():
    one = [Cell(("0", "1"), ("g", "g"), "mean", {"value": np.array([0.1, seed])}) for seed in (0.2, 0.7)]
    assert interval(one, 100, 1).low is None
    assert paired_difference(one, one[:1], 100, 1).note == "one group: no interval"


def test_refits_of_seeds_share_what_their_replicates_share():
    shared = RNG.normal(0, 1, 500)
    refits = [50 + shared + RNG.normal(0, 0.1, 500), 52 + shared + RNG.normal(0, 0.1, 500)]
    items = tuple(map(str, range(8)))
    cells = [
        Cell(items, items, "replicates", {"value": np.zeros(8)}, point=point, replicates=own)
        for point, own in zip((50.0, 52.0), refits, strict=True)
    ]
    (luck, _), (items_part, _) = spread_of(cells).parts
    assert luck == pytest.approx(1.0)
    assert items_part == pytest.approx(np.cov(*refits)[0, 1] * 8 / 7)


def test_draws_that_are_not_finite_have_no_interval_and_say_so(recwarn):
    huge = [cell("perplexity", nll=[9e5, value], tokens=[1, 1]) for value in (9e5, 8e5)]
    assert interval(huge, 100, 1).note == "draws that are not finite: no interval"
    assert not recwarn


@pytest.mark.parametrize("luck", [0.05, 0.4])
@pytest.mark.parametrize("world", coverage.WORLDS, ids=lambda world: world.name)
def test_intervals_over_seeds_hold_the_truth_as_often_as_they_say(world, luck):
    for seeds in (2, 3, 5):
        assert coverage.covered(world, seeds, luck, samples=60) >= 0.88, seeds  # 3 standard errors below 0.96
    assert coverage.covered(world, 1, 0.4, samples=60) < 0.88  # over items alone they do not


def test_the_coverage_of_a_certain_interval_and_of_none():
    sure = coverage.World("sure", lambda luck: 0.5, lambda random, seeds, luck: interval(
        [cell(value=np.array([0.0, 1.0, 0.0, 1.0]))], 100, 1, bounds=(0.0, 1.0)
    ))  # fmt: skip
    assert coverage.covered(sure, 1, 0.1, 3) == 1
    off = coverage.World("off", lambda luck: 2.0, sure.estimate)
    assert coverage.covered(off, 1, 0.1, 3) == 0
