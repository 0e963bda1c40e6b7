"""Preference pairs: the truth table of the mismatch rule, and that every answer is counted once."""

import itertools
import json
import sys

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.tutor_reply import (
    ACTION,
    EVALUATION,
    FIELDS,
    SPOKEN,
    STATE,
    SUBPROBLEM,
    is_well_formed,
)
from workflow_scripts.pairs import build
from workflow_scripts.pairs.build import RULES, build_pairs, mismatch

GOLD = {EVALUATION: "b", ACTION: "3", STATE: "y", SUBPROBLEM: "What is a cell?", SPOKEN: "Right."}


def changed(**changes):
    fields = {"evaluation": EVALUATION, "action": ACTION, "state": STATE, "sub": SUBPROBLEM, "says": SPOKEN}
    return GOLD | {fields[name]: value for name, value in changes.items()}


@pytest.mark.parametrize("written", [json.dumps, str], ids=["json", "python"])
@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (GOLD, None),
        (changed(sub="Another?", says="Other words, never compared."), None),
        (changed(evaluation="a"), EVALUATION),
        (changed(action="4"), ACTION),
        (changed(state="z"), STATE),
        (changed(evaluation=" b ", action="3\n", state="\ty"), None),
        (changed(action=3), None),
        (changed(action=4), ACTION),
        (changed(evaluation=None), EVALUATION),
        (changed(evaluation=""), EVALUATION),
        (changed(evaluation="B"), EVALUATION),
        (changed(evaluation=["b"]), EVALUATION),
        (dict.fromkeys(FIELDS, ""), "malformed"),
        (dict.fromkeys(FIELDS, None), "malformed"),
        (dict.fromkeys(FIELDS, "") | {SPOKEN: "Hello"}, EVALUATION),
        (GOLD | {"more": 1}, None),
        ({}, "malformed"),
        *[({name: GOLD[name] for name in FIELDS if name != field}, "malformed") for field in FIELDS],
    ],
)
def test_a_reply_loses_for_the_reason_the_rule_gives(reply, why, written):
    assert mismatch(GOLD, written(reply)) == why
    assert mismatch(GOLD, f"\n {written(reply)} ") == why


@pytest.mark.parametrize(
    "text", ["", "Right!", "{", str(GOLD)[:-1], json.dumps(GOLD) + " so", '"b"', "[1, 2]", "3"]
)
def test_what_is_no_dict_is_unparsable(text):
    assert mismatch(GOLD, text) == "unparsable"


@pytest.mark.parametrize("wrong", list(itertools.product([False, True], repeat=3)))
def test_the_first_field_that_differs_is_the_reason(wrong):
    other = {EVALUATION: "a", ACTION: "1", STATE: "x"}
    reply = GOLD | {field: other[field] for field, differs in zip(other, wrong, strict=True) if differs}
    expected = next((field for field, differs in zip(other, wrong, strict=True) if differs), None)
    assert mismatch(GOLD, json.dumps(reply)) == expected


def test_a_missing_field_is_noticed_before_any_label():
    reply = changed(evaluation="a")
    del reply[SPOKEN]
    assert mismatch(GOLD, json.dumps(reply)) == "malformed"


def test_labels_of_the_gold_reply_are_stripped_too():
    assert mismatch(changed(action="3 "), json.dumps(GOLD)) is None


@pytest.mark.parametrize(
    ("gold", "fine"),
    [
        (GOLD, True),
        (changed(action="12"), True),
        (None, False),
        (changed(evaluation="bc"), False),
        (changed(evaluation=""), False),
        (changed(action=""), True),
        (changed(action="123"), False),
        (changed(state="yz"), False),
        (changed(action=3), False),
        (changed(says=None), False),
        ({name: GOLD[name] for name in FIELDS[:-1]}, False),
    ],
)
def test_only_a_well_formed_gold_reply_can_be_compared_with(gold, fine):
    assert is_well_formed(gold) == fine


SETTINGS = {
    "reply_format": "json",
    "which": "mistakes",
    "fidelity": "paper",
    "validation_share": 0.0,
    "seed": 1,
}


def prompt(name="p", gold=GOLD):
    messages = [{"role": "user", "content": "Hi"}]
    return {"id": name, "group": "g", "messages": messages, "followups": [], "reference": [json.dumps(gold)]}


def said(text, name="p", sample=0):
    return {"id": name, "sample": sample, "turn": 0, "text": text}


@pytest.mark.parametrize(("reply_format", "written"), [("json", json.dumps), ("python", str)])
def test_a_pair_is_written_in_the_format_of_the_study(reply_format, written):
    wrong = changed(state="z")
    texts = [json.dumps(wrong), "Well done!", str(changed(state="x"))]
    pairs, rejected, _ = build_pairs(
        [prompt()], [said(text, sample=i) for i, text in enumerate(texts)], reply_format
    )
    assert rejected == []
    assert [pair["id"] for pair in pairs] == ["p/0", "p/1", "p/2"]
    assert {pair["chosen"] for pair in pairs} == {written(GOLD)}
    assert [pair["rejected"] for pair in pairs] == [written(wrong), "Well done!", written(changed(state="x"))]
    assert [pair["meta"]["mismatch"] for pair in pairs] == [STATE, "unparsable", STATE]
    assert pairs[0]["messages"] == prompt()["messages"]
    assert pairs[0]["group"] == "g"


@pytest.mark.parametrize(
    "text", ["{'a': {1, 2}}", "{(1, 2): 3}", "{'a': b'x'}", "{'a': 1j}", '{"a": "\\ud800"}']
)
def test_a_dict_that_cannot_be_written_as_json_still_makes_a_pair(text, tmp_path):
    pairs, *_ = build_pairs([prompt()], [said(text)], "json")
    assert [pair["meta"]["mismatch"] for pair in pairs] == ["malformed"]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)


def test_every_answer_is_a_pair_or_a_rejection_and_says_why():
    prompts = [prompt("p"), prompt("bad gold", gold={"a": 1})]
    generations = [
        said(json.dumps(GOLD), sample=0),
        said(" ", sample=1),
        said("Hm.", sample=2),
        said(" Hm.\n", sample=3),
        said(json.dumps(changed(state="z")), sample=4),
        said(str(changed(state="z")), sample=5),
        said("Hm.", name="bad gold"),
    ]
    pairs, rejected, _ = build_pairs(prompts, generations, "json")
    assert [pair["id"] for pair in pairs] == ["p/2", "p/4"]
    assert [(row["sample"], row["reason"]) for row in rejected] == [
        (0, "labels all agree"),
        (1, "empty answer"),
        (3, "same answer again"),
        (5, "same answer again"),
        (0, "gold reply is not well formed"),
    ]


LITERALLY = {STATE: "z", EVALUATION: "b", ACTION: "3", SUBPROBLEM: "?", SPOKEN: "Right."}  # not in our order


@pytest.mark.parametrize(
    ("text", "losing", "why"),
    [
        (f" {LITERALLY} ", str(LITERALLY), STATE),  # read and written anew, its keys as they stood
        (json.dumps(LITERALLY), str(LITERALLY), STATE),  # this JSON is a Python literal, too
        (json.dumps(GOLD | {SUBPROBLEM: None}), json.dumps(GOLD | {SUBPROBLEM: None}), "unparsable"),
        (" Well done!\n", " Well done!\n", "unparsable"),
        ("", "", "unparsable"),
        ("[1,  'a']", "[1, 'a']", "unparsable"),
        (f"{{'{STATE}':  'y', '{EVALUATION}': 'b'}}", str({STATE: "y", EVALUATION: "b"}), "malformed"),
    ],
)
def test_what_loses_is_written_as_published_under_code(text, losing, why):
    first = prompt() | {"reference": [str(LITERALLY | {STATE: "y"})]}
    [pair], rejected, _ = build_pairs([first], [said(text)], "python", fidelity="code")
    assert (pair["rejected"], pair["chosen"], rejected) == (losing, first["reference"][0], [])
    assert pair["meta"]["mismatch"] == why


def test_each_rule_takes_its_answers_and_the_yield_of_all_three_is_counted():
    texts = [json.dumps(GOLD), "Hm.", json.dumps({STATE: "y"}), json.dumps(changed(state="z")), ""]
    generations = [said(text, sample=i) for i, text in enumerate(texts)]
    prompts = [prompt(), prompt("bad gold", gold={"a": 1})]
    generations.append(said("Hm.", name="bad gold"))
    kept = {"mistakes": [1, 2, 3, 4], "wrong_labels": [3], "all": [0, 1, 2, 3, 4]}
    for which in RULES:
        pairs, rejected, taken = build_pairs(prompts, generations, "json", which, "code")
        assert [int(pair["id"].partition("/")[2]) for pair in pairs] == kept[which]
        assert len(pairs) + len(rejected) == 6
        assert taken == {rule: len(places) for rule, places in kept.items()}
    _, rejected, _ = build_pairs(prompts, generations, "json", "wrong_labels", "code")
    assert [row["reason"] for row in rejected[:3]] == [
        "labels all agree",
        "no labels to compare: unparsable",
        "no labels to compare: malformed",
    ]


def test_a_pair_of_equal_replies_says_that_nothing_mismatches():
    [pair], *_ = build_pairs([prompt()], [said(json.dumps(GOLD))], "json", which="all")
    assert pair["meta"] == {"mismatch": "none"} and pair["chosen"] == pair["rejected"]


def run_main(tmp_path, monkeypatch, generations):
    write_jsonl(tmp_path / "prompts.jsonl", [prompt()])
    write_jsonl(tmp_path / "generations.jsonl", generations)
    flags = {
        name: str(tmp_path / f"{name}.jsonl") for name in ("prompts", "generations", "output", "rejected")
    }
    flags |= {
        "settings": json.dumps(SETTINGS),
        "ranked": str(tmp_path / "ranked.jsonl"),
        "manifest": str(tmp_path / "manifest.json"),
    }
    monkeypatch.setattr(
        sys, "argv", ["build", *(part for name in flags for part in (f"--{name}", flags[name]))]
    )
    build.main()


def test_counts_add_up_in_the_manifest(tmp_path, monkeypatch):
    texts = [json.dumps(GOLD), json.dumps(changed(action="4")), "Hm.", "Hm."]
    run_main(tmp_path, monkeypatch, [said(text, sample=i) for i, text in enumerate(texts)])
    assert read_json(tmp_path / "manifest.json")["counts"] == {
        "read": 4,
        "kept": 2,
        "share_kept": 0.5,
        "pair_yield": {"mistakes": 3, "wrong_labels": 1, "all": 4},
        "splits": {"train": 2},
        "mismatches": {ACTION: 1, "unparsable": 1},
        "rejected": {"labels all agree": 1, "same answer again": 1},
        "lengths": {"chosen_words": 20.0, "rejected_words": 10.5, "chosen_longer": 0.5, "equal_lengths": 0.5},
    }
    assert len(read_jsonl(tmp_path / "output.jsonl")) == 2
    assert len(read_jsonl(tmp_path / "rejected.jsonl")) == 2


def test_a_policy_without_mistakes_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(
        PlumblineError,
        match=r"none of 1 answers makes a pair \(labels all agree: 1\).*temperature.*from: samples",
    ):
        run_main(tmp_path, monkeypatch, [said(json.dumps(GOLD))])
    assert not (tmp_path / "manifest.json").exists()
