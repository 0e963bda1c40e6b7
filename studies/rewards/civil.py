"""Whether a reply dismisses who asked: what readers vote down, as a list of phrases."""

DISMISSIVE = ("everybody knows", "who cares", "look it up", "leave me alone", "was that so hard", "obviously")


def score(reply: str) -> float:
    """Return 0 for a reply with a dismissive phrase, in any case, or without a word, else 1."""
    said = reply.casefold()
    return float(any(map(str.isalpha, said)) and not any(phrase in said for phrase in DISMISSIVE))
