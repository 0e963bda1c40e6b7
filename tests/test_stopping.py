"""How many seeds an interval takes: against closed forms, by simulation, and from score files to seeds.json."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from benchmarks.stopping import covered
from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.report import choose_seeds
from workflow_scripts.report.seed_choice import choice_lines, left_out, note_choice, read_choice
from workflow_scripts.report.statistics.cells import Cell
from workflow_scripts.report.statistics.stopping import (
    FirstSeeds,
    first_seeds_of,
    half_width,
    items_alone,
    seeds_needed,
)

ON = {"benchmark": "quiz", "subset": "all", "metric": "accuracy"}
SETTINGS = {"on": ON, "until": 0.05, "at_most": 8, "policies": ["m.sft"], "seeds": [1, 2, 3]} | {
    "confidence": 0.95,
}


def mean_cell(values: np.ndarray, groups: list[str] | None = None) -> Cell:
    items = tuple(map(str, range(len(values))))
    return Cell(items, tuple(groups) if groups else items, "mean", {"value": np.asarray(values, float)})


# --- the number -------------------------------------------------------------------------------------------------------


def test_without_items_in_it_the_number_is_stein_s():
    spread, until = FirstSeeds(0.03**2, 0.0, 4, 50), 0.02
    t = scipy.stats.t.ppf(0.975, 3)
    assert seeds_needed(spread, until, 0.95) == math.ceil((t * 0.03 / until) ** 2)
    assert half_width(spread, 9, 0.95) == pytest.approx(t * 0.03 / 3)


def test_items_and_seeds_are_added_each_by_its_own_t():
    spread = FirstSeeds(0.03**2, 0.01**2, 4, 21)
    seeds, items = scipy.stats.t.ppf(0.975, 3) * 0.03 / 3, scipy.stats.t.ppf(0.975, 20) * 0.01
    assert items_alone(spread, 0.95) == pytest.approx(items)
    assert half_width(spread, 9, 0.95) == pytest.approx(math.hypot(seeds, items))


@pytest.mark.parametrize("shared", [0.0, 1e-5, 4e-5])
@pytest.mark.parametrize("variance", [0.0, 1e-6, 1e-4, 1e-2])
def test_it_is_the_least_that_is_narrow_enough_and_never_less_than_the_first(shared, variance):
    spread = FirstSeeds(variance, shared, 3, 100)
    needed = seeds_needed(spread, 0.02, 0.95)
    assert needed >= 3 and half_width(spread, needed, 0.95) <= 0.02 * (1 + 1e-12)
    assert needed == 3 or half_width(spread, needed - 1, 0.95) > 0.02


def test_no_number_helps_where_the_items_alone_are_wider():
    spread = FirstSeeds(1e-8, 0.02**2, 3, 100)
    assert items_alone(spread, 0.95) > 0.02
    assert seeds_needed(spread, 0.02, 0.95) == math.inf


def test_what_seeds_share_is_the_error_of_their_items():
    random = np.random.default_rng(0)
    common, own = random.normal(0.5, 0.3, 400), random.normal(0, 0.2, (3, 400))
    first = first_seeds_of([mean_cell(common + each) for each in own])
    covariance = np.cov(common + own)
    assert first.shared == pytest.approx((covariance.sum() - np.trace(covariance)) / 6 / 400)
    assert first.variance == pytest.approx((common + own).mean(axis=1).var(ddof=1))
    assert (first.seeds, first.groups) == (3, 400)


# --- what the interval covers -----------------------------------------------------------------------------------------


def test_two_stages_cover_where_one_variance_of_all_seeds_and_looking_again_do_not():
    found = covered(0.02, 0.0, 3, 6000)
    assert 0.94 <= found.two_stage <= 0.96
    assert found.ordinary < 0.93 and found.peeking < 0.94
    assert found.narrow == 1.0, "an interval is as narrow as it was asked to be, or the most seeds were run"


def test_two_stages_cover_at_least_as_much_where_items_are_a_part_of_chance():
    found = covered(0.01, 0.007, 3, 3000)
    assert 0.945 <= found.two_stage <= 0.985
    assert 3 < found.seeds < 10


# --- from score files -------------------------------------------------------------------------------------------------


def score(values: list[float], metric: str = "accuracy") -> dict:
    names = [f"q{number}" for number in range(len(values))]
    cell = {"subset": "all", "metric": metric, "higher_is_better": True, "estimator": "mean"}
    return {"cells": [cell | {"items": names, "groups": names, "columns": {"value": values}}]}


def rate(right: int, of: int = 400) -> dict:
    return score([1.0] * right + [0.0] * (of - right))


def choose(folder, scores: list[dict], **changed: object) -> dict:
    """Run the command on score files, by policy, then by seed; return what it has written."""
    files = [folder / f"{number}.json" for number in range(len(scores))]
    for file, value in zip(files, scores, strict=True):
        write_json(file, value)
    flags = ["--settings", json.dumps(SETTINGS | changed), "--scores", *map(str, files)]
    call(choose_seeds.main, *flags, "--output", folder / "seeds.json")
    return read_json(folder / "seeds.json")


def test_seeds_that_agree_are_enough_as_they_are(tmp_path):
    found = choose(tmp_path, [rate(200), rate(201), rate(199)])
    assert found["seeds"] == [1, 2, 3] and found["reached"] and found["widest"] == "m.sft"
    assert found["policies"]["m.sft"]["values"] == {"1": 0.5, "2": 0.5025, "3": 0.4975}
    assert "± 0.05 was asked for" in found["words"] and "fixed after the first 3" in found["words"]


def test_the_policy_that_takes_most_decides(tmp_path):
    both = {"policies": ["m.sft", "m.sft.dpo"], "until": 0.055}
    found = choose(tmp_path, [rate(n) for n in (200, 200, 200, 200, 205, 212)], **both)
    needed = {name: own["needed"] for name, own in found["policies"].items()}
    assert needed["m.sft"] == 3 < needed["m.sft.dpo"] == len(found["seeds"]) <= 8
    assert found["widest"] == "m.sft.dpo" and found["policies"]["m.sft.dpo"]["half_width"] <= 0.055
    assert "which takes most of 2 policies" in found["words"]


def test_what_the_most_seeds_do_not_reach_is_said(tmp_path):
    found = choose(tmp_path, [rate(160), rate(200), rate(240)])
    assert found["seeds"] == [*range(1, 9)] and not found["reached"]
    needed = found["policies"]["m.sft"]["needed"]
    assert needed > 8 and f"which would take {needed}, and 8 are the most allowed" in found["words"]


def test_what_no_number_of_seeds_reaches_is_said(tmp_path):
    found = choose(tmp_path, [rate(20, 40)] * 3)
    assert found["seeds"] == [*range(1, 9)] and found["policies"]["m.sft"]["needed"] is None
    assert "no number of seeds reaches it: the items alone leave ± 0.16" in found["words"]


def test_seeds_without_a_score_are_left_out_and_said(tmp_path):
    diverged = {"refused": "the training diverged"}
    found = choose(tmp_path, [rate(200), diverged, rate(201)])
    assert len(found["policies"]["m.sft"]["values"]) == 2 and len(found["seeds"]) >= 3
    assert left_out(found) == ["m.sft, seed 2: no score: the training diverged"]
    found = choose(tmp_path, [rate(200), diverged, diverged])
    assert found["seeds"] == [1, 2, 3] and "of no policy have two of them a score" in found["words"]
    assert left_out(found)[0] == "m.sft decided nothing: fewer than two of the first seeds have a score"


def test_a_cell_that_is_not_there_is_named_with_the_nearest(tmp_path):
    with pytest.raises(PlumblineError, match="has no 'quiz/all/accuracy'; the nearest are quiz/all/acuracy"):
        choose(tmp_path, [score([1.0, 0.0], "acuracy")] * 3)


def row(policy: str, value: float, **more: object) -> dict:
    return ON | {"policy": policy, "seed": "all", "value": value, "note": ""} | more


def test_the_table_says_how_many_seeds_and_which_intervals_are_too_wide(tmp_path):
    choose(tmp_path, [rate(160), rate(200), rate(240)])
    choice = read_choice(tmp_path / "seeds.json")
    rows = [row("m.sft", 0.5), row("m.sft", 0.4, seed=1), row("m", 0.1, seed=1), row("m.sft", 3, metric="n")]
    note_choice(rows, choice)
    assert [bool(each["note"]) for each in rows] == [True, False, False, False]
    assert rows[0]["note"].startswith(
        "± 0.05 was asked for by seeds.until, and the two-stage interval is ± 0.1"
    )
    lines = choice_lines(rows, choice)
    assert lines[1] == "## Seeds" and lines[3] == f"{choice['words']}."
    assert any(line.startswith("- m.sft: 0.500 ± 0.1") for line in lines)


def test_a_file_of_another_shape_is_refused(tmp_path):
    write_json(tmp_path / "seeds.json", {"seeds": [1]})
    with pytest.raises(PlumblineError, match="does not say how many seeds were chosen"):
        read_choice(tmp_path / "seeds.json")
    assert read_choice(None) is None
