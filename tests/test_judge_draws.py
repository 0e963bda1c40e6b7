"""A judge that is drawn several times: what is asked, what the scores are of it, and the noise that it says."""

import json
import statistics

import pytest

from tests.plans import EVERY_KEY, changed, config_of, told
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.common.asking.requests import Request, request_of
from workflow_scripts.common.files import write_json
from workflow_scripts.plan import index, judging
from workflow_scripts.report.agreement import draw_rows, pair_rows
from workflow_scripts.report.index import entry_of
from workflow_scripts.report.rows import repeatability
from workflow_scripts.report.scores import load_score
from workflow_scripts.score.judge_score import score
from workflow_scripts.score.judging.answers import drawn, requests_of
from workflow_scripts.score.judging.questions import Question
from workflow_scripts.score.verdicts import over_draws, values_of
from workflow_scripts.study.checking import examine

JUDGE = {
    "kind": "openai", "model": "m", "version": None, "temperature": 1.0, "max_tokens": 9,
    "max_completion_tokens": None, "params": {}, "seed": 5,
}  # fmt: skip
DRAWN = {"judges.asked.draws": 3, "judges.asked.temperature": 1.0}


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_the_first_draw_is_named_as_ever_and_further_ones_otherwise_each_with_its_seed():
    asked = []
    request = Request([{"role": "user", "content": "good?"}], {"temperature": 1.0, "seed": 5})
    for draw in range(3):
        drawn(asked.extend, draw)([request])
    assert asked[0] is request and [each.sample for each in asked] == [0, 1, 2]
    assert [each.params["seed"] for each in asked] == [5, 6, 7]
    assert len({json.dumps(request_of(each, JUDGE)) for each in asked}) == 3
    unseeded = Request([], {"temperature": 1.0})
    drawn(asked.extend, 1)([unseeded])
    assert asked[-1] == unseeded._replace(sample=1)


def test_what_is_planned_and_budgeted_counts_every_draw():
    question = Question("a", 0, 0, [{"role": "user", "content": "2 + 2?"}], "4", "4")
    once = requests_of([question], "judge_score", {"prompt": "{answer}"}, JUDGE, None)
    thrice = requests_of([question], "judge_score", {"prompt": "{answer}"}, JUDGE | {"draws": 3}, None)
    assert (len(once), len(thrice)) == (1, 3) and thrice[0] == once[0]


def test_a_judge_of_one_draw_is_told_what_it_was_told_before():
    plain, more = changed(EVERY_KEY, {}), changed(EVERY_KEY, DRAWN)
    assert "draws" not in told(judging.judge_settings(plain, "rated"))
    assert "draws" not in told(judging.access(more))["asked"]
    assert told(judging.judge_settings(more, "rated"))["draws"] == 3
    assert index.benchmark_entry(more, "rated")["facts"]["draws"] == 3
    assert "draws" not in index.benchmark_entry(plain, "rated")["facts"]
    assert "drawn" not in told(judging.agreement_settings(plain))
    names = {entry["benchmark"] for entry in told(judging.agreement_settings(more))["drawn"]}
    assert "rated" in names and "bundled" not in names  # a reward model has no draws


def test_a_greedy_judge_cannot_be_drawn_again():
    found = examine(put(config_of(EVERY_KEY), "judges.asked.draws", 2), folder=ROOT / "tests")
    assert any(line.startswith("judges.asked.draws: 2, and a greedy judge") for line in found.wrong)


# --- what the scores are ----------------------------------------------------------------------------------------------

PROMPTS = [{"id": name, "group": name, "followups": []} for name in "abc"]
ANSWERS = [{"id": name, "sample": 0, "turn": 0} for name in "abc"]
RATINGS = {0: [10, 50, 90], 1: [20, 50, None], 2: [30, 50, 60]}  # draw: of a, b and c


def cells_of_draws(folder) -> dict:
    verdicts = [
        {"id": name, "sample": 0, "turn": 0, "rating": rating}
        | ({"draw": draw} if draw else {})
        | ({"failed": "no"} if rating is None else {})
        for draw, ratings in RATINGS.items()
        for name, rating in zip("abc", ratings, strict=True)
    ]
    cells = over_draws(
        verdicts, lambda rows: score(PROMPTS, values_of(PROMPTS, ANSWERS, rows, "rating", "verdicts"))
    )
    write_json(folder / "score.json", {"cells": cells})
    return {cell["metric"]: cell for cell in cells}


def test_an_item_is_the_mean_of_its_draws_and_each_draws_value_is_known(tmp_path):
    cells = cells_of_draws(tmp_path)
    assert cells["score"]["columns"]["value"] == [20, 50, 75]
    assert cells["score"]["draws"] == [[10, 50, 90], [20, 50, None], [30, 50, 60]]
    assert cells["failed"]["columns"]["value"] == [0, 0, pytest.approx(1 / 3)]
    loaded = load_score(tmp_path / "score.json")["cells"]["overall", "score"]
    assert loaded["drawn"] == [30, 35, 40]  # of a and b, which all draws have


def test_a_single_draw_has_the_cells_that_it_had():
    verdicts = [{"id": name, "sample": 0, "turn": 0, "rating": 5} for name in "abc"]
    values = values_of(PROMPTS, ANSWERS, verdicts, "rating", "verdicts")
    assert over_draws(verdicts, lambda rows: score(PROMPTS, values)) == score(PROMPTS, values)


def test_the_draws_noise_is_the_repeatability_limit_of_their_mean():
    drawn_by = [[1.0, 2.0, 3.0], [5.0, 5.0, 8.0]]
    within = (statistics.variance(drawn_by[0]) + statistics.variance(drawn_by[1])) / 2
    assert repeatability(drawn_by) == [pytest.approx(2.77 * (within / 3) ** 0.5)]
    assert repeatability([]) == []


def test_the_agreement_of_one_judges_draws_is_told(tmp_path):
    cells_of_draws(tmp_path)
    entry = {"policy": "m", "seed": 1, "benchmark": "rated", "file": str(tmp_path / "score.json")}
    (row,) = draw_rows([entry], {"draws": 200, "seed": 0, "confidence": 0.95})
    assert (row["second"], row["measure"], row["n"]) == ("its 3 draws", "alpha", 3)
    assert 0 < row["value"] < 1


# --- relatives --------------------------------------------------------------------------------------------------------


def test_a_judge_that_is_a_relative_of_some_policies_is_noted_in_their_rows():
    plan = changed(EVERY_KEY, {"policies": {"hosted": {"judge": "asked"}}})
    assert judging.relatives(plan, "rated") == {"hosted": "the judge is a relative: it is some-model"}
    bundled = judging.relatives(plan, "bundled")
    assert (
        bundled["tiny.sft"] == "the judge is a relative: rm was trained from tiny" and "hosted" not in bundled
    )
    assert judging.relatives(plan, "loose") == {}  # a rule
    parts = {part["name"]: part for part in told(index.index_entries(plan))["benchmarks"]}
    entry = entry_of(index.cell_entry(plan, "hosted", 1), parts["rated"])
    assert entry["relative"] == "the judge is a relative: it is some-model"
    assert "relative" not in entry_of(index.cell_entry(plan, "tiny", 1), parts["rated"])


def test_a_judge_that_is_a_relative_of_all_alike_favours_none():
    assert judging.relatives(changed(EVERY_KEY, {}), "bundled") == {}


def rated_by(folder, judge: str, policy: str, values: list[float], **more) -> dict:
    path = folder / f"{judge}-{policy}.json"
    items = [f"q{number}" for number in range(len(values))]
    cell = {"subset": "overall", "metric": "score", "items": items, "groups": items}
    write_json(path, {"cells": [cell | {"columns": {"value": values}}]})
    return {"policy": policy, "seed": 1, "benchmark": judge, "file": str(path)} | more


def test_self_preference_is_what_a_judge_gives_its_relatives_more_than_another_judge_does(tmp_path):
    kin = {"relative": True}
    pairs = [
        [
            rated_by(tmp_path, "ours", "m", [60, 70, 80], **kin),
            rated_by(tmp_path, "theirs", "m", [50, 60, 76]),
        ],
        [rated_by(tmp_path, "ours", "n", [40, 50, 60]), rated_by(tmp_path, "theirs", "n", [45, 50, 60])],
    ]
    settings = {"draws": 200, "seed": 0, "confidence": 0.95}
    (row,) = [row for row in pair_rows(pairs, settings) if row["measure"] == "self_preference"]
    assert row["value"] == pytest.approx((70 - 50) - (62 - 155 / 3))
    assert (row["policy"], row["n"]) == ("all", 6) and row["note"].startswith("how much more ours favours")
    assert row["ci_low"] < row["value"] < row["ci_high"]
    alike = [[first | kin, second] for first, second in pairs]
    assert not [row for row in pair_rows(alike, settings) if row["measure"] == "self_preference"]
