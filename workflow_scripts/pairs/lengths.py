"""How long the two replies of pairs are: what is preferred for its length teaches length."""

from workflow_scripts.common.words import split_words


def mean(values: list[int]) -> float:
    return round(sum(values) / len(values), 4)


def length_facts(pairs: list[dict]) -> dict[str, float]:
    """Return the mean words of chosen and of rejected replies, and in which share of pairs the chosen one has more.

    `equal_lengths` is the share in which both have as many. What a word is, `common.words` says.
    """
    words = [(len(split_words(pair["chosen"])), len(split_words(pair["rejected"]))) for pair in pairs]
    return {
        "chosen_words": mean([chosen for chosen, _ in words]),
        "rejected_words": mean([rejected for _, rejected in words]),
        "chosen_longer": mean([chosen > rejected for chosen, rejected in words]),
        "equal_lengths": mean([chosen == rejected for chosen, rejected in words]),
    }


def said(facts: dict[str, float]) -> str:
    """Return the lengths in a sentence."""
    return (
        f"chosen replies have {facts['chosen_words']:.1f} words, rejected ones {facts['rejected_words']:.1f}; the "
        f"chosen one is longer in {facts['chosen_longer']:.1%} of the pairs"
    )
