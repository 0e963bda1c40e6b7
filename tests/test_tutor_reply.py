"""The tutor's structured reply: read from whatever a model says, written one way, labels as published."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_scripts.common.turns import turns_of
from workflow_scripts.common.tutor_reply import (
    ACTION,
    ACTIONS_AFTER,
    EVALUATION,
    FIELDS,
    LABEL_FIELDS,
    LABELS,
    STATE,
    format_reply,
    parse_reply,
)

REPLY = dict(zip(FIELDS, ("a", "1", "x", "What is it?", 'Don\'t say "no".'), strict=True))


def test_the_label_table_is_the_published_one():
    assert LABELS[EVALUATION] == tuple("abcdefg")
    assert LABELS[ACTION] == tuple(str(number) for number in range(1, 13))
    assert LABELS[STATE] == tuple("wxyz")
    assert set(LABELS) == set(LABEL_FIELDS)
    assert ACTIONS_AFTER["a"] == ("1", "2") and ACTIONS_AFTER["c"] == ("4", "5")
    assert ACTIONS_AFTER["f"] == ("8", "9", "10", "11") and ACTIONS_AFTER["g"] == ("12",)


@pytest.mark.parametrize("reply_format", ["json", "python"])
@given(texts=st.lists(st.text(), min_size=5, max_size=5))
def test_a_written_reply_reads_back_as_itself(reply_format, texts):
    reply = dict(zip(FIELDS, texts, strict=True))
    assert parse_reply(format_reply(reply, reply_format)) == reply


def test_the_five_fields_are_written_in_their_order_whatever_the_order_given():
    text = format_reply(dict(reversed(REPLY.items())), "json")
    assert list(json.loads(text)) == list(FIELDS)
    assert format_reply(REPLY, "python") == str(REPLY)


@pytest.mark.parametrize(
    "text", ["", "hello", "[1]", "'text'", "3", "{'a'", "{[]: 1}", "null", "{1, 2}", "\x00"]
)
def test_what_holds_no_dict_is_no_reply(text):
    assert parse_reply(text) is None


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "(" * 15_000, "-" * 15_000 + "1", '{"a":' * 50_000, "9" * 15_000]
)
def test_hostile_text_is_no_reply_and_no_crash(text):
    assert parse_reply(text) is None


def test_space_around_a_reply_does_not_matter():
    assert parse_reply(f"\n {json.dumps(REPLY)} ") == REPLY


@given(st.text())
def test_any_text_at_all_can_be_read(text):
    assert parse_reply(text) is None or isinstance(parse_reply(text), dict)


def test_a_conversation_is_cut_before_each_tutor_message():
    roles = ("system", "user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": str(place)} for place, role in enumerate(roles)]
    rows = turns_of({"id": "1:identity_7", "group": "leaves", "messages": messages, "meta": {"file": "f"}})
    assert [row["id"] for row in rows] == ["1:identity_7#0", "1:identity_7#1"]
    assert [len(row["messages"]) for row in rows] == [2, 4]
    assert [row["reference"] for row in rows] == ["2", "4"]
    assert [row["meta"] for row in rows] == [{"file": "f", "turn": 0}, {"file": "f", "turn": 1}]
    assert {row["group"] for row in rows} == {"leaves"}
