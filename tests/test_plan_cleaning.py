"""Cleaning: what a dataset is made of, what it is told, and whose groups it must not have."""

import pytest

from tests.plans import EVERY_KEY, STUDIES, changed, planned, told
from workflow_scripts.plan import cleaning, sources
from workflow_scripts.study.datasets import Dataset

PLAN = planned(EVERY_KEY)
CHATS = sources.source_folder(PLAN, "chats")


def test_a_dataset_is_made_of_its_files_in_their_order():
    assert cleaning.dataset_source(PLAN, "chatted") == f"{CHATS}/manifest.json"
    files = [f"{CHATS}/files/first rows.jsonl", f"{CHATS}/files/second.jsonl"]
    assert cleaning.dataset_files(PLAN, "chatted") == [PLAN.layout.word(file) for file in files]


@pytest.mark.parametrize("name", STUDIES)
def test_a_dataset_is_told_every_key_that_cleaning_has_to_do_with(name):
    plan = planned(name)
    keys = {field.alias or key for key, field in Dataset.model_fields.items()}
    # inputs, what readers cut, what is told as phrases, and what comes after
    untold = {"source", "files", "history_turns", "reject_other_assistants", "retrieve"}
    untold |= {
        "path",
        "hf",
        "revision",
        "hf_config",
        "hf_split",
        "shape",
    }  # written out as a source and a schema
    assert untold <= keys and "schema" in keys
    for dataset in cleaning.folders(plan):
        assert told(cleaning.dataset_settings(plan, dataset)).keys() == (keys - untold) | {"renames"}


def test_groups_that_are_held_out_are_an_input_and_told_by_their_rows():
    assert cleaning.held_out(PLAN, "chatted") == ["data/clean/every-key/tutored.bare/manifest.json"]
    settings = told(cleaning.dataset_settings(PLAN, "chatted"))
    assert settings["exclude_groups_of"] == ["$CLEAN/tutored.bare/rows/test.jsonl"]
    assert cleaning.held_out(PLAN, "tutored") == []
    assert told(cleaning.dataset_settings(PLAN, "tutored"))["exclude_groups_of"] == []


def test_a_dataset_is_stale_by_the_packages_that_find_its_near_duplicates():
    assert cleaning.dataset_pins(PLAN, "tutored").keys() == {"datasketch", "scikit-learn"}
    assert cleaning.dataset_pins(PLAN, "chatted") == {}


def test_the_order_in_which_splits_are_named_cleans_anew_only_where_they_are_filled_in_turn():
    def settings(order: str, *splits: str) -> str:
        quotas = {
            "datasets.tutored.split.quotas": dict.fromkeys(splits, 5),
            "datasets.tutored.split.order": order,
        }
        return cleaning.dataset_settings(changed(EVERY_KEY, quotas), "tutored")

    splits = ("sft", "preference", "train", "validation", "test")
    assert settings("shuffled", *splits) == settings("shuffled", *splits[::-1])
    assert settings("file", *splits) != settings("file", *splits[::-1])


def test_how_many_turns_a_reader_sees_cleans_nothing_anew():
    other = changed(EVERY_KEY, {"datasets.tutored.history_turns": 3})
    assert cleaning.dataset_settings(other, "tutored") == cleaning.dataset_settings(PLAN, "tutored")


def test_only_a_benchmark_that_brings_replies_of_its_own_has_them_cleaned():
    assert cleaning.paired(PLAN) == ["likely"]  # `losses` reads a dataset's
    assert cleaning.paired_input(PLAN, "likely") == f"{CHATS}/manifest.json"
    assert cleaning.paired_files(PLAN, "likely") == [f"{CHATS}/files/pairs.json"]
    assert told(cleaning.paired_settings(PLAN, "likely")) == {
        "system_prompt": "Tutor them.",
        "reply_format": "json",
        "drop_fields": ["Thoughts"],
        "replace_na": {"Action Based on Evaluation": "11"},
        "raw_rows": False,
    }


def test_splits_are_handed_over_in_the_order_in_which_the_study_names_them():
    """Those of order: file are filled one after the other, so that sorted names would put the test rows first."""
    for name in ("studies/follow_instructions.yaml", "studies/leftover_lunch_reddit.yaml"):
        plan = planned(name)
        for dataset, part in plan.study.datasets.items():
            handed = told(cleaning.dataset_settings(plan, dataset))["split"]
            assert list(handed["quotas"]) == list(part.split.quotas)
            assert list(handed["by_file"]) == list(part.split.by_file)
    plan = planned("studies/follow_instructions.yaml")
    rows = told(cleaning.dataset_settings(plan, "instructions"))["split"]["quotas"]
    assert list(rows) == ["train", "test", "validation"]


def test_rows_are_counted_in_the_tokens_of_a_base_model_whether_or_not_passages_come_to_them():
    limits = {"model": "tiny", "row": None, "history": 9}
    plan = changed(EVERY_KEY, {"datasets.ranked.token_limits": limits})
    model = sources.base_model(plan, "tiny")
    for folder in ("ranked.bare", "commented"):
        assert cleaning.counting_model(plan, folder) == [f"{model}/manifest.json"]
    told_limits = told(cleaning.dataset_settings(plan, "ranked.bare"))["token_limits"]
    assert told_limits == {"row": None, "history": 9, "tokenizer": f"{model}/model"}
    assert cleaning.counting_model(plan, "tutored") == []
