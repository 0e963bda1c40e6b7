"""The settings that cleaning is handed: the keys of a study's dataset, or of a benchmark's reply pairs."""

from typing import Literal

from typing_extensions import TypedDict


class Split(TypedDict):
    """How conversations are dealt out: by shares, by quotas, by `by_file` {split: files}, or by the last two.

    `by_column` {split: {column: values}} says which rows may go to a split, `distinct` which splits repeat no prompt.
    """

    seed: int
    shares: dict[str, float]
    quotas: dict[str, int]
    per_file: bool
    order: Literal["shuffled", "file"]
    by_file: dict[str, list[str]]
    by_column: dict[str, dict[str, list[str | int]]]
    distinct: list[str]
    limit: int | None


class Sample(TypedDict):
    """Which raw rows of each file are read: `rows` of those that hold something in `columns`, in the order drawn."""

    rows: int | None
    seed: int
    columns: list[str]


class TokenLimits(TypedDict):
    """How many tokens of a tokenizer, in its folder, a ranked row and what was said before its reply may have."""

    tokenizer: str
    row: int | None
    history: int | None


class Subset(TypedDict):
    """Which rows are kept before the split: so many, or a share of them."""

    rows: int | None
    share: float | None
    by: Literal["first", "random", "length_ratio", "source"]
    ratio: float | None
    seed: int


class NearDuplicates(TypedDict):
    """Which rows are looked for that nearly repeat an earlier one; `remove` names the fields for which they go."""

    threshold: float
    fields: list[str] | None
    remove: list[str]
    candidates: Literal["all", "minhash"] | None


class InstructionWording(TypedDict):
    """How an instruction is put: {instruction} and {input} in the text, {output} in the reply."""

    text: str
    reply: str
    weight: float


class InstructionTemplates(TypedDict):
    """What an instruction's words are drawn from."""

    with_input: list[InstructionWording]
    without_input: list[InstructionWording]


class FewShot(TypedDict):
    """Instances of a task that are asked without and with worked examples, and how many of these."""

    zero_shot: int
    few_shot: int
    examples: int


class Settings(TypedDict):
    """A dataset's cleaning; `exclude_groups_of` are JSON Lines of ours whose groups must not appear here.

    `columns` is {file: names of its columns} of tables that do not name them; `renames` {what the schema calls a
    column: what the files call it}, with dots into objects.
    """

    schema: str
    system_prompt: str | None
    drop_fields: list[str]
    replace_na: dict[str, str]
    lenient_labels: bool
    truncate_at_unparsable: bool
    min_messages: int
    max_chars: int
    max_words: int | None
    token_limits: TokenLimits | None
    collapse_whitespace: bool
    reject_phrases: list[str]
    reject_colon: bool
    duplicates: Literal["drop", "keep"]
    empty_replies: Literal["drop", "keep"]
    url_token: str | None
    input_heading: str
    instruction_templates: InstructionTemplates | None
    few_shot: FewShot | None
    top_replies: int | None
    skip_to_user: bool
    seed: int
    reply_format: Literal["json", "python", "raw"]
    group_by: Literal["problem", "question", "conversation"]
    exclude_groups_of: list[str]
    columns: dict[str, list[str]]
    renames: dict[str, str]
    sample_by: Literal["line", "paragraph", "document"]
    sample: Sample | None
    near_duplicates: NearDuplicates | None
    subset: Subset | None
    split: Split


class ReplyPairs(TypedDict):
    """The cleaning of a benchmark's reply pairs; of raw ones nothing is cleaned."""

    raw_rows: bool
    system_prompt: str | None
    drop_fields: list[str]
    replace_na: dict[str, str]
    reply_format: Literal["json", "python", "raw"]
