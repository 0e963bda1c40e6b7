"""Annotation: what becomes a rewarded row and what its manifest says, and the pairs a reward model learns from."""

import copy
import json
import random
from collections import Counter

import pytest

from tests.reward_settings import given_reward, rule_reward
from workflow_scripts.annotate import annotate as annotate_module
from workflow_scripts.annotate import answers as answers_module
from workflow_scripts.annotate import reward_pairs
from workflow_scripts.annotate.answers import answer_rows
from workflow_scripts.annotate.reward_pairs import WORSE, answer_pairs, turn_pairs, worse_reply
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.reward_columns import reward_rows
from workflow_scripts.common.turns import turns_of
from workflow_scripts.common.tutor_reply import (
    FIELDS,
    LABEL_FIELDS,
    LABELS,
    format_reply,
    parse_reply,
)

REWARDS = {
    "valid": rule_reward("json_validity", weight=2.0),
    "length": rule_reward("length", words=4, weight=-0.5),
    "diversity": rule_reward("tfidf_diversity", weight=1.0),
}


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
    columns = read_json(tmp_path / "manifest.json")["columns"]
    assert columns == {name: {"settings": settings} for name, settings in REWARDS.items()}


RANKED = [
    {
        "id": name,
        "group": name,
        "messages": [{"role": "user", "content": "Hi"}],
        "candidates": [
            {"content": "the cat", "rewards": {"rm": 1.0 + at}},
            {"content": "a dog sat", "rewards": {"rm": -1.0}},
        ],
        "meta": {},
    }
    for at, name in enumerate(("p", "q"))
]


def test_a_ranked_row_is_annotated_once_per_candidate_with_what_it_brought(tmp_path):
    write_jsonl(tmp_path / "rows" / "train.jsonl", RANKED)
    rewards = {"rm": given_reward("rm", squash="none"), "length": rule_reward("length", words=4)}
    flags = {
        "rows": tmp_path / "rows",
        "splits": ["train"],
        "fit_split": "train",
        "settings": json.dumps({"rewards": rewards}),
        "output": tmp_path / "out",
        "manifest": tmp_path / "manifest.json",
    }
    step(annotate_module.main, **flags)
    rows = read_jsonl(tmp_path / "out" / "train.jsonl")
    assert [(row["id"], row["meta"]["rank"]) for row in rows] == [
        ("p#0", 0),
        ("p#1", 1),
        ("q#0", 0),
        ("q#1", 1),
    ]
    assert [row["rewards"] for row in rows] == [
        {"rm": 1.0, "length": 0.5, "final_reward": 1.5},
        {"rm": -1.0, "length": 0.75, "final_reward": -0.25},
        {"rm": 2.0, "length": 0.5, "final_reward": 2.5},
        {"rm": -1.0, "length": 0.75, "final_reward": -0.25},
    ]
    lacking = copy.deepcopy(RANKED)
    del lacking[1]["candidates"][1]["rewards"]["rm"]
    write_jsonl(tmp_path / "rows" / "train.jsonl", lacking)
    with pytest.raises(PlumblineError, match=r"reward rm: row q#1: no given 'rm'"):
        step(annotate_module.main, **flags)


# Answers of a policy.

PROMPTS = [
    {
        "id": name,
        "group": f"group of {name}",
        "messages": [{"role": "user", "content": f"What is {name}?"}],
        "followups": ["Why?"],
        "reference": ["gold"],
        "meta": {"turn": 0, "knowledge": "k"},
    }
    for name in ("b#0", "a#1")
]


def generated(name, sample, turn, text):
    return {"id": name, "sample": sample, "turn": turn, "text": text, "finish_reason": "stop"}


GENERATED = [
    generated("a#1", 1, 0, "the dog"),
    generated("a#1", 0, 0, "the cat sat down"),
    generated("b#0", 0, 0, '"the cat"'),
    generated("b#0", 0, 1, "because"),
    generated("b#0", 1, 0, ""),
]


def test_every_first_answer_is_a_row_of_its_own():
    rows = answer_rows(PROMPTS, GENERATED, "x")
    texts = {"b#0/0": '"the cat"', "b#0/1": "", "a#1/0": "the cat sat down", "a#1/1": "the dog"}
    assert {row["id"]: row["reference"] for row in rows} == texts
    assert list(texts) == [row["id"] for row in rows], (
        "by prompt and sample, whatever the order of the answers"
    )
    for row in rows:
        prompt = next(prompt for prompt in PROMPTS if row["id"].startswith(prompt["id"]))
        assert set(row) == {"id", "group", "messages", "meta", "reference", "gold"}
        assert row["gold"] == (prompt["reference"] or [None])[0]
        assert all(row[key] == prompt[key] for key in ("group", "messages", "meta"))


@pytest.mark.parametrize(
    ("prompts", "generations", "message"),
    [
        (PROMPTS, GENERATED[2:], "x: no answer to 'a#1'"),
        (PROMPTS, [*GENERATED, GENERATED[0]], "x: sample 1 of 'a#1' occurs twice"),
        (PROMPTS[:1], GENERATED, "x: answer to 'a#1', which is not in the prompt set"),
        ([{"id": "b#0", "group": "b", "text": "def"}], GENERATED[2:], "prompt b#0: is plain text"),
    ],
)
def test_answers_that_do_not_fit_their_prompts_are_refused(prompts, generations, message):
    with pytest.raises(PlumblineError, match=message):
        answer_rows(prompts, generations, "x")


def answer_flags(folder, rewards):
    write_jsonl(folder / "prompts.jsonl", PROMPTS)
    write_jsonl(folder / "generations.jsonl", GENERATED)
    write_jsonl(folder / "fit.jsonl", CONVERSATIONS)
    return {
        "prompts": folder / "prompts.jsonl",
        "generations": folder / "generations.jsonl",
        "fit_rows": folder / "fit.jsonl",
        "settings": json.dumps({"rewards": rewards}),
        "work": folder / "work",
        "output": folder / "out.jsonl",
        "manifest": folder / "manifest.json",
    }


def test_answers_are_rewarded_like_gold_replies_with_weights_of_the_fit_rows(tmp_path):
    step(answers_module.main, **answer_flags(tmp_path, REWARDS))
    fit_on = [turn["reference"] for talk in CONVERSATIONS for turn in turns_of(talk)]
    expected = reward_rows(answer_rows(PROMPTS, GENERATED, "x"), fit_on, REWARDS)
    for row in expected:
        del row["gold"]
    assert read_jsonl(tmp_path / "out.jsonl") == expected
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["counts"] == {"prompts": 2, "answers": 4}
    assert manifest["columns"] == {name: {"settings": settings} for name, settings in REWARDS.items()}


def test_answers_have_no_given_rewards(tmp_path):
    flags = answer_flags(tmp_path, REWARDS | {"hh": given_reward("rm")})
    with pytest.raises(PlumblineError, match="reward hh: generated answers have no given rewards"):
        step(answers_module.main, **flags)
    assert not (tmp_path / "out.jsonl").exists()


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
    found = [turn_pairs(CONVERSATIONS, random.Random(seed)) for seed in range(30)]
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
    assert turn_pairs(CONVERSATIONS, random.Random(1)) == turn_pairs(CONVERSATIONS, random.Random(1))


def test_a_pair_shows_the_last_exchange():
    pairs = {pair["chosen"]: pair["messages"] for pair in turn_pairs(CONVERSATIONS[:1], random.Random(0))}
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
    assert counts["rows"] == 2
    assert counts["pairs"] == Counter(pair["kind"] for pair in pairs)
    assert counts["pairs"]["answer"] == 5
    turns = sum(len(reward_pairs.gold_turns([row])) for row in CONVERSATIONS)
    assert counts["left_out_as_equal"] == turns - sum(
        count for kind, count in counts["pairs"].items() if kind != "answer"
    )
    write_jsonl(tmp_path / "rows.jsonl", [])
    with pytest.raises(PlumblineError, match="no pairs can be made of 0 rows"):
        step(
            reward_pairs.main,
            rows=tmp_path / "rows.jsonl",
            settings='{"seed": 3}',
            output=tmp_path / "pairs.jsonl",
            manifest=tmp_path / "manifest.json",
        )


def test_a_reward_model_learns_ranked_answers_as_they_are_ranked():
    row = {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}],
        "candidates": [{"content": text, "rewards": {}} for text in ("Because.", "", "Because.", "No.")],
    }
    pairs = reward_pairs.ranked_pairs([row])
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("Because.", ""), ("Because.", "No.")]
    assert pairs[0]["messages"] == [{"role": "user", "content": "Why?"}]


def test_a_conversation_with_plain_replies_between_gives_no_pairs_of_answers(tmp_path):
    mixed = talk("x", "Hi", "Plainly: what is it?", "Hm", reply_of("b"))
    assert not reward_pairs.is_tutoring(mixed) and reward_pairs.is_tutoring(CONVERSATIONS[0])
    write_jsonl(tmp_path / "rows.jsonl", [mixed] * 9)
    names = {name: tmp_path / f"{name}.json" for name in ("output", "manifest")}
    step(reward_pairs.main, rows=tmp_path / "rows.jsonl", settings='{"seed": 3}', **names)
    counts = read_json(tmp_path / "manifest.json")["counts"]
    assert (
        sum(counts["pairs"].values()) + counts["left_out_as_equal"] == 18 and "answer" not in counts["pairs"]
    )


def test_a_plain_reply_is_never_given_a_wrong_label():
    told = [f"Answer number {number} says a thing." for number in range(40)]
    rows = [
        {
            "id": f"r{number}",
            "group": "g",
            "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}],
        }
        for number, text in enumerate(told)
    ]
    kinds = {pair["kind"] for pair in turn_pairs(rows, random.Random(0))}
    assert kinds == {"other turn", "cut short", "empty"}


def test_an_answer_that_is_labelled_bad_is_no_gold_reply():
    asked = [{"role": "user", "content": "Why?"}]
    said = [
        ("Since light scatters in the air.", 0),
        ("For no reason at all.", 1),
        ("Because air is thin there.", 0),
    ]
    rows = [
        {
            "id": f"1:{number}",
            "group": "g",
            "messages": asked,
            "candidates": [{"content": text, "rewards": {}, "rank": rank}],
        }
        for number, (text, rank) in enumerate(said)
    ]
    chosen = {pair["chosen"] for seed in range(20) for pair in turn_pairs(rows, random.Random(seed))}
    assert chosen == {said[0][0], said[2][0]}
