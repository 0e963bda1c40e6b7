"""`datasets` again: a mixture, a dataset that is made of the rows of others."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from workflow_scripts.study.basics import Count, Name, Positive, Seed
from workflow_scripts.study.datasets import RANKED, TEXTS, Dataset
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import Part

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Mixture(Part):
    """Several datasets as one. It has the splits that all of them have, each made of their rows of that split."""

    mixture: dict[Name, Positive] = Field(min_length=1)
    """Dataset: with `rows` its weight among the others; without it how much of its own rows, 0.1 a tenth, 3 all of them
    three times."""
    size: Count | None = Field(None, alias="rows")
    """Rows of each split at most, shared out by weight; fewer where a dataset runs out, so that the weights hold."""
    by: Literal["random", "first"] = "random"
    """Which rows of a dataset: random ones, and all in random order; or the first, one dataset after another."""
    seed: Seed = 42
    """random: seed of the draw."""

    def names(self, path: str, need: Names) -> None:
        """Need datasets that are no mixtures themselves, with a split that all have."""
        cleaned = [name for name, part in need.study.datasets.items() if isinstance(part, Dataset)]
        for name in self.mixture:
            need.need(f"{path}.mixture", name, cleaned, "dataset made of files")
        if (
            self.made_of("", need.study)
            and not self.splits(need.study)
            and not need.lost & self.mixture.keys()
        ):
            need.refuse(f"{path}.mixture", f"{', '.join(self.mixture)} have no split that is called alike")

    def made_of(self, name: str, study: "Study") -> dict[str, Dataset]:
        """Return the datasets that the rows of one called `name` come from."""
        parts = {name: study.datasets.get(name) for name in self.mixture}
        return {name: part for name, part in parts.items() if isinstance(part, Dataset)}

    def splits(self, study: "Study") -> list[str]:
        """Return what its splits are called."""
        first, *others = [part.splits(study) for part in self.made_of("", study).values()] or [[]]
        return [split for split in first if all(split in other for other in others)]

    def most_rows(self, split: str, study: "Study") -> int | None:
        """Return how many rows a split has at most, or None where only the data tell."""
        if self.size:
            return self.size
        bounds = {name: part.most_rows(split, study) for name, part in self.made_of("", study).items()}
        known = {name: bound for name, bound in bounds.items() if bound is not None}
        if known.keys() != self.mixture.keys():
            return None
        return sum(math.ceil(self.mixture[name] * bound) for name, bound in known.items())

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find datasets whose rows cannot stand in one file, as those who read it would read them differently."""
        alike: dict[str, Callable[[Dataset], Any]] = {
            "ranked answers": lambda part: part.data_schema in RANKED,
            "plain texts": lambda part: part.data_schema in TEXTS,
            "history_turns": lambda part: part.history_turns,
            "reply_format": lambda part: part.reply_format,
        }
        for what, of in alike.items():
            found = {name: of(part) for name, part in self.made_of("", study).items()}
            if len(set(found.values())) > 1:
                told = ", ".join(
                    f"{name}: {'none' if value is None else value}" for name, value in found.items()
                )
                yield wrong(f"{path}.mixture", f"its datasets differ in {what} ({told}), and must not")


def dataset_kind(value: Any) -> str:
    """Return which kind of dataset a part is meant to be."""
    mixed = isinstance(value, Mixture) or (isinstance(value, dict) and "mixture" in value)
    return "(mixture)" if mixed else "(files)"


AnyDataset = Annotated[
    Annotated[Dataset, Tag("(files)")] | Annotated[Mixture, Tag("(mixture)")], Discriminator(dataset_kind)
]
