"""Write passages that fit a question into the rows of a cleaned dataset: training with retrieval, as CLASS has it.

For each question (a conversation's first user turn, or each of them) the `k` passages nearest by cosine are put, by a
template, into that turn or into the system message. The rows stay as they were cleaned beside: ids, groups, splits, and
the account of what was rejected. With them goes `passages.jsonl`: which passages each turn got, by where they stand in
their file, and how near they are.

The comparison is exact: every question with every passage, some questions at a time, so that memory is that of the
passages and of SCORES cosines. A passage whose cosine is not above `min_similarity` is not written: turns that get
fewer than `k`, or none, are counted. Ties are in the order of the file.
"""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import finished_folder, read_json, read_jsonl, write_jsonl, write_manifest
from workflow_scripts.retrieve.embeddings import by_model, by_words
from workflow_scripts.retrieve.passages import Passages, read_passages

SCORES = 1 << 24  # cosines in memory at once
DIGITS = 6  # of a cosine: what differs beyond is a tie, so that no sum's order decides
FEWER, NONE = "turns with fewer passages than k", "turns for which no passage was found"
CUT, LEFT_OUT = "texts that the embedder read without their end", "passages left out: "
BLANK = re.compile(r"\{(text|passages)\}")

Row = dict[str, Any]


class Settings(TypedDict):
    """How passages are read, found and written; `embedder` is a model's folder, None: by words."""

    column: str | None
    starts: dict[str, str]
    min_chars: int
    k: int
    min_similarity: float
    turns: Literal["first", "each"]
    into: Literal["user", "system"]
    template: str
    separator: str
    embedder: str | None


class Hit(NamedTuple):
    """A passage that was found: its number in the list, and its cosine."""

    number: int
    similarity: float


def asking_turns(messages: Sequence[Row], turns: str) -> list[int]:
    """Return the places of the user's turns that get passages."""
    places = [place for place, message in enumerate(messages) if message["role"] == "user"]
    return places if turns == "each" else places[:1]


def nearest(passages: Any, questions: Any, k: int, least: float) -> Iterator[list[Hit]]:
    """Yield for each question the k passages with the largest cosines above `least`, the largest first.

    `passages` (passages, dim) and `questions` (questions, dim) are vectors of length 1, both dense or both sparse.
    """
    size = max(1, SCORES // passages.shape[0])
    for start in range(0, questions.shape[0], size):
        scores = questions[start : start + size] @ passages.T
        scores = scores if isinstance(scores, np.ndarray) else scores.toarray()
        for row in np.round(scores.astype(np.float64), DIGITS):
            best = np.argsort(-row, kind="stable")[:k]
            yield [Hit(int(number), float(row[number])) for number in best if row[number] > least]


def filled(text: str, passages: Sequence[str], settings: Settings) -> str:
    """Return the text of a message with passages, by the template; without any it stays as it is."""
    if not passages:
        return text
    parts = {"text": text, "passages": settings["separator"].join(passages)}
    written = BLANK.sub(lambda blank: parts[blank[1]], settings["template"])
    return written if text else written.strip()


def with_passages(messages: Sequence[Row], found: Mapping[int, list[str]], settings: Settings) -> list[Row]:
    """Return messages with the passages that were found for some of the user's turns ({place: texts})."""
    messages = [dict(message) for message in messages]
    if settings["into"] == "user":
        for place, texts in found.items():
            messages[place]["content"] = filled(messages[place]["content"], texts, settings)
        return messages
    texts = [text for each in found.values() for text in each]
    if texts and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": ""})
    if texts:
        messages[0]["content"] = filled(messages[0]["content"], texts, settings)
    return messages


def retrieve(
    splits: Mapping[str, list[Row]], passages: Passages, settings: Settings
) -> tuple[dict[str, list[Row]], list[Row], dict[str, Any]]:
    """Return ({split: rows with passages}, what each turn got, {"retrieval": counts, "notes": what should be said})."""
    asked = [
        (split, number, place)
        for split, rows in splits.items()
        for number, row in enumerate(rows)
        for place in asking_turns(row["messages"], settings["turns"])
    ]
    texts = [passage.text for passage in passages.kept]
    questions = [splits[split][number]["messages"][place]["content"] for split, number, place in asked]
    folder = settings["embedder"]
    vectors = by_words(texts, questions) if folder is None else by_model(texts, questions, folder)
    found: dict[tuple[str, int], dict[int, list[str]]] = {}
    told, notes, used = [], Counter({CUT: vectors.cut}), set()
    hits = nearest(vectors.passages, vectors.questions, settings["k"], settings["min_similarity"])
    for (split, number, place), best in zip(asked, hits, strict=True):
        found.setdefault((split, number), {})[place] = [texts[hit.number] for hit in best]
        notes[NONE] += not best
        notes[FEWER] += 0 < len(best) < settings["k"]
        used |= {hit.number for hit in best}
        got = [{"at": passages.kept[hit.number].place, "similarity": hit.similarity} for hit in best]
        told.append({"id": splits[split][number]["id"], "split": split, "message": place, "passages": got})
    written = {
        split: [
            row | {"messages": with_passages(row["messages"], found.get((split, number), {}), settings)}
            for number, row in enumerate(rows)
        ]
        for split, rows in splits.items()
    }
    notes.update({f"{LEFT_OUT}{why}": count for why, count in passages.left_out.items()})
    counts = {"passages": len(texts), "used": len(used), "turns": len(asked)}
    return (
        written,
        told,
        {"retrieval": counts, "notes": {note: count for note, count in notes.items() if count}},
    )


def main() -> None:
    """Read the cleaned rows and the passages, and write the rows with passages and their manifest."""
    parser = step_parser(
        __doc__, Settings, cleaned="manifest of the cleaned rows", passages="file of passages"
    )
    arguments = parser.parse_args()
    settings: Settings = arguments.settings
    cleaned = read_json(arguments.cleaned)
    source = arguments.cleaned.parent / "rows"
    passages = read_passages(
        arguments.passages, settings["column"], settings["starts"], settings["min_chars"]
    )
    splits = {split: read_jsonl(source / f"{split}.jsonl") for split in cleaned["splits"]}
    written, told, facts = retrieve(splits, passages, settings)
    with finished_folder(arguments.output) as folder:
        for account in {Path(name).stem for name in cleaned["files"]} - splits.keys():
            shutil.copyfile(source / f"{account}.jsonl", folder / f"{account}.jsonl")
        for split, rows in written.items():
            write_jsonl(folder / f"{split}.jsonl", rows)
        write_jsonl(folder / "passages.jsonl", told)
    kept = {name: value for name, value in cleaned.items() if name != "files"}
    facts["notes"] = cleaned["notes"] | facts["notes"]
    written_files = sorted(arguments.output.glob("*.jsonl"))  # and nothing of Snakemake's
    write_manifest(arguments.manifest, written_files, **kept | facts)
    counts = facts["retrieval"]
    said = [f"{note} ({count})" for note, count in facts["notes"].items() if note not in cleaned["notes"]]
    line = f"passages: {counts['used']} of {counts['passages']} used in {counts['turns']} turns"
    print("; ".join([line, *said]), file=sys.stderr)


if __name__ == "__main__":
    run(main)
