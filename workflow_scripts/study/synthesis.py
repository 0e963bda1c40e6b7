"""`sources.NAME.synthesise`: rows that a model writes, about rows of the study or from a prompt alone."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from workflow_scripts.common.placeholders import names_in, texts_in
from workflow_scripts.study.basics import Count, FileName, Name, Seed, Strict, Words
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.messages import nearest
from workflow_scripts.study.names import Names

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study

WRITTEN = "rows.jsonl"  # the one file of what was written
REPLY, NUMBER = "reply", "number"  # placeholders of `into` beside the fields of the row
TURN_FIELDS = ("id", "group", "system", "prompt", "response")  # of a cleaned row, turn by turn
SIMULATED_FIELDS = {
    "alpaca": ("instruction", "input", "output"),
    "alpaca_preferences": ("instruction", "input", "output", "chosen", "rejected"),
}


class About(Strict):
    """The rows that are written about: of a dataset's split, turn by turn, or of a source's file as they stand."""

    dataset: str | None = None
    """A dataset; its rows have the fields id, group, system, prompt and response."""
    split: str | None = None
    """Which of its splits."""
    source: str | None = None
    """A source, which may be written itself."""
    file: FileName | None = None
    """Which of its files; rows.jsonl of a written one."""

    @model_validator(mode="after")
    def one_place(self) -> "About":
        given = {key for key, value in self if value is not None}
        if given not in ({"dataset", "split"}, {"source", "file"}):
            raise ValueError("has either dataset and split, or source and file")
        return self


class Variant(Strict):
    """One of several wordings, of which each request has one by chance; what it leaves out is said beside variants."""

    prompt: Words | None = None
    """What the model is asked."""
    system: Words | None = None
    """The system message."""
    into: dict[Words, Any] | None = None
    """What a row is made of."""


class Answer(Strict):
    """How a reply is read; one that cannot be read is rejected and counted."""

    form: Literal["text", "json"] = "text"
    """json: the reply holds one JSON object, with or without words and a code fence around it."""
    fields: list[Words] = []
    """json: fields that the object must have, none of them empty; {reply.FIELD} is one of them."""
    pattern: Words | None = None
    """text: a regular expression that is looked for. Its first group, or all it matches, is then the reply; a group
    with a name is {reply.NAME}."""

    @field_validator("pattern")
    @classmethod
    def readable(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def of_its_form(self) -> "Answer":
        if self.fields and self.form != "json":
            raise ValueError("fields are of form: json")
        if self.pattern and self.form != "text":
            raise ValueError("pattern is of form: text")
        return self

    def pieces(self) -> list[str] | None:
        """Return what may stand after {reply. in a template; None where any field of an object may."""
        if self.form == "json":
            return list(self.fields) or None
        return list(re.compile(self.pattern or "").groupindex)


class Synthesis(Strict):
    """Rows that a model writes: one request per row that is written about, or `count` from a prompt alone."""

    judge: str
    """The model that writes: an entry of judges of kind openai. Its temperature and seed are those of the writing."""
    rows: About | None = None
    """What is written about; null: nothing, `count` requests have the prompt alone."""
    count: Count | None = None
    """How many requests are made, where there are no rows."""
    samples: Count = 1
    """How many requests are made for each row."""
    limit: Count | None = None
    """At most so many requests, the first ones."""
    prompt: Words | None = None
    """What the model is asked; {field} is the row's. {{ and }} are braces."""
    system: Words | None = None
    """The system message, with the same placeholders."""
    prompt_as: Literal["user", "assistant", "completion"] = "user"
    """How the prompt is sent: as a user's message; as an assistant's; or as raw text that the endpoint's /completions
    goes on from, without a chat template (Magpie)."""
    variants: dict[Name, Variant] = {}
    """Wordings by name; each request has one of them, drawn with equal chances."""
    seed: Seed = 7
    """Seed of the draw among variants."""
    answer: Answer = Answer()
    """How a reply is read."""
    into: dict[Words, Any] = {}
    """What a row of rows.jsonl is made of: fields with texts, lists and objects, in which {reply} is what was written,
    {field} the row's, and {number} the request's. A text that is a placeholder alone becomes the value itself."""
    min_chars: Count = 1
    """Shorter replies are rejected."""
    max_chars: Count | None = None
    """Longer replies are rejected."""
    differs_from: list[Words] = []
    """Fields of the row that no reply, and no piece of it, may equal (case and white space left out)."""
    reject_phrases: list[Words] = []
    """Replies that contain one of these, in any case, are rejected."""
    decontaminate: bool = True
    """Reject rows that share 13 words in a row, or a whole text, with an item of this study's benchmarks. Benchmarks on
    written rows are left out: their splits keep groups apart, and overlap.csv tells what they share with others."""

    @model_validator(mode="after")
    def about_or_count(self) -> "Synthesis":
        if (self.rows is None) == (self.count is None):
            raise ValueError("has either rows or count")
        if self.rows is None and self.samples > 1:
            raise ValueError("samples are of rows; without rows, count says how many")
        return self

    @model_validator(mode="after")
    def whole(self) -> "Synthesis":
        for name, wording in self.wordings().items():
            where = f"variants.{name}" if name else "it"
            if wording.prompt is None:
                raise ValueError(f"{where} has no prompt")
            if not wording.into:
                raise ValueError(f"{where} has no into, which says what a row is made of")
            if wording.system is not None and self.prompt_as == "completion":
                raise ValueError(
                    "a system message goes with a chat: prompt_as: completion sends raw text alone"
                )
        return self

    def wordings(self) -> dict[str, Variant]:
        """Return every wording whole, by its name; "" where there are no variants."""
        own = Variant(prompt=self.prompt, system=self.system, into=self.into)
        if not self.variants:
            return {"": own}
        return {
            name: Variant(
                prompt=variant.prompt or own.prompt,
                system=variant.system or own.system,
                into=variant.into or own.into,
            )
            for name, variant in self.variants.items()
        }

    def fields(self) -> list[str]:
        """Return the fields that every row has which is written."""
        each = [set(wording.into or ()) for wording in self.wordings().values()]
        return sorted(set.intersection(*each))

    def templates(self) -> Iterator[tuple[str, str, bool]]:
        """Yield (key, text, whether a reply is there to fill it) of all that is filled in."""
        named = {f"variants.{name}.": variant for name, variant in self.variants.items()}
        for at, wording in [("", self), *named.items()]:
            for key in ("prompt", "system"):
                if text := getattr(wording, key):
                    yield f"{at}{key}", text, False
            for field, value in (wording.into or {}).items():
                for text in texts_in(value):
                    yield f"{at}into.{field}", text, True

    def row_fields(self) -> Iterator[tuple[str, str]]:
        """Yield (key, placeholder) of all that names a field of the row; what cannot be read is left out."""
        for key, text, replied in self.templates():
            for name in readable(text):
                if not (replied and name.partition(".")[0] in (REPLY, NUMBER)):
                    yield key, name
        for index, name in enumerate(self.differs_from):
            yield f"differs_from[{index}]", name

    def names(self, path: str, need: Names) -> None:
        """Need the model, and the rows that are written about."""
        need.need(f"{path}.judge", self.judge, need.study.judges, "judge")
        if self.rows and self.rows.dataset:
            need.need_rows(f"{path}.rows", self.rows.dataset, self.rows.split or "")
        elif self.rows:
            need.need_source(f"{path}.rows.source", self.rows.source)
            need.need_file(f"{path}.rows.file", self.rows.source or "", self.rows.file)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find a judge that writes nothing, placeholders of fields there are none of, and samples that are all one."""
        judge = study.judges.get(self.judge)
        if judge and not judge.reads_words:
            yield wrong(f"{path}.judge", f"{self.judge!r} writes no text: name a judge of kind openai")
        several = self.samples > 1 or (self.count or 1) > max(1, len(self.variants))
        if judge and several and getattr(judge, "temperature", None) == 0:
            yield doubt(
                f"{path}.{'samples' if self.rows else 'count'}",
                f"judges.{self.judge} is greedy (temperature: 0), so requests of one wording get one reply: "
                "equal rows are rejected",
            )
        for key, text, _ in self.templates():
            try:
                names_in(text)
            except ValueError as error:
                yield wrong(f"{path}.{key}", str(error))
        yield from unknown_pieces(path, self)
        if (known := known_fields(study, self)) is not None:
            yield from unknown_fields(path, self, known)


def readable(text: str) -> list[str]:
    """Return the placeholders of a text, none where it cannot be read."""
    try:
        return names_in(text)
    except ValueError:
        return []


def known_fields(study: "Study", part: Synthesis) -> list[str] | None:
    """Return the fields of the rows that are written about; None where only the files tell."""
    if part.rows is None:
        return []
    if part.rows.dataset:
        return list(TURN_FIELDS)
    source = study.sources.get(part.rows.source or "")
    if source is None:
        return None
    if source.synthesise:
        return source.synthesise.fields()
    by_rows = getattr(source.simulate, "rows", None)
    return list(SIMULATED_FIELDS[by_rows]) if by_rows in SIMULATED_FIELDS else None


def unknown_fields(path: str, part: Synthesis, known: Iterable[str]) -> Iterator[Finding]:
    """Find placeholders of fields that no row has."""
    known = list(known)
    there = ", ".join(f"{{{name}}}" for name in known) or "none: there are no rows"
    for key, name in part.row_fields():
        if name not in known and name.partition(".")[0] not in known:
            own = [*known, REPLY, NUMBER] if ".into." in f".{key}" else known
            yield wrong(
                f"{path}.{key}", f"no row has a field {{{name}}}{nearest(name, own)} (there are {there})"
            )


def unknown_pieces(path: str, part: Synthesis) -> Iterator[Finding]:
    """Find pieces of a reply that it is not read for."""
    pieces = part.answer.pieces()
    for key, text, replied in part.templates():
        for name in readable(text) if replied and pieces is not None else ():
            first, _, piece = name.partition(".")
            if first == REPLY and piece and piece.partition(".")[0] not in pieces and piece not in pieces:
                yield wrong(
                    f"{path}.{key}",
                    f"{{{name}}} is no piece of a reply{nearest(piece, pieces)} (answer names "
                    f"{', '.join(pieces) or 'none'})",
                )
