"""Rows from what a model wrote: each reply read, put into a row, and kept, or rejected and counted with its reason.

Rejected are requests without a reply, replies that cannot be read (no JSON object, a field missing or empty, a pattern
not found), that are too short or too long, that say what the row said before, or hold a phrase that is not wanted; rows
that stand there already; and rows that share 13 words in a row, or a whole text, with an item of a benchmark (see
`overlap`). kept + rejected = requests. Not covered: rows that are nearly the same, and what a dataset's own cleaning
rejects after this.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from typing_extensions import TypedDict

from workflow_scripts.clean.ledger import DETAIL_CHARS
from workflow_scripts.clean.overlap import Grams, Row, find_in, grams_of, read_items
from workflow_scripts.clean.reading import Fault
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import (
    canonical_json,
    finished_folder,
    read_jsonl,
    write_jsonl,
    write_manifest,
)
from workflow_scripts.common.placeholders import filled, look_up, text_of, texts_in
from workflow_scripts.common.settings import settings_of

SIZE = 13  # words in a row that make a row an item's (Brown et al. 2020, appendix C)
COMMON = 10  # items that share words which are then their format
FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
REJECTED = "rejected.jsonl"


class Answer(TypedDict):
    """How a reply is read."""

    form: Literal["text", "json"]
    fields: list[str]
    pattern: str | None


class Writer(TypedDict):
    """Who wrote: a fact for the manifest."""

    model: str
    version: str | None


class Settings(TypedDict):
    """What a row is made of, by variant, and which replies are kept."""

    into: dict[str, dict[str, Any]]
    answer: Answer
    min_chars: int
    max_chars: int | None
    differs_from: list[str]
    reject_phrases: list[str]
    writer: Writer


class Said(NamedTuple):
    """A reply that was read: what {reply} stands for, and what {reply.NAME} does."""

    whole: Any
    pieces: dict[str, Any]


class Unread(Exception):
    """A reply that is rejected."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.fault = Fault(reason, detail)


def not_finite(name: str) -> None:
    """Refuse NaN and infinities, which are no JSON."""
    raise ValueError(name)


def json_object(text: str) -> dict | None:
    """Return the JSON object in a reply, in a code fence or among words; None where there is none."""
    fenced = FENCE.search(text)
    text = fenced[1] if fenced else text
    start = text.find("{")
    try:
        found, _ = json.JSONDecoder(parse_constant=not_finite).raw_decode(text, max(start, 0))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_text(text: str, answer: Answer) -> Said:
    """Return a reply that is text: whole, or what the pattern finds in it. Raises Unread."""
    if answer["pattern"] is None:
        return Said(text.strip(), {})
    found = re.search(answer["pattern"], text)
    if found is None:
        raise Unread("pattern not found", text)
    whole = found[1] if found.re.groups else found[0]
    return Said(
        (whole or "").strip(), {name: (piece or "").strip() for name, piece in found.groupdict().items()}
    )


def read_json(text: str, answer: Answer) -> Said:
    """Return a reply that holds a JSON object. Raises Unread."""
    found = json_object(text)
    if found is None:
        raise Unread("holds no JSON object", text)
    for name in answer["fields"]:
        if name not in found:
            raise Unread(f"has no {name}", text)
        if found[name] in (None, "", [], {}) or not text_of(found[name]).strip():
            raise Unread(f"{name} is empty", text)
    return Said(found, found)


FORMS: dict[str, Callable[[str, Answer], Said]] = {"text": read_text, "json": read_json}


def folded(value: Any) -> str:
    """Return a text as it is compared: in lower case, all white space as one blank."""
    return " ".join(text_of(value).lower().split())


def read_reply(reply: dict[str, Any], settings: Settings) -> Said:
    """Return what a request was replied. Raises Unread with why it is rejected."""
    if "failed" in reply:
        reason, _, detail = reply["failed"].partition(":")
        raise Unread(reason, detail.strip())
    text = reply["reply"]
    said = FORMS[settings["answer"]["form"]](text, settings["answer"])
    length = len(text_of(said.whole))
    if length < settings["min_chars"]:
        raise Unread(f"shorter than {settings['min_chars']} characters" if length else "empty", text)
    if settings["max_chars"] is not None and length > settings["max_chars"]:
        raise Unread(f"longer than {settings['max_chars']} characters", text)
    own = {folded(said.whole), *(folded(piece) for piece in said.pieces.values())}
    for name in settings["differs_from"]:
        if folded(look_up(name, reply["row"])) in own:
            raise Unread(f"says what {name} says", text)
    phrase = next((each for each in settings["reject_phrases"] if each.lower() in text.lower()), None)
    if phrase is not None:
        raise Unread(f"contains {phrase!r}", text)
    return said


def row_of(reply: dict[str, Any], said: Said, settings: Settings, number: int | str) -> dict[str, Any]:
    """Return the row that a reply is put into. Raises Unread where it lacks a piece."""

    def value_of(name: str) -> Any:
        first, _, piece = name.partition(".")
        if name == "number":
            return number
        if first != "reply":
            return look_up(name, reply["row"])
        return look_up(piece, said.pieces) if piece else said.whole

    try:
        return filled(settings["into"][reply["variant"]], value_of)
    except KeyError as error:
        raise Unread(f"has no {error.args[0]}", reply["reply"]) from None


def overlapping(row: dict[str, Any], benchmarks: dict[str, Grams]) -> Fault | None:
    """Return why a row stands in a benchmark: every text in it counts, alone and after the one before it."""
    texts = list(texts_in(row))
    for name, grams in benchmarks.items():
        found = find_in([Row(texts, ["user"] * len(texts), "")], grams)
        if found.exact:
            return Fault(f"is an item of {name}", next(iter(found.exact)))
        if found.grams:
            return Fault(f"shares {SIZE} words with an item of {name}", canonical_json(texts))
    return None


def rows_of(
    replies: Iterable[dict[str, Any]], settings: Settings, benchmarks: dict[str, Grams]
) -> tuple[list[dict], list[dict]]:
    """Return the rows of these replies, and an entry with its reason for each reply that became none."""
    kept: list[dict] = []
    rejected: list[dict] = []
    there: set[str] = set()
    for reply in replies:
        try:
            said = read_reply(reply, settings)
            row = row_of(reply, said, settings, reply["number"])
            # Its own number makes no row another one.
            same = canonical_json(row_of(reply, said, settings, ""))
            if same in there:
                raise Unread("duplicate", reply["reply"])
            if fault := overlapping(row, benchmarks):
                raise Unread(*fault)
        except Unread as unread:
            reason, detail = unread.fault
            rejected.append(
                {"number": reply["number"], "reason": reason, "detail": detail[:DETAIL_CHARS]}
                | {"variant": reply["variant"]}
            )
        else:
            there.add(same)
            kept.append(row)
    return kept, rejected


def clean_written(
    replies: Path, settings: Settings, items: dict[str, Path], output: Path, manifest: Path
) -> None:
    """Write rows.jsonl, rejected.jsonl and the manifest; PlumblineError if nothing is left."""
    found = read_jsonl(replies)
    benchmarks = {name: grams_of(read_items([path]), [SIZE], COMMON) for name, path in items.items()}
    kept, rejected = rows_of(found, settings, benchmarks)
    reasons = Counter(entry["reason"] for entry in rejected)
    told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    if not kept:
        raise PlumblineError(
            f"no row is left of {len(found)} replies in {replies}: {told or 'there are none'}"
        )
    with finished_folder(output) as folder:
        write_jsonl(folder / "rows.jsonl", kept)
        write_jsonl(folder / REJECTED, rejected)
    write_manifest(
        manifest,
        [output],
        rows={"rows.jsonl": len(kept)},
        counts={"requests": len(found), "kept": len(kept), "rejected": len(rejected)},
        rejected=dict(sorted(reasons.items())),
        compared_with=sorted(items),
        writer=settings["writer"],
    )
    print(
        f"{len(found)} requests, {len(kept)} rows kept, {len(rejected)} rejected{': ' if told else ''}{told}",
        file=sys.stderr,
    )


def item_files(parts: list[str]) -> dict[str, Path]:
    """Return {benchmark: the file of its items} of words NAME=FILE."""
    files = {}
    for part in parts:
        name, sign, path = part.partition("=")
        if not (name and sign and path):
            raise PlumblineError(f"--items {part}: write NAME=ITEMS.jsonl")
        files[name] = Path(path)
    return files


def main() -> None:
    """Write the rows of a model's replies, and what was rejected."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--name", required=True, help="the source's name in the study, for messages")
    parser.add_argument("--replies", required=True, type=Path, help="replies of synthesise.write")
    parser.add_argument(
        "--items", nargs="*", default=[], help="NAME=ITEMS.jsonl of each benchmark to keep clear of"
    )
    parser.add_argument("--settings", required=True, type=settings_of(Settings), help="rules, as JSON")
    parser.add_argument("--output", required=True, type=Path, help="folder for rows.jsonl and rejected.jsonl")
    parser.add_argument("--manifest", required=True, type=Path)
    args = parser.parse_args()
    try:
        clean_written(args.replies, args.settings, item_files(args.items), args.output, args.manifest)
    except PlumblineError as error:
        raise PlumblineError(f"source {args.name!r}: {error}") from None


if __name__ == "__main__":
    run(main)
