"""Turns: a conversation cut before each reply, and the window on its past."""

import copy

import pytest

from workflow_scripts.common.turns import turns_of, window


def talk(exchanges, system=True):
    messages = [{"role": "system", "content": "s"}] if system else []
    for number in range(exchanges):
        messages += [
            {"role": "user", "content": f"u{number}"},
            {"role": "assistant", "content": f"a{number}"},
        ]
    return {"id": "1:x", "group": "g", "messages": messages, "meta": {"file": "f"}}


def words(messages):
    return " ".join(message["content"] for message in messages)


def test_there_is_one_row_per_reply_in_order():
    rows = turns_of(talk(3))
    assert [row["id"] for row in rows] == ["1:x#0", "1:x#1", "1:x#2"]
    assert [row["reference"] for row in rows] == ["a0", "a1", "a2"]
    assert [words(row["messages"]) for row in rows] == ["s u0", "s u0 a0 u1", "s u0 a0 u1 a1 u2"]
    assert [row["meta"] for row in rows] == [{"file": "f", "turn": turn} for turn in range(3)]
    assert {row["group"] for row in rows} == {"g"}


def test_every_row_ends_on_the_student_and_the_conversation_is_left_alone():
    conversation = talk(4)
    before = copy.deepcopy(conversation)
    for history in (None, 0, 1, 2):
        assert all(row["messages"][-1]["role"] == "user" for row in turns_of(conversation, history))
    assert conversation == before


def test_a_conversation_without_meta_or_replies():
    assert turns_of({"id": "x", "group": "g", "messages": talk(1)["messages"]})[0]["meta"] == {"turn": 0}
    assert turns_of({"id": "x", "group": "g", "messages": talk(1)["messages"][:-1]}) == []


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (None, ["s u0", "s u0 a0 u1", "s u0 a0 u1 a1 u2", "s u0 a0 u1 a1 u2 a2 u3"]),
        (0, ["s u0", "s u0 u1", "s u0 u2", "s u0 u3"]),
        (1, ["s u0", "s u0 a0 u1", "s u0 a1 u2", "s u0 a2 u3"]),
        (2, ["s u0", "s u0 a0 u1", "s u0 a0 u1 a1 u2", "s u0 a1 u2 a2 u3"]),
        (9, ["s u0", "s u0 a0 u1", "s u0 a0 u1 a1 u2", "s u0 a0 u1 a1 u2 a2 u3"]),
    ],
)
@pytest.mark.parametrize("system", [True, False])
def test_the_window_keeps_the_problem_and_the_last_exchanges(history, expected, system):
    found = [words(row["messages"]) for row in turns_of(talk(4, system), history)]
    assert found == [text if system else text.removeprefix("s ") for text in expected]


def test_what_is_asked_for_does_not_depend_on_the_window():
    whole = turns_of(talk(5))
    for history in (0, 1, 3):
        for row, full in zip(turns_of(talk(5), history), whole, strict=True):
            assert {key: row[key] for key in ("id", "group", "reference", "meta")} == {
                key: full[key] for key in ("id", "group", "reference", "meta")
            }


def test_no_limit_returns_the_messages_themselves():
    messages = talk(3)["messages"][:-1]
    assert window(messages, None) is messages


def test_a_message_that_is_not_to_be_learned_gives_no_row_and_stays_as_context():
    conversation = talk(3)
    conversation["messages"][4]["learn"] = False
    rows = turns_of(conversation)
    assert [row["id"] for row in rows] == ["1:x#0", "1:x#2"]
    assert words(rows[1]["messages"]) == "s u0 a0 u1 a1 u2"


def test_a_candidate_may_bring_its_rank():
    row = {"id": "x", "group": "g", "messages": talk(1)["messages"][:2]}
    row["candidates"] = [{"content": "bad", "rewards": {"label": 0.0}, "rank": 1}]
    (turn,) = turns_of(row)
    assert (turn["id"], turn["meta"]["rank"], turn["given"]) == ("x#0", 1, {"label": 0.0})
