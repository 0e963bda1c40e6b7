"""Judge against judge: scipy's numbers, honest intervals, and no item lost in silence."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_json
from workflow_scripts.report import agreement

DRAWS = {"draws": 400, "seed": 3, "confidence": 0.95}
SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


# What two judges, GPT-4 and an 8 B Llama 3, gave to the same 100 answers: the numbers published with Raschka's "Build a
# Large Language Model (From Scratch)", chapter 7 (Apache-2.0), and the correlations its notebook prints.
BY_GPT_4 = """
    0 50 20 100 0 100 0 100 100 100 55 0 100 100 100 100 100 0 98 100 100 0 100 100 100 100 100 100
    0 100 100 0 100 100 85 100 0 0 100 100 100 100 100 100 0 100 100 95 20 50 85 100 100 100 100 55
    100 100 100 0 100 98 100 100 100 0 85 100 100 98 100 100 100 0 100 100 100 100 0 100 0 100 100 0
    0 100 50 100 100 10 100 100 100 100 0 100 100 25 100 30
"""
BY_LLAMA_3 = """
    20 92 85 90 20 90 22 97 60 96 20 20 98 95 90 98 95 20 98 98 92 20 96 96 100 98 98 95 20 95 98 20
    85 95 80 97 40 21 100 85 95 98 92 98 69 98 80 60 60 20 80 68 80 96 96 68 80 95 80 20 95 98 80 98
    94 20 40 98 100 85 98 90 95 85 95 80 98 98 25 98 40 92 95 82 87 98 80 90 95 4 90 90 80 98 20 98
    98 40 92 98
"""
PUBLISHED = {"pearson": 0.80489, "spearman": 0.69841, "kendall": 0.57292}


def ratings(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two judges' ratings from 1 to 10 with many ties."""
    generator = np.random.default_rng(seed)
    quality = generator.normal(size=count)
    first, second = (
        np.clip(np.round(5 + 2 * quality + generator.normal(size=count)), 1, 10) for _ in range(2)
    )
    return first, second


def by_measure(rows: list[dict]) -> dict[str, dict]:
    return {row["measure"]: row for row in rows}


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_the_published_correlations_of_two_judges_come_out():
    first, second = (np.array(text.split(), dtype=float) for text in (BY_GPT_4, BY_LLAMA_3))
    rows = by_measure(agreement.compare(first, second, names(100), DRAWS))
    assert {name: round(rows[name]["value"], 5) for name in SCIPY} == PUBLISHED
    assert rows["mean_difference"]["value"] == pytest.approx(74.09 - 77.05)


@pytest.mark.parametrize("name", SCIPY)
def test_a_correlation_is_scipy_s(name):
    first, second = ratings()
    row = by_measure(agreement.compare(first, second, names(40), DRAWS))[name]
    assert row["value"] == pytest.approx(SCIPY[name](first, second).statistic, abs=1e-12)


@pytest.mark.parametrize("name", SCIPY)
def test_a_draw_s_correlation_is_scipy_s_of_the_items_drawn(name):
    first, second = ratings(12)
    generator = np.random.default_rng(1)
    for _ in range(20):
        drawn = generator.integers(0, 12, size=12)
        weights = np.bincount(drawn, minlength=12)[None].astype(float)
        expected = SCIPY[name](first[drawn], second[drawn]).statistic
        assert agreement.MEASURES[name](weights, first, second)[0] == pytest.approx(expected, abs=1e-12)


def test_blocks_of_draws_change_nothing(monkeypatch):
    first, second = ratings()
    whole = agreement.compare(first, second, names(40), DRAWS)
    monkeypatch.setattr(agreement, "BLOCK", 100)
    assert agreement.compare(first, second, names(40), DRAWS) == whole


def test_exact_agreement_and_mean_difference_are_plain_means():
    first, second = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 5, 6])
    rows = by_measure(agreement.compare(first, second, names(4), DRAWS))
    assert rows["exact_agreement"]["value"] == 0.5
    assert rows["mean_difference"]["value"] == -1.0
    assert rows["mean_difference"]["n"] == 4


def test_the_interval_of_the_mean_difference_is_as_wide_as_the_central_limit_says():
    first, second = ratings(300)
    row = by_measure(agreement.compare(first, second, names(300), DRAWS | {"draws": 8000}))["mean_difference"]
    error = (first - second).std() / np.sqrt(300)
    assert row["ci_high"] - row["ci_low"] == pytest.approx(2 * 1.96 * error, rel=0.04)


def test_the_interval_of_pearson_s_correlation_is_near_fisher_s():
    generator = np.random.default_rng(5)
    first = generator.normal(size=400)
    second = 0.6 * first + 0.8 * generator.normal(size=400)
    row = by_measure(agreement.compare(first, second, names(400), DRAWS | {"draws": 4000}))["pearson"]
    centre = np.arctanh(row["value"])
    low, high = np.tanh([centre - 1.96 / np.sqrt(397), centre + 1.96 / np.sqrt(397)])
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_turns_of_one_question_are_drawn_together():
    first, second = (np.repeat(side, 2) for side in ratings(30))
    question = [str(number // 2) for number in range(60)]
    rows = [
        by_measure(agreement.compare(first, second, groups, DRAWS))["pearson"]
        for groups in (question, names(60))
    ]
    assert [(row["n"], row["groups"]) for row in rows] == [(60, 30), (60, 60)]
    together, apart = (row["ci_high"] - row["ci_low"] for row in rows)
    assert together > 1.2 * apart  # √2 in the limit


def test_a_judge_who_always_says_the_same_has_no_correlation_and_still_a_mean_difference():
    rows = by_measure(agreement.compare(np.full(6, 7.1), np.arange(6.0), names(6), DRAWS))
    for name in SCIPY:
        assert "value" not in rows[name]
        assert "same value for every item" in rows[name]["note"]
    assert rows["mean_difference"]["value"] == pytest.approx(7.1 - 2.5)


def test_draws_without_a_correlation_are_left_out_and_counted():
    first, second = np.array([0.1, 0.1, 0.1, 0.9]), np.array([0.2, 0.1, 0.3, 0.8])
    row = by_measure(agreement.compare(first, second, names(4), DRAWS))["pearson"]
    kept = int(row["note"].split("from the ")[1].split(" of")[0])
    # draws without the one item that differs: (3/4)^4, and those of it alone: (1/4)^4
    assert 1 - kept / 400 == pytest.approx(0.75**4 + 0.25**4, abs=0.08)


def test_the_same_lists_give_the_same_numbers():
    first, second = ratings()
    assert agreement.compare(first, second, names(40), DRAWS) == agreement.compare(
        first, second, names(40), DRAWS
    )


def test_lists_on_the_command_line_are_paired_by_place(tmp_path, capsys):
    first, second = ratings()
    paths = []
    for name, values in (("a", first), ("b", second)):
        paths.append(tmp_path / f"{name}.json")
        write_json(paths[-1], [*map(int, values), 3 if name == "a" else None])
    call(agreement.main, *paths)
    rows = by_measure(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert float(rows["spearman"]["value"]) == pytest.approx(
        stats.spearmanr(first, second).statistic, rel=1e-5
    )
    assert (rows["spearman"]["first"], rows["spearman"]["second"], rows["spearman"]["n"]) == ("a", "b", "40")
    assert (rows["spearman"]["only_first"], rows["spearman"]["only_second"]) == ("1", "0")


def test_lists_of_different_lengths_are_refused_with_both_lengths(tmp_path):
    write_json(tmp_path / "a.json", [1] * 100)
    write_json(tmp_path / "b.json", [1] * 99)
    with pytest.raises(PlumblineError, match=r"a\.json has 100 ratings and .*b\.json 99"):
        call(agreement.main, tmp_path / "a.json", tmp_path / "b.json")


@pytest.mark.parametrize("values", [["7"], [[7]], [True], {"a": 7}, [float("nan")]])
def test_what_is_no_rating_is_refused(tmp_path, values):
    write_json(tmp_path / "a.json", values)
    with pytest.raises(PlumblineError, match=r"a\.json"):
        call(agreement.main, tmp_path / "a.json", tmp_path / "a.json")


def score_file(folder, policy: str, benchmark: str, values: dict[str, float], metric: str = "rating") -> dict:
    items = list(values)
    cell = {"subset": "overall", "metric": metric, "estimator": "mean", "higher_is_better": True}
    cell |= {
        "items": items,
        "groups": [item.split("#")[0] for item in items],
        "columns": {"value": list(values.values())},
    }
    path = folder / f"{policy}-{benchmark}.json"
    write_json(path, {"benchmark": benchmark, "cells": [cell]})
    return {"policy": policy, "seed": 1, "benchmark": benchmark, "file": str(path)}


def judged_twice(folder, policy: str, seed: int) -> list[dict]:
    first, second = ratings(20, seed)
    items = [f"{number // 2}#{number % 2}" for number in range(20)]
    ours, theirs = (dict(zip(items, map(float, side), strict=True)) for side in (first, second))
    del ours["0#0"], theirs["3#1"], theirs["4#0"]
    return [
        score_file(folder, policy, "by_gpt", ours),
        score_file(folder, policy, "by_llama", dict(reversed(theirs.items()))),
    ]


def build(folder, pairs: list[list[dict]]) -> list[dict]:
    settings = json.dumps({"pairs": pairs, "seed": 0, "confidence": 0.95})
    call(agreement.main, "--settings", settings, "--output", folder / "judges.csv")
    with open(folder / "judges.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_score_files_are_joined_by_item_and_what_only_one_has_is_counted(tmp_path):
    rows = by_measure(build(tmp_path, [judged_twice(tmp_path, "m", 0)]))
    first, second = ratings(20, 0)
    shared = [number for number in range(20) if number not in (0, 7, 8)]
    for name, function in SCIPY.items():
        assert float(rows[name]["value"]) == pytest.approx(
            function(first[shared], second[shared]).statistic, rel=1e-5
        )
        assert (rows[name]["n"], rows[name]["groups"]) == ("17", "10")
        assert (rows[name]["only_first"], rows[name]["only_second"]) == ("2", "1")
        assert (rows[name]["first"], rows[name]["second"], rows[name]["policy"]) == (
            "by_gpt",
            "by_llama",
            "m",
        )


def test_judges_of_several_policies_are_compared_over_all_of_them_too(tmp_path):
    rows = build(
        tmp_path, [judged_twice(tmp_path, policy, seed) for seed, policy in enumerate(("m", "m.sft"))]
    )
    pooled = by_measure(row for row in rows if row["policy"] == "all")
    shared = [number for number in range(20) if number not in (0, 7, 8)]
    first, second = (np.concatenate([ratings(20, seed)[side][shared] for seed in (0, 1)]) for side in (0, 1))
    assert float(pooled["pearson"]["value"]) == pytest.approx(
        stats.pearsonr(first, second).statistic, rel=1e-5
    )
    assert (pooled["pearson"]["n"], pooled["pearson"]["groups"]) == ("34", "10")
    assert (pooled["pearson"]["only_first"], pooled["pearson"]["only_second"]) == ("4", "2")
    assert len(rows) == 3 * len(agreement.MEASURES)


def test_a_score_that_was_refused_is_a_row_that_says_so(tmp_path):
    pair = judged_twice(tmp_path, "m", 0)
    write_json(pair[1]["file"], {"benchmark": "by_llama", "refused": "no key"})
    (row,) = build(tmp_path, [pair])
    assert (row["policy"], row["value"]) == ("m", "")
    assert "no ratings in common" in row["note"]


def test_judges_of_two_policies_are_no_pair(tmp_path):
    with pytest.raises(PlumblineError, match="two policies or seeds"):
        build(tmp_path, [[judged_twice(tmp_path, "m", 0)[0], judged_twice(tmp_path, "m.sft", 0)[1]]])


def test_judges_that_always_agree_are_not_said_to_be_certain_to():
    ratings = np.arange(8.0)
    rows = by_measure(agreement.compare(ratings, ratings, names(8), DRAWS))
    assert (rows["exact_agreement"]["value"], rows["exact_agreement"]["ci_high"]) == (1, 1)
    assert rows["exact_agreement"]["ci_low"] == pytest.approx(
        stats.binomtest(8, 8).proportion_ci(0.95, "wilson").low
    )
    for name in ("pearson", "mean_difference"):
        assert "ci_low" not in rows[name] and rows[name]["note"] == "all values equal: no interval"


def test_one_group_of_ratings_has_no_interval():
    rows = agreement.compare(np.array([1.0, 2, 4]), np.array([2.0, 2, 3]), ["g"] * 3, DRAWS)
    assert all("value" in row and "ci_low" not in row for row in rows)
    assert {row["note"] for row in rows} == {"one group: no interval"}
