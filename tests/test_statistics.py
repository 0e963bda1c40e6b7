"""Estimates and intervals against scipy, scikit-learn and closed forms."""

import dataclasses

import numpy as np
import pytest
import sacrebleu
import scipy.stats
from sklearn.metrics import f1_score, matthews_corrcoef

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report.statistics import draws
from workflow_scripts.report.statistics.cells import (
    Cell,
    bounds_of,
    can_resample,
    is_plain_rate,
    read_cell,
    reduced,
    shared_items,
)
from workflow_scripts.report.statistics.differences import (
    holm,
    mcnemar,
    minimum_detectable,
    paired_difference,
)
from workflow_scripts.report.statistics.draws import bootstrap, draws_for, group_draws, seed_of
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.report.statistics.intervals import interval, korn_graubard, wilson

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


def cell_of(estimator, columns, groups=None, fidelity="paper") -> Cell:
    arrays = {name: np.array(values) for name, values in columns.items()}
    items = tuple(map(str, range(len(next(iter(arrays.values()))))))
    return Cell(items, tuple(map(str, groups)) if groups is not None else items, estimator, arrays, fidelity)


def f1_cell(gold, predicted, fidelity="paper") -> Cell:
    return cell_of("macro_f1", {"gold": gold, "predicted": predicted}, fidelity=fidelity)


def replicates_cell(point, replicates, items=("a", "b", "c")) -> Cell:
    value = {"value": np.zeros(len(items))}
    return Cell(items, items, "replicates", value, point=point, replicates=np.array(replicates, float))


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


def test_the_bootstrap_s_spread_is_the_standard_error():
    values = RNG.normal(size=300)
    assert bootstrap(mean_cell(values), DRAWS, 1).std() == pytest.approx(
        values.std() / np.sqrt(300), rel=0.05
    )


def test_a_draw_is_as_many_groups_as_there_are_and_blocks_change_nothing(monkeypatch):
    whole = group_draws(7, 200, 3)
    assert (whole.sum(axis=1) == 7).all()
    chosen = np.random.default_rng(3).integers(0, 7, size=(200, 7))
    assert (whole == [np.bincount(row, minlength=7) for row in chosen]).all()
    monkeypatch.setattr(draws, "BLOCK", 15)
    assert (group_draws.__wrapped__(7, 200, 3) == whole).all()
    cell = mean_cell(RNG.normal(size=9), list("aabbcdefg"))
    in_blocks = bootstrap.__wrapped__(cell, 200, 3)
    monkeypatch.undo()
    assert in_blocks == pytest.approx(bootstrap.__wrapped__(cell, 200, 3), rel=1e-13)


WORDS = "the cell makes a protein from its messenger and then it folds".split()
GROUPS = [number // 3 for number in range(30)]
GOLD = RNG.choice(list("012"), 30)
GUESS = np.where(RNG.random(30) < 0.6, GOLD, RNG.choice(["0", "1", ""], 30))
SENTENCES = [
    (" ".join(WORDS[: 5 + n % 5]), " ".join(WORDS[n % 2 : 6 + n % 4] + WORDS[: n % 3])) for n in range(30)
]


def bleu_columns() -> dict:
    scores = [sacrebleu.BLEU(effective_order=True).sentence_score(ours, [gold]) for ours, gold in SENTENCES]
    counts = {f"m{n + 1}": [score.counts[n] for score in scores] for n in range(4)}
    totals = {f"t{n + 1}": [score.totals[n] for score in scores] for n in range(4)}
    return counts | totals | {"sys": [s.sys_len for s in scores], "ref": [s.ref_len for s in scores]}


def mean_of_strata(value, stratum) -> float:
    return float(np.mean([value[stratum == name].mean() for name in sorted(set(stratum))]))


NUMBERS = {"first": RNG.gamma(2.0, 5.0, 30), "second": RNG.integers(1, 30, 30).astype(float)}
STRATA = np.array(list("aaabbbbbbc") * 3)
ORACLES = {
    "mean": ({"value": NUMBERS["first"]}, lambda at: NUMBERS["first"][at].mean()),
    "ratio": (
        {"numerator": NUMBERS["first"], "denominator": NUMBERS["second"]},
        lambda at: NUMBERS["first"][at].sum() / NUMBERS["second"][at].sum(),
    ),
    "perplexity": (
        {"nll": NUMBERS["first"], "tokens": NUMBERS["second"]},
        lambda at: np.exp(NUMBERS["first"][at].sum() / NUMBERS["second"][at].sum()),
    ),
    "macro_mean": (
        {"value": NUMBERS["first"], "stratum": STRATA},
        lambda at: mean_of_strata(NUMBERS["first"][at], STRATA[at]),
    ),
    "corpus_bleu": (
        bleu_columns(),
        lambda at: sacrebleu.BLEU().corpus_score(
            [SENTENCES[n][0] for n in at], [[SENTENCES[n][1] for n in at]]
        ).score,
    ),
    "matthews": ({"gold": GOLD, "predicted": GUESS}, lambda at: matthews_corrcoef(GOLD[at], GUESS[at])),
    "f1": (
        {"gold": GOLD, "predicted": GUESS},
        lambda at: f1_score(GOLD[at] == "1", GUESS[at] == "1", zero_division=0),
    ),
    "macro_f1": (
        {"gold": GOLD, "predicted": GUESS},
        lambda at: f1_score(
            GOLD[at], GUESS[at], labels=sorted(set(GOLD[at])), average="macro", zero_division=0
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("estimator", ORACLES)
def test_a_draw_is_the_estimate_on_the_items_it_drew_written_out(estimator):
    columns, oracle = ORACLES[estimator]
    cell = cell_of(estimator, columns, GROUPS)
    names = sorted(set(map(str, GROUPS)))
    drawn = group_draws(len(names), 40, 5)
    items = [np.repeat(range(30), [counts[names.index(str(group))] for group in GROUPS]) for counts in drawn]
    assert bootstrap(cell, 40, 5) == pytest.approx([oracle(at) for at in items], rel=1e-9)
    assert point_estimate([cell]) == pytest.approx(oracle(np.arange(30)), rel=1e-9)


def test_bleu_is_not_smoothed():
    columns = bleu_columns()
    assert point_estimate([cell_of("corpus_bleu", columns | {"m4": [0] * 30})]) == 0.0
    hypothesis, reference = "the cell folds", "the cell then folds"
    theirs = sacrebleu.BLEU(smooth_method="none").corpus_score([hypothesis], [[reference]]).score
    short = {"m1": [3], "m2": [1], "m3": [0], "m4": [0], "t1": [3], "t2": [2], "t3": [1], "t4": [0]}
    assert point_estimate([cell_of("corpus_bleu", short | {"sys": [3], "ref": [4]})]) == theirs == 0.0


def test_one_label_alone_has_no_correlation():
    assert point_estimate([cell_of("matthews", {"gold": ["1", "1"], "predicted": ["1", "0"]})]) == 0.0
    assert point_estimate([cell_of("f1", {"gold": ["0", "0"], "predicted": ["0", ""]})]) == 0.0


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


def test_macro_f1_as_published_leaves_out_the_first_label():
    gold = RNG.choice(list("abcd"), 300)
    predicted = np.where(RNG.random(300) < 0.6, gold, RNG.choice(["a", "b", "", "x"], 300))
    drop = f1_score(gold, predicted, labels=sorted({*gold, *predicted})[1:], average="macro", zero_division=0)
    assert point_estimate([f1_cell(gold, predicted, "code")]) == pytest.approx(drop)


def test_the_worked_example_of_the_published_macro_f1():
    assert point_estimate([f1_cell(list("abb"), ["a", "b", ""], "code")]) == pytest.approx(0.8333, abs=1e-3)
    assert point_estimate([f1_cell(list("abb"), ["a", "b", "a"], "code")]) == pytest.approx(0.6667, abs=1e-3)


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (20, 20), (1, 2), (7, 33), (480, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_plain_rate_has_wilson_s_interval(successes, trials, confidence):
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, "wilson")
    assert wilson(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    cell = mean_cell([1] * successes + [0] * (trials - successes))
    found = interval([cell], 50, 1, confidence, bounds_of([cell]))
    assert (found.method, found.value) == ("wilson", successes / trials)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_wilson_s_interval_covers_a_rate_as_often_as_it_says(rate):
    chances = scipy.stats.binom.pmf(range(61), 60, rate)
    inside = [low <= rate <= high for low, high in (wilson(k, 60) for k in range(61))]
    assert 0.9 < (chances * inside).sum() < 0.99


def test_only_single_items_that_are_right_or_wrong_for_every_policy_are_a_plain_rate():
    assert is_plain_rate([mean_cell([0, 1]), mean_cell([1.0, 1.0])])
    assert not is_plain_rate([mean_cell([0, 0]), mean_cell([0, 12])])
    assert not is_plain_rate([mean_cell([0, 1], ["g", "g"])])
    assert not is_plain_rate([cell_of("ratio", {"numerator": [0.0, 1.0], "denominator": [1.0, 1.0]})])


def test_seeds_that_are_averaged_to_shares_are_no_binomial():
    seeds = [mean_cell([0, 1, 1]), mean_cell([1, 1, 1])]
    assert interval(seeds, 50, 1, bounds=(0, 1)).method == "two_level_korn_graubard"
    assert interval(seeds[:1], 50, 1, bounds=(0, 1)).method == "wilson"


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 1), (10, 10), (40, 21), (900, 700)])
def test_mcnemar_s_p_value_is_the_exact_binomial_s(better, worse):
    first = mean_cell([1] * better + [0] * worse + [1, 0])
    second = mean_cell([0] * better + [1] * worse + [1, 0])
    expected = scipy.stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_the_detectable_difference_is_found_four_times_in_five():
    detectable = minimum_detectable(0.02)
    assert detectable == pytest.approx((1.96 + 0.84) * 0.02, rel=1e-3)
    assert scipy.stats.norm.sf(scipy.stats.norm.ppf(0.975) - detectable / 0.02) == pytest.approx(0.8)


def test_a_paired_difference_is_sharper_than_two_intervals():
    first = RNG.normal(size=200)
    second = first - 0.1 + RNG.normal(scale=0.05, size=200)
    found = paired_difference([mean_cell(first)], [mean_cell(second)], DRAWS, seed=1)
    alone = interval([mean_cell(first)], DRAWS, seed=1)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.low > 0
    assert found.high - found.low < (alone.high - alone.low) / 5
    assert found.p_value < 0.01
    expected = (first - second).std() / np.sqrt(200)
    assert found.detectable == pytest.approx(2.8016 * expected, rel=0.05)


def test_a_policy_does_not_differ_from_itself():
    cell = mean_cell(RNG.normal(size=30))
    found = paired_difference([cell], [cell], DRAWS, seed=1)
    assert (found.value, found.low, found.high, found.p_value) == (0, None, None, 1)
    assert (found.detectable, found.note) == (0, "no item differs: no interval of the difference")


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


def test_holm_is_the_largest_of_the_steps_so_far():
    p_values = RNG.random(12)
    order = sorted(range(12), key=lambda place: p_values[place])
    steps = [p_values[place] * (12 - rank) for rank, place in enumerate(order)]
    expected = {place: min(1.0, max(steps[: rank + 1])) for rank, place in enumerate(order)}
    assert holm(p_values) == pytest.approx([expected[place] for place in range(12)])


def test_failed_verdicts_leave_the_items_that_both_have():
    first, second = mean_cell([1, 2, 3]), mean_cell([1, 2, 3, 4])
    shared = shared_items([second, first])
    assert [cell.items for cell in shared] == [("0", "1", "2")] * 2
    other = Cell(("0",), ("elsewhere",), "mean", {"value": np.array([1.0])})
    with pytest.raises(PlumblineError, match="in group"):
        shared_items([first, other])


def test_replicates_are_the_draws():
    refits = RNG.normal(50, 2, 400)
    cell, other = replicates_cell(50.5, refits), replicates_cell(49.0, refits - 1.5)
    found = interval([cell], DRAWS, seed=1)
    assert (found.value, found.low, found.high) == (50.5, *np.percentile(refits, [2.5, 97.5]))
    assert found.method == "replicates"
    difference = paired_difference([cell], [other], DRAWS, seed=1)
    assert (difference.value, difference.low) == (1.5, None)  # all refits differ by as much
    assert difference.p_value == max(2 / 401, 2.0**-2)


@pytest.mark.parametrize(
    "other", [replicates_cell(2.0, [2.0, 3.0], ("a", "b")), replicates_cell(2.0, [2.0, 3.0, 4.0])]
)
def test_replicates_of_other_items_or_draws_are_not_paired(other):
    cells = shared_items([replicates_cell(1.0, [1.0, 2.0]), other])
    assert cells[0].items == cells[1].items
    assert not can_resample(cells)
    assert point_estimate(cells) == 1.5
    with pytest.raises(ValueError, match="other items"):
        interval(cells, 10, 1)


def test_fewer_items_are_another_cell():
    cell = cell_of("macro_mean", {"value": [1.0, 2.0, 5.0], "stratum": ["a", "a", "b"]}, ["g", "g", "h"])
    some = reduced(cell, ("0", "2"))
    assert (some.groups, point_estimate([some])) == (("g", "h"), 3.0)


@pytest.mark.parametrize(
    ("cell", "note"),
    [
        (mean_cell([0.3]), "one group: no interval"),
        (mean_cell([1, 1, 1], ["g"] * 3), "one group: no interval"),
        (mean_cell([0.3] * 20), "all values equal: no interval"),
        (f1_cell(list("abab"), list("abab")), "all values equal: no interval"),
        (cell_of("perplexity", {"nll": [2.0, 4.0], "tokens": [1.0, 2.0]}), "all values equal: no interval"),
        (cell_of("perplexity", {"nll": [1.0, 1e5], "tokens": [1.0, 1.0]}), "draws that are not finite: no interval"),
        (replicates_cell(1.0, [1.0] * 9), "all values equal: no interval"),
    ],
)  # fmt: skip
def test_where_the_data_give_no_width_there_is_no_interval_and_a_note(cell, note):
    bounds = bounds_of([cell]) if note == "one group: no interval" else None
    found = interval([cell], 200, seed=1, bounds=bounds)
    assert (found.low, found.high, found.method, found.note) == (None, None, "", note)


def test_none_of_8_in_4_groups_is_at_most_what_none_of_4_can_be():
    cell = mean_cell([0] * 8, [1, 1, 2, 2, 3, 3, 4, 4])
    found = interval([cell], 200, 1, bounds=bounds_of([cell]))
    exact = scipy.stats.binomtest(0, 4).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.method) == (0, 0, "korn_graubard")
    assert found.high == pytest.approx(exact.high)
    other = interval([mean_cell([1] * 8, cell.groups)], 200, 1, bounds=(0, 1))
    assert (other.low, other.high) == (pytest.approx(1 - exact.high), 1)


def test_groups_that_agree_elsewhere_on_a_scale_leave_room_on_both_sides():
    unseen = 1 - 0.025 ** (1 / 16)  # of groups that may be otherwise
    tens = interval([mean_cell([10] * 32, np.repeat(range(16), 2))], 200, 1, bounds=(1, 10))
    assert (tens.low, tens.high) == (pytest.approx(10 - 9 * unseen), 10)
    ties = interval([mean_cell([0.5] * 16)], 200, 1, bounds=(0, 1))
    assert (ties.low, ties.high) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))


def test_ratings_that_are_nearly_the_highest_are_no_more_certain_than_the_highest():
    nearly = [10 - number * 1e-5 for number in range(32)]
    found = interval([mean_cell(nearly, np.repeat(range(16), 2))], 200, 1, bounds=(1, 10))
    assert found.low == pytest.approx(10 - 9 * (1 - 0.025 ** (1 / 16)), abs=1e-3)
    assert found.value < found.high <= 10


def test_one_large_group_counts_for_less_than_many():
    groups = [0] * 90 + list(range(1, 11))
    found = interval([mean_cell([1] * 100, groups)], 200, 1, bounds=(0, 1))
    effective = 100**2 / (90**2 + 10)
    assert found.low == pytest.approx(0.025 ** (1 / effective))


def test_single_items_have_clopper_and_pearson_s_interval_at_one_trial_less():
    values = [1.0] * 7 + [0.0] * 26
    found = korn_graubard(mean_cell(values), np.array(values), (0, 1))
    trials, tail = 32, 0.025  # p (1 - p) / v, v with n - 1 below
    hits = trials * 7 / 33
    expected = (
        scipy.stats.beta.ppf(tail, hits, trials - hits + 1),
        scipy.stats.beta.ppf(1 - tail, hits + 1, trials - hits),
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_strata_weigh_alike_in_the_interval_of_a_mean_of_strata():
    strata = ["a"] * 3 + ["b"] * 30
    cell = cell_of("macro_mean", {"value": [1.0] * 33, "stratum": strata})
    found = interval([cell], 200, 1, bounds=bounds_of([cell]))
    assert found.low == pytest.approx(0.025 ** ((1 / 3 + 1 / 30) / 4))
    values = RNG.random(33)
    cell = cell_of("macro_mean", {"value": values, "stratum": strata})
    found = interval([cell], 200, 1, bounds=(0, 1))
    error = np.sqrt((values[:3].var() / 3 + values[3:].var() / 30) / 4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def clustered(rng, groups: int, rate: float, share: float) -> Cell:
    """Return a cell of groups of 1 to 12 items, each a copy of its group's with a chance of `share`, else its own."""
    of_item = np.repeat(np.arange(groups), rng.integers(1, 13, groups))
    alike = (rng.random(groups) < rate)[of_item]
    alone = rng.random(len(of_item)) < rate
    return mean_cell(np.where(rng.random(len(of_item)) < share, alike, alone), of_item)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("groups", "rate"), [(6, 0.1), (12, 0.02), (12, 0.9), (26, 0.01), (26, 0.97), (26, 0.5), (60, 0.99)]
)
def test_the_interval_of_a_rate_in_groups_covers_it_near_0_and_1(groups, rate, share):
    rng = np.random.default_rng(int(1000 * rate) + groups)
    hits = 0
    for _ in range(400):
        found = interval([clustered(rng, groups, rate, share)], 1, 1, bounds=(0, 1))
        hits += found.low <= rate <= found.high
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert hits / 400 >= 0.91  # the bootstrap's was .21 to .93 in these cases


@pytest.mark.parametrize("rate", [0.03, 0.97])
def test_the_interval_of_ratings_covers_their_mean_near_the_ends_of_the_scale(rate):
    rng, hits = np.random.default_rng(5), 0
    ratings = np.arange(1, 11)
    chances = scipy.stats.binom.pmf(ratings - 1, 9, rate)
    for _ in range(400):
        cell = mean_cell(np.repeat(rng.choice(ratings, 20, p=chances), 2), np.repeat(range(20), 2))
        found = interval([cell], 1, 1, bounds=(1, 10))
        hits += found.low <= 1 + 9 * rate <= found.high
    assert hits / 400 >= 0.91  # the bootstrap's was .21 to .93 in these cases


def test_bounds_are_what_the_scorer_says_or_those_of_rates():
    assert bounds_of([mean_cell([0, 1]), mean_cell([0, 0])]) == (0, 1)
    assert bounds_of([mean_cell([0, 12]), mean_cell([0, 0])]) is None
    assert bounds_of([f1_cell(["a"], ["a"])]) is None
    rated = dataclasses.replace(mean_cell([0, 0.5]), bounds=(0.0, 10.0))
    assert bounds_of([rated, rated]) == (0, 10)
    outside = dataclasses.replace(mean_cell([0, 11]), bounds=(0.0, 10.0))
    assert bounds_of([rated, outside]) is None
    raw = {"estimator": "mean", "items": ["x"], "groups": ["g"], "columns": {"value": [1]}}
    assert read_cell(raw | {"bounds": [1, 10]}, "x").bounds == (1.0, 10.0)
    for wrong in ([1], [10, 1], ["a", 1], 3):
        with pytest.raises(PlumblineError, match="bounds is"):
            read_cell(raw | {"bounds": wrong}, "x")


def test_policies_that_agree_on_every_item_may_differ_on_as_many_as_were_not_seen():
    groups = np.repeat(range(8), 2)
    unseen = 1 - 0.025 ** (1 / 8)
    same, other = mean_cell([1] * 16, groups), mean_cell([0] * 16, groups)
    found = paired_difference([same], [same], 500, 1, bounds=(0, 1))
    assert (found.value, found.low, found.high, found.p_value) == (
        0,
        pytest.approx(-unseen),
        pytest.approx(unseen),
        1,
    )
    found = paired_difference([same], [other], 500, 1, bounds=(0, 1))
    assert (found.value, found.low, found.high) == (1, pytest.approx(1 - 2 * unseen), 1)
    assert found.p_value == max(2 / 501, 2.0**-7)
    alone = paired_difference(
        [mean_cell([1, 1], ["g", "g"])], [mean_cell([0, 0], ["g", "g"])], 500, 1, bounds=(0, 1)
    )
    assert (alone.low, alone.p_value, alone.note) == (None, 1, "one group: no interval")


@pytest.mark.parametrize("apart", range(1, 8))
def test_groups_that_do_not_differ_say_nothing_for_a_difference(apart):
    first, second = mean_cell([1] * apart + [0] * (100 - apart)), mean_cell([0] * 100)
    found = paired_difference([first], [second], DRAWS, 1, bounds=(0, 1))
    assert found.p_value >= scipy.stats.binomtest(apart, apart).pvalue  # the sign test's, as McNemar's
    assert (found.low > 0) == (found.p_value < 0.05) == (apart >= 6)


def test_a_perplexity_that_is_too_large_for_a_number_is_infinite_without_a_warning(recwarn):
    assert point_estimate([cell_of("perplexity", {"nll": [1e5], "tokens": [1.0]})]) == np.inf
    assert not recwarn.list


def test_few_groups_are_said_to_make_a_narrow_interval():
    for count, note in ((5, "5 groups: the interval is narrower than 95 %"), (6, "")):
        assert interval([mean_cell(RNG.normal(size=count))], 300, 1).note == note


@pytest.mark.parametrize("comparisons", [1, 50, 51, 400, 5000])
def test_draws_suffice_for_the_first_of_all_comparisons(comparisons):
    draws = draws_for(comparisons, 2000, 0.95)
    assert draws >= 2000
    assert min(holm([2 / (draws + 1)] + [1.0] * (comparisons - 1))) <= 0.05


def test_draws_of_very_many_groups_are_as_many_as_memory_holds(monkeypatch):
    monkeypatch.setattr(draws, "MOST_COUNTS", 1000)
    cell = mean_cell(RNG.normal(size=20))
    assert group_draws.__wrapped__(20, 4000, 1).shape == (50, 20)
    assert bootstrap.__wrapped__(cell, 4000, 987).shape == (50,)
    found = paired_difference([cell], [mean_cell(RNG.normal(size=20))], 4001, 986)
    assert (found.least_p_value, found.limit) == (2 / 51, "50 draws")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": {"value": [float("nan"), 1]}}, "finite"),
        ({"columns": {"value": [10**400, 1]}}, "finite"),
        ({"columns": {"value": [1]}}, "entries"),
        ({"estimator": "median"}, "unknown estimator"),
        ({"items": ["x", "x"]}, "twice"),
        ({"items": [], "groups": [], "columns": {"value": []}}, "no items"),
        (
            {"estimator": "macro_mean", "columns": {"value": [0, 1], "stratum": ["a", 2]}},
            "labels are strings",
        ),
        ({"estimator": "corpus_bleu"}, "needs the list 'm1'"),
        ({"estimator": "replicates", "point": 1.0}, "replicates"),
        ({"estimator": "replicates", "point": 1.0, "replicates": [float("inf")]}, "finite numbers"),
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
