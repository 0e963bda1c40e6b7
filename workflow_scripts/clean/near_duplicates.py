"""Rows that nearly repeat an earlier one, by a field's characters: TF-IDF cosine, of all pairs or of MinHash's.

What is compared is a field's text in lower case without punctuation, as the finder of Raschka's "Build a Large Language
Model", chapter 7, does it: TF-IDF of all runs of one to three characters over the field's own texts, and each pair of
rows whose cosine is above the threshold. Texts of one character, and empty ones, are in no pair.

Candidates are `all` pairs: a block of rows is multiplied with those after it at a time, so memory grows with the rows
and not with their square. Or those of `minhash`, for sets too large for that: of each text the set of its runs of
SHINGLE characters is hashed to PERMUTATIONS numbers, which are cut into BANDS bands; rows that share a band are
candidates. The cosine decides in both, so `minhash` finds no pair that `all` does not. Two texts that share a part J of
their runs (Jaccard) become candidates with probability 1 − (1 − J⁴)³²: 0.87 at J = 0.5, 0.99 at 0.6.

With `remove`, a row goes whose field of that name nearly repeats an earlier row's, whether or not that row goes too;
each field is compared among the rows that those before it have left.

Not covered: paraphrases, translations, one long text inside of another.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from workflow_scripts.clean.ledger import Ledger
from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.settings import NearDuplicates
from workflow_scripts.common.errors import PlumblineError

SHINGLE, PERMUTATIONS, BANDS = 5, 128, 32
MANY = 20_000  # rows from which the candidates of MinHash are looked at alone, where nothing is said
BLOCK = 256  # rows compared with all after them at once
PUNCTUATION = re.compile(r"[^\w\s]")
OF_INSTRUCTIONS, OF_OTHERS = ("instruction", "input", "output"), ("question", "reply")

Conversation = dict[str, Any]


class Pair(NamedTuple):
    """Two rows whose texts are nearly the same: their places, the earlier first, and the cosine."""

    first: int
    second: int
    similarity: float


def said_by(row: Conversation, role: str) -> str:
    """Return all that one side says in a row, of ranked answers the best one's; a plain text is a reply to nothing."""
    roles = (role, "text") if role == "assistant" else (role,)
    said = [message["content"] for message in row["messages"] if message["role"] in roles]
    if role == "assistant" and row.get("candidates"):
        said = [row["candidates"][0]["content"]]
    return "\n".join(said)


# By name: the text of a field; None where a row has no such field.
FIELDS: dict[str, Callable[[Conversation], str | None]] = {
    "instruction": lambda row: row["extra"].get("instruction"),
    "input": lambda row: row["extra"].get("input"),
    "output": lambda row: said_by(row, "assistant"),
    "question": lambda row: said_by(row, "user"),
    "reply": lambda row: said_by(row, "assistant"),
}


def fields_of(conversations: Sequence[Conversation], wanted: Sequence[str] | None) -> list[str]:
    """Return the fields to compare: those that are wanted, else those that the rows have.

    PlumblineError for a wanted one that no row has.
    """
    if wanted is None:
        alike = any(FIELDS["instruction"](row) is not None for row in conversations)
        return list(OF_INSTRUCTIONS if alike else OF_OTHERS)
    for name in wanted:
        if name not in FIELDS:
            raise PlumblineError(f"near_duplicates.fields: {name!r} is not one of {', '.join(FIELDS)}")
        if all(FIELDS[name](row) is None for row in conversations):
            raise PlumblineError(
                f"near_duplicates.fields: no row of this schema has the field {name!r}; compare question and reply"
            )
    return list(wanted)


def without_near_duplicates(
    conversations: Sequence[Conversation], rule: NearDuplicates, ledger: Ledger
) -> tuple[list[Conversation], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return (the rows that stay, all pairs found, {field: its counts}); what goes is in the ledger.

    A pair is {"field", "first": id, "second": id, "similarity"}. Counted are rows compared, pairs, and rows removed.
    """
    rows, found, counts = list(conversations), [], {}
    fields = fields_of(rows, rule["fields"])
    if unknown := sorted(set(rule["remove"]) - set(fields)):
        raise PlumblineError(
            f"near_duplicates.remove: {', '.join(unknown)} is not compared; it is one of {', '.join(fields)}"
        )
    for field in fields:
        texts = [FIELDS[field](row) for row in rows]
        compared = sum(bool(text) for text in texts)
        candidates = rule["candidates"] or ("minhash" if compared > MANY else "all")
        pairs = near_pairs(texts, rule["threshold"], candidates)
        found += [
            {"field": field, "first": rows[first]["id"], "second": rows[second]["id"], "similarity": score}
            for first, second, score in pairs
        ]
        removed = {pair.second: pair for pair in reversed(pairs)} if field in rule["remove"] else {}
        for place, pair in sorted(removed.items()):
            fault = Fault("near duplicate", f"of {rows[pair.first]['id']} in {field}: {pair.similarity:.4f}")
            ledger.reject(rows[place]["place"], "row", fault, rows[place]["turns"])
        counts[field] = {
            "candidates": candidates, "compared": compared, "pairs": len(pairs), "removed": len(removed),
        }  # fmt: skip
        ledger.notes[f"near duplicates in {field}"] += len(pairs)
        rows = [row for place, row in enumerate(rows) if place not in removed]
    return rows, found, counts


def with_splits(
    pairs: Sequence[dict[str, Any]], splits: dict[str, list[Conversation]], ledger: Ledger
) -> list[dict[str, Any]]:
    """Return pairs with the splits that their two rows are in, None where a row is in none, and note those of two."""
    split_of = {row["id"]: split for split, rows in splits.items() for row in rows}
    placed = [pair | {"splits": [split_of.get(pair[key]) for key in ("first", "second")]} for pair in pairs]
    apart = sum(None not in pair["splits"] and len(set(pair["splits"])) > 1 for pair in placed)
    ledger.notes["near duplicates in two splits"] += apart
    return placed


def comparable(text: str | None) -> str:
    """Return what of a text is compared."""
    return PUNCTUATION.sub("", (text or "").lower())


def near_pairs(texts: Sequence[str | None], threshold: float, candidates: str) -> list[Pair]:
    """Return the pairs of texts whose similarity is above a threshold, in the order of the first and the second."""
    if candidates not in CANDIDATES:
        raise PlumblineError(
            f"near_duplicates.candidates: {candidates!r} is not one of {', '.join(CANDIDATES)}"
        )
    places = [place for place, text in enumerate(texts) if text]
    cut = [comparable(texts[place]) for place in places]
    if not any(cut):
        return []
    from sklearn.feature_extraction.text import (
        TfidfVectorizer,
    )  # a second, which other datasets need not wait for

    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).fit_transform(cut)
    pairs = (
        Pair(places[first], places[second], round(float(score), 6))
        for first, second, score in CANDIDATES[candidates](vectors, cut, threshold)
    )
    return sorted(pair for pair in pairs if min(len(texts[pair.first]), len(texts[pair.second])) > 1)


def of_all(vectors: Any, texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield (first, second, cosine) of all pairs above the threshold, from vectors (rows, n-grams) of length 1."""
    for start in range(0, vectors.shape[0], BLOCK):
        near = (vectors[start : start + BLOCK] @ vectors[start:].T).tocoo()
        above = (near.data > threshold) & (near.col > near.row)
        for row, column, score in zip(near.row[above], near.col[above], near.data[above], strict=True):
            yield start + int(row), start + int(column), score


def of_minhash(vectors: Any, texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield what `of_all` does, of those pairs that share a band of their MinHash."""
    from datasketch import MinHash, MinHashLSH

    table = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS))
    for place, hashed in enumerate(MinHash.generator(map(shingles, texts), num_perm=PERMUTATIONS, seed=1)):
        earlier = sorted(table.query(hashed))
        table.insert(place, hashed)
        if earlier:
            scores = (vectors[earlier] @ vectors[place].T).toarray()[:, 0]
            yield from (
                (first, place, scores[at]) for at, first in enumerate(earlier) if scores[at] > threshold
            )


CANDIDATES = {"all": of_all, "minhash": of_minhash}


def shingles(text: str) -> list[bytes]:
    """Return the runs of SHINGLE characters of a text, each once; a shorter text is its own."""
    starts = range(max(1, len(text) - SHINGLE + 1))
    return sorted({text[start : start + SHINGLE].encode("utf-8", "replace") for start in starts})
