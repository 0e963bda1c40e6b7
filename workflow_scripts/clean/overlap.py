"""Which items of a benchmark stand in a training set: n-gram overlap, for scores without them.

Words are runs of letters and digits in lower case. For each size n an item's n-grams are all runs of n words of its
text; an item of fewer words is one n-gram, its whole text, if it has at least 0.6 n words (8 for 13, 5 for 8), else it
has none. Its share is the part of its n-grams that stand somewhere in the training set (Brown et al. 2020, appendix C,
call an item contaminated by one 13-gram; Chowdhery et al. 2022, §8, by 70 % of the 8-grams). An n-gram that more than
`common` of the benchmark's own items have is its format (an instruction, the keys of a structured reply), says nothing
about one of them, and is left out; null keeps all.

The benchmark's n-grams are held in memory, the training rows are streamed. All text of a row counts, of whatever split
the row is: its messages, one after another, and then its candidates, answers, chosen and rejected or reference.

Not covered: paraphrases and translations, and text that the base model has read before.
"""

import argparse
import itertools
import json
import math
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_json

WORD = re.compile(r"[^\W_]+")
SHORTEST = 0.6  # words that make a short item one n-gram, as a part of n
UNKNOWN = 0  # the number of every word that is in no item
WIDTH = array("I").itemsize


class Grams(NamedTuple):
    """A benchmark's n-grams, as bytes of word numbers: per size and item, those to look for, and their beginnings."""

    numbers: dict[str, int]
    of_items: dict[int, dict[str, list[bytes]]]
    wanted: set[bytes]
    lengths: list[int]
    beginnings: set[bytes]


def words_of(text: str) -> list[str]:
    """Return the words that texts are compared by: runs of letters and digits, in lower case."""
    return WORD.findall(text.lower())


def item_text(row: dict, where: str) -> tuple[str, str]:
    """Return the name and text of an item row {"item", "text"} or of a prompt row.

    A prompt's text is what the benchmark asks and expects: its last user turn or raw text, its followups, and its
    references where they were to stand. What was said before is left out. Raises PlumblineError for any other row.
    """
    if "item" in row and "text" in row:
        return str(row["item"]), row["text"]
    if "id" not in row or not ("messages" in row or "text" in row):
        raise PlumblineError(f"{where}: an item needs item and text, or id and messages or text")
    if "messages" in row:
        backwards = itertools.takewhile(lambda message: message["role"] == "user", reversed(row["messages"]))
        question = "\n".join(message["content"] for message in reversed(list(backwards)))
    else:
        question = row["text"]
    asked = [question, *(row.get("followups") or [])]
    expected = row.get("reference") or []
    turns = itertools.zip_longest(asked, [expected] if isinstance(expected, str) else expected)
    name, group = str(row["id"]), str(row.get("group", ""))
    if name.startswith(f"{group}@"):  # a problem asked at several temperatures is one item
        name = group
    return name, "\n".join(text for turn in turns for text in turn if text)


def read_items(paths: Iterable[Path]) -> dict[str, str]:
    """Return the text of each item of these files by its name; PlumblineError if a name is there twice."""
    items: dict[str, str] = {}
    for path in paths:
        for number, row in enumerate(read_jsonl(path), 1):
            name, text = item_text(row, f"{path}:{number}")
            if items.get(name, text) != text or (name in items and "item" in row):
                raise PlumblineError(f"{path}:{number}: item {name!r} is there twice; name each item once")
            items[name] = text
    return items


def runs(code: bytes, length: int) -> list[bytes]:
    """Return the runs of so many words of a coded text, in order."""
    return [
        code[start : start + length * WIDTH] for start in range(0, len(code) - (length - 1) * WIDTH, WIDTH)
    ]


def grams_of(items: dict[str, str], sizes: list[int], common: int | None) -> Grams:
    """Return the n-grams of a benchmark's items, without those that more than `common` of them have."""
    numbers: dict[str, int] = {}
    of_items: dict[int, dict[str, list[bytes]]] = {size: {} for size in sizes}
    for name, text in items.items():
        words = words_of(text)
        code = array("I", [numbers.setdefault(word, len(numbers) + 1) for word in words]).tobytes()
        for size in sizes:
            length = size if len(words) >= size else len(words)
            of_items[size][name] = runs(code, length) if length >= math.ceil(SHORTEST * size) else []
    if common is not None:
        of_items = {size: without_common(found, common) for size, found in of_items.items()}
    wanted = {gram for found in of_items.values() for grams in found.values() for gram in grams}
    lengths = sorted({len(gram) for gram in wanted})
    # Every n-gram begins with as many words as the shortest has: one look-up a word tells where to look closer.
    return Grams(numbers, of_items, wanted, lengths, {gram[: lengths[0]] for gram in wanted})


def without_common(of_items: dict[str, list[bytes]], common: int) -> dict[str, list[bytes]]:
    """Return each item's n-grams that at most `common` items have."""
    spread = Counter(gram for grams in of_items.values() for gram in set(grams))
    return {name: [gram for gram in grams if spread[gram] <= common] for name, grams in of_items.items()}


def grams_found(texts: Iterable[str], grams: Grams) -> set[bytes]:
    """Return the benchmark's n-grams that stand in any of these texts."""
    found: set[bytes] = set()
    if not grams.wanted:
        return found
    shortest, number_of = grams.lengths[0], grams.numbers.get
    for text in texts:
        code = array("I", [number_of(word, UNKNOWN) for word in words_of(text)]).tobytes()
        last = len(code) - shortest
        starts = [at for at in range(0, last + 1, WIDTH) if code[at : at + shortest] in grams.beginnings]
        found.update(
            gram
            for start in starts
            for length in grams.lengths
            if (gram := code[start : start + length]) in grams.wanted
        )
    return found


def training_texts(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the text of each row of JSON Lines files of training rows, one row in memory at a time.

    Raises PlumblineError, with the line, for a row that is not JSON or has no messages.
    """
    for path in paths:
        try:
            with open(path, encoding="utf-8") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield row_text(line, f"{path}:{number}")
        except FileNotFoundError:
            raise PlumblineError(f"{path}: no such file") from None
        except UnicodeDecodeError as error:
            raise PlumblineError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None


def row_text(line: str, where: str) -> str:
    """Return all text of a training row: messages, and candidates, answers, chosen and rejected or reference."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PlumblineError(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise PlumblineError(f"{where}: a training row needs 'messages'; is this a file of cleaned rows?")
    parts = [message["content"] for message in [*row["messages"], *row.get("candidates", [])]]
    parts += row.get("answers", [])
    parts += [row[name] for name in ("chosen", "rejected", "reference") if name in row]
    return "\n".join(parts)


def overlapping_items(grams: Grams, found: set[bytes]) -> dict[str, dict]:
    """Return, of the items with an n-gram among those found, the share of each size and the first n-gram shared.

    {item: {"<size>": share, ..., "match": words}}; the match is of the largest size that has one.
    """
    words = list(grams.numbers)
    overlapping: dict[str, dict] = {}
    for size, of_items in grams.of_items.items():
        for name, own in of_items.items():
            hits = [gram for gram in own if gram in found]
            if hits:
                match = " ".join(words[number - 1] for number in array("I", hits[0]))
                item = overlapping.setdefault(
                    name, {str(size): 0.0 for size in grams.of_items} | {"match": match}
                )
                item[str(size)] = round(len(hits) / len(own), 6)
    return overlapping


def find_overlap(
    items: dict[str, str], training: dict[str, list[Path]], sizes: list[int], common: int | None = None
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
            name: {"items": overlapping_items(grams, grams_found(training_texts(paths), grams))}
            for name, paths in training.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--items", nargs="+", type=Path, required=True, help="item rows or prompt rows, JSON Lines"
    )
    parser.add_argument(
        "--training",
        nargs="*",
        default=[],
        help="NAME=ROWS.jsonl; a name with several files is given several times",
    )
    parser.add_argument("--settings", type=json.loads, required=True, help='{"sizes": [13, 8], "common": 10}')
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
        print(
            f"{name}: {len(part['items'])} of {found['benchmark items']} items share an n-gram",
            file=sys.stderr,
        )
    write_json(arguments.output, found)


if __name__ == "__main__":
    run(main)
