"""Cutting rows into turns, one prompt and one answer each: a conversation's own, or a ranked row's candidates."""

from typing import Any


def window(messages: list[dict[str, Any]], history: int | None) -> list[dict[str, Any]]:
    """Return a prompt's messages with at most `history` past exchanges, for models of short context.

    The system message and the first user message (the problem) always stay; None keeps everything.
    """
    if history is None:
        return messages
    head = next(place for place, message in enumerate(messages) if message["role"] == "user") + 1
    rest = messages[head:]  # assistant, user, assistant, user, …: ends on the student
    return messages[:head] + (rest[-2 * history :] if history else rest[-1:])


def with_answers(
    messages: list[dict[str, Any]], answers: list[str], followups: list[str]
) -> list[dict[str, Any]]:
    """Return a prompt's messages, then the answers given so far, each with what was asked after it."""
    said = list(messages)
    for answer, followup in zip(answers, followups, strict=False):
        said += [{"role": "assistant", "content": answer}, {"role": "user", "content": followup}]
    return said


def reward_context(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a reward model reads before a reply: the problem and the last exchange, no instructions."""
    return [message for message in window(messages, 1) if message["role"] != "system"]


def turns_of(conversation: dict[str, Any], history: int | None = None) -> list[dict[str, Any]]:
    """Return one row per assistant message of a conversation, in order, with at most `history` past exchanges.

    Row k is {"id": "<conversation id>#k", "group", "messages": all before the k-th assistant message,
    "reference": that message's content, "meta": the conversation's meta with "turn": k}; k counts from 0.
    A message that is not to be learned ("learn": false) is context of later ones and gives no row.
    A row with `candidates` gives one row for each: "reference" is its content, "given" the rewards it came with, and
    meta has its "rank" (0 is the preferred one).
    """
    messages = conversation["messages"]
    if "candidates" in conversation:
        return [
            {
                "id": f"{conversation['id']}#{rank}",
                "group": conversation["group"],
                "messages": window(messages, history),
                "reference": candidate["content"],
                "given": candidate["rewards"],
                "meta": {**conversation.get("meta", {}), "turn": 0, "rank": candidate.get("rank", rank)},
            }
            for rank, candidate in enumerate(conversation["candidates"])
        ]
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return [
        {
            "id": f"{conversation['id']}#{k}",
            "group": conversation["group"],
            "messages": window(messages[:place], history),
            "reference": messages[place]["content"],
            "meta": {**conversation.get("meta", {}), "turn": k},
        }
        for k, place in enumerate(answers)
        if messages[place].get("learn", True)
    ]
