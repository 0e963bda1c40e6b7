"""Scoring: which module scores a benchmark, what it is told, and what its numbers are stale by."""

import pytest

from tests.plans import DEFAULT, EVERY_KEY, STUDIES, changed, family, planned, told
from tests.workflow import ROOT
from workflow_scripts.common.code import module_file
from workflow_scripts.plan import policies, scoring, sources
from workflow_scripts.study.benchmarks import BENCHMARKS
from workflow_scripts.study.templates import bundled_templates

PLAN = planned(EVERY_KEY)
CHATS = sources.source_folder(PLAN, "chats")
RESULTS = "results/every-key"
LM_EVAL = {"kind": "lm_eval", "tasks": ["piqa"]}


# --- who scores -------------------------------------------------------------------------------------------------


def test_a_scorer_reads_answers_likelihoods_rewards_or_the_model():
    assert scoring.scored_from(PLAN, "likelihoods") == ["likely", "told", "losses"]
    assert scoring.scored_from(PLAN, "rewards") == ["rewarded"]
    assert scoring.scored_from(PLAN, "likelihoods", "rewards") == ["likely", "rewarded", "told", "losses"]
    assert scoring.scored_from(PLAN, "model") == ["harness", "local"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_benchmark_has_one_scorer_and_what_it_reads_is_one_of_four(name):
    plan = planned(name)
    found = [scoring.scored_from(plan, of) for of in ("answers", "likelihoods", "rewards", "model")]
    assert sorted(benchmark for names in found for benchmark in names) == sorted(plan.study.benchmarks)
    for benchmark in plan.study.benchmarks:
        assert scoring.scorer(plan, benchmark) in scoring.scorer_code(plan, benchmark)


@pytest.mark.parametrize("kind", BENCHMARKS, ids=lambda kind: kind.__name__)
def test_every_kind_there_is_has_the_modules_that_it_names_and_only_keys_that_it_has(kind):
    modules = [kind.scorer] + ([kind.measured_by] if kind.measured_by else [])
    assert all(module_file(scoring.module(name)) for name in modules)
    assert (kind.measured_by is not None) == (kind.scores == "likelihoods")
    assert {*kind.scorer_keys, *kind.measured_keys} <= {*kind.model_fields, "benchmark", "seed", "fidelity"}
    assert {*kind.files, *(kind.asks or ())} <= kind.model_fields.keys()
    assert kind.prompt_file is None or kind.prompt_file in kind.files


def test_the_packages_that_alter_a_score_are_pinned_beside_it():
    assert scoring.scorer_pins(PLAN, "labels") == {}
    assert scoring.scorer_pins(PLAN, "overlap").keys() == {"sacrebleu", "nltk"}
    assert scoring.scorer_pins(PLAN, "compared").keys() == {"alpaca-eval", "scikit-learn", "pandas"}


# --- what a scorer is told --------------------------------------------------------------------------------------


def test_a_scorer_is_told_its_keys_with_paths_for_files_and_the_studys_seed_and_fidelity():
    plan = changed(EVERY_KEY, {"seeds": [3, 5], "fidelity": "code", "benchmarks.likely.fidelity": "paper"})
    wanted = {
        "labels": {"skip_first_turn": True, "fidelity": "code"},
        "likely": {"fidelity": "paper"},  # its own
        "rated": {"benchmark": "rated"},
        "formed": {"benchmark": "formed"},
        "questions": {"mode": "pairwise", "benchmark": "questions"},
        "overlap": {"metrics": ["bleu", "meteor"], "wordnet": "docs", "benchmark": "overlap"},
        "rewarded": {"benchmark": "rewarded"},
        "losses": {"benchmark": "losses"},
        "compared": {
            "length_controlled": True,
            "lc_draws": 200,
            "evaluate": True,
            "gamed": f"{CHATS}/files/gamed.csv",
            "benchmark": "compared",
            "seed": 3,
        },
        "code": {
            "file": f"{CHATS}/files/human.jsonl",
            "form": "completion",
            "k": [1],
            "timeout_seconds": 3.0,
            "memory_mb": 512,
            "allow_unsandboxed": False,
            "workers": 2,
        },
    }
    assert {name: told(scoring.scorer_settings(plan, name)) for name in wanted} == wanted


def test_a_scorer_is_stale_by_the_source_of_the_files_it_reads_and_by_no_other():
    assert scoring.scorer_input(PLAN, "code") == [f"{CHATS}/manifest.json"]
    assert scoring.scorer_input(PLAN, "compared") == [f"{CHATS}/manifest.json"]
    assert scoring.scorer_input(PLAN, "questions") == []  # its files are read by its prompts and its judge
    assert scoring.scorer_input(PLAN, "bundled") == []
    assert scoring.scorer_input(PLAN, "labels") == []
    ungamed = changed(EVERY_KEY, {"benchmarks.compared.gamed": None})
    assert scoring.scorer_input(ungamed, "compared") == []


# --- likelihoods and rewards ------------------------------------------------------------------------------------


def test_likelihoods_are_taken_of_a_split_or_of_the_benchmarks_own_cleaned_file():
    cleaned = "data/clean/every-key"
    assert scoring.replies(PLAN, "losses") == f"{cleaned}/tutored/rows/test.jsonl"
    assert scoring.replies_word(PLAN, "losses") == "$CLEAN/tutored/rows/test.jsonl"
    assert scoring.replies_input(PLAN, "losses") == f"{cleaned}/tutored/manifest.json"
    assert scoring.replies(PLAN, "likely") == f"{cleaned}/likely/rows/pairs.jsonl"
    assert scoring.replies_input(PLAN, "likely") == f"{cleaned}/likely/manifest.json"
    assert scoring.measuring_module(PLAN, "losses") == "workflow_scripts.score.reply_likelihoods"
    assert scoring.measuring_module(PLAN, "likely") == "workflow_scripts.score.pair_likelihoods"
    for benchmark in ("losses", "likely"):
        module = scoring.measuring_module(PLAN, benchmark)
        assert module in scoring.measuring_code(PLAN, benchmark)


def test_a_policy_reads_replies_as_it_speaks():
    plan = changed(EVERY_KEY, {"benchmarks.losses.limit": 4, "datasets.tutored.history_turns": 1})
    spoken = policies.spoken_to(plan, "tiny.chat")
    own = told(scoring.measuring_settings(plan, "likely", "tiny.chat"))["template"]
    assert own == bundled_templates()["tutor_perplexity"] != spoken["template"]
    wanted = {"max_tokens": 1024, "batch_size": 16, "limit": 4, "history_turns": 1, **spoken}
    assert told(scoring.measuring_settings(plan, "losses", "tiny.chat")) == wanted
    for calibration in ("gold", "empty"):
        settings = told(scoring.measuring_settings(family(), "losses", calibration))
        assert settings["template"] == policies.template(family(), "one")


def test_only_the_calibration_rows_are_measured_as_such():
    assert scoring.calibration_flag(PLAN, "gold") == ["--calibration", "gold"]
    assert scoring.calibration_flag(PLAN, "tiny.sft") == []


def test_a_scorer_of_likelihoods_or_rewards_reads_the_policys_own():
    folder = f"{RESULTS}/policies/tiny.sft/seed-1"
    assert scoring.measured(PLAN, "losses", "tiny.sft", 1) == f"{folder}/likelihoods/losses.jsonl"
    assert scoring.measured_rows(PLAN, "losses", "tiny.sft", 1) == f"{folder}/likelihoods/losses.jsonl"
    assert scoring.measured(PLAN, "rewarded", "tiny.sft", 1) == f"{folder}/rewards/rewarded.json"
    assert scoring.measured_rows(PLAN, "rewarded", "tiny.sft", 1) == f"{folder}/rewards/rewarded.jsonl"


# --- the harness ------------------------------------------------------------------------------------------------


def test_the_harness_reads_tasks_from_a_package_from_a_folder_or_by_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = changed(EVERY_KEY, {"benchmarks.named": LM_EVAL})
    package = sources.package_folder(plan, plan.study.benchmarks["harness"])
    assert scoring.task_files(plan, "harness") == [f"{package}/manifest.json"]
    files = scoring.task_files(plan, "local")
    assert "data/bundled/lm_eval/biology_quiz.yaml" in files
    assert files == sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("data/bundled/lm_eval/**/*.*"))
    assert scoring.task_files(plan, "named") == []
    folders = {
        name: told(scoring.harness_settings(plan, name))["include_path"]
        for name in ("harness", "local", "named")
    }
    assert folders == {"harness": f"{package}/tasks", "local": "data/bundled/lm_eval", "named": None}


def test_the_harness_is_told_its_keys_and_the_fidelity_and_no_more():
    plan = changed(EVERY_KEY, {"benchmarks.local.num_fewshot": 2, "fidelity": "code"})
    assert told(scoring.harness_settings(plan, "local")) == {
        "tasks": ["biology_quiz"],
        "suite": None,
        "include_path": "data/bundled/lm_eval",
        "num_fewshot": 2,
        "limit": None,
        "batch_size": 16,
        "dtype": "float32",
        "apply_chat_template": False,
        "fidelity": "code",
    }
    tasks = told(scoring.harness_settings(plan, "harness"))["tasks"]
    assert tasks == ["sciq", {"task": "sst2", "num_fewshot": None, "metrics": ["acc"]}]


def test_a_suite_is_stale_by_the_file_of_suites_and_counts_in_the_policys_own_programs():
    assert (ROOT / scoring.SUITES).is_file()
    assert scoring.suites_file(PLAN, "harness") == [scoring.SUITES]
    own = f"{RESULTS}/policies/tiny.sft/seed-1/scores/code.json"
    assert scoring.counted_programs(PLAN, "harness", "tiny.sft", 1) == [own]
    assert scoring.counted_flags(PLAN, "harness", "tiny.sft", 1) == ["--human-eval", own]
    assert scoring.suites_file(PLAN, "local") == []
    assert scoring.counted_programs(PLAN, "local", "tiny.sft", 1) == []
    assert scoring.counted_flags(PLAN, "local", "tiny.sft", 1) == []


def test_the_harness_asks_the_policys_weights_or_an_oracle():
    wanted = f"{sources.base_model(family(), 'two')}/model"
    assert scoring.harness_subject(family(), "two", 3) == ["--model", wanted]
    wanted = f"{RESULTS}/policies/two.sft/seed-5/model"
    assert scoring.harness_subject(family(), "two.sft", 5) == ["--model", wanted]
    assert scoring.harness_subject(family(), "gold", 0) == ["--oracle", "gold"]


# --- what alters every answer -----------------------------------------------------------------------------------


def test_answers_are_stale_by_the_engine_that_is_used_and_its_packages():
    ours, other = planned(DEFAULT), changed(DEFAULT, {"engine.name": "vllm"})
    engine = "workflow_scripts.generate.{}engine".format
    assert engine("") in scoring.engine_code(ours) and engine("vllm_") not in scoring.engine_code(ours)
    assert engine("vllm_") in scoring.engine_code(other)
    assert scoring.engine_pins(ours).keys() == {"torch", "transformers"}
    assert scoring.engine_pins(other).keys() == {"vllm", "torch", "transformers"}
