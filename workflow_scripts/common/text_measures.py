"""What one answer shares with its reference and with what it was given, and how varied it is.

METEOR (Lavie & Agarwal 2007; nltk's), extractive coverage and density (Grusky et al. 2018), distinct n-grams (Li et al.
2016). The scorers take them over a benchmark, a training over the prompts that it watches. Not covered: measures of a
whole corpus (BLEU), which are no mean of answers.
"""

from collections.abc import Callable

from workflow_scripts.common.wordnet import WordNet
from workflow_scripts.common.words import split_words, words_and_signs

NGRAMS = (1, 2, 3)


def given_to(prompt: dict, turn: int) -> str:
    """Return what an answer could copy: the prompt's knowledge if it has one, else the user's last message."""
    if "knowledge" in prompt["meta"]:
        return prompt["meta"]["knowledge"]
    if turn:
        return prompt["followups"][turn - 1]
    if "text" in prompt:
        return prompt["text"]
    return next(
        (message["content"] for message in reversed(prompt["messages"]) if message["role"] == "user"), ""
    )


def meteor_with(wordnet: str | None) -> Callable[[str, str], float]:
    """Return METEOR as a function of (answer, reference), 0 to 1; without WordNet only equal words and stems match."""
    from nltk.translate.meteor_score import meteor_score

    synonyms = WordNet(wordnet)

    def meteor(answer: str, reference: str) -> float:
        return meteor_score([words_and_signs(reference)], words_and_signs(answer), wordnet=synonyms)

    return meteor


def fragments(answer: list[str], given: list[str]) -> list[int]:
    """Return the lengths of the stretches that an answer shares with a text, in words.

    The greedy procedure of Grusky et al. (2018), figure 3: from each word of the answer the longest stretch found in
    the text, whose search goes on behind each stretch it has tried.
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(given):
        places.setdefault(word, []).append(place)
    found, start = [], 0
    while start < len(answer):
        longest = tried = 0
        for place in places.get(answer[start], []):
            if place < tried:
                continue
            length, most = 0, min(len(answer) - start, len(given) - place)
            while length < most and answer[start + length] == given[place + length]:
                length += 1
            longest, tried = max(longest, length), place + length
        if longest:
            found.append(longest)
        start += max(1, longest)
    return found


def coverage(answer: str, given: str) -> float:
    """Return the share of an answer's words in stretches that it shares with a text (eq. 1), 0 if it is empty."""
    words = words_and_signs(answer)
    return sum(fragments(words, words_and_signs(given))) / max(1, len(words))


def density(answer: str, given: str) -> float:
    """Return the squared lengths of the stretches that an answer shares with a text, per word (eq. 2), 0 if empty."""
    words = words_and_signs(answer)
    return sum(length**2 for length in fragments(words, words_and_signs(given))) / max(1, len(words))


def distinct(text: str, n: int) -> float:
    """Return the share of a text's n-grams of words that are distinct, 0 where it has fewer than n words."""
    words = split_words(text)
    ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
