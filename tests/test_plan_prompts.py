"""Prompt sets: who owes answers to which, what each is made of, and how it is answered."""

import json

import pytest

from tests.plans import DEFAULT, EVERY_KEY, STUDIES, changed, family, planned, told
from workflow_scripts.plan import policies, prompts, sources
from workflow_scripts.study.sampling import Sampling

CHATS = sources.source_folder(planned(EVERY_KEY), "chats")
ANSWERED = [name for name, part in planned(EVERY_KEY).study.benchmarks.items() if isinstance(part, Sampling)]


def flags_of(plan, name: str) -> dict[str, str]:
    """Return {flag: the words behind it, joined}."""
    words, found = prompts.prompts_flags(plan, name), {}
    for word in words:
        if word.startswith("--"):
            flag = word
            found[flag] = []
        else:
            found[flag].append(word)
    return {flag: " ".join(behind) for flag, behind in found.items()}


# --- who owes which ---------------------------------------------------------------------------------------------


def test_a_policy_answers_every_benchmark_that_asks_and_what_its_children_learn_from():
    plan = planned(EVERY_KEY)
    assert prompts.owed(plan, "tiny") == ANSWERED
    assert prompts.owed(plan, "tiny.sft") == [
        "pairs-mistakes",
        "pairs-best",
        "pairs-marked",
        "values-worth",
        *ANSWERED,
    ]
    for leaf in ("tiny.chat", "tiny.sft.dpo", "tiny.sft.lol", "tiny.sft.ppo"):
        assert prompts.owed(plan, leaf) == ANSWERED


@pytest.mark.parametrize("name", STUDIES)
def test_nobody_owes_a_set_that_a_policy_answers_as_it_learns_and_every_other_set_is_owed(name):
    plan = planned(name)
    owed = {prompt_set for policy in plan.policies for prompt_set in prompts.owed(plan, policy)}
    online = {f"runs-{name}" for name, run in plan.study.runs.items() if run.learns_from == "prompts"}
    online |= {f"watch-{name}" for name, run in plan.study.runs.items() if getattr(run, "watch", None)}
    assert owed == prompts.prompt_sets(plan).keys() - online
    assert online <= prompts.prompt_sets(plan).keys()
    for policy in plan.policies:
        wanted = [plan.layout.prompts(owing) for owing in prompts.owed(plan, policy)]
        assert prompts.owed_prompts(plan, policy) == wanted


def test_what_is_measured_or_done_by_the_harness_is_answered_by_nobody():
    assert not {"likely", "losses", "harness", "local"} & prompts.prompt_sets(planned(EVERY_KEY)).keys()


def test_pairs_that_came_ranked_and_value_heads_on_a_dataset_ask_nobody():
    assert prompts.for_pairs(family()).keys() == {"pairs-mistakes", "pairs-best", "pairs-marked"}
    assert prompts.for_values(family()) == {}
    assert prompts.owed(family(), "one.sft") == ["pairs-mistakes", *ANSWERED]
    assert prompts.owed(family(), "two") == ANSWERED


def test_an_annotation_rewards_the_answers_of_its_benchmarks_of_value_heads_and_of_pairs_from_samples():
    assert prompts.rewarded_sets(planned(EVERY_KEY)) == ["rewarded", "values-worth", "pairs-best"]
    assert prompts.rewarded_sets(family()) == ["rewarded", "pairs-best"]


def test_lengths_alone_are_measured_of_answers_too():
    plan = changed(EVERY_KEY, {"benchmarks.bundled.evaluate": False})
    assert "bundled" in prompts.owed(plan, "tiny")


# --- what they are made of --------------------------------------------------------------------------------------


def test_turns_are_asked_from_the_split_of_a_cleaned_dataset():
    plan = planned(EVERY_KEY)
    cleaned = "data/clean/every-key"
    wanted = {
        "labels": ("tutored", "test"),
        "pairs-mistakes": ("tutored", "preference"),
        "values-worth": ("ranked", "train"),  # that of the annotation
        "rewarded": ("ranked", "test"),
        "runs-ppo": ("ranked", "train"),
    }
    for name, (dataset, split) in wanted.items():
        assert prompts.prompts_input(plan, name) == f"{cleaned}/{dataset}/manifest.json"
        assert prompts.prompts_file(plan, name) == f"{cleaned}/{dataset}/rows/{split}.jsonl"
        assert prompts.prompts_word(plan, name) == f"$CLEAN/{dataset}/rows/{split}.jsonl"
        assert prompts.prompts_kind(plan, name) == "turns"


def test_a_benchmarks_own_file_is_in_its_source_or_in_the_repository():
    plan = planned(EVERY_KEY)
    asked, told = "data/bundled/mt_bench_biology.jsonl", "data/bundled/alpaca_biology.jsonl"
    wanted = {
        "code": ("humaneval", f"{CHATS}/manifest.json", f"{CHATS}/files/human.jsonl"),
        "tasks": ("mbpp", f"{CHATS}/manifest.json", f"{CHATS}/files/mbpp.jsonl"),
        "questions": ("mt_bench", f"{CHATS}/manifest.json", f"{CHATS}/files/questions.jsonl"),
        "formed": ("rule_checks", f"{CHATS}/manifest.json", f"{CHATS}/files/constraints.jsonl"),
        "compared": ("alpaca_eval", f"{CHATS}/manifest.json", f"{CHATS}/files/alpaca.json"),
        "loose": ("mt_bench", asked, asked),
        "bundled": ("alpaca_eval", told, told),
    }
    for name, (kind, stale_by, file) in wanted.items():
        assert prompts.prompts_kind(plan, name) == kind
        assert prompts.prompts_input(plan, name) == stale_by
        assert prompts.prompts_file(plan, name) == file


def test_a_prompt_set_is_shortened_and_brings_its_references_by_flags():
    plan = changed(
        EVERY_KEY,
        {
            "benchmarks.labels.limit": 7,
            "datasets.tutored.history_turns": 2,
            "benchmarks.tasks.shots": [2, 3],
            "benchmarks.code.form": "instruct",
        },
    )
    assert flags_of(plan, "labels") == {"--limit": "7", "--history": "2"}
    assert flags_of(plan, "pairs-mistakes") == {"--history": "2"}
    assert flags_of(plan, "values-worth") == {}
    assert flags_of(plan, "tasks") == {"--form": "completion", "--shots": "2 3"}
    assert flags_of(plan, "code") == {"--form": "instruct"}
    assert flags_of(plan, "questions") == {"--references": f"{CHATS}/files/answers.jsonl"}
    assert flags_of(plan, "formed") == {"--limit": "9"}
    assert flags_of(plan, "loose") == {}


def test_a_prompt_set_is_answered_as_its_part_of_the_study_says():
    plan = changed(
        EVERY_KEY,
        {
            "benchmarks.questions.max_new_tokens": 9,
            "benchmarks.code.temperatures": [0.1, 0.7],
            "pairs.mistakes.samples": 4,
            "pairs.mistakes.temperature": 0.3,
            "runs.ppo.max_new_tokens": 30,
        },
    )
    drawn = {"max_new_tokens": 512, "min_new_tokens": 0, "temperature": 0.0, "top_p": 1.0, "samples": 1}
    drawn |= {"batch_size": 64, "stop": [], "beams": 1, "repetition_penalty": 1.0}
    wanted = {
        "labels": drawn | {"temperatures": [], "stop": [" ###"]},
        "questions": drawn | {"max_new_tokens": 9, "temperatures": {"writing": 0.7}},
        "code": drawn | {"temperatures": [0.1, 0.7]},
        "pairs-mistakes": drawn | {"samples": 4, "temperature": 0.3, "temperatures": []},
        # The run draws as many, and as large batches, as it says itself.
        "runs-ppo": {
            "stop": ["###"],
            "max_new_tokens": 30,
            "temperature": 1.0,
            "top_p": 0.95,
            "batch_size": 16,
            "temperatures": [],
        },
    }
    assert {name: told(prompts.sampling(plan, name)) for name in wanted} == wanted


# --- answers ----------------------------------------------------------------------------------------------------


def test_answers_depend_on_the_engine_and_on_how_their_policy_is_spoken_to():
    for policy, model in (("one.fast.dpo", "one"), ("two.sft", "two")):
        settings = told(prompts.answering_settings(family(), policy))
        known = family().study.models[model]
        assert settings == {
            "engine": family().study.engine.model_dump(),
            "template": policies.template(family(), policy),
            "context": known.context,
            "trust_remote_code": known.trust_remote_code,
        }


def test_gold_speaks_in_the_tokens_of_each_base_model_by_each_template_once():
    voices = json.loads(prompts.calibration_settings(family(), "gold"))
    one, two = (sources.base_model(family(), name) for name in ("one", "two"))
    spoken = [(voice["folder"], voice["name"]) for voice in voices]
    assert spoken == [
        (f"{one}/model", "one"),
        (f"{one}/model", "one.fast"),
        (f"{one}/model", "one.sft.dpo.again"),
        (f"{two}/model", "two"),
        (f"{two}/model", "two.sft.dpo.again"),
    ]
    assert all(voice["template"] == policies.template(family(), voice["name"]) for voice in voices)
    assert prompts.calibration_models(family(), "gold") == [f"{one}/manifest.json", f"{two}/manifest.json"]
    assert prompts.calibration_pins(family(), "gold").keys() == {"torch", "transformers"}


def test_who_says_nothing_needs_no_model():
    assert prompts.calibration_settings(planned(DEFAULT), "empty") == "[]"
    assert prompts.calibration_models(planned(DEFAULT), "empty") == []
    assert prompts.calibration_pins(planned(DEFAULT), "empty") == {}
