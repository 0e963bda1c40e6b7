"""`datasets.NAME.retrieve`: passages that are written into a dataset's rows."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, FileName, Strict, Words
from workflow_scripts.study.names import Names

ROWS = (".csv", ".tsv", ".parquet", ".json", ".jsonl")
BLANKS = ("{text}", "{passages}")


class Retrieval(Strict):
    """Passages that fit a question, written into its conversation: training and evaluation with retrieval."""

    source: str
    """The source of the file of passages."""
    file: FileName
    """The file: a table or rows of JSON, or a text whose paragraphs have blank lines between them."""
    column: str | None = None
    """The column of a table or of rows of JSON that holds the passages; null: the file is a text."""
    starts: dict[str, Words] = {}
    """Column: what a row's text there begins with; the passages of all others are left out."""
    min_chars: Count = 1
    """Shorter passages are left out."""
    k: Count = 3
    """How many passages a turn gets."""
    min_similarity: Annotated[float, Field(ge=-1, lt=1)] = 0.0
    """Only passages whose cosine is above this are written; by words, one that shares none has 0."""
    turns: Literal["first", "each"] = "first"
    """Which of the user's turns get passages."""
    into: Literal["user", "system"] = "user"
    """Where they are written: into the turn itself, or into the system message (turns: first)."""
    template: str = "{passages}\n\n{text}"
    """How they are written: {passages}, and {text}, what the message said before."""
    separator: str = "\n\n"
    """What stands between two passages."""
    embed_source: str | None = None
    """The source of an encoder (MiniLM, say: config.json, *.safetensors, a tokenizer): its last layer's mean embeds
    questions and passages; null: TF-IDF of words."""

    def names(self, path: str, need: Names) -> None:
        """Need the file of passages, and the encoder's source."""
        need.need_source(f"{path}.source", self.source)
        need.need_file(f"{path}.file", self.source, self.file)
        need.need_source(f"{path}.embed_source", self.embed_source)

    @model_validator(mode="after")
    def makes_sense(self) -> "Retrieval":
        lost = [blank for blank in BLANKS if blank not in self.template]
        if lost:
            raise ValueError(f"template has no {' and no '.join(lost)}")
        if self.into == "system" and self.turns == "each":
            raise ValueError("into: system goes with turns: first, as there is one system message")
        if self.column is None and self.starts:
            raise ValueError("starts names columns of a table: name the column of the passages, too")
        if self.column is None and PurePosixPath(self.file).suffix.lower() in ROWS:
            raise ValueError(
                f"{self.file} holds rows: say in column which of their columns holds the passages"
            )
        return self
