"""The constraints of IFEval's published rows (Zhou et al. 2023) as ours: each of its ids is one of our rules.

Each is read as its code reads it, but:
- Its keywords are regular expressions there, and plain text here. A letter may be any character here; there one that is
  not in the alphabet is replaced by one drawn at random, as is every number that a row leaves out: here a mistake.
- Sentences and words in capitals are counted by simple rules of ours, there by nltk's.
- Text in small letters or in capitals need not be English here. Finding out takes a library that guesses languages, and
  so does its language:response_language, which is not covered: such a row is refused.
- A line of a lone `*` is no bullet here, and there one together with the line behind it.
"""

from collections.abc import Callable
from typing import Any

from workflow_scripts.common.errors import PlumblineError


def bounded(relation: str, value: int) -> dict[str, int]:
    """Return the bounds of IFEval's relations; ValueError for another."""
    if relation == "less than":
        return {"at_most": value - 1}
    if relation == "at least":
        return {"at_least": value}
    raise ValueError(f"relation is {relation!r}; allowed: 'less than', 'at least'")


ANSWERS = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
# IFEval's ids → our constraint of its arguments.
PUBLISHED: dict[str, Callable[..., dict[str, Any]]] = {
    "keywords:existence": lambda keywords: {"rule": "includes", "words": keywords},
    "keywords:frequency": lambda keyword, frequency, relation: (
        {"rule": "word_count", "word": keyword.strip()} | bounded(relation, frequency)
    ),
    "keywords:forbidden_words": lambda forbidden_words: {"rule": "excludes", "words": forbidden_words},
    "keywords:letter_frequency": lambda letter, let_frequency, let_relation: (
        {"rule": "letter_count", "letter": letter} | bounded(let_relation, let_frequency)
    ),
    "length_constraints:number_sentences": lambda num_sentences, relation: (
        {"rule": "sentences"} | bounded(relation, num_sentences)
    ),
    "length_constraints:number_paragraphs": lambda num_paragraphs: (
        {"rule": "paragraphs", "count": num_paragraphs}
    ),
    "length_constraints:number_words": lambda num_words, relation: (
        {"rule": "words"} | bounded(relation, num_words)
    ),
    "length_constraints:nth_paragraph_first_word": lambda num_paragraphs, nth_paragraph, first_word: (
        {"rule": "paragraph_start", "count": num_paragraphs, "nth": nth_paragraph, "word": first_word}
    ),
    "detectable_content:number_placeholders": lambda num_placeholders: (
        {"rule": "placeholders", "at_least": num_placeholders}
    ),
    "detectable_content:postscript": lambda postscript_marker: (
        {"rule": "postscript", "marker": postscript_marker.strip()}
    ),
    "detectable_format:number_bullet_lists": lambda num_bullets: {"rule": "bullets", "count": num_bullets},
    "detectable_format:constrained_response": lambda: {"rule": "one_of", "options": ANSWERS},
    "detectable_format:number_highlighted_sections": lambda num_highlights: (
        {"rule": "highlights", "at_least": num_highlights}
    ),
    "detectable_format:multiple_sections": lambda section_spliter, num_sections: (
        {"rule": "sections", "marker": section_spliter.strip(), "at_least": num_sections}
    ),
    "detectable_format:json_format": lambda: {"rule": "json"},
    "detectable_format:title": lambda: {"rule": "title"},
    "combination:two_responses": lambda: {"rule": "two_answers"},
    "combination:repeat_prompt": lambda prompt_to_repeat: {"rule": "starts_with", "phrase": prompt_to_repeat},
    "startend:end_checker": lambda end_phrase: {"rule": "ends_with", "phrase": end_phrase.strip()},
    "startend:quotation": lambda: {"rule": "quoted"},
    "change_case:capital_word_frequency": lambda capital_frequency, capital_relation: (
        {"rule": "capital_words"} | bounded(capital_relation, capital_frequency)
    ),
    "change_case:english_capital": lambda: {"rule": "upper_case"},
    "change_case:english_lowercase": lambda: {"rule": "lower_case"},
    "punctuation:no_comma": lambda: {"rule": "no_commas"},
}
LANGUAGE = "language:response_language"


def published(name: str, kwargs: Any, where: str) -> dict:
    """Return our constraint of an IFEval id and its kwargs, of which the published file has all others as null."""
    if name == LANGUAGE:
        raise PlumblineError(f"{where}: {name} needs a library that guesses languages; take the row out")
    if name not in PUBLISHED:
        raise PlumblineError(f"{where}: unknown instruction id {name!r}; known: {', '.join(PUBLISHED)}")
    try:
        return PUBLISHED[name](**{key: value for key, value in kwargs.items() if value is not None})
    except (TypeError, ValueError, AttributeError) as error:
        raise PlumblineError(
            f"{where}: kwargs of {name}: {error}; correct them".replace("<lambda>() ", "")
        ) from None
