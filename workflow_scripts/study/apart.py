"""Datasets apart: no question of one's held-out splits is learned from in another, unless a study allows it.

Rows of one dataset are kept apart by its own groups, where it is split. Beyond, what is learned from loses the rows
whose question another dataset holds out: asked by a benchmark, validated on or watched, and learned from by nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

from workflow_scripts.study.datasets import TEXTS, Dataset
from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.learned import Rows, held_out_rows, learned_rows
from workflow_scripts.study.study import Study
from workflow_scripts.study.synthesis import About


class Apart(NamedTuple):
    """What of a dataset is learned from, and which rows of others it keeps the questions of out of these splits."""

    learned: list[str]
    held_out: list[Rows]


def kept_apart(study: Study) -> dict[str, Apart]:
    """Return the datasets that leave out what others hold out, by name, in the study's order."""
    found = {} if study.allow_overlap else to_keep_apart(study)
    waiting = {
        name: [rows for rows in part.held_out if not waits(study, name, rows[0])]
        for name, part in found.items()
    }
    return {name: found[name]._replace(held_out=held_out) for name, held_out in waiting.items() if held_out}


def to_keep_apart(study: Study) -> dict[str, Apart]:
    """Return what datasets have to leave out that they do not yet, whether or not it can be known before they are."""
    asked = [
        {rows for rows in found(study) if asks(study, rows[0])} for found in (learned_rows, held_out_rows)
    ]
    learned, held_out = map(sorted, asked)
    found = {}
    for name, part in study.datasets.items():
        own = [split for dataset, split in learned if dataset == name]
        others = [rows for rows in held_out if own and not apart_already(study, name, own, rows)]
        if isinstance(part, Dataset) and others:
            found[name] = Apart(own, others)
    return found


def asks(study: Study, dataset: str) -> bool:
    """Tell whether a dataset's rows ask anything: plain texts do not."""
    return study.datasets[dataset].data_schema not in TEXTS


def apart_already(study: Study, dataset: str, learned: list[str], rows: Rows) -> bool:
    """Tell whether a dataset and the held-out rows are the same dataset's, or keep each other's groups out."""
    other, split = rows
    if other == dataset:
        return True
    return f"{other}/{split}" in study.datasets[dataset].exclude_groups_of or {
        f"{dataset}/{own}" for own in learned
    } <= set(study.datasets[other].exclude_groups_of)


def waits(study: Study, dataset: str, other: str) -> bool:
    """Tell whether another dataset's rows may be made after a dataset's, so that this one cannot wait for them.

    Rows that a model wrote come after all that it wrote about, and after the benchmarks that it kept clear of, which
    ask rows that no model wrote.
    """
    behind = written_behind(study, other)
    of_dataset = any(rows.dataset for name in behind if (rows := about(study, name)))
    return bool(behind) and (of_dataset or not written_behind(study, dataset))


def written_behind(study: Study, dataset: str) -> set[str]:
    """Return the sources that models write and that a dataset's rows rest on, straight or through others."""
    datasets, sources = {dataset}, set[str]()
    while True:
        parts = [part for name in datasets if isinstance(part := study.datasets.get(name), Dataset)]
        before = {held.partition("/")[0] for part in parts for held in part.exclude_groups_of}
        files = {part.source for part in parts} | {part.retrieve.source for part in parts if part.retrieve}
        files |= {rows.source for name in sources if (rows := about(study, name)) and rows.source}
        if before <= datasets and files <= sources:
            return {name for name in sources if name in study.sources and study.sources[name].synthesise}
        datasets, sources = datasets | before, sources | files


def about(study: Study, source: str) -> About | None:
    """Return the rows that a source is written about, if it is written, and about rows."""
    part = study.sources.get(source)
    return part.synthesise.rows if part and part.synthesise else None


def written_later(study: Study) -> Iterator[Finding]:
    """Find held-out rows that a model writes after what is learned from, so that these cannot be kept apart."""
    for name, part in ({} if study.allow_overlap else to_keep_apart(study)).items():
        for other, split in part.held_out:
            if waits(study, name, other):
                yield doubt(
                    f"datasets.{name}",
                    f"may have questions of {other}/{split}: a model writes these after it, so they are not taken out; "
                    "what the table has without them is its clean_value",
                )
