"""What a study leaves unsaid, settled: short forms written out, once, before anything else looks at the study.

A study may leave to its files what these say themselves (which files there are, how their rows are written, what a
model can read), and may name many runs by one entry. Whatever comes after reads a study in which all is said: `plan`,
`references` and `foresight` know one form of each part. Each module here settles one kind of entry, by a function of
the study, which it changes, and of the folder that the study's file is in; it gives findings: what is certain is a
mistake, the rest is what was found out. Files are listed and their beginnings read; no weights are loaded.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.study.findings import Finding, sorted_out
from workflow_scripts.study.settling.data import settle_data
from workflow_scripts.study.settling.lengths import settle_lengths
from workflow_scripts.study.settling.models import settle_models
from workflow_scripts.study.settling.pairs import settle_pairs
from workflow_scripts.study.settling.report import published_tables
from workflow_scripts.study.settling.rounds import settle_rounds
from workflow_scripts.study.settling.runs import choices, grids
from workflow_scripts.study.settling.splits import settle_splits
from workflow_scripts.study.study import Study

Settling = Callable[[Study, Path], Iterator[Finding]]

SETTLINGS: tuple[Settling, ...] = (
    grids,
    choices,
    published_tables,
    settle_models,
    settle_data,
    settle_splits,
    settle_pairs,
    settle_rounds,
    settle_lengths,
)  # in this order: what is trained, models, data, rounds, and what of these goes by the others


class Settled(NamedTuple):
    """A study in which all is said; a sentence for each mistake, and for what was found out."""

    study: Study
    wrong: list[str]
    said: list[str]


def settled(study: Study, folder: Path) -> Settled:
    """Return a study with its short forms written out; what cannot be is left as it is, and said to be wrong."""
    whole = study.model_copy(deep=True)
    found = [finding for settling in SETTLINGS for finding in settling(whole, folder)]
    wrong, said = sorted_out(found)
    return Settled(whole, wrong, said)
