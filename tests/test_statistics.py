"""Estimates and intervals against scipy, scikit-learn and closed forms."""

import numpy as np
import pytest
import sacrebleu
import scipy.stats
from sklearn.metrics import f1_score, matthews_corrcoef

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report import statistics
from workflow_scripts.report.statistics import (
    Cell,
    bootstrap,
    can_resample,
    group_draws,
    holm,
    interval,
    is_plain_rate,
    mcnemar,
    minimum_detectable,
    paired_difference,
    point_estimate,
    read_cell,
    reduced,
    seed_of,
    shared_items,
    wilson,
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
    monkeypatch.setattr(statistics, "BLOCK", 15)
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


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (20, 20), (1, 1), (7, 33), (480, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_plain_rate_has_wilson_s_interval(successes, trials, confidence):
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, "wilson")
    assert wilson(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    cell = mean_cell([1] * successes + [0] * (trials - successes))
    found = interval([cell], 50, 1, confidence, plain_rate=is_plain_rate([cell]))
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
    assert interval(seeds, 50, 1, plain_rate=True).method == "bootstrap"
    assert interval(seeds[:1] * 2, 50, 1, plain_rate=True).method == "wilson"


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
    assert found.standard_error == pytest.approx(expected, rel=0.05)


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
    assert (difference.value, difference.low, difference.high) == pytest.approx((1.5, 1.5, 1.5))
    assert difference.p_value == max(2 / 401, 2.0**-2)
    seeds = interval([cell, other], DRAWS, seed=1)
    assert (seeds.value, seeds.low) == pytest.approx((49.75, found.low - 0.75))


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
