"""A split by shares or counts: written in one line, groups dealt out whole, what is left over counted."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cleaning import cleaned_files
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.clean.ledger import Ledger
from workflow_scripts.clean.selecting import split_conversations
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.study.checking import examine
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.splits import Split

RULE = {
    "seed": 1, "shares": {}, "quotas": {}, "per_file": False, "order": "shuffled", "by_file": {}, "by_column": {},
    "distinct": [], "limit": None,
}  # fmt: skip


def written_out(split: dict) -> dict:
    return Split.model_validate(split).model_dump(exclude_defaults=True)


def test_numbers_up_to_one_are_shares_and_whole_numbers_are_counts_of_all_files_together():
    assert written_out({"train": 0.8, "validation": 0.1, "test": 0.1}) == {
        "shares": {"train": 0.8, "validation": 0.1, "test": 0.1}
    }
    assert written_out({"train": 160, "test": 40}) == {
        "quotas": {"train": 160, "test": 40},
        "per_file": False,
    }
    assert written_out({"all": 1.0}) == {"shares": {"all": 1.0}}
    assert written_out({"one": 1}) == {"quotas": {"one": 1}, "per_file": False}
    assert written_out({"train": 0.5, "none": 0}) == {"shares": {"train": 0.5, "none": 0.0}}


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.1, 0.2, 0.7), (0.333, 0.333, 0.334)])
def test_shares_of_one_are_one_whatever_binary_numbers_make_of_them(shares):
    named = dict(zip(("train", "validation", "test"), shares, strict=True))
    assert Split.model_validate(named).shares == named


@pytest.mark.parametrize("key", ["quotas", "by_file"])
def test_the_long_forms_are_read_as_before(key):
    long = {"quotas": {"train": 3, "test": 1}} if key == "quotas" else {"by_file": {"train": ["a.json"]}}
    assert written_out(long) == long


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"train": 0.9, "test": 0.2}, "the shares are 1.1 together, and at most 1 can be"),
        ({"train": 0.9, "test": 40}, "train: 0.9, test: 40: either shares"),
        ({"train": 160.0, "test": 40.0}, "either shares, numbers with a point of at most 1, or counts"),
        ({"train": 0.9, "limit": 0.1}, "limit: a key of split, so no split is called so in the short form; write "
         "shares: {train: 0.9} beside it"),
        ({"train": 9, "seed": 1}, "seed: a key of split, so no split is called so in the short form; write quotas: "
         "{train: 9} beside it"),
        ({"train": -0.1, "test": 0.9}, "split.shares.train"),
        ({"train": 0.0, "test": 0.0}, "every share is 0"),
        ({"rejected": 0.5}, "no split can be called rejected"),
        ({"shares": {"train": 0.5}, "quotas": {"test": 5}}, "shares and quotas are two ways to split"),
        ({"shares": {"train": 0.5}, "order": "file"}, "shares are dealt out by seed"),
        ({"seed": 3}, "has shares, quotas or by_file"),
    ],
)  # fmt: skip
def test_a_split_that_is_neither_is_refused_with_what_to_write(split, said):
    study = read_yaml(ROOT / "tests/tutoring.yaml")
    found = examine(put(study, "datasets.tutor.split", split))
    assert any("datasets.tutor.split" in line and said in line for line in found.wrong), found.wrong


def test_a_split_whose_share_is_none_cannot_be_used():
    shares = {"sft": 0.5, "preference": 0.3, "validation": 0.2, "test": 0.0}
    study = put(read_yaml(ROOT / "tests/tutoring.yaml"), "datasets.tutor.split", {"shares": shares})
    lines = examine(study).wrong
    assert "benchmarks.tutor.split: datasets.tutor.split.shares.test is 0, so it has no rows" in lines


def rows_of(groups: list[int]) -> list[dict]:
    """Return conversations, so many of each group."""
    return [
        {
            "id": f"{group}/{n}",
            "group": f"g{group}",
            "turns": 2,
            "place": {"file": "a", "index": n, "line": n},
        }
        for group, count in enumerate(groups)
        for n in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=20, max_size=60),
    st.integers(0, 9),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.3, 0.1), (0.34, 0.33, 0.33)]),
)
def test_groups_are_dealt_out_whole_and_no_split_is_further_from_its_share_than_a_group(groups, seed, shares):
    rows, named = rows_of(groups), dict(zip(("train", "validation", "test"), shares, strict=True))
    ledger = Ledger()
    splits = split_conversations(rows, RULE | {"seed": seed, "shares": named}, ledger)
    homes = {name: {row["group"] for row in found} for name, found in splits.items()}
    outside = len(rows) - sum(map(len, splits.values()))
    assert sum(map(len, homes.values())) == len(set().union(*homes.values()))
    for name, share in named.items():
        assert abs(len(splits[name]) - share * len(rows)) <= 2 * max(groups)
    assert Counter(entry["reason"] for entry in ledger.rejected) == (
        {"outside the shares": outside} if outside else {}
    )


def test_questions_asked_once_are_dealt_out_to_the_row():
    splits = split_conversations(
        rows_of([1] * 200), RULE | {"shares": {"train": 0.8, "validation": 0.1, "test": 0.1}}, Ledger()
    )
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 160, "validation": 20, "test": 20}


def test_the_order_in_which_splits_are_named_says_nothing_and_a_seed_does():
    rows, shares = rows_of([1] * 50), {"train": 0.5, "test": 0.5}
    one = split_conversations(rows, RULE | {"shares": shares}, Ledger())
    assert one == split_conversations(rows, RULE | {"shares": dict(reversed(shares.items()))}, Ledger())
    assert one != split_conversations(rows, RULE | {"shares": shares, "seed": 2}, Ledger())


def test_a_share_that_gets_no_row_is_refused():
    with pytest.raises(
        PlumblineError, match=r"split 'train' got no conversation: 1 groups .* train: 0.5, test: 0.5"
    ):
        split_conversations(rows_of([9]), RULE | {"shares": {"train": 0.5, "test": 0.5}}, Ledger())


def test_what_shares_below_one_leave_over_is_counted(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest, written = cleaned_files(
        tmp_path,
        file,
        schema="prompt_completion",
        split={"shares": {"train": 0.5, "test": 0.25}, "quotas": {}},
    )
    assert [len(written[name]) for name in ("train", "test", "rejected")] == [10, 5, 5]
    assert manifest["rejected"] == {"row: outside the shares": {"entries": 5, "turns": 10}}
    assert "outside the shares (5)" in capsys.readouterr().err


def test_a_share_has_at_most_all_rows_and_a_count_is_of_all_files_together():
    study = examine(read_yaml(ROOT / "tests/tutoring.yaml")).study
    tutor = study.datasets["tutor"]
    assert len(tutor.files) > 1

    def most(split: dict) -> int | None:
        return tutor.model_copy(update={"split": Split.model_validate(split)}).most_rows("sft", study)

    assert most({"sft": 7, "test": 5}) == 7
    assert (
        most({"sft": 0.1, "test": 0.9}) == most({"sft": 0.9, "test": 0.1}) == most({"by_file": {"sft": []}})
    )
