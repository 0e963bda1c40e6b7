"""`datasets`: how raw files are cleaned and split."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, FileName, Name, Positive, Seed, Strict, Words


class Split(Strict):
    """How many conversations each split gets at most, or which files make up each."""

    seed: Seed = 42
    """Seed of the dealing."""
    quotas: dict[Name, Annotated[int, Field(ge=0)]] = {}
    """Split: conversations, at most; groups are dealt out in proportion."""
    per_file: bool = True
    """The quotas count for each file, not for all files together."""
    order: Literal["shuffled", "file"] = "shuffled"
    """file: the first rows fill the first quota, and so on, without shuffling."""
    by_file: dict[Name, list[FileName]] = {}
    """Split: its files, for data that comes split; a group that is in two stays in the first."""
    limit: Count | None = None
    """No split gets more conversations than this, whatever its quota or its files."""

    @model_validator(mode="after")
    def one_way(self) -> "Split":
        if bool(self.quotas) == bool(self.by_file):
            raise ValueError("has either quotas or by_file")
        return self


class Subset(Strict):
    """Which rows of a dataset are kept."""

    rows: Count
    """How many."""
    by: Literal["first", "random", "length_ratio"] = "first"
    """length_ratio: those whose instruction is nearest to `ratio` times as long as the reply, in words."""
    ratio: Positive | None = None
    """length_ratio: words of the instruction to words of the reply."""
    seed: Seed = 42
    """random: seed of the draw."""

    @model_validator(mode="after")
    def ratio_wanted(self) -> "Subset":
        if (self.by == "length_ratio") != (self.ratio is not None):
            raise ValueError("by: length_ratio and ratio go together")
        return self


SCHEMAS = Literal[
    "tutorbot",
    "messages",
    "alpaca",
    "prompt_completion",
    "super_ni",
    "cot",
    "flan_v2",
    "dolly",
    "self_instruct",
    "unnatural_instructions",
    "sharegpt",
    "baize",
    "oasst1",
    "lima",
    "wizardlm",
    "open_orca",
    "hard_coded",
    "science",
    "hh",
    "rewarded",
    "preferences",
    "alpaca_preferences",
    "sharegpt_preferences",
    "judged_pairs",
    "labelled",
]


class Dataset(Strict):
    """Raw files of a source, and how they are cleaned and split."""

    source: str
    """The source of its files."""
    files: list[FileName] = Field(min_length=1)
    """Which of the source's files, in order."""
    data_schema: SCHEMAS = Field(alias="schema")
    """How a row is written (docs/data.md). hh, rewarded, judged_pairs, labelled and …preferences rows bring ranked answers."""
    system_prompt: str | None = None
    """The system message of every conversation; null: tutorbot rows have none, others keep their own."""
    drop_fields: list[str] = []
    """tutorbot: fields taken out of every reply."""
    replace_na: dict[str, str] = {}
    """tutorbot: field: the label that stands for N/A."""
    truncate_at_unparsable: bool = True
    """Cut a conversation before its first unusable turn; false: reject it. One that calls a tool is always rejected."""
    min_messages: Count = 2
    """Shorter conversations are rejected (counted without the system message)."""
    max_chars: Count = 200_000
    """Longer messages and lines are unusable."""
    max_words: Count | None = None
    """Conversations with a longer message are rejected."""
    reject_phrases: list[Words] = []
    """Conversations that contain one of these, in any case, are rejected (who the model says it is)."""
    reject_colon: bool = False
    """hh: rows with an answer that ends in a colon are rejected."""
    url_token: str | None = None
    """What stands in place of a URL; null: URLs stay."""
    input_heading: str = ""
    """alpaca: a heading above the input; empty: a blank line alone."""
    reply_format: Literal["json", "python"] = "json"
    """tutorbot: how structured replies are written, as JSON or as a Python dict."""
    group_by: Literal["problem", "question", "conversation"] = "problem"
    """What may not be on two sides of a split."""
    history_turns: Annotated[int, Field(ge=0)] | None = None
    """At most so many past exchanges stand before a turn; null: all. For models of short context."""
    exclude_groups_of: list[str] = []
    """dataset/split of this study whose groups (questions, with group_by: question) must not appear here."""
    subset: Subset | None = None
    """Keep only some rows, chosen before the split."""
    split: Split
    """The splits."""
