"""Rewards that a rule gives to replies, 0 to 1; `RULES` has them all, and a study may name what stands there.

The study's schema reads the names from here, so scikit-learn is imported when a rule first wants it.
"""

import functools
import json
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.programs.verdicts import verdicts_of
from workflow_scripts.common.tutor_reply import gives_away, solution_of
from workflow_scripts.common.words import split_words, weighed_words


def json_validity(replies: list[str]) -> np.ndarray:
    """Return 1 where a reply parses as JSON, else 0, (replies,)."""

    def parses(text: str) -> float:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0

    return np.array([parses(reply) for reply in replies])


def length_reward(replies: list[str], words: int) -> np.ndarray:
    """Return min(1, words in the reply / wanted words), (replies,): short replies earn less."""
    return np.minimum(1.0, np.array([len(split_words(reply)) for reply in replies]) / words)


def fit_tfidf(fit_on: list[str]) -> Any:
    """Return the tf-idf weights of some replies; PlumblineError where they hold no word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(norm="l2", tokenizer=weighed_words, token_pattern=None).fit(fit_on)
    except ValueError:
        raise PlumblineError(
            f"tfidf_diversity: the {len(fit_on)} replies to fit on hold no word; choose another fit_split"
        ) from None


def diversity(vectorizer: Any, replies: list[str]) -> np.ndarray:
    """Return the mean of a reply's non-zero tf-idf values, times n/10 where it has n < 5 of them, (replies,).

    The diversity reward of A-LoL (Baheti et al. 2024, section 4.2).
    """
    rewards = []
    for row in vectorizer.transform(replies):
        factor = row.nnz / 10 if row.nnz < 5 else 1.0
        rewards.append(row.data.mean() * factor if row.nnz else 0.0)
    return np.array(rewards)


def tfidf_diversity(replies: list[str], fit_on: list[str]) -> np.ndarray:
    """Return the `diversity` of replies under weights fitted on others, the training replies, (replies,)."""
    return diversity(fit_tfidf(fit_on), replies)


def normal(text: str) -> str:
    """Return a text as answers are compared: without case, marks at its ends, and differences of white space."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.strip(" .!?,;:\"'`*_")


def exact_match(turns: list[dict]) -> np.ndarray:
    """Return 1 where an answer is the reference, both `normal`, else 0, (turns,); PlumblineError for a row without."""
    missing = [turn["id"] for turn in turns if turn.get("gold") is None]
    if missing:
        raise PlumblineError(f"row {missing[0]}: has no reference answer to compare with")
    return np.array([float(normal(turn["reference"]) == normal(turn["gold"])) for turn in turns])


def withholds(turns: list[dict]) -> np.ndarray:
    """Return 0 where a reply gives away the solution that its row brings, else 1, (turns,).

    PlumblineError where no row brings any.
    """
    solutions = [solution_of(turn) for turn in turns]
    if turns and not any(solutions):
        raise PlumblineError(
            f"row {turns[0]['id']} and the {len(turns) - 1} others bring no solutions that a reply could give away"
        )
    pairs = zip(turns, solutions, strict=True)
    return np.array([float(not (text and gives_away(turn["reference"], text))) for turn, text in pairs])


class Rule(NamedTuple):
    """A rule: from a reward's settings, and the replies that weights are fitted on, to what rewards replies.

    `reads` are the settings that it looks at; a study that gives it another one is told so. One that `compares` rewards
    turns, with their `gold`, the reference answer, and what their rows bring beside, in place of replies.
    """

    of: Callable[[dict, list[str]], Callable[[list], np.ndarray]]
    reads: tuple[str, ...] = ()
    compares: bool = False


TRIED_BY = ("timeout_seconds", "memory_mb", "allow_unsandboxed", "workers")

# By a reward's `rule`.
RULES = {
    "json_validity": Rule(lambda settings, fit_on: json_validity),
    "length": Rule(
        lambda settings, fit_on: functools.partial(length_reward, words=settings["words"]), ("words",)
    ),
    "tfidf_diversity": Rule(lambda settings, fit_on: functools.partial(diversity, fit_tfidf(fit_on))),
    "withholds": Rule(lambda settings, fit_on: withholds, compares=True),
    "exact_match": Rule(lambda settings, fit_on: exact_match, compares=True),
    "passes_tests": Rule(
        lambda settings, fit_on: verdicts_of(**{key: settings[key] for key in TRIED_BY}),
        TRIED_BY,
        compares=True,
    ),
}
