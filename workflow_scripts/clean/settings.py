"""The settings that cleaning is handed: the keys of a study's dataset, or of a benchmark's reply pairs."""

from typing import Literal

from typing_extensions import TypedDict


class Split(TypedDict):
    """How conversations are dealt out; `by_file` {split: files} stands in place of quotas where it is not empty."""

    seed: int
    quotas: dict[str, int]
    per_file: bool
    order: Literal["shuffled", "file"]
    by_file: dict[str, list[str]]
    limit: int | None


class Subset(TypedDict):
    """Which rows are kept before the split."""

    rows: int
    by: Literal["first", "random", "length_ratio"]
    ratio: float | None
    seed: int


class Settings(TypedDict):
    """A dataset's cleaning; `exclude_groups_of` are JSON Lines of ours whose groups must not appear here."""

    schema: str
    system_prompt: str | None
    drop_fields: list[str]
    replace_na: dict[str, str]
    lenient_labels: bool
    truncate_at_unparsable: bool
    min_messages: int
    max_chars: int
    max_words: int | None
    reject_phrases: list[str]
    reject_colon: bool
    url_token: str | None
    input_heading: str
    reply_format: Literal["json", "python", "raw"]
    group_by: Literal["problem", "question", "conversation"]
    exclude_groups_of: list[str]
    subset: Subset | None
    split: Split


class ReplyPairs(TypedDict):
    """The cleaning of a benchmark's reply pairs; of raw ones nothing is cleaned."""

    raw_rows: bool
    system_prompt: str | None
    drop_fields: list[str]
    replace_na: dict[str, str]
    reply_format: Literal["json", "python", "raw"]
