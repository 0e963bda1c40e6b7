"""The cells of results.csv that a benchmark can have."""

from typing import NamedTuple


class Cells(NamedTuple):
    """The (subset, metric) cells a benchmark can have; `any_subset`: these metrics in any subset."""

    named: list[tuple[str, str]]
    any_subset: tuple[str, ...] = ()


def across(subsets: list[str], metrics: list[str]) -> list[tuple[str, str]]:
    """Return every metric in every subset."""
    return [(subset, metric) for subset in subsets for metric in metrics]
