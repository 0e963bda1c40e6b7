"""What every entry of a section (a source, a run, a benchmark …) says of itself; the check asks all of them alike."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from workflow_scripts.study.basics import Strict
from workflow_scripts.study.findings import Finding
from workflow_scripts.study.names import Names

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class LongestRow(NamedTuple):
    """The longest row a model reads for a part: the keys that say so, its tokens, whether every row is that long."""

    keys: str
    tokens: int
    every: bool = False


class Part(Strict):
    """An entry of a section of a study."""

    @abstractmethod
    def names(self, path: str, need: Names) -> None:
        """Need every name that it holds: of each that refers to nothing, `need` keeps a sentence."""

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find what its keys alone say of how its run would go: where it would fail, learn nothing, or mislead."""
        return iter(())

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return (dataset, split) of the rows that it learns from or asks, if it does; either may not exist."""
        return None

    def longest_row(self) -> LongestRow | None:
        """Return the longest row that a model reads for it, where it says."""
        return None

    def longest_answer(self) -> int | None:
        """Return the most tokens a policy may answer it with; None where it asks for no answers."""
        return None


def annotated_rows(study: "Study", annotation: str, split: str) -> tuple[str, str] | None:
    """Return (dataset, split) of an annotation's rows; None where there is no such annotation."""
    part = study.annotations.get(annotation)
    return (part.dataset, split) if part else None
