"""`datasets`: how raw files are cleaned and split."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from workflow_scripts.common.tutor_reply import FIELDS, LABELS
from workflow_scripts.study.basics import (
    REPOSITORY,
    Count,
    FileName,
    Positive,
    RepositoryPath,
    Seed,
    SomeShare,
    Strict,
    Words,
)
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.instructions import FewShot, InstructionTemplates
from workflow_scripts.study.messages import named, nearest, shown
from workflow_scripts.study.names import Names, name_in
from workflow_scripts.study.part import Part
from workflow_scripts.study.retrieval import Retrieval
from workflow_scripts.study.splits import Split

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Sample(Strict):
    """Which raw rows of each file are read, before any is cleaned: drawn as pandas' DataFrame.sample draws them."""

    rows: Count | None = None
    """How many of each file; null: all, in the order drawn."""
    seed: Seed = 42
    """Its random_state."""
    columns: list[Words] = []
    """Only rows that hold something in each of these are drawn from, as pandas' dropna sees it: NA, null and None do
    not."""


class TokenLimits(Strict):
    """How many tokens rows of one reply may have, an end token to each of their texts."""

    model: str
    """Whose tokens."""
    row: Count | None = None
    """Longer rows, with knowledge and reply, are rejected."""
    history: Count | None = None
    """The oldest messages before the reply go until there are no more."""

    @model_validator(mode="after")
    def limits_something(self) -> "TokenLimits":
        if self.row is None and self.history is None:
            raise ValueError("has row, or history, or both")
        return self


class Subset(Strict):
    """Which rows of a dataset are kept."""

    rows: Count | None = None
    """How many."""
    share: SomeShare | None = None
    """Which share of all rows, in place of their number."""
    by: Literal["first", "random", "length_ratio", "source"] = "first"
    """length_ratio: those whose instruction is nearest to `ratio` times as long as the reply, in words; source: the
    first of each source that rows name as their `dataset`, in the sources' proportions."""
    ratio: Positive | None = None
    """length_ratio: words of the instruction to words of the reply."""
    seed: Seed = 42
    """random: seed of the draw."""

    @model_validator(mode="after")
    def one_size(self) -> "Subset":
        if (self.rows is None) == (self.share is None):
            raise ValueError("has either rows or share")
        return self

    @model_validator(mode="after")
    def ratio_wanted(self) -> "Subset":
        if (self.by == "length_ratio") != (self.ratio is not None):
            raise ValueError("by: length_ratio and ratio go together")
        return self


Compared = Literal["instruction", "input", "output", "question", "reply"]


class NearDuplicates(Strict):
    """Rows that nearly repeat an earlier one: looked for, told, and, where it is asked, removed."""

    threshold: SomeShare = 0.9
    """Pairs above this cosine, of TF-IDF over runs of one to three characters, are near duplicates."""
    fields: list[Compared] | None = Field(None, min_length=1)
    """What is compared, each by itself: question (all the user says) and reply, or of instruction rows the columns
    instruction, input and output; null: those that the rows have."""
    remove: list[Compared] = []
    """A row goes if a field of these nearly repeats an earlier row's; empty: none does, they are only told."""
    candidates: Literal["all", "minhash"] | None = None
    """Which pairs are compared: all, or those that MinHash takes for alike; null: minhash for more than 20 000 rows."""

    @model_validator(mode="after")
    def removed_are_compared(self) -> "NearDuplicates":
        if self.fields and set(self.remove) - set(self.fields):
            raise ValueError("remove names a field that is not among fields")
        return self


SCHEMAS = Literal[
    "tutorbot",
    "messages",
    "text",
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
    "reddit_comments",
    "atomic",
    "wizard_of_wikipedia",
    "faithdial",
    "xsum",
    "cnn_dailymail",
    "imdb",
    "iwslt2017",
    "daily_dialog",
    "common_gen",
    "preferences",
    "alpaca_preferences",
    "sharegpt_preferences",
    "judged_pairs",
    "labelled",
    "class_problems",
    "class_dialogues",
]
STRUCTURED = ("tutorbot", "class_dialogues")  # their replies have labels in fields
UNREWARDED = (  # one answer to a prompt, as published, without rewards
    "reddit_comments",
    "wizard_of_wikipedia",
    "faithdial",
    "xsum",
    "cnn_dailymail",
    "imdb",
    "iwslt2017",
    "daily_dialog",
    "common_gen",
)
RANKED = (  # one or several answers to a prompt, ranked, and the rewards they were given
    "hh",
    "rewarded",
    "atomic",
    *UNREWARDED,
    "judged_pairs",
    "preferences",
    "alpaca_preferences",
    "sharegpt_preferences",
    "labelled",
)
UNORDERED = ("labelled",)  # of these, those whose answers came in no order
# Rows whose meta may have the knowledge that a reply is held to.
KNOWING = ("rewarded", "hh", "wizard_of_wikipedia", "faithdial")
TESTED = (  # rows that may bring tests of a program, in a column `tests`
    "messages",
    "prompt_completion",
    "alpaca",
    "self_instruct",
    "wizardlm",
    "sharegpt",
    "labelled",
    "preferences",
    "alpaca_preferences",
    "sharegpt_preferences",
)
TEXTS = ("text",)  # plain ones, which are no question and no answer
INSTRUCTIONS = ("alpaca", "self_instruct", "dolly", "super_ni", "unnatural_instructions", "wizardlm")
READ_OF = {  # settings of a dataset: the schemas whose rows are read by them
    "drop_fields": STRUCTURED,
    "replace_na": STRUCTURED,
    "lenient_labels": STRUCTURED,
    "reply_format": STRUCTURED,
    "reject_colon": ("hh",),
    "instruction_templates": INSTRUCTIONS,
    "few_shot": ("super_ni",),
    "top_replies": ("oasst1",),
}
# Who made another assistant, and what it is called: rows that speak of themselves by such a name teach a policy to.
OTHER_ASSISTANTS = (
    *"OpenAI ChatGPT GPT-3 GPT3 GPT-4 GPT4 BingChat Bard PaLM Anthropic Claude LAION OpenAssistant".split(),
    *("Open AI", "Chat GPT", "GPT 3", "GPT 4", "Bing Chat", "Open Assistant"),
)


class Dataset(Part):
    """Raw files, and how they are cleaned and split: of a source, of this machine (path), or of a model hub (hf)."""

    path: RepositoryPath | list[RepositoryPath] | None = None
    """Files of this machine (docs/your-data.md): a file, a folder, a pattern such as `rows/*.csv`, or a list of these;
    relative to the repository, or absolute. What is left out below is then found out, and said."""
    hf: Annotated[str, Field(pattern=REPOSITORY)] | None = None
    """A data set of a model hub, owner/name. HF_ENDPOINT and HF_TOKEN are honoured."""
    revision: Words = "main"
    """hf: a branch, a tag or a commit. It is resolved once, into `study.lock` beside the study: commit that file."""
    hf_config: Words | None = None
    """hf: which of its configurations; null: the default one."""
    hf_split: Words | None = None
    """hf: which of its splits are the rows; null: train, or the only one."""
    shape: (
        Literal["text", "conversation", "prompt_completion", "preference", "unpaired_preference"] | None
    ) = None
    """path, hf: what the rows are; null: what fits them first (docs/your-data.md)."""
    source: str | None = None
    """The source of its files, in place of path and hf."""
    files: list[FileName] = []
    """Which of the source's files, in order."""
    data_schema: SCHEMAS | None = Field(None, alias="schema")
    """How a row is written (docs/data.md); null, with path or hf: found out. hh, rewarded, judged_pairs, labelled and
    …preferences rows bring ranked answers."""
    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What a row of plain text (.txt, .md) is: a line, a paragraph (empty lines stand between them), or the file."""
    columns: dict[Words, Words | list[Words]] = {}
    """What the schema calls a column: what the files call it, `{prompt: question}`; a dot goes into an object, or to a
    place of a list, `answers.text.0`. Or file: what the columns of its table are called, as a list, where its first row
    (csv, tsv) does not say it."""
    system_prompt: str | None = None
    """The system message of every conversation; null: tutorbot rows have none, others keep their own."""
    drop_fields: list[str] = []
    """tutorbot: fields taken out of every reply."""
    replace_na: dict[str, str] = {}
    """tutorbot: field: the label that stands for N/A."""
    lenient_labels: bool = False
    """tutorbot: replies with a label that the table lacks, or without some of their text, are no reason to cut, as
    published: they are learned from, and are in no pair and no score."""
    truncate_at_unparsable: bool = True
    """Cut a conversation before its first unusable turn; false: reject it. One that calls a tool is always rejected."""
    min_messages: Count = 2
    """Shorter conversations are rejected (counted without the system message)."""
    max_chars: Count = 200_000
    """Longer messages and lines are unusable."""
    max_words: Count | None = None
    """Conversations with a longer message are rejected."""
    token_limits: TokenLimits | None = None
    """Ranked rows: how many tokens they may have."""
    collapse_whitespace: bool = False
    """Runs of white space in a message become one space."""
    reject_phrases: list[Words] = []
    """Conversations that contain one of these, in any case, are rejected (who the model says it is)."""
    reject_other_assistants: bool = False
    """Conversations that name another assistant or its maker (docs/data.md) are rejected, as the Tulu mixtures do."""
    reject_colon: bool = False
    """hh: rows with an answer that ends in a colon are rejected."""
    duplicates: Literal["drop", "keep"] = "drop"
    """A conversation that says exactly what an earlier one said is dropped, or kept and counted."""
    empty_replies: Literal["drop", "keep"] = "drop"
    """A reply that says nothing makes its turn unusable, or is kept and counted: it teaches the end token alone. Not of
    tutorbot rows, nor of ranked answers."""
    url_token: str | None = None
    """What stands in place of a URL; null: URLs stay."""
    input_heading: str = ""
    """alpaca: a heading above the input; empty: a blank line alone."""
    instruction_templates: InstructionTemplates | None = None
    """alpaca, dolly, super_ni …: every instruction is put by a template that is drawn for it; null: all alike, above
    their input. {}: our own fourteen with an input and fourteen without."""
    few_shot: FewShot | None = None
    """super_ni: so many instances of each task, some with worked examples; null: every instance, without."""
    top_replies: Count | None = None
    """oasst1: a path goes on to so many replies of a message, those of the highest quality; null: to all."""
    skip_to_user: bool = False
    """Leave out what the assistant says before the user's first turn; false: reject such a conversation."""
    seed: Seed = 42
    """Of what is drawn as rows are read: templates, instances, worked examples."""
    reply_format: Literal["json", "python"] = "json"
    """tutorbot: how structured replies are written, as JSON or as a Python dict."""
    license: Words | None = None
    """Its licence: the card of an exported policy that learned from it says it (docs/export.md)."""
    group_by: Literal["problem", "question", "conversation"] = "problem"
    """What may not be on two sides of a split; with path or hf `question` where it is not said."""
    history_turns: Annotated[int, Field(ge=0)] | None = None
    """At most so many past exchanges stand before a turn; null: all. For models of short context."""
    exclude_groups_of: list[str] = []
    """dataset/split of this study whose groups (questions, with group_by: question) must not appear here."""
    sample: Sample | None = None
    """Read only some rows of each file, as a source that drew from its files with pandas."""
    near_duplicates: NearDuplicates | None = None
    """Look for rows that nearly repeat an earlier one, before a subset and the splits; null: for none."""
    subset: Subset | None = None
    """Keep only some rows, chosen before the split."""
    split: Split | None = None
    """The splits; null, with path or hf: all rows are `train`."""
    retrieve: Retrieval | None = None
    """Write passages that fit a question into its conversation; null: none."""
    _columns: list[str] | None = PrivateAttr(
        None
    )  # that its first rows have and are read; None: nobody looked

    @model_validator(mode="after")
    def one_origin(self) -> "Dataset":
        given = self.said()
        origins = [key for key in ("source", "path", "hf") if getattr(self, key) is not None]
        if len(origins) != 1:
            told = f"not {' and '.join(origins)}" if origins else "and has none of them"
            raise ValueError(f"takes its files from one of source, path and hf, {told}")
        origin = origins[0]
        only = {"source": ("files",), "hf": ("revision", "hf_config", "hf_split"), "path": ()}
        stray = [key for other, keys in only.items() if other != origin for key in keys if key in given]
        stray += ["shape"] if "shape" in given and origin == "source" else []
        if stray:
            raise ValueError(f"has {origin}: {', '.join(stray)} cannot be said beside it")
        wanted = {"files": self.files, "schema": self.data_schema, "split": self.split}
        if origin == "source" and (missing := [key for key, value in wanted.items() if not value]):
            raise ValueError(f"needs {' and '.join(missing)} beside source")
        if self.shape and self.data_schema:
            raise ValueError("has shape or schema: a schema says the shape")
        return self

    def names(self, path: str, need: Names) -> None:
        """Need its source and files, the files of its splits, and the splits whose groups it leaves out."""
        need.need_source(f"{path}.source", self.source)
        for index, file in enumerate(self.files):
            need.need_file(f"{path}.files[{index}]", self.source, file)
        for split, files in self.split.by_file.items():
            for file in files:
                need.need(f"{path}.split.by_file.{split}", file, self.files, "file of this dataset")
        if self.retrieve:
            self.retrieve.names(f"{path}.retrieve", need)
        for file in self.columns_of_files():
            need.need(f"{path}.columns", file, self.files, "file of this dataset")
        splits = self.split.names_of_splits()
        for key in ("by_file", "by_column", "distinct"):
            for split in getattr(self.split, key):
                need.need(f"{path}.split.{key}", split, splits, "split of this dataset")
        if self.token_limits:
            need.need(f"{path}.token_limits.model", self.token_limits.model, need.study.models, "model")
        for index, held_out in enumerate(self.exclude_groups_of):
            here = f"{path}.exclude_groups_of[{index}]"
            other, _, split = held_out.partition("/")
            cleaned = [name for name, part in need.study.datasets.items() if isinstance(part, Dataset)]
            need.need(
                here,
                other,
                [name for name in cleaned if name != name_in(path)],
                "other dataset made of files",
            )
            need.need_split(here, other, split)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find settings that rows of its schema do not read, and names of fields and labels there are none of."""
        for key, schemas in READ_OF.items():
            given = getattr(self, key) != type(self).model_fields[key].default
            if given and self.data_schema not in schemas:
                yield doubt(
                    f"{path}.{key}",
                    f"is read of rows of schema {', '.join(schemas)} alone, not of {self.data_schema}",
                )
        if self.token_limits and self.data_schema not in RANKED:
            yield wrong(
                f"{path}.token_limits",
                f"counts the tokens of rows of one reply (schema {', '.join(RANKED)}), not of {self.data_schema}",
            )
        if self.data_schema in TEXTS:
            for key in ("system_prompt", "retrieve"):
                if getattr(self, key) is not None:
                    yield wrong(
                        f"{path}.{key}", "a plain text (schema text) has no question that it could go to"
                    )
        if self.empty_replies == "keep" and self.data_schema in (*STRUCTURED, *RANKED, *TEXTS):
            yield doubt(
                f"{path}.empty_replies", f"is not read of rows of schema {self.data_schema}: they need words"
            )
        if self.data_schema in STRUCTURED:
            yield from unknown_labels(path, self.drop_fields, self.replace_na)

    def columns_of_files(self) -> dict[str, list[str]]:
        """Return {file: what its columns are called} of the files whose first row does not say it."""
        return {file: names for file, names in self.columns.items() if isinstance(names, list)}

    def renames(self) -> dict[str, str]:
        """Return {what the schema calls a column: what the files call it}."""
        return {column: name for column, name in self.columns.items() if isinstance(name, str)}

    def looked_at(self, columns: list[str]) -> None:
        """Keep which columns its first rows have, of those that are read."""
        self._columns = columns

    def lacks(self, column: str) -> bool:
        """Tell whether its first rows were looked at, and none has this column."""
        return self._columns is not None and column not in self._columns

    def made_of(self, name: str, study: "Study") -> dict[str, "Dataset"]:
        """Return the datasets that the rows of one called `name` come from: itself alone."""
        return {name: self}

    def splits(self, study: "Study") -> list[str]:
        """Return what its splits are called; none where it says none and its files are not there to tell."""
        return self.split.names_of_splits() if self.split else []

    def most_rows(self, split: str, study: "Study") -> int | None:
        """Return how many conversations a split has at most, or None where only the data tell."""
        source = study.sources.get(self.source)
        bounds = [self.split.limit, source.most_rows() if source else None]
        if split in self.split.quotas:
            bounds.append(self.split.quotas[split] * (len(self.files) if self.split.per_file else 1))
        if self.subset:
            bounds.append(self.subset.rows)
        return min((bound for bound in bounds if bound is not None), default=None)


def unknown_labels(path: str, drop_fields: list[str], replace_na: dict[str, str]) -> Iterator[Finding]:
    """Find fields and labels of structured replies that there are none of, and fields that no reply can do without."""
    for field in drop_fields:
        if field in FIELDS:
            yield doubt(
                f"{path}.drop_fields", f"a reply without {field!r} is unusable: all would be rejected"
            )
    for field, label in replace_na.items():
        if field not in LABELS:
            yield doubt(
                f"{path}.replace_na.{named(field)}",
                f"no label stands in a field called {shown(field)}{nearest(field, LABELS)}: nothing is replaced",
            )
        elif label not in LABELS[field]:
            yield doubt(
                f"{path}.replace_na.{named(field)}",
                f"{shown(label)} is no label, so each such turn is unusable (there are: {', '.join(LABELS[field])})",
            )


def without_labels(path: str, name: str, study: "Study", instead: str = "") -> Iterator[Finding]:
    """Find a dataset whose replies have no labels to compare; `instead` says what else could be done."""
    for schema in schemas_of(study, name):
        if schema not in STRUCTURED:
            yield wrong(
                f"{path}.dataset",
                f"compares the labels of structured replies (schema {' or '.join(STRUCTURED)}), and {name!r} has rows "
                f"of schema {schema}{instead}",
            )


def made_of(study: "Study", name: str | None) -> dict[str, Dataset]:
    """Return the datasets that the rows of one come from: itself, or those it is mixed of; {} where there is none."""
    dataset = study.datasets.get(name)
    return dataset.made_of(name, study) if dataset else {}


def schemas_of(study: "Study", name: str) -> list[str]:
    """Return the schemas of a dataset's rows, each once: of a mixture several; none where there is no such dataset."""
    return list(dict.fromkeys(part.data_schema for part in made_of(study, name).values()))
