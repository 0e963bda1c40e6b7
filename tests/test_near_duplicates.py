"""Near duplicates are found as the formula says, whatever the candidates, and told, or removed and counted."""

import math
import random
from collections import Counter

import pytest

from tests.cleaning import cleaned_files
from workflow_scripts.clean import near_duplicates
from workflow_scripts.clean.near_duplicates import CANDIDATES, near_pairs
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_jsonl
from workflow_scripts.study.datasets import NearDuplicates

TEXTS = [
    "Name the gas that plants take in.",
    "name the gas, that plants take in!",
    "",
    "Name a gas that plants take in.",
    "Why do leaves look green in summer?",
    None,
    "A",
    "a",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def runs_of(text):
    """Return the runs of one to three characters of a text, in lower case and without punctuation, counted."""
    letters = "".join(sign for sign in text.lower() if sign.isalnum() or sign in " _")
    return Counter(letters[at : at + n] for n in (1, 2, 3) for at in range(len(letters) - n + 1))


def cosines(texts):
    """Return {(first, second): cosine of the TF-IDF of two texts that say something}, by the formula."""
    counted = {place: runs_of(text) for place, text in enumerate(texts) if text}
    spread = Counter(run for counts in counted.values() for run in counts)
    idf = {run: math.log((1 + len(counted)) / (1 + count)) + 1 for run, count in spread.items()}
    vectors = {place: {run: n * idf[run] for run, n in counts.items()} for place, counts in counted.items()}
    norms = {
        place: math.sqrt(sum(value**2 for value in vector.values())) for place, vector in vectors.items()
    }
    return {
        (one, other): sum(value * vectors[other].get(run, 0) for run, value in vectors[one].items())
        / (norms[one] * norms[other])
        for one in vectors
        for other in vectors
        if one < other
    }


def planted(count, seed=5):
    """Return texts of random words, and copies of every tenth of them with one word in another place."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(3, 9))) for _ in range(2000)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(count)]
    pairs = []
    for place in range(0, count, 10):
        words = texts[place].split()
        words.insert(rng.randrange(len(words)), words.pop(rng.randrange(len(words))))
        pairs.append((place, len(texts)))
        texts.append(" ".join(words) + "!")
    return texts, pairs


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_pairs_are_those_whose_cosine_is_above_the_threshold_and_texts_of_a_character_are_none(threshold):
    wanted = {pair: score for pair, score in cosines(TEXTS).items() if score > threshold and pair != (6, 7)}
    found = {(pair.first, pair.second): pair.similarity for pair in near_pairs(TEXTS, threshold, "all")}
    assert found == pytest.approx(wanted, abs=1e-6) and (0, 1) in found


def test_the_same_pairs_are_found_in_blocks_of_any_size(monkeypatch):
    texts, _ = planted(40)
    whole = near_pairs(texts, 0.3, "all")
    assert len(whole) > 100
    for size in (1, 7, 44):
        monkeypatch.setattr(near_duplicates, "BLOCK", size)
        assert near_pairs(texts, 0.3, "all") == whole


def test_minhash_finds_the_planted_pairs_and_none_that_comparing_all_does_not():
    texts, pairs = planted(300)
    exact, hashed = (near_pairs(texts, 0.9, candidates) for candidates in ("all", "minhash"))
    assert (
        [(pair.first, pair.second) for pair in hashed]
        == pairs
        == [(pair.first, pair.second) for pair in exact]
    )
    assert set(near_pairs(texts, 0.3, "minhash")) <= set(near_pairs(texts, 0.3, "all"))
    assert near_pairs(texts, 0.9, "minhash") == hashed


def test_minhash_compares_only_what_it_takes_for_alike(monkeypatch):
    texts, _ = planted(100)
    monkeypatch.setattr(near_duplicates, "PERMUTATIONS", 40)
    monkeypatch.setattr(near_duplicates, "BANDS", 2)  # of twenty numbers all must be the same
    assert len(near_pairs(texts, 0.3, "minhash")) < len(near_pairs(texts, 0.3, "all")) / 10


@pytest.mark.parametrize("texts", [[], ["", None], ["Why?"], ["?!", "..."], ["", "a"]])
def test_where_there_is_nothing_to_compare_there_are_no_pairs(texts):
    for candidates in CANDIDATES:
        assert near_pairs(texts, 0.5, candidates) == []


# --- in a dataset -----------------------------------------------------------------------------------------------------

ROWS = [
    {"instruction": "Name the gas that plants take in.", "input": "", "output": "It is carbon dioxide."},
    {
        "instruction": "Name the gas that plants take in, please.",
        "input": "",
        "output": "Plants breathe in CO2, and no other.",
    },
    {
        "instruction": "What makes leaves green?",
        "input": "",
        "output": "Chlorophyll, which takes up red light.",
    },
    {
        "instruction": "Explain the colour.",
        "input": "A leaf.",
        "output": "Chlorophyll which takes up red light.",
    },
    {
        "instruction": "And in autumn?",
        "input": "A dry leaf.",
        "output": "Chlorophyll: which takes up red light!",
    },
]


def cleaned_rows(folder, rows=ROWS, schema="alpaca", split=None, **rule):
    write_jsonl(folder / "rows.jsonl", rows)
    keys = {"schema": schema, "group_by": "conversation", "near_duplicates": {"threshold": 0.85, **rule}}
    return cleaned_files(folder, folder / "rows.jsonl", **keys, split=split or {"order": "file"})


def test_near_duplicates_are_told_and_stay(tmp_path):
    manifest, files = cleaned_rows(tmp_path)
    assert manifest["splits"]["train"]["conversations"] == 5
    assert manifest["notes"] == {"near duplicates in instruction": 1, "near duplicates in output": 3}
    found = [(pair["field"], pair["first"], pair["second"]) for pair in files["near_duplicates"]]
    rows = [f"1:row_{n}" for n in range(5)]
    twice = [("output", rows[one], rows[other]) for one, other in ((2, 3), (2, 4), (3, 4))]
    assert found == [("instruction", rows[0], rows[1]), *twice]
    assert manifest["near_duplicates"]["input"] == {
        "candidates": "all",
        "compared": 2,
        "pairs": 0,
        "removed": 0,
    }
    assert "clean/near_duplicates.jsonl" in manifest["files"]


def test_a_later_row_goes_for_the_fields_that_are_named_and_is_in_the_ledger(tmp_path):
    manifest, files = cleaned_rows(tmp_path, remove=["output"])
    assert [row["id"] for row in files["train"]] == ["1:row_0", "1:row_1", "1:row_2"]
    assert [(entry["reason"], entry["detail"].split(":", 2)[:2]) for entry in files["rejected"]] == [
        ("near duplicate", ["of 1", "row_2 in output"])
    ] * 2
    assert manifest["near_duplicates"]["output"]["removed"] == 2
    assert manifest["counts"]["rows.jsonl"]["rows"] == {"read": 5, "kept": 3, "rejected": 2}


def test_a_pair_in_two_splits_is_told_as_one(tmp_path):
    manifest, files = cleaned_rows(tmp_path, split={"order": "file", "quotas": {"train": 3, "test": 9}})
    assert [pair["splits"] for pair in files["near_duplicates"]] == [
        ["train", "train"],
        ["train", "test"],
        ["train", "test"],
        ["test", "test"],
    ]
    assert manifest["notes"]["near duplicates in two splits"] == 2


def test_rows_without_instructions_are_compared_by_what_each_side_says(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"{row['instruction']} {row['input']}"}]}
        | {"chosen": row["output"], "rejected": f"No {n}."}
        for n, row in enumerate(ROWS)
    ]
    manifest, _ = cleaned_rows(tmp_path, rows, "preferences")
    assert {name: counts["pairs"] for name, counts in manifest["near_duplicates"].items()} == {
        "question": 1,
        "reply": 3,
    }
    with pytest.raises(PlumblineError, match="no row of this schema has the field 'instruction'"):
        cleaned_rows(tmp_path, rows, "preferences", fields=["instruction"])


def test_many_rows_are_compared_by_minhash_unless_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MANY", 4)
    found = {
        name: counts["candidates"] for name, counts in cleaned_rows(tmp_path)[0]["near_duplicates"].items()
    }
    assert found == {"instruction": "minhash", "input": "all", "output": "minhash"}
    asked = cleaned_rows(tmp_path, candidates="all")[0]["near_duplicates"]
    assert {counts["candidates"] for counts in asked.values()} == {"all"}


def test_what_is_removed_must_be_compared(tmp_path):
    with pytest.raises(ValueError, match="remove names a field that is not among fields"):
        NearDuplicates(fields=["input"], remove=["output"])
    with pytest.raises(
        PlumblineError, match=r"near_duplicates.remove: reply is not compared; it is one of instr"
    ):
        cleaned_rows(tmp_path, remove=["reply"])
