"""Constraints on an answer that rules can check, in the manner of IFEval (Zhou et al. 2023).

A constraint is {"rule": name, ...arguments}; `FAMILIES` has every rule, a function of an answer's text and the
arguments. The published rows of IFEval are read as well (see `ifeval`, which says where its code reads an answer
differently). No rule takes more time than the text is long, give or take a factor.
"""

import json
import re
import string
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, validate_call

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.ifeval import published
from workflow_scripts.common.raw_files import field

Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Letter = Annotated[str, Field(min_length=1, max_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]

# Words whose full stop ends no sentence.
ABBREVIATIONS = {
    *(
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "jr",
        "sr",
        "inc",
        "ltd",
        "co",
        "no",
        "vs",
        "etc",
        "fig",
        "approx",
    ),
    *("e.g", "i.e", "cf", "al", "a.m", "p.m", "u.s", "u.k"),
}
CLOSING = "\"'”’»)]}*_`"


def within(count: int, at_least: int | None, at_most: int | None) -> bool:
    """Return whether a count lies within its bounds; ValueError if neither is given, or none lies within both."""
    if at_least is None and at_most is None:
        raise ValueError("give at_least, at_most or both")
    if at_least is not None and at_most is not None and at_least > at_most:
        raise ValueError(f"at_least {at_least} is more than at_most {at_most}: no answer can meet it")
    return (at_least is None or count >= at_least) and (at_most is None or count <= at_most)


# --- length ---------------------------------------------------------------------------------------


def words(text: str, at_least: Count | None = None, at_most: Count | None = None) -> bool:
    """So many words: runs of letters, digits and underscores."""
    return within(len(re.findall(r"\w+", text)), at_least, at_most)


def sentences(text: str, at_least: Count | None = None, at_most: Count | None = None) -> bool:
    """So many sentences."""
    return within(count_sentences(text), at_least, at_most)


def count_sentences(text: str) -> int:
    """Return how many sentences a text has: one ends at `.`, `!`, `?` or `…` before a space, or at a blank line.

    The full stop of an abbreviation or of an initial ends none.
    """
    count, begun = 0, False
    for line in re.sub("([。！？])", r"\1 ", text).splitlines():
        if begun and not line.strip():
            count, begun = count + 1, False
        for word in line.split():
            begun = begun or any(map(str.isalnum, word))
            if begun and ends_sentence(word.rstrip(CLOSING)):
                count, begun = count + 1, False
    return count + begun


def ends_sentence(word: str) -> bool:
    """Return whether a sentence ends with a word, of which closing quotes and brackets are off."""
    if word.endswith(("!", "?", "…", "。", "！", "？")):
        return True
    stem = word.rstrip(".").lstrip("\"'“‘«([{*_`")
    initial = len(stem) == 1 and stem.isupper() and stem != "I"
    return word.endswith(".") and not initial and stem.casefold() not in ABBREVIATIONS


def paragraphs(text: str, count: Number, divider: Literal["***", "blank line"] = "***") -> bool:
    """Exactly so many paragraphs, divided by `***` or by blank lines; an empty one between two dividers is a fault."""
    if divider == "blank line":  # several of them are one divider
        return len([part for part in text.split("\n\n") if part.strip()]) == count
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and len([part for part in parts if part]) == count


def paragraph_start(text: str, count: Number, nth: Number, word: Text) -> bool:
    """Exactly so many paragraphs divided by blank lines, and the nth begins with this word, in any case."""
    if nth > count:
        raise ValueError(f"nth is {nth}, and there are {count} paragraphs")
    parts = text.split("\n\n")
    found = len([part for part in parts if part.strip()])
    if found != count or not parts[nth - 1].strip():
        return False
    first = re.split(r"[.,?!'\"]", parts[nth - 1].split()[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return first.lower() == word.lower()


# --- keywords -------------------------------------------------------------------------------------


def occurrences(text: str, part: str) -> int:
    """Return how often a text holds a part, in any case, overlaps not counted."""
    return len(re.findall(re.escape(part), text, re.IGNORECASE))


def includes(text: str, words: Texts) -> bool:
    """Each of these words or phrases, in any case, if only as a part of a longer word."""
    return all(occurrences(text, word) for word in words)


def excludes(text: str, words: Texts) -> bool:
    """None of these words or phrases as whole words, in any case."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words)


def word_count(text: str, word: Text, at_least: Count | None = None, at_most: Count | None = None) -> bool:
    """This word so often, in any case, as a part of longer words, too."""
    return within(occurrences(text, word), at_least, at_most)


def letter_count(
    text: str, letter: Letter, at_least: Count | None = None, at_most: Count | None = None
) -> bool:
    """This character so often, in any case."""
    return within(text.lower().count(letter.lower()), at_least, at_most)


# --- case and punctuation -------------------------------------------------------------------------


def lower_case(text: str) -> bool:
    """No capital letter, and some letter."""
    return text.islower()


def upper_case(text: str) -> bool:
    """No small letter, and some letter."""
    return text.isupper()


def capital_words(text: str, at_least: Count | None = None, at_most: Count | None = None) -> bool:
    """So many words all in capitals, one with hyphens being one word."""
    found = (word.strip(string.punctuation + "“”‘’«»…") for word in text.split())
    return within(sum(word.isupper() for word in found), at_least, at_most)


def no_commas(text: str) -> bool:
    """No comma."""
    return "," not in text


# --- format and content ---------------------------------------------------------------------------


def bullets(text: str, count: Count) -> bool:
    """Exactly so many bullet points: lines that begin with `-`, or with one `*` and something behind it."""
    lines = [line.lstrip() for line in text.split("\n")]
    stars = sum(line.startswith("*") and line[1:2] not in ("", "*") for line in lines)
    return stars + sum(line.startswith("-") for line in lines) == count


def highlights(text: str, at_least: Count) -> bool:
    """At least so many parts within `*` or `**`; as IFEval counts, one within `**` is one, wherever it stands."""
    single = [part.strip("*").strip() for part in re.findall(r"\*[^\n*]*\*", text)]
    double = [part.strip("*").strip() for part in re.findall(r"\*\*[^\n*]*\*\*", text)]
    return len([part for part in single + double if part]) >= at_least


def sections(text: str, marker: Text, at_least: Count | None = None, at_most: Count | None = None) -> bool:
    """So many sections, each begun by the marker and a number."""
    return within(len(re.findall(rf"{re.escape(marker)}\s?\d+", text)), at_least, at_most)


def headings(text: str, at_least: Count | None = None, at_most: Count | None = None) -> bool:
    """So many Markdown headings: lines of one to six `#`, a space, and words."""
    found = (line.lstrip("#") for line in text.split("\n") if 1 <= len(line) - len(line.lstrip("#")) <= 6)
    return within(sum(line.startswith(" ") and bool(line.strip()) for line in found), at_least, at_most)


def title(text: str) -> bool:
    """A title in double angular brackets, `<<like this>>`, on one line."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and start + 2 < end and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def is_json(text: str) -> bool:
    """The whole answer is JSON, which a Markdown fence may surround."""
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def one_of(text: str, options: Texts) -> bool:
    """One of these options, to the letter, somewhere in the answer."""
    return any(option in text for option in options)


def placeholders(text: str, at_least: Count) -> bool:
    """At least so many placeholders in square brackets, `[like this]`."""
    return sum(1 for line in text.split("\n") for _ in brackets(line)) >= at_least


def brackets(line: str) -> Iterator[str]:
    """Yield each part of a line from `[` to the next `]`."""
    start = line.find("[")
    while start >= 0 and (end := line.find("]", start)) >= 0:
        yield line[start : end + 1]
        start = line.find("[", end)


def postscript(text: str, marker: Text) -> bool:
    """A postscript with this marker, in any case; `P.S.` and `P.P.S` may have spaces within."""
    patterns = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


# --- start, end and combination -------------------------------------------------------------------


def starts_with(text: str, phrase: Text) -> bool:
    """This phrase first, in any case."""
    return text.strip().lower().startswith(phrase.strip().lower())


def ends_with(text: str, phrase: Text) -> bool:
    """This phrase last, in any case, but for closing quotation marks."""
    return text.strip().strip('"').lower().endswith(phrase.strip().lower())


def quoted(text: str) -> bool:
    """The whole answer in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def two_answers(text: str) -> bool:
    """Two different answers with ****** between them."""
    parts = [part.strip() for part in text.split("******")]
    found = [part for part in parts if part]
    return all(parts[1:-1]) and len(found) == 2 and found[0] != found[1]


FAMILIES: dict[str, dict[str, Callable[..., bool]]] = {
    "length": {
        "words": words,
        "sentences": sentences,
        "paragraphs": paragraphs,
        "paragraph_start": paragraph_start,
    },
    "keywords": {
        "includes": includes,
        "excludes": excludes,
        "word_count": word_count,
        "letter_count": letter_count,
    },
    "case": {"lower_case": lower_case, "upper_case": upper_case, "capital_words": capital_words},
    "punctuation": {"no_commas": no_commas},
    "format": {
        "bullets": bullets,
        "highlights": highlights,
        "sections": sections,
        "headings": headings,
        "title": title,
        "json": is_json,
        "one_of": one_of,
    },
    "content": {"placeholders": placeholders, "postscript": postscript},
    "start_end": {"starts_with": starts_with, "ends_with": ends_with, "quoted": quoted},
    "combination": {"two_answers": two_answers},
}
RULES = {name: rule for rules in FAMILIES.values() for name, rule in rules.items()}
FAMILY_OF = {name: family for family, rules in FAMILIES.items() for name in rules}


def follows(text: str, constraint: dict) -> bool:
    """Return whether an answer meets a constraint; one without words meets none."""
    arguments = {name: value for name, value in constraint.items() if name != "rule"}
    return bool(text.strip()) and RULES[constraint["rule"]](text, **arguments)


def loose_readings(text: str) -> list[str]:
    """Return the readings of which loose accuracy takes the best: whole, without first and last lines, without `*`.

    A model may begin with "Sure, here it is:" and end with an offer, and highlight what nobody asked it to.
    """
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(part.replace("*", "") for part in cut)]


# --- reading --------------------------------------------------------------------------------------


def constraints_of(row: dict, where: str) -> list[dict]:
    """Return a row's constraints in our form, from its `constraints` or from IFEval's instruction_id_list and kwargs.

    PlumblineError, which begins with `where`, for one that is unknown or lacks something, and for a row that has none.
    """
    if "instruction_id_list" in row:
        names, kwargs = field(row, "instruction_id_list", where, "texts"), field(row, "kwargs", where, "list")
        if len(names) != len(kwargs):
            raise PlumblineError(
                f"{where}: {len(names)} instruction ids and {len(kwargs)} kwargs; give one each"
            )
        found = [published(name, given, where) for name, given in zip(names, kwargs, strict=True)]
    elif row.get("constraints") == []:
        raise PlumblineError(f"{where}: has no constraints, so that nothing of its answer could be checked")
    else:
        found = field(row, "constraints", where, "list")
    for constraint in found:
        check_constraint(constraint, where)
    return found


def check_constraint(constraint: Any, where: str) -> None:
    """Raise PlumblineError, which begins with `where`, unless a constraint names a rule and has just its arguments."""
    if not isinstance(constraint, dict) or "rule" not in constraint:
        raise PlumblineError(
            f'{where}: a constraint is {{"rule": NAME, ...}}, not {json.dumps(constraint)[:80]}'
        )
    rule, arguments = constraint["rule"], {key: value for key, value in constraint.items() if key != "rule"}
    if not isinstance(rule, str) or rule not in RULES:
        raise PlumblineError(f"{where}: unknown rule {rule!r}; known: {', '.join(RULES)}")
    if "text" in arguments:
        raise PlumblineError(f"{where}: {rule} has no argument 'text'; leave it out")
    try:
        validate_call(RULES[rule], config=ConfigDict(strict=True))("an answer", **arguments)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise PlumblineError(f"{where}: {rule}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
    except ValueError as error:
        raise PlumblineError(f"{where}: {rule}: {error}") from None
