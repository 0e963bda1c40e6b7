"""Reward models and annotations: what trains them, what they are told, and whose answers they reward."""

from tests.plans import DEFAULT, EVERY_KEY, changed, family, planned, told
from workflow_scripts.plan import rewards, sources, training

PLAN = planned(EVERY_KEY)


def test_a_reward_model_starts_from_the_base_model_whatever_the_seeds():
    wanted = f"{sources.base_model(family(), 'one')}/manifest.json"
    assert rewards.reward_parent(family(), "rm") == wanted


def test_a_reward_models_pairs_come_from_its_own_split_by_its_own_seed():
    plan = changed(EVERY_KEY, {"seeds": [8, 9], "reward_models.rm.seed": 4, "reward_models.rm.threads": 3})
    assert rewards.reward_dataset(plan, "rm") == "data/clean/every-key/tutored/manifest.json"
    assert rewards.reward_split(plan, "rm") == "preference"
    assert told(rewards.reward_pairs_settings(plan, "rm")) == {"seed": 4}
    assert (rewards.reward_seed(plan, "rm"), rewards.reward_threads(plan, "rm")) == (4, 3)


def test_a_reward_models_training_is_told_its_keys_and_not_what_others_have_dealt_with():
    settings = told(rewards.reward_settings(planned(DEFAULT), "tutor_rm"))
    assert not {"parent", "dataset", "split", "seed", "threads"} & settings.keys()
    wanted = {"learning_rate": 3e-4, "batch_size": 8, "max_tokens": 192, "keep": "last"}
    assert wanted.items() <= settings.items()
    assert settings["trust_remote_code"] is False
    trusting = changed(DEFAULT, {"models.tiny.trust_remote_code": True})
    assert told(rewards.reward_settings(trusting, "tutor_rm")) == settings | {"trust_remote_code": True}


def test_an_annotation_waits_for_its_reward_models_and_for_classifiers_from_elsewhere():
    assert rewards.classifiers(PLAN, "judged") == [
        "results/every-key/reward_models/rm/manifest.json",
        sources.source_manifest(PLAN, "whole"),
    ]
    assert rewards.classifiers(PLAN, "brought") == []  # a rule, and what the rows came with


def test_an_annotation_is_told_its_rewards_and_where_each_classifier_is():
    found = told(rewards.rewarding_settings(PLAN, "judged"))["rewards"]
    assert list(found) == ["other", "own", "words"]
    assert found["own"]["folder"] == "$RESULTS/reward_models/rm/model"
    assert found["other"]["folder"] == f"{sources.source_folder(PLAN, 'whole')}/files"
    assert found["other"]["source"] == sources.origin(PLAN, "whole")
    assert found["words"] == {"rule": "length", "weight": 1.0, "words": 40}
    brought = told(rewards.rewarding_settings(PLAN, "brought"))["rewards"]
    assert brought["came"] == {"given": "score", "squash": "none", "weight": 1.0}


def test_an_annotation_covers_its_splits_of_its_dataset():
    assert rewards.annotated_dataset(PLAN, "judged") == "data/clean/every-key/ranked/manifest.json"
    assert rewards.annotated_splits(PLAN, "judged") == ["train", "validation"]
    assert rewards.fit_split(PLAN, "judged") == "train"
    plan = changed(EVERY_KEY, {"datasets.ranked.history_turns": 2})
    assert (rewards.history(PLAN, "judged"), rewards.history(plan, "judged")) == (None, 2)


def test_annotated_rows_are_named_by_what_they_are_for():
    rows = "$RESULTS/annotations/judged/rows"
    found = rewards.annotated_rows(PLAN, PLAN.run("tiny.sft.lol"))
    assert found == [f"train={rows}/train.jsonl", f"validation={rows}/validation.jsonl"]
    plan = changed(EVERY_KEY, {"runs.lol.validation": None})
    (alone,) = rewards.annotated_rows(plan, plan.run("tiny.sft.lol"))
    assert alone == f"train={rows}/train.jsonl"


def test_a_policys_answers_are_rewarded_by_the_annotation_of_their_prompt_set():
    for prompts in ("rewarded", "values-worth"):
        assert rewards.annotation_of(PLAN, prompts) == "judged"
        assert rewards.answer_classifiers(PLAN, prompts) == rewards.classifiers(PLAN, "judged")
        assert rewards.answer_dataset(PLAN, prompts) == "data/clean/every-key/ranked/manifest.json"
        assert rewards.answer_settings(PLAN, prompts) == rewards.rewarding_settings(PLAN, "judged")
        assert rewards.answer_fit_split(PLAN, prompts) == "train"


def test_what_learns_online_is_rewarded_by_its_annotation():
    assert training.online_classifiers(PLAN, "tiny.sft.ppo") == rewards.classifiers(PLAN, "judged")
    assert training.online_rewards(PLAN, "tiny.sft.ppo") == rewards.rewarding_settings(PLAN, "judged")
    assert training.online_fit_rows(PLAN, "tiny.sft.ppo") == "$CLEAN/ranked/rows/train.jsonl"
