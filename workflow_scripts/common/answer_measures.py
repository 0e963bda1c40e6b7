"""What an answer to a prompt set is worth by itself: `MEASURES` has them all, and a study may watch what stands there.

Each is a number of one answer to one prompt (a row of a prompt set), so that its mean over prompts has a standard
error. They are the scorers' own: a policy that is watched is measured as it is scored in the end. The study's schema
reads the names from here; nltk is imported when METEOR is first wanted.
"""

from collections.abc import Callable
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.text_measures import NGRAMS, coverage, density, distinct, given_to, meteor_with
from workflow_scripts.common.tutor_reply import (
    LABEL_FIELDS,
    LABEL_NAMES,
    is_well_formed,
    label_of,
    parse_reply,
    read_answer,
)
from workflow_scripts.common.words import split_words

Measure = Callable[[dict, str], float]  # (row of a prompt set, answer) → its worth


class Kind(NamedTuple):
    """A measure, by the folder of WordNet that a study names or None; `labels`: of replies with labels alone."""

    of: Callable[[str | None], Measure]
    labels: bool = False


def reference_of(prompt: dict) -> str:
    """Return the reference answer of a prompt; PlumblineError where it has none."""
    if not prompt["reference"] or not prompt["reference"][0]:
        raise PlumblineError(
            f"prompt {prompt['id']}: has no reference answer, which its metric compares with"
        )
    return prompt["reference"][0]


def has_labels(prompt: dict) -> bool:
    """Tell whether a prompt's reference has labels to compare with: a dataset's lenient_labels let others through."""
    return is_well_formed(parse_reply(reference_of(prompt)))


def right_labels(prompt: dict, answer: str) -> list[bool]:
    """Return of each of the three label fields whether an answer has the reference's label, both stripped.

    An answer is read as the scorer reads it with fidelity "paper", whatever the study says.
    """
    gold = parse_reply(reference_of(prompt)) or {}
    if missing := [field for field in LABEL_FIELDS if field not in gold]:
        raise PlumblineError(f"prompt {prompt['id']}: its reference lacks {', '.join(missing)}; clean again")
    said = read_answer(answer, "paper")
    return [label_of(gold, field, "paper") == label_of(said, field, "paper") for field in LABEL_FIELDS]


def meteor(wordnet: str | None) -> Measure:
    """Return METEOR against the reference."""
    measure = meteor_with(wordnet)
    return lambda prompt, answer: measure(answer, reference_of(prompt))


def right_label(place: int) -> Kind:
    """Return whether the label field at a place is right."""
    return Kind(lambda _: lambda prompt, answer: float(right_labels(prompt, answer)[place]), labels=True)


def distinct_ngrams(n: int) -> Kind:
    """Return the share of an answer's n-grams that are distinct."""
    return Kind(lambda _: lambda prompt, answer: distinct(answer, n))


# By a watch's `metric`, where it is no column of its annotation.
MEASURES = {
    "meteor": Kind(meteor),
    "coverage": Kind(lambda _: lambda prompt, answer: coverage(answer, given_to(prompt, 0))),
    "density": Kind(lambda _: lambda prompt, answer: density(answer, given_to(prompt, 0))),
    **{f"distinct_{n}_per_answer": distinct_ngrams(n) for n in NGRAMS},
    "words": Kind(lambda _: lambda prompt, answer: float(len(split_words(answer)))),
    **{f"{name}_accuracy": right_label(place) for place, name in enumerate(LABEL_NAMES.values())},
    "exact_labels": Kind(
        lambda _: lambda prompt, answer: float(all(right_labels(prompt, answer))), labels=True
    ),
}
