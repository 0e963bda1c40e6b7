"""A dialogue as text, for a model that reads it: a judge, or one that writes about it."""


def transcript(messages: list[dict]) -> str:
    """Return a dialogue as labelled blocks for a judge to read."""
    return "\n\n".join(
        f"<{message['role']}>\n{message['content']}\n</{message['role']}>" for message in messages
    )


def prompt_text(messages: list[dict]) -> str:
    """Return what a policy was asked: a single request as it stands, a longer dialogue in labelled blocks."""
    alone = len(messages) == 1 and messages[0]["role"] == "user"
    return messages[0]["content"] if alone else transcript(messages)
