"""`report`: the tables and figures."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Discriminator, Field, PrivateAttr, Tag, model_validator

from workflow_scripts.study.basics import Strict
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.names import Names


class Bar(Strict):
    """A cell of results.csv, for every policy: a group of bars, or a column of a table."""

    benchmark: str
    """The benchmark."""
    subset: str
    """As in results.csv."""
    metric: str
    """As in results.csv."""


class Published(Strict):
    """A number that a paper, a model card or a leaderboard gives for one cell of results.csv."""

    policy: str
    """The policy it is about."""
    benchmark: str
    """The benchmark."""
    subset: str = ""
    """As in results.csv."""
    metric: str
    """As in results.csv."""
    value: float
    """In the unit of results.csv."""
    source: str
    """Where it stands."""

    _at: str | None = PrivateAttr(None)  # where it stands in the study's file, if in a table

    def place(self, index: int) -> str:
        """Return the path of the number that is at this place of all."""
        return self._at or f"report.published[{index}]"


class PublishedTable(Strict):
    """Such numbers as a table: a policy's are a row, in the order of the cells."""

    source: str
    """Where it stands."""
    cells: list[Bar] = Field(min_length=1)
    """The columns, cells of results.csv."""
    values: dict[str, list[float | None]]
    """{policy: its numbers}, each in the unit of results.csv; null where there is none."""

    @model_validator(mode="after")
    def a_number_a_cell(self) -> "PublishedTable":
        for policy, values in self.values.items():
            if len(values) != len(self.cells):
                raise ValueError(
                    f"values.{policy}: {len(values)} numbers for {len(self.cells)} cells; null where there is none"
                )
        return self

    def written_out(self, path: str) -> Iterator[Published]:
        """Yield each number by itself; `path` is that of the table."""
        for policy, values in self.values.items():
            for index, (cell, value) in enumerate(zip(self.cells, values, strict=True)):
                if value is not None:
                    one = Published(policy=policy, value=value, source=self.source, **cell.model_dump())
                    one._at = f"{path}.values.{policy}[{index}]"
                    yield one


def published_kind(value: Any) -> str:
    """Return whether a value is meant to be a table or a number by itself."""
    table = isinstance(value, PublishedTable) or (isinstance(value, dict) and "values" in value)
    return "(table)" if table else "(number)"


AnyPublished = Annotated[
    Annotated[Published, Tag("(number)")] | Annotated[PublishedTable, Tag("(table)")],
    Discriminator(published_kind),
]


class Report(Strict):
    """The tables and figures."""

    baseline: str | None = None
    """The policy that the others are compared with, by its lineage; null: no comparison."""
    draws: Annotated[int, Field(ge=20, le=1_000_000)] = 2000
    """Draws of the bootstrap, at least: more where so many comparisons need them to pass Holm's correction."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals."""
    bars: list[Bar] = []
    """The bar chart and, without `headline`, the first columns of the headline table."""
    headline: list[Bar] = []
    """The columns of the headline table; none: the bars and the first cell of each other benchmark."""
    published: list[AnyPublished] = []
    """Published numbers, set beside ours: each by itself, or tables of them."""
    samples: Annotated[int, Field(ge=0)] = 4
    """Prompts of each answered benchmark shown with every policy's answer."""
    decontaminate: bool = True
    """Look for each benchmark's items in the training sets, and score again without those found."""
    agreement: list[list[str]] = []
    """Pairs of benchmarks, alike but for their judge, whose verdicts are correlated."""

    def names(self, path: str, need: Names) -> None:
        """Need the policies and benchmarks that tables and figures are about."""
        benchmarks = need.study.benchmarks
        for index, entry in enumerate(self.published):
            need.need_policy(f"{entry.place(index)}.policy", entry.policy, CALIBRATION)
            need.need(f"{entry.place(index)}.benchmark", entry.benchmark, benchmarks, "benchmark")
        for index, pair in enumerate(self.agreement):
            if len(pair) != 2:
                need.refuse(f"{path}.agreement[{index}]", f"two benchmarks, not {len(pair)}")
            for name in pair:
                need.need(f"{path}.agreement[{index}]", name, benchmarks, "benchmark")
        need.need_policy(f"{path}.baseline", self.baseline)
        for section in ("bars", "headline"):
            for index, cell in enumerate(getattr(self, section)):
                need.need(f"{path}.{section}[{index}].benchmark", cell.benchmark, benchmarks, "benchmark")
