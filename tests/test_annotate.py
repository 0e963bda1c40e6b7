"""Rewards: every rule by hand, their weighted sum, and the pairs a reward model learns from."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from workflow_scripts.annotate import annotate as annotate_module
from workflow_scripts.annotate import reward_pairs
from workflow_scripts.annotate.annotate import annotate, json_validity, length_reward, tfidf_diversity
from workflow_scripts.annotate.reward_pairs import WORSE, answer_pairs, tutor_pairs, worse_reply
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.tutor_reply import (
    FIELDS,
    LABEL_FIELDS,
    LABELS,
    format_reply,
    parse_reply,
)

# Rules.


def test_json_validity_by_hand():
    replies = ['{"a": 1}', " [1]\n", "{'a': 1}", "", "so", '{"a": 1', "[" * 100_000]
    assert json_validity(replies).tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_length_by_hand():
    replies = ["", "one", " one  two\nthree ", "a b c d", "a b c d e f g h"]
    assert length_reward(replies, 4).tolist() == [0, 0.25, 0.75, 1, 1]


FIT_ON = ["the cat sat", "the dog sat down", "a cat and the dog ran"]


def diversity_by_formula(reply, fit_on):
    """Return it from tf, smoothed idf = ln((1 + n) / (1 + df)) + 1 and the l2 norm, without sklearn."""
    texts = [[word for word in text.lower().split() if len(word) > 1] for text in fit_on]
    known = {word for text in texts for word in text}
    counts = Counter(word for word in reply.lower().split() if word in known)
    if not counts:
        return 0.0
    frequency = {word: sum(word in text for text in texts) for word in counts}
    values = [n * (math.log((1 + len(texts)) / (1 + frequency[word])) + 1) for word, n in counts.items()]
    norm = math.sqrt(sum(value**2 for value in values))
    mean = sum(values) / norm / len(values)
    return mean * len(values) / 10 if len(values) < 5 else mean


@pytest.mark.parametrize(
    "reply",
    [
        "the cat sat",
        "The the CAT",
        "the cat and dog",
        "the cat and dog ran",
        "the cat and the dog sat down and ran and ran",
        "cat",
        "nothing of it known",
        "",
    ],
)
def test_diversity_is_the_mean_of_the_non_zero_values_and_less_for_few_words(reply):
    found = tfidf_diversity([reply], FIT_ON)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(diversity_by_formula(reply, FIT_ON), abs=1e-12)


def test_diversity_equals_counts_and_weights_of_the_library():
    replies = ["the cat sat", "the cat and the dog ran and ran", "unknown"]
    counts = CountVectorizer().fit(FIT_ON)
    weights = TfidfTransformer().fit(counts.transform(FIT_ON))
    expected = []
    for row in weights.transform(counts.transform(replies)).toarray():
        present = row[row > 0]
        factor = len(present) / 10 if len(present) < 5 else 1.0
        expected.append(present.mean() * factor if len(present) else 0.0)
    np.testing.assert_allclose(tfidf_diversity(replies, FIT_ON), expected, rtol=1e-12)


def test_four_words_are_discounted_and_five_are_not():
    # Words that are all equally rare have the value 1 / sqrt(n) each.
    fit_on = ["aa bb cc dd ee"]
    four, five = tfidf_diversity(["aa bb cc dd", "aa bb cc dd ee"], fit_on)
    assert four == pytest.approx(0.5 * 0.4)
    assert five == pytest.approx(1 / math.sqrt(5))


# The columns.


def turns(*replies):
    messages = [{"role": "user", "content": "Hi"}]
    return [
        {"id": f"r{at}", "group": "g", "messages": messages, "reference": reply, "meta": {"turn": 0}}
        for at, reply in enumerate(replies)
    ]


REWARDS = {
    "valid": {"rule": "json_validity", "weight": 2.0},
    "length": {"rule": "length", "words": 4, "weight": -0.5},
    "diversity": {"rule": "tfidf_diversity", "weight": 1.0},
}


def test_the_final_reward_is_the_weighted_sum():
    replies = ['"the cat"', "the cat sat down", "unknown"]
    rows = annotate(turns(*replies), FIT_ON, REWARDS)
    for row, reply in zip(rows, replies, strict=True):
        found = row["rewards"]
        assert list(found) == ["valid", "length", "diversity", "final_reward"]
        by_hand = tfidf_diversity([reply], FIT_ON)[0]
        expected = 2.0 * (reply[0] == '"') - 0.5 * min(1, len(reply.split()) / 4) + by_hand
        assert found["final_reward"] == pytest.approx(expected, abs=2e-6)
        total = sum(REWARDS[name]["weight"] * found[name] for name in REWARDS)
        assert found["final_reward"] == pytest.approx(total, abs=1e-6)
    assert [row["reference"] for row in rows] == replies
    assert {key: rows[0][key] for key in turns("")[0]} == turns(replies[0])[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused_with_row_and_name(monkeypatch, value):
    monkeypatch.setattr(annotate_module, "classifier_reward", lambda rows, settings: np.array([0.5, value]))
    rewards = REWARDS | {"model": {"folder": "x", "weight": 0.0}}
    with pytest.raises(PlumblineError, match=r"row r1: reward model is -?(nan|inf)"):
        annotate(turns("a", "b"), FIT_ON, rewards)


def step(main, **flags):
    with pytest.MonkeyPatch.context() as patch:
        words = []
        for name, value in flags.items():
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
        patch.setattr("sys.argv", ["step", *words])
        main()


def reply_of(evaluation="b", action="3", state="y", problem="What is a cell?", says="Right."):
    values = (evaluation, action, state, problem, says)
    return json.dumps(dict(zip(FIELDS, values, strict=True)))


def talk(name, *words):
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": word} for at, word in enumerate(words)]
    return {
        "id": name,
        "group": name,
        "messages": [{"role": "system", "content": "Tutor."}, *messages],
        "meta": {},
    }


CONVERSATIONS = [
    talk(
        "one",
        "How do cells work?",
        reply_of("g", "12", "w", "What is a cell?", "Let us begin."),
        "A unit of life.",
        reply_of("b", "3", "x", "What is in it?", "Good!"),
        "Stones.",
        reply_of("a", "1", "x", "What is in it?", "No, think."),
        "A kernel.",
        reply_of("b", "3", "z", "What is in it?", "Yes."),
    ),
    talk(
        "two",
        "How do cells work?",
        reply_of("g", "12", "w", "What is a cell?", "Well."),
        "A prison?",
        reply_of("a", "2", "x", "What is a cell?", "Not here."),
        "What is the weather?",
        reply_of("f", "8", "x", "What is a cell?", "Later."),
        "No idea at all",
        reply_of("e", "7", "y", "What is in it?", "Look closer."),
    ),
]


def test_annotated_splits_hold_every_turn(tmp_path):
    rows = tmp_path / "rows"
    write_jsonl(rows / "train.jsonl", CONVERSATIONS)
    write_jsonl(rows / "test.jsonl", CONVERSATIONS[:1])
    step(
        annotate_module.main,
        rows=rows,
        splits=["train", "test"],
        fit_split="train",
        settings=json.dumps({"rewards": REWARDS}),
        output=tmp_path / "out",
        manifest=tmp_path / "manifest.json",
    )
    assert read_json(tmp_path / "manifest.json")["counts"] == {"train": 8, "test": 4}
    train, test = (read_jsonl(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "test"))
    assert [row["id"] for row in test] == [f"one#{turn}" for turn in range(4)]
    assert test == train[:4], "the tf-idf weights are those of the fit split, whatever split is annotated"
    assert {row["rewards"]["valid"] for row in train} == {1.0}


# Pairs for a reward model.

GOLD = reply_of("a", "1", "x")


@pytest.mark.parametrize("reply_format", ["json", "python"])
def test_a_wrong_label_is_the_gold_reply_with_one_other_label_of_the_table(reply_format):
    gold = format_reply(parse_reply(GOLD), reply_format)
    seen = set()
    for seed in range(60):
        worse = parse_reply(worse_reply("wrong label", gold, [], random.Random(seed)))
        right = parse_reply(gold)
        changed = [field for field in FIELDS if worse[field] != right[field]]
        assert len(changed) == 1
        assert worse[changed[0]] in LABELS[changed[0]]
        assert worse_reply("wrong label", gold, [], random.Random(seed)) == format_reply(worse, reply_format)
        seen |= set(changed)
    assert seen == set(LABEL_FIELDS)


def test_a_reply_cut_short_is_a_true_beginning_and_an_empty_one_is_empty():
    for seed in range(40):
        for gold in (GOLD, "Yes", "ab"):
            worse = worse_reply("cut short", gold, [], random.Random(seed))
            assert 0 < len(worse) < len(gold)
            assert gold.startswith(worse)
    assert worse_reply("empty", GOLD, [], random.Random(0)) == ""
    assert worse_reply("other turn", GOLD, ["x"], random.Random(0)) == "x"


def test_every_turn_gives_at_most_one_pair_and_every_kind_occurs():
    found = [tutor_pairs(CONVERSATIONS, random.Random(seed)) for seed in range(30)]
    assert {pair["kind"] for pairs in found for pair in pairs} == set(WORSE)
    gold = [
        message["content"]
        for talk in CONVERSATIONS
        for message in talk["messages"]
        if message["role"] == "assistant"
    ]
    for pairs in found:
        assert all(pair["rejected"] != pair["chosen"] for pair in pairs)
        assert not Counter(pair["chosen"] for pair in pairs) - Counter(gold)
        lost = len(gold) - len(pairs)  # only another turn's reply can be the same reply
        assert lost <= 3
    assert tutor_pairs(CONVERSATIONS, random.Random(1)) == tutor_pairs(CONVERSATIONS, random.Random(1))


def test_a_pair_shows_the_last_exchange():
    pairs = {pair["chosen"]: pair["messages"] for pair in tutor_pairs(CONVERSATIONS[:1], random.Random(0))}
    said = CONVERSATIONS[0]["messages"]
    for messages in pairs.values():
        assert messages[-1]["role"] == "user"
        assert not any(message["role"] == "system" for message in messages)
    assert pairs[said[2]["content"]] == said[1:2]
    assert pairs[said[4]["content"]] == said[1:4]


def test_answers_called_right_are_chosen_over_answers_called_wrong():
    pairs = answer_pairs(CONVERSATIONS, random.Random(0))
    found = sorted((pair["chosen"], pair["rejected"]) for pair in pairs)
    # Inquiries ("f") are no answers; the empty answer always loses; each sub-problem keeps to its own.
    assert found == [
        ("A kernel.", ""),
        ("A kernel.", "Stones."),
        ("A unit of life.", ""),
        ("A unit of life.", "A prison?"),
        ("A unit of life.", "No idea at all"),
    ]
    assert {pair["kind"] for pair in pairs} == {"answer"}


def test_an_answer_never_called_right_makes_no_pair():
    conversation = talk("x", "Hi", reply_of(problem="Q?"), "Hm", reply_of("a"))
    assert answer_pairs([conversation], random.Random(0)) == []


def test_the_manifest_counts_the_pairs_by_kind(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", CONVERSATIONS)
    found = set()
    for _ in range(2):
        step(
            reward_pairs.main,
            rows=tmp_path / "rows.jsonl",
            settings='{"seed": 3}',
            output=tmp_path / "pairs.jsonl",
            manifest=tmp_path / "manifest.json",
        )
        found.add((tmp_path / "manifest.json").read_bytes())
    assert len(found) == 1
    pairs = read_jsonl(tmp_path / "pairs.jsonl")
    counts = read_json(tmp_path / "manifest.json")["counts"]
    assert counts["conversations"] == 2
    assert counts["pairs"] == Counter(pair["kind"] for pair in pairs)
    assert counts["pairs"]["answer"] == 5
    write_jsonl(tmp_path / "rows.jsonl", [])
    with pytest.raises(PlumblineError, match="no pairs can be made of 0 conversations"):
        step(
            reward_pairs.main,
            rows=tmp_path / "rows.jsonl",
            settings='{"seed": 3}',
            output=tmp_path / "pairs.jsonl",
            manifest=tmp_path / "manifest.json",
        )
