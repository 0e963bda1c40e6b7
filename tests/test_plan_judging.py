"""Judging: who goes before a judge, what the judge is told and asked, and whom an answer is compared with."""

import json

import pytest

from tests.plans import DEFAULT, EVERY_KEY, SHIPPED, STUDIES, changed, family, planned, told
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan import judging, sources
from workflow_scripts.plan.plan import cells, scored_cells

PLAN = planned(EVERY_KEY)
CHATS = sources.source_folder(PLAN, "chats")
RESULTS = "results/every-key"
JUDGED = ["questions", "loose", "compared", "bundled", "rated", "preferred", "safer"]
# How a judge is reached and paid.
UNTOLD = (
    "base_url",
    "api_key",
    "usd",
    "retries",
    "timeout",
    "concurrency",
    "requests_per_minute",
    "unanswered",
)


def test_a_benchmark_with_a_judge_has_its_verdicts_scored():
    assert judging.judged(PLAN) == JUDGED
    assert list(judging.judgeable(PLAN)) == [*JUDGED, "pairs-marked"]
    own = f"{RESULTS}/policies/tiny.sft/seed-1/verdicts/rated.jsonl"
    assert judging.verdicts(PLAN, "rated", "tiny.sft", 1) == [own]
    assert judging.verdicts_flags(PLAN, "rated", "tiny.sft", 1) == ["--verdicts", own]
    assert judging.verdicts(PLAN, "labels", "tiny.sft", 1) == []
    assert judging.verdicts_flags(PLAN, "labels", "tiny.sft", 1) == []


def test_of_answers_whose_lengths_alone_are_measured_no_judge_is_asked():
    plan = changed(EVERY_KEY, {"benchmarks.compared.evaluate": False})
    assert judging.judged(plan) == [name for name in JUDGED if name != "compared"]
    assert list(judging.judgeable(plan)) == [*JUDGED, "pairs-marked"]
    assert judging.verdicts(plan, "compared", "tiny", 1) == []
    assert "compared" not in {entry["benchmark"] for entry in judging.judging_plans(plan)}


# --- what a judge is told ---------------------------------------------------------------------------------------


def test_a_reward_model_that_judges_is_an_input_and_told_by_its_folder():
    assert judging.judge_manifest(PLAN, "bundled") == [f"{RESULTS}/reward_models/rm/manifest.json"]
    wanted = {"kind": "reward_model", "model": f"{RESULTS}/reward_models/rm/model", "name": "trained"}
    assert told(judging.judge_settings(PLAN, "bundled")) == wanted
    assert judging.judge_manifest(PLAN, "rated") == judging.judge_manifest(PLAN, "loose") == []
    assert told(judging.judge_settings(PLAN, "loose")) == {"kind": "rule", "rule": "length", "name": "ruled"}


def test_an_endpoints_verdicts_depend_on_what_it_is_and_sent_and_not_on_how_it_is_reached():
    settings = told(judging.judge_settings(PLAN, "rated"))
    assert settings == {
        "kind": "openai",
        "model": "some-model",
        "version": "2",
        "temperature": 0.0,
        "max_tokens": 1024,
        "max_completion_tokens": None,
        "params": {"reasoning_effort": "low"},
        "seed": None,
        "name": "asked",
    }
    access = json.loads(judging.access(PLAN))
    assert access.keys() == {"asked", "replayed"}
    assert access["asked"]["base_url"] == "http://127.0.0.1:9/v1"
    assert not access["asked"].keys() & settings.keys()
    told_of = {*access["asked"], *settings} - {"name"}
    assert told_of == PLAN.study.judges["asked"].model_dump().keys() - {
        "draws"
    }  # which is told where it is not 1


@pytest.mark.parametrize("name", STUDIES)
def test_no_key_address_or_price_is_in_the_settings_of_a_judging_job(name):
    plan = planned(name)
    for benchmark in judging.judgeable(plan):
        known = told(judging.judge_settings(plan, benchmark)) | told(judging.asking_settings(plan, benchmark))
        assert not [key for key in known if key.startswith(UNTOLD)]


def test_a_price_or_another_address_alters_no_verdict_and_another_version_does():
    known = judging.judge_settings(PLAN, "rated")
    cheap = {"judges.asked.base_url": "http://localhost:1/v1", "judges.asked.retries": 1}
    assert judging.judge_settings(changed(EVERY_KEY, cheap), "rated") == known
    assert judging.judge_settings(changed(EVERY_KEY, {"judges.asked.version": "3"}), "rated") != known


def test_a_benchmark_hands_its_judge_its_kind_and_what_it_asks():
    wanted = {
        "questions": ("mt_bench", {"mode": "pairwise"}),
        "compared": ("alpaca_eval", {"annotator": "alpaca_eval_gpt4"}),
        "rated": ("judge_score", {"prompt": "{prompt} {reference} {answer}"}),
        "preferred": ("preference", {"skip": ["c1"], "prompt": None, "verdict": None}),
        "safer": ("preference", {"skip": [], "prompt": "{prompt} {answer_a} {answer_b}", "verdict": "Safer"}),
    }
    found = {
        name: (judging.asking_kind(PLAN, name), told(judging.asking_settings(PLAN, name))) for name in wanted
    }
    assert found == wanted


def test_a_benchmarks_own_judge_prompts_are_handed_over_and_make_it_stale():
    flags = judging.judging_flags(PLAN, "questions", "tiny", 1)
    assert flags[flags.index("--templates") + 1] == f"{CHATS}/files/prompts.jsonl"
    assert judging.judge_prompts(PLAN, "questions") == [f"{CHATS}/manifest.json"]
    for name in ("loose", "compared", "rated"):
        assert judging.judge_prompts(PLAN, name) == []
        assert "--templates" not in judging.judging_flags(PLAN, name, "tiny", 1)
    own = {
        "benchmarks.loose.judge_prompts": "data/bundled/biology_problems.jsonl",
        "benchmarks.loose.judge": "asked",
    }
    plan = changed(EVERY_KEY, own)
    assert judging.judge_prompts(plan, "loose") == ["data/bundled/biology_problems.jsonl"]


def test_a_file_of_prompts_to_leave_out_is_handed_over_and_makes_the_judging_stale():
    flags = judging.judging_flags(PLAN, "safer", "tiny", 1)
    assert flags[flags.index("--skip-file") + 1] == f"{CHATS}/files/skip.json"
    assert judging.skip_file(PLAN, "safer") == [f"{CHATS}/manifest.json"]
    assert judging.skip_file(PLAN, "preferred") == judging.skip_file(PLAN, "rated") == []
    plan = changed(EVERY_KEY, {"benchmarks.preferred.skip_file": "data/bundled/biology_problems.jsonl"})
    assert judging.skip_file(plan, "preferred") == ["data/bundled/biology_problems.jsonl"]


# --- opponents --------------------------------------------------------------------------------------------------


def test_an_answer_is_compared_with_the_opponents_of_the_same_seed_where_there_is_one():
    wanted = {
        ("questions", "one.sft.dpo", 5): ("one.sft", 5),
        ("questions", "one.sft.dpo", "5"): ("one.sft", 5),
        ("questions", "one", 3): ("one.sft", 3),
        ("questions", "gold", 0): ("one.sft", 3),  # a calibration row has no seed
        ("preferred", "one.sft.dpo", 5): ("two", 3),  # nor has a base model, but the first
        ("preferred", "empty", 0): ("two", 3),
    }
    for (benchmark, *cell), opponent in wanted.items():
        assert judging.opponent_cell(family(), benchmark, *cell) == opponent
        answers = f"{RESULTS}/policies/{opponent[0]}/seed-{opponent[1]}/generations/{benchmark}.json"
        assert judging.opponent_answers(family(), benchmark, *cell) == [answers]
        flags = judging.judging_flags(family(), benchmark, *cell)
        assert flags[flags.index("--opponent") + 1] == f"{answers}l"


def test_what_is_rated_alone_has_no_opponent():
    for benchmark in ("loose", "compared", "rated"):
        assert judging.opponent_cell(family(), benchmark, "one.sft", 3) is None
        assert judging.opponent_answers(family(), benchmark, "one.sft", 3) == []
        assert "--opponent" not in judging.judging_flags(family(), benchmark, "one.sft", 3)


def test_where_no_opponent_is_named_pairs_go_against_the_baseline_and_preferences_against_the_split():
    plan = changed(EVERY_KEY, {"benchmarks.questions.opponent": None, "benchmarks.preferred.opponent": None})
    assert judging.opponent_cell(plan, "questions", "tiny", 1) == ("tiny.sft", 1)
    assert judging.opponent_cell(plan, "preferred", "tiny", 1) is None


# --- what judging takes, and what judges agree on ---------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_answer_that_an_endpoint_judges_is_planned_once(name):
    plan = planned(name)
    asked = [
        benchmark
        for benchmark in judging.judged(plan)
        if plan.study.judges[plan.study.benchmarks[benchmark].judge].kind == "openai"
    ]
    judged = [entry for entry in judging.judging_plans(plan) if entry["policy"]]  # the others are of writing
    found = [(entry["policy"], entry["seed"], entry["benchmark"]) for entry in judged]
    ranked = [("tiny.sft", 1, "pairs-marked")] if name == EVERY_KEY else []
    assert found == ranked + [(*cell, benchmark) for cell in scored_cells(plan) for benchmark in asked]
    for entry in judged:
        folder = f"results/{plan.study.study}/policies/{entry['policy']}/seed-{entry['seed']}"
        assert entry["file"] == f"{folder}/judging/{entry['benchmark']}.json"
        assert entry["judge"] == judging.judgeable(plan)[entry["benchmark"]].judge


def test_a_study_without_an_endpoint_plans_no_judging():
    assert judging.judged(planned(DEFAULT)) == ["mt_bench", "alpaca_eval"]
    assert judging.judging_plans(planned(DEFAULT)) == []
    assert judging.access(planned(DEFAULT)) == "{}"


def test_judges_are_compared_on_every_policy_and_on_no_calibration_row():
    plan = changed(EVERY_KEY, {"seeds": [3, 5]})
    pairs = judging.agreement_pairs(plan)
    assert [[(entry["policy"], entry["seed"], entry["benchmark"]) for entry in pair] for pair in pairs] == [
        [(*cell, "bundled"), (*cell, "loose")] for cell in cells(plan)
    ]
    assert judging.agreement_files(plan) == [
        plan.layout.scores(*cell, name) for cell in cells(plan) for name in ("bundled", "loose")
    ]
    settings = told(judging.agreement_settings(plan))
    assert settings == {"pairs": pairs, "seed": 3, "confidence": 0.95}


# --- keys -------------------------------------------------------------------------------------------------------


def test_a_run_that_answers_and_judges_stops_at_once_without_its_key(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(PlumblineError, match="SOME_KEY"):
        judging.need_keys(PLAN, {"answer_prompts", "judge_answers"})
    judging.need_keys(PLAN, {"judge_answers"})  # the verdicts may all be stored
    judging.need_keys(PLAN, {"answer_prompts"})
    monkeypatch.setenv("SOME_KEY", "key")
    judging.need_keys(PLAN, {"answer_prompts", "judge_answers"})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_key_is_no_part_of_a_plan(name, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody-may-read-this")
    assert "sk-nobody" not in judging.access(planned(name))
