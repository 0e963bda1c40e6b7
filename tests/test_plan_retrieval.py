"""Retrieval: which datasets get passages, what their rows are made of, and who is stale by what."""

import pytest

from tests.plans import EVERY_KEY, changed, planned, told
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan import cleaning, retrieval, sources

PLAN = planned(EVERY_KEY)
CLEAN = "data/clean/every-key"


def test_rows_are_cleaned_beside_and_get_their_passages_where_all_readers_look():
    assert retrieval.retrieving(PLAN) == ["ranked"]
    folders = cleaning.folders(PLAN)
    assert "ranked.bare" in folders and "ranked" not in folders and "worded" in folders
    assert retrieval.cleaned_rows(PLAN, "ranked") == f"{CLEAN}/ranked.apart/manifest.json"
    alone = changed(EVERY_KEY, {"allow_overlap": True})
    folders = cleaning.folders(alone)
    assert retrieval.cleaned_rows(alone, "ranked") == f"{CLEAN}/ranked.bare/manifest.json"
    without = changed(EVERY_KEY, {"datasets.ranked.retrieve": "DROP", "allow_overlap": True})
    assert cleaning.folders(without) == [name.removesuffix(".bare") for name in folders]
    assert cleaning.dataset_settings(PLAN, "ranked.bare") == cleaning.dataset_settings(without, "ranked")
    assert cleaning.dataset_files(PLAN, "ranked.bare") == cleaning.dataset_files(without, "ranked")


def test_passages_are_stale_by_their_source_and_by_the_encoder():
    book, whole = (sources.source_folder(PLAN, name) for name in ("book", "whole"))
    assert retrieval.retrieved_from(PLAN, "ranked") == [f"{book}/manifest.json", f"{whole}/manifest.json"]
    assert retrieval.passages_file(PLAN, "ranked") == f"{book}/files/book of cells.csv"
    assert retrieval.retrieval_pins(PLAN, "ranked").keys() == {"torch", "transformers"}
    assert told(retrieval.retrieval_settings(PLAN, "ranked")) == {
        "column": "paragraph",
        "starts": {"number": "fs-"},
        "min_chars": 1,
        "k": 3,
        "min_similarity": 0.0,
        "turns": "first",
        "into": "user",
        "template": "Read {passages} first. {text}",
        "separator": " | ",
        "embedder": f"{whole}/files",
    }


def test_by_words_no_model_is_read():
    plan = changed(EVERY_KEY, {"datasets.ranked.retrieve.embed_source": "DROP"})
    assert len(retrieval.retrieved_from(plan, "ranked")) == 1
    assert retrieval.retrieval_pins(plan, "ranked").keys() == {"scikit-learn"}
    assert told(retrieval.retrieval_settings(plan, "ranked"))["embedder"] is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("template", "{passages}", r"retrieve: template has no \{text\}"),
        ("column", "DROP", "retrieve: starts names columns of a table"),
        ("source", "nowhere", "retrieve.source: "),
        ("file", "nowhere.csv", "retrieve.file: "),
        ("embed_source", "nowhere", "retrieve.embed_source: "),
        ("k", 0, "retrieve.k: "),
    ],
)
def test_what_cannot_be_retrieved_is_refused_with_its_place(key, value, said):
    with pytest.raises(PlumblineError, match=rf"datasets\.ranked\.{said}"):
        changed(EVERY_KEY, {f"datasets.ranked.retrieve.{key}": value})


@pytest.mark.parametrize("name", ["passages", "near_duplicates", "rejected"])
def test_no_split_has_the_name_of_an_account_that_stands_beside_it(name):
    with pytest.raises(PlumblineError, match=rf"datasets.ranked.split: no split can be called {name}"):
        changed(EVERY_KEY, {f"datasets.ranked.split.quotas.{name}": 3})


def test_rows_need_a_column_and_a_system_message_is_one():
    bare = {"datasets.ranked.retrieve.column": "DROP", "datasets.ranked.retrieve.starts": "DROP"}
    with pytest.raises(PlumblineError, match="holds rows: say in column"):
        changed(EVERY_KEY, bare)
    both = {"datasets.ranked.retrieve.into": "system", "datasets.ranked.retrieve.turns": "each"}
    with pytest.raises(PlumblineError, match="into: system goes with turns: first"):
        changed(EVERY_KEY, both)
