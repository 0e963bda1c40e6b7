"""How much of what the reference says an answer says: the F1 of their words, each as often as it stands there."""

from collections import Counter


def score(reply: str, reference: str) -> float:
    """Return the F1 of the words of a reply and of the reference, without case and the marks around them."""
    said, known = (
        Counter(word.strip(".,;:!?\"'()").casefold() for word in text.split()) for text in (reply, reference)
    )
    shared = (said & known).total()
    return 2 * shared / (said.total() + known.total()) if shared else 0.0
