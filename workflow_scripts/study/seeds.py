"""`seeds`: a list of them, or as many as make an interval as narrow as is asked."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag

from workflow_scripts.study.basics import Positive, Seed, Strict, Words
from workflow_scripts.study.report import Bar

if TYPE_CHECKING:
    from workflow_scripts.study.names import Names

MOST_SEEDS = 1000


class SeedsUntil(Strict):
    """As many seeds, from 1 on, as make half an interval's width at most `until`: how many is chosen once, after the
    first ones, by their variance (Stein's two stages), and no later score changes it. Under a `limit` the first alone.
    """

    until: Positive
    """Half the width of the interval, in the unit of results.csv."""
    at_most: Annotated[int, Field(ge=2, le=MOST_SEEDS)]
    """The most seeds there may be, whatever the interval would take."""
    on: Words
    """The cell of results.csv whose interval it is: benchmark/subset/metric, or benchmark/metric where the subset is
    empty."""
    first: Annotated[int, Field(ge=2, le=MOST_SEEDS)] = 3
    """The seeds that are run before the number is chosen. With few of them it is chosen high."""
    policy: str | None = None
    """The policy whose interval it is, by its lineage; null: of all that have seeds the one that takes most."""

    def names_a_cell(self) -> bool:
        """Tell whether `on` has the form of a cell's name."""
        return "/" in self.on and all(self.on.split("/"))

    def cell(self) -> Bar:
        """Return the cell of results.csv that `on` names, where it does."""
        benchmark, *subset, metric = self.on.split("/")
        return Bar(benchmark=benchmark, subset="/".join(subset), metric=metric)

    def names(self, path: str, need: "Names") -> None:
        """Need a cell that there can be, a policy that has seeds, and no more first seeds than there may be."""
        if self.names_a_cell():
            need.need(f"{path}.on", self.cell().benchmark, need.study.benchmarks, "benchmark")
        else:
            need.refuse(f"{path}.on", f"must be benchmark/subset/metric, not {self.on!r}")
        if self.first > self.at_most:
            need.refuse(
                f"{path}.at_most", f"must be at least the {self.first} that are first, not {self.at_most}"
            )
        if need.policies is None:
            return
        seeded = [name for name, policy in need.policies.items() if policy.parent]
        if not seeded:
            need.refuse(path, "no run makes a policy that has seeds: add runs, or write seeds: [1]")
        elif not need.lost & set((self.policy or "").split(".")):
            need.need(f"{path}.policy", self.policy, seeded, "policy with seeds")


def seeds_kind(value: Any) -> str:
    """Return whether a value is meant to be a list of seeds or what chooses them."""
    return "(mapping)" if isinstance(value, dict | SeedsUntil) else "(list)"


Seeds = Annotated[
    Annotated[list[Seed], Field(min_length=1), Tag("(list)")] | Annotated[SeedsUntil, Tag("(mapping)")],
    Discriminator(seeds_kind),
]
