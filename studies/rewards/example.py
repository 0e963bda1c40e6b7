"""A reward function of one's own, as an example: it ranks (`rank: studies/rewards/example.py:score`) or rewards."""


def words_of(text: str) -> set[str]:
    """Return a text's words, without case and the marks around them."""
    return {word.strip(".,;:!?\"'()").casefold() for word in text.split()} - {""}


def score(prompt: list[dict], reply: str, reference: str | None) -> float:
    """Return the share of a reply's words that the prompt or the reference has, less a little for each word.

    prompt: the messages before the reply, {"role", "content"}; reference: the answer the data have, if any.
    """
    known = words_of(reference or "") | words_of(" ".join(message["content"] for message in prompt))
    said = words_of(reply)
    return len(said & known) / len(said) - 0.001 * len(reply.split()) if said else 0.0
