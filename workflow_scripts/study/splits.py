"""`datasets.NAME.split`: which conversations go to which split, by shares, by counts, by files, or by columns."""

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, FileName, Name, Seed, Share, Strict
from workflow_scripts.study.messages import shown

LEDGERS = ("rejected", "near_duplicates", "passages")  # what stands beside the splits, in files called so


class Split(Strict):
    """How many conversations each split gets, or which files make up each.

    The short form is split: number, `{train: 0.8, validation: 0.1, test: 0.1}` (shares, at most 1 together) or
    `{train: 160, test: 40}` (counts, of all files together).
    """

    seed: Seed = 42
    """Seed of the dealing."""
    shares: dict[Name, Share] = {}
    """Split: its share of the conversations of all files together. Groups are dealt out whole, as near to the shares as
    they come; what shares below 1 leave over is in no split, and counted."""
    quotas: dict[Name, Annotated[int, Field(ge=0)]] = {}
    """Split: conversations, at most; groups are dealt out in proportion."""
    per_file: bool = True
    """The quotas count for each file, not for all files together."""
    order: Literal["shuffled", "file"] = "shuffled"
    """file: the first rows fill the first quota, and so on, without shuffling."""
    by_file: dict[Name, list[FileName]] = {}
    """Split: its files, for data that comes split; a group that is in two stays in the first. With quotas (and order:
    file) or by_column a file may be in several splits."""
    by_column: dict[Name, dict[str, list[str | int]]] = {}
    """Split: column of the raw rows: values. Only rows with one of the values go there (data with a column that says
    train or test). Needs by_file, or order: file."""
    distinct: list[Name] = []
    """Splits in which each prompt stands once, with the first of its replies."""
    limit: Count | None = None
    """No split gets more conversations than this, whatever its quota or its files."""

    def names_of_splits(self) -> list[str]:
        """Return what the splits are called."""
        return list(self.shares or self.quotas or self.by_file)

    @model_validator(mode="before")
    @classmethod
    def short_form(cls, value: Any) -> Any:
        """Write out {split: number}: shares, where the numbers are at most 1, or counts of all files together."""
        if not isinstance(value, dict) or not value or not all(map(is_number, value.values())):
            return value
        keys = [key for key in value if key in cls.model_fields]
        if len(keys) == len(value):
            return value
        if keys:
            others = {key: number for key, number in value.items() if key not in keys}
            raise ValueError(
                f"{', '.join(keys)}: a key of split, so no split is called so in the short form; write "
                f"{'quotas' if all(isinstance(number, int) for number in others.values()) else 'shares'}: "
                f"{{{', '.join(f'{key}: {number}' for key, number in others.items())}}} beside it"
            )
        if all(isinstance(number, int) for number in value.values()):
            return {"quotas": value, "per_file": False}
        if any(number > 1 for number in value.values()):
            raise ValueError(
                f"{told(value)}: either shares, numbers with a point of at most 1, or counts, whole numbers; not both"
            )
        return {"shares": {key: float(number) for key, number in value.items()}}

    @model_validator(mode="after")
    def one_way(self) -> "Split":
        if not (self.shares or self.quotas or self.by_file):
            raise ValueError("has shares, quotas or by_file")
        if self.shares:
            return self.by_shares()
        both = self.quotas and self.by_file
        if self.order != "file" and (both or (self.quotas and self.by_column)):
            raise ValueError(
                f"quotas with {'by_file' if both else 'by_column'} are filled in the rows' order: set order: file"
            )
        return self

    def by_shares(self) -> "Split":
        """Refuse shares beside another way to split, and shares that are more than all or nothing."""
        for key in ("quotas", "by_file", "by_column"):
            if getattr(self, key):
                raise ValueError(f"shares and {key} are two ways to split: leave one out")
        if self.order != "shuffled":
            raise ValueError("shares are dealt out by seed: leave order out, or give quotas")
        whole = sum(Fraction(str(share)) for share in self.shares.values())
        if whole > 1:
            raise ValueError(
                f"{told(self.shares)}: the shares are {float(whole):g} together, and at most 1 can be"
            )
        if not whole:
            raise ValueError("every share is 0: give at least one more")
        return self

    @model_validator(mode="after")
    def beside_ledgers(self) -> "Split":
        taken = [name for name in self.names_of_splits() if name in LEDGERS]
        if taken:
            raise ValueError(f"no split can be called {' or '.join(taken)}: an account beside the splits is")
        return self

    def is_empty(self, split: str) -> str | None:
        """Return the key that says a split gets nothing, or None."""
        for key in ("shares", "quotas"):
            if getattr(self, key).get(split) == 0:
                return f"{key}.{split}"
        return None


def is_number(value: Any) -> bool:
    """Tell whether a value of YAML is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def told(numbers: dict[str, Any]) -> str:
    """Return splits with their numbers, as text."""
    return ", ".join(f"{name}: {shown(number)}" for name, number in numbers.items())
