"""Which items of a benchmark stand in a training set: n-gram overlap and exact matches, for scores without them.

Words are runs of letters and digits in lower case. In scripts that write no spaces between words (Chinese, Japanese,
Thai, Lao, Khmer, Burmese ...) each character with its marks is one, so that 13 of them are a clause and not a page. For
each size n an item's n-grams are all runs of n words of its text; an item of fewer words is one n-gram, its whole text,
if it has at least 0.6 n words (8 for 13, 5 for 8), else it has none. Its share is the part of its n-grams that stand
somewhere in the training set (Brown et al. 2020, appendix C, call an item contaminated by one 13-gram; Chowdhery et al.
2022, §8, by 70 % of the 8-grams). An n-gram that more than `common` of the benchmark's own items have is its format (an
instruction, the keys of a structured reply), says nothing about one of them, and is left out; null keeps all.

Whatever its length an item is also found exactly: by its *group*, the key by which splits are kept apart, where a
training row has the same one (keys that are made of a question, not of a row's name), or *whole*, where its question or
all of its text is, word for word and sign for sign (3 + 2 is not 3 - 2), a user's message of the training set, a
message with its reply, or a conversation. A text without any word is compared by its characters.

The benchmark's n-grams are held in memory, the training rows are streamed. All text of a row counts, of whatever split
the row is: its messages, one after another, and then its candidates, answers, chosen and rejected, or reference.

Not covered: paraphrases and translations, and text that the base model has read before.
"""

import argparse
import itertools
import json
import math
import re
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_json
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.words import BLOCKS, CLUSTER, PLANES, characters


class Settings(TypedDict):
    """Sizes of n-grams, in words, and in how many of the items an n-gram may be before it counts as their format."""

    sizes: list[int]
    common: int | None


WORD = re.compile(r"[^\W_]+")
LETTERS = rf"(?:[^\W_{BLOCKS}][{characters('M')}]*)+|{CLUSTER}"
WORD_OF_ANY = re.compile(LETTERS)
# What says as much as a word where a whole text is compared: signs of mathematics, and those between two numbers.
SIGNS = rf"[+<=>{characters('Sm')}]|(?<=\d)[-*/%](?=\d)|(?<=\d )[-*/%](?= \d)"
SIGN = re.compile(SIGNS)
WORD_OR_SIGN = re.compile(rf"{LETTERS}|{SIGNS}")
UNSEEN = {code: None for code in PLANES if unicodedata.category(chr(code)) == "Cf"}  # soft hyphens, joiners
SHORTEST = 0.6  # words that make a short item one n-gram, as a part of n
UNKNOWN = 0  # the number of every word that is in no item
WIDTH = array("I").itemsize


class Item(NamedTuple):
    """What a benchmark asks: all its text, the question where it is asked without history, and its group's key."""

    text: str
    question: str = ""
    group: str = ""


class Row(NamedTuple):
    """What a training row says: its texts, how many of them are messages, the roles of these, its group's key."""

    texts: list[str]
    roles: list[str]
    group: str


class Grams(NamedTuple):
    """A benchmark's n-grams, as bytes of word numbers: per size and item, those to look for, and their beginnings.

    Beside them what an item is found by exactly: {its words, as bytes: items} and {its group: items}.
    """

    numbers: dict[str, int]
    of_items: dict[int, dict[str, list[bytes]]]
    wanted: set[bytes]
    lengths: list[int]
    beginnings: set[bytes]
    wholes: dict[bytes, list[str]]
    groups: dict[str, list[str]]


class Found(NamedTuple):
    """What of a benchmark stands in a training set: n-grams, and items by how they were found exactly."""

    grams: set[bytes]
    exact: dict[str, str]


def folded(text: str) -> str:
    """Return a text in lower case, compatible forms of a character as one, and without characters that show nothing."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).translate(UNSEEN).lower()


def words_of(text: str) -> list[str]:
    """Return the words that texts are compared by: runs of letters and digits in lower case, or single characters."""
    return (WORD if text.isascii() else WORD_OF_ANY).findall(folded(text))


def whole_of(text: str, words: list[str]) -> list[str]:
    """Return the words and signs that a whole text is compared by, its words given."""
    return WORD_OR_SIGN.findall(folded(text)) if SIGN.search(text) else words


def characters_of(text: str) -> list[str]:
    """Return the characters that a text without words and signs is compared by."""
    return [character for character in folded(text) if not character.isspace()]


def key_of(row: dict) -> str:
    """Return the key of a row's group where it is made of the row's question, "" where it is a name in its own file."""
    name, group = str(row.get("id", "")), str(row.get("group", ""))
    return "" if name.startswith(group) else group


def read_item(row: dict, where: str) -> tuple[str, Item]:
    """Return the name of an item row {"item", "text"}, of a prompt row or of a cleaned row, and what it asks.

    A prompt's text is what the benchmark asks and expects: its last user turn or raw text, its followups, and its
    references where they were to stand; what was said before is left out. So it is for a pair of replies, which are
    its references. Another cleaned row's text is all it says, without the system message. Raises PlumblineError for
    any other row.
    """
    if "item" in row and "text" in row:
        return str(row["item"]), Item(row["text"], row["text"])
    if "id" not in row or not ("messages" in row or "text" in row):
        raise PlumblineError(f"{where}: an item needs item and text, or id and messages or text")
    name, key = str(row["id"]), key_of(row)
    if "original" in row:
        row = row | {"followups": [], "reference": ["\n".join((row["original"], row["altered"]))]}
    if "messages" in row and "followups" not in row:
        said = row_of(row)
        return name, Item("\n".join(said.texts[said.roles.count("system") :]), group=key)
    if "messages" in row:
        turns = [message for message in row["messages"] if message["role"] != "system"]
        backwards = itertools.takewhile(lambda message: message["role"] == "user", reversed(turns))
        asked = [message["content"] for message in reversed(list(backwards))]
        question, alone = "\n".join(asked), len(asked) == len(turns)
    else:
        question, alone = row["text"], True
    expected = row.get("reference") or []
    turns = itertools.zip_longest(
        [question, *(row.get("followups") or [])], [expected] if isinstance(expected, str) else expected
    )
    group = str(row.get("group", ""))
    if name.startswith(f"{group}@"):  # a problem asked at several temperatures is one item
        name = group
    text = "\n".join(text for turn in turns for text in turn if text)
    return name, Item(text, question if alone else "", key)


def read_items(paths: Iterable[Path]) -> dict[str, Item]:
    """Return each item of these files by its name; PlumblineError if a name is there twice."""
    items: dict[str, Item] = {}
    for path in paths:
        for number, row in enumerate(read_jsonl(path), 1):
            name, item = read_item(row, f"{path}:{number}")
            if items.get(name, item) != item or (name in items and "item" in row):
                raise PlumblineError(f"{path}:{number}: item {name!r} is there twice; name each item once")
            items[name] = item
    return items


def runs(code: bytes, length: int) -> list[bytes]:
    """Return the runs of so many words of a coded text, in order."""
    return [
        code[start : start + length * WIDTH] for start in range(0, len(code) - (length - 1) * WIDTH, WIDTH)
    ]


def grams_of(items: dict[str, Item], sizes: list[int], common: int | None) -> Grams:
    """Return what a benchmark's items are found by, without what more than `common` of them have, but for groups."""
    numbers: dict[str, int] = {}
    of_items: dict[int, dict[str, list[bytes]]] = {size: {} for size in sizes}
    wholes: dict[bytes, list[str]] = {}
    groups: dict[str, list[str]] = {}
    for name, item in items.items():
        words = words_of(item.text)
        code = array("I", [numbers.setdefault(word, len(numbers) + 1) for word in words]).tobytes()
        asked = whole_of(item.question, words_of(item.question)) or characters_of(item.question)
        for whole in {tuple(whole_of(item.text, words)), tuple(asked)} - {()}:
            known = array("I", [numbers.setdefault(word, len(numbers) + 1) for word in whole]).tobytes()
            wholes.setdefault(known, []).append(name)
        if item.group:
            groups.setdefault(item.group, []).append(name)
        for size in sizes:
            length = size if len(words) >= size else len(words)
            of_items[size][name] = runs(code, length) if length >= math.ceil(SHORTEST * size) else []
    if common is not None:
        of_items = {size: without_common(found, common) for size, found in of_items.items()}
        wholes = {whole: names for whole, names in wholes.items() if len(names) <= common}
    wanted = {gram for found in of_items.values() for grams in found.values() for gram in grams}
    lengths = sorted({len(gram) for gram in wanted})
    # Every n-gram begins with as many words as the shortest has: one look-up a word tells where to look closer.
    beginnings = {gram[: lengths[0]] for gram in wanted}
    return Grams(numbers, of_items, wanted, lengths, beginnings, wholes, groups)


def without_common(of_items: dict[str, list[bytes]], common: int) -> dict[str, list[bytes]]:
    """Return each item's n-grams that at most `common` items have."""
    spread = Counter(gram for grams in of_items.values() for gram in set(grams))
    return {name: [gram for gram in grams if spread[gram] <= common] for name, grams in of_items.items()}


def coded(words: list[str], number_of: Callable[[str, int], int]) -> bytes:
    """Return words as bytes of their numbers, those that no item has as UNKNOWN."""
    return array("I", [number_of(word, UNKNOWN) for word in words]).tobytes()


def find_in(rows: Iterable[Row], grams: Grams) -> Found:
    """Return what of a benchmark stands in these training rows."""
    found, exact = set(), {}
    shortest, number_of = next(iter(grams.lengths), 0), grams.numbers.get
    for row in rows:
        for name in grams.groups.get(row.group, ()):
            exact[name] = "group"
        words = [words_of(text) for text in row.texts]
        codes = [coded(whole_of(text, own), number_of) for text, own in zip(row.texts, words, strict=True)]
        alone = [
            code or coded(characters_of(text), number_of) for code, text in zip(codes, row.texts, strict=True)
        ]
        wholes = whole_texts_of(codes, alone, row.roles)
        for name in (name for whole in wholes for name in grams.wholes.get(whole, ())):
            exact.setdefault(name, "whole")
        if not grams.wanted:
            continue
        code = b"".join(coded(own, number_of) for own in words)
        last = len(code) - shortest
        starts = [at for at in range(0, last + 1, WIDTH) if code[at : at + shortest] in grams.beginnings]
        found.update(
            gram
            for start in starts
            for length in grams.lengths
            if (gram := code[start : start + length]) in grams.wanted
        )
    return Found(found, exact)


def whole_texts_of(codes: list[bytes], alone: list[bytes], roles: list[str]) -> Iterator[bytes]:
    """Yield what a row says as a whole: each user's message, each with what follows it, and all but the system's.

    codes: its texts; alone: what stands for each where it is compared with nothing beside it.
    """
    yield b"".join(codes[roles.count("system") :])
    for place, role in enumerate(roles):
        if role == "user":
            yield alone[place]
            if place + 1 < len(roles):
                yield codes[place] + codes[place + 1]
    if roles and roles[-1] == "user":
        for answer in codes[len(roles) :]:  # each candidate, chosen or rejected reply
            yield codes[len(roles) - 1] + answer


def training_rows(paths: Iterable[Path]) -> Iterator[Row]:
    """Yield each row of JSON Lines files of training rows, one in memory at a time.

    Raises PlumblineError, with the line, for a row that is not JSON or has no messages.
    """
    for path in paths:
        try:
            with open(path, encoding="utf-8") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield read_row(line, f"{path}:{number}")
        except FileNotFoundError:
            raise PlumblineError(f"{path}: no such file") from None
        except UnicodeDecodeError as error:
            raise PlumblineError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None


def read_row(line: str, where: str) -> Row:
    """Return what a line of a file of cleaned rows says; PlumblineError where it is none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PlumblineError(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise PlumblineError(f"{where}: a training row needs 'messages'; is this a file of cleaned rows?")
    return row_of(row)


def row_of(row: dict) -> Row:
    """Return all texts of a row: messages, candidates, answers, chosen, rejected, reference, or a pair's two."""
    texts = [message["content"] for message in [*row["messages"], *row.get("candidates", [])]]
    texts += row.get("answers", [])
    names = ("chosen", "rejected", "reference", "original", "altered")
    texts += [row[name] for name in names if name in row]
    return Row(texts, [message["role"] for message in row["messages"]], key_of(row))


def overlapping_items(items: dict[str, Item], grams: Grams, found: Found) -> dict[str, dict]:
    """Return, of the items that stand in a training set, the share of each size, how they do exactly, and a match.

    {item: {"<size>": share, ..., "exact": "group", "whole" or "", "match": words}}; the match is the first n-gram found
    of the largest size that has one, else the group's key or the item's words.
    """
    words = list(grams.numbers)
    overlapping: dict[str, dict] = {}
    for size, of_items in grams.of_items.items():
        for name, own in of_items.items():
            hits = [gram for gram in own if gram in found.grams]
            if hits or name in found.exact:
                match = " ".join(words[number - 1] for number in array("I", hits[0])) if hits else ""
                blank = {str(size): 0.0 for size in grams.of_items} | {"exact": "", "match": ""}
                item = overlapping.setdefault(name, blank)
                item["exact"] = found.exact.get(name, "")
                item["match"] = item["match"] or match
                item[str(size)] = round(len(hits) / len(own), 6) if own else 0.0
    for name, item in overlapping.items():
        if not item["match"]:
            own = items[name]
            item["match"] = (
                own.group
                if item["exact"] == "group"
                else " ".join(words_of(text := own.question or own.text) or characters_of(text))
            )
    return overlapping


def find_overlap(
    items: dict[str, Item], training: dict[str, list[Path]], sizes: list[int], common: int | None = None
) -> dict:
    """Return the overlap of a benchmark's items with each training set, and how many items each size is blind to.

    {"benchmark items": n, "items without n-grams": {"<size>": n}, "sets": {name: {"items": see overlapping_items}}}
    """
    grams = grams_of(items, sorted(sizes, reverse=True), common)
    return {
        "benchmark items": len(items),
        "items without n-grams": {
            str(size): sum(not own for own in of_items.values()) for size, of_items in grams.of_items.items()
        },
        "sets": {
            name: {"items": overlapping_items(items, grams, find_in(training_rows(paths), grams))}
            for name, paths in training.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--items",
        nargs="+",
        type=Path,
        required=True,
        help="item rows, prompt rows or cleaned rows, JSON Lines",
    )
    parser.add_argument(
        "--training",
        nargs="*",
        default=[],
        help="NAME=ROWS.jsonl; a name with several files is given several times",
    )
    parser.add_argument(
        "--settings", type=settings_of(Settings), required=True, help='{"sizes": [13, 8], "common": 10}'
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    training: dict[str, list[Path]] = {}
    for part in arguments.training:
        name, sign, path = part.partition("=")
        if not (name and sign and path):
            raise PlumblineError(f"--training {part}: write NAME=ROWS.jsonl")
        training.setdefault(name, []).append(Path(path))
    found = find_overlap(read_items(arguments.items), training, **arguments.settings)
    for name, part in found["sets"].items():
        shared = sum(
            any(item[str(size)] for size in arguments.settings["sizes"]) for item in part["items"].values()
        )
        exact = Counter(item["exact"] for item in part["items"].values())
        print(
            f"{name}: {shared} of {found['benchmark items']} items share an n-gram; "
            f"exactly there are {exact['group']} by "
            f"their group and {exact['whole']} more as a whole",
            file=sys.stderr,
        )
    write_json(arguments.output, found)


if __name__ == "__main__":
    run(main)
