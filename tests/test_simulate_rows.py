"""Simulated rows are in their sources' schemas, hold problems out cleanly, and depend on nothing but a seed."""

import json
import sys
from statistics import mean

import pytest

from tests.cleaning import cleaning
from workflow_scripts.clean import clean
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.download import simulate_rows as simulate
from workflow_scripts.download.problem_bank import load_problems

BANK = "data/bundled/biology_problems.jsonl"
PROBLEMS = load_problems(BANK)

# How the cleaner reads each kind, and the columns its source has.
SCHEMAS = {
    "messages": "messages",
    "hh": "hh",
    "comet": "rewarded",
    "reddit": "rewarded",
    "wow": "rewarded",
    "faithdial": "rewarded",
    "reddit_comments": "reddit_comments",
    "votes": "labelled",
    "atomic": "atomic",
    "wizard_of_wikipedia": "wizard_of_wikipedia",
    "alpaca": "alpaca",
    "alpaca_preferences": "alpaca_preferences",
    "class_problems": "class_problems",
}
COLUMNS = {
    "comet": {"p_valid"},
    "reddit": {"fluency", "depth", "updown", "safe", "tfidf"},
    "wow": {"fluency", "faithdial", "depth", "tfidf"},
    "faithdial": {"fluency", "faithdial", "depth", "tfidf"},
}
SPLIT_OF = {"val.jsonl": "validation", "dev.jsonl": "validation", "test.jsonl": "test"}
SPLIT_OF |= {"valid_topic_split.json": "validation", "test_topic_split.json": "test", "test.tsv": "test"}
REJECTED = {"alpaca_preferences": "chosen equals rejected", "reddit_comments": "empty message"}
REJECTED["wizard_of_wikipedia"] = "no passage used"
NAMES = {
    "atomic": {"columns": {"test.tsv": ["head", "relation", "tail"]}},
    "votes": {"renames": {"label": "upvoted"}},
}


def rows_of(kind, **settings):
    return simulate.simulate_rows(PROBLEMS, {"rows": kind, "seed": 7, "count": 300} | settings)


def write_rows(folder, monkeypatch, kind, **settings):
    flags = ["--problems", BANK, "--output", folder / kind, "--manifest", folder / f"{kind}.json"]
    flags += ["--settings", json.dumps({"rows": kind, "seed": 7, "count": 300} | settings)]
    monkeypatch.setattr(sys, "argv", ["simulate_rows", *map(str, flags)])
    simulate.main()
    return [folder / kind / name for name in simulate.files_of(kind)]


def clean_files(folder, files, kind, **rules):
    output, manifest = folder / f"{kind}-clean", folder / f"{kind}-clean.json"
    settings = cleaning(**{"schema": SCHEMAS[kind]} | NAMES.get(kind, {}) | rules)
    clean.clean_files([str(file) for file in files], settings, str(output), str(manifest))
    splits = {
        path.stem: [json.loads(line) for line in path.open()] for path in sorted(output.glob("*.jsonl"))
    }
    return splits, splits.pop("rejected")


@pytest.mark.parametrize("kind", simulate.FILES)
def test_files_are_the_named_ones_and_clean_whole_into_disjoint_splits(tmp_path, monkeypatch, kind):
    files = write_rows(tmp_path, monkeypatch, kind, count=120)
    written = json.loads((tmp_path / f"{kind}.json").read_text())["rows"]
    assert sorted(file.name for file in (tmp_path / kind).iterdir()) == sorted(simulate.files_of(kind))
    assert sum(written.values()) == 120
    by_file = {}
    for file in files:
        by_file.setdefault(SPLIT_OF.get(file.name, "train"), []).append(file.name)
    splits, rejected = clean_files(tmp_path, files, kind, split={"by_file": by_file})
    assert {entry["reason"] for entry in rejected} <= {REJECTED.get(kind)}
    groups = [{row["group"] for row in rows} for rows in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize("kind", [kind for kind in simulate.FILES if kind != "votes"])
def test_rows_of_one_problem_are_one_group(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(simulate, "load_problems", lambda path: PROBLEMS[:4])
    files = write_rows(tmp_path, monkeypatch, kind, count=30)
    splits, _ = clean_files(tmp_path, files, kind, group_by="problem")
    assert len({row["group"] for row in splits["train"]}) <= 4


def test_all_kinds_of_one_seed_hold_out_the_same_problems():
    dealt = simulate.deal_problems(PROBLEMS, 7)
    parts = [{problem["id"] for problem in dealt[part]} for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [120, 15, 15] and len(set().union(*parts)) == 150
    questions = {part: {problem["question"] for problem in dealt[part]} for part in dealt}
    for kind in COLUMNS:
        for row in rows_of(kind, count=60)["test.jsonl"]:
            assert any(question in row["prompt_or_input_text"] for question in questions["test"])
            assert not any(question in row["prompt_or_input_text"] for question in questions["train"])
    assert simulate.deal_problems(PROBLEMS, 8)["test"] != dealt["test"]


@pytest.mark.parametrize("kind", COLUMNS)
def test_small_tasks_have_the_columns_of_their_source_and_their_plain_sum(kind):
    for rows in rows_of(kind, count=60).values():
        for row in rows:
            assert set(row) == {"id", "prompt_or_input_text", "references", "meta_data", "reward_components"}
            rewards = dict(row["reward_components"])
            assert rewards.pop("final_reward") == pytest.approx(sum(rewards.values()))
            assert set(rewards) == COLUMNS[kind] and all(0 < reward < 1 for reward in rewards.values())


def test_good_hh_replies_are_ahead_in_about_two_thirds_of_pairs_and_some_break_off_at_a_colon():
    rows = rows_of("hh", count=2500)["train.jsonl"]
    assert 0.60 < mean(good >= bad for good, bad in (row["reward"] for row in rows)) < 0.70
    assert 0.05 < mean(any(text.endswith(":") for text in row["suffix"]) for row in rows) < 0.20
    assert all(
        row["prefix"][0] == row["prefix"][1] and row["prefix"][0][-1] == "<|assistant|>" for row in rows
    )
    assert {len(row["prefix"][0]) for row in rows} == {2, 4}


def test_an_unfaithful_reply_is_rarer_in_faithdial_and_rewarded_less():
    average = {}
    for kind in ("wow", "faithdial"):
        rows = rows_of(kind, count=1000)["train.jsonl"]
        average[kind] = mean(row["reward_components"]["faithdial"] for row in rows)
    assert average["faithdial"] > average["wow"] + 0.05


def test_reddit_replies_are_liked_in_one_training_file_and_not_in_the_other():
    files = rows_of("reddit", count=200)
    signs = {name: {row["meta_data"]["score"] > 0 for row in rows} for name, rows in files.items()}
    assert signs["pos_train.jsonl"] == {True} and signs["neg_train.jsonl"] == {False}
    assert signs["val.jsonl"] == signs["test.jsonl"] == {True, False}


def test_comet_asks_for_seven_relations_and_never_twice_for_the_same_in_the_test_file():
    files = rows_of("comet", count=1000)
    prompts = [row["prompt_or_input_text"] for row in files["test.jsonl"]]
    assert len(set(prompts)) == len(prompts) == 100
    relations = {
        row["prompt_or_input_text"].split("<relation> ")[1].split()[0] for row in files["train.jsonl"]
    }
    assert relations == {"xAttr", "xEffect", "xIntent", "xNeed", "xReact", "xWant", "HinderedBy"}


def test_about_a_third_of_instruction_rows_has_an_input_and_preferences_differ_from_the_output_on_one_side():
    for count in (300, 1100):
        (rows,) = rows_of("alpaca", count=count).values()
        assert 0.22 < mean(bool(row["input"]) for row in rows) < 0.38
    (rows,) = rows_of("alpaca_preferences", count=1000).values()
    equal = sum(row["chosen"] == row["rejected"] for row in rows)
    assert 0 < equal < 30
    assert all(row["output"] in (row["chosen"], row["rejected"]) for row in rows)
    assert 0.4 < mean(row["chosen"] == row["output"] for row in rows) < 0.6


def test_some_chat_rows_have_several_turns():
    lengths = {len(row["messages"]) for row in rows_of("messages")["train.jsonl"]}
    assert lengths == {2, 4, 6}


@pytest.mark.parametrize("kind", simulate.FILES)
def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path, monkeypatch, kind):
    written = []
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        files = write_rows(tmp_path / folder, monkeypatch, kind, count=40, seed=seed)
        written.append([file.read_bytes() for file in [*files, tmp_path / folder / f"{kind}.json"]])
    assert written[0] == written[1]
    assert all(one != other for one, other in zip(written[0], written[2], strict=True))


def test_what_cannot_be_made_is_refused_with_advice():
    with pytest.raises(PlumblineError, match="'poems' is not one of messages, hh"):
        rows_of("poems")
    settings = {"rows": "comet", "seed": 7, "count": 300}
    with pytest.raises(PlumblineError, match="lower count or give more problems"):
        simulate.simulate_rows(PROBLEMS[:5], settings)
    with pytest.raises(PlumblineError, match="give at least 3"):
        simulate.simulate_rows(PROBLEMS[:2], settings)
