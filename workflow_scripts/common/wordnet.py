"""Synonyms from the dictionary files of WordNet, wherever they came from, in the form that nltk's METEOR asks for.

Covers index.*, data.* and *.exc as Princeton publishes them (wndb(5WN), morphy(7WN)), which is less than nltk's own
reader insists on. The *.exc files may be missing: irregular forms are then unknown. Not covered: every other relation.
"""

from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError

# The endings that a part of speech takes, and what stands there in the base form (morphy(7WN)).
ENDINGS = {
    "noun": {
        "s": [""],
        "ses": ["s"],
        "ves": ["f"],
        "xes": ["x"],
        "zes": ["z"],
        "ches": ["ch"],
        "shes": ["sh"],
        "men": ["man"],
        "ies": ["y"],
    },
    "verb": {"s": [""], "ies": ["y"], "es": ["e", ""], "ed": ["e", ""], "ing": ["e", ""]},
    "adj": {"er": ["", "e"], "est": ["", "e"]},
    "adv": {},
}


class Lemma(str):
    """One word of a set of synonyms."""

    def name(self) -> str:
        return str(self)


class Synset(NamedTuple):
    """One set of synonyms."""

    words: tuple[Lemma, ...]

    def lemmas(self) -> tuple[Lemma, ...]:
        return self.words


class WordNet:
    """The synonyms of words; without a folder no word has any.

    Raises PlumblineError when the folder lacks an index or a data file.
    """

    def __init__(self, folder: Path | str | None) -> None:
        parts = ENDINGS if folder else {}
        self.data = {part: _read(Path(folder) / f"data.{part}") for part in parts}
        self.index = {part: _index(_read(Path(folder) / f"index.{part}")) for part in parts}
        self.irregular = {part: _irregular(Path(folder) / f"{part}.exc") for part in parts}

    def synsets(self, word: str) -> list[Synset]:
        """Return the sets of synonyms of a word, or of what it is a form of, in each part of speech."""
        return [
            _synset(self.data[part], offset)
            for part in self.index
            for form in self.forms(word.lower(), part)
            for offset in self.index[part][form]
        ]

    def forms(self, word: str, part: str) -> list[str]:
        """Return the word and its base forms that this part of speech has: irregular ones, or by their ending."""
        base = self.irregular[part].get(word) or [
            word.removesuffix(ending) + start
            for ending, starts in ENDINGS[part].items()
            for start in starts
            if word.endswith(ending)
        ]
        return [form for form in dict.fromkeys([word, *base]) if form in self.index[part]]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PlumblineError(
            f"{path}: no such file; the folder of WordNet holds index.* and data.* of noun, verb, adj and adv"
        ) from None


def _index(content: bytes) -> dict[str, list[int]]:
    """Return {word: offsets of its sets in the data file}: the last synset_cnt numbers of its line."""
    index = {}
    for line in content.decode("utf-8").splitlines():
        if not line.startswith(" "):  # the licence
            word, _, count, *rest = line.split()
            index[word] = [int(offset) for offset in rest[-int(count) :]]
    return index


def _irregular(path: Path) -> dict[str, list[str]]:
    if not path.exists():
        return {}
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return {form: base for form, *base in rows}


def _synset(data: bytes, offset: int) -> Synset:
    """Return the set at an offset: after its third field a hexadecimal count, then each word with a number."""
    fields = data[offset : data.index(b"\n", offset)].decode("utf-8").split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    return Synset(
        tuple(Lemma(word.partition("(")[0]) for word in words)
    )  # "(p)": where an adjective may stand
