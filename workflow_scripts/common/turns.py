"""Cutting a conversation into its tutor turns: one prompt and one gold answer each."""

from typing import Any


def turns_of(conversation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per assistant message of a conversation, in order.

    Row k is {"id": "<conversation id>#k", "group", "messages": all before the k-th assistant message,
    "reference": that message's content, "meta": the conversation's meta with "turn": k}; k counts from 0.
    """
    messages = conversation["messages"]
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return [
        {
            "id": f"{conversation['id']}#{k}",
            "group": conversation["group"],
            "messages": messages[:place],
            "reference": messages[place]["content"],
            "meta": {**conversation.get("meta", {}), "turn": k},
        }
        for k, place in enumerate(answers)
    ]
