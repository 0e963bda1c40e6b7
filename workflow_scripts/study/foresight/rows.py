"""Splits without rows, files that are in none, and datasets that wait for one another."""

import graphlib
from collections.abc import Iterator

from workflow_scripts.study.datasets import Dataset, made_of
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.learned import learned_splits, tested_splits, watched_splits
from workflow_scripts.study.study import Study


def made_of_files(study: Study) -> dict[str, Dataset]:
    """Return the datasets that are no mixtures, by name."""
    return {name: part for name, part in study.datasets.items() if isinstance(part, Dataset)}


def splits_without_rows(study: Study) -> Iterator[Finding]:
    """Find splits that are used though their quota or their share is 0."""
    watched = [found[1:] for found in watched_splits(study)]
    for path, dataset, split in [*learned_splits(study), *tested_splits(study), *watched]:
        for name, part in made_of(study, dataset).items():
            if key := part.split.is_empty(split):
                yield wrong(f"{path}.split", f"datasets.{name}.split.{key} is 0, so it has no rows")


def files_of_splits(study: Study) -> Iterator[Finding]:
    """Find files that are in no split or in several, and splits without a file, where splits are made of files."""
    for name, dataset in made_of_files(study).items():
        path = f"datasets.{name}.split.by_file"
        placed = [file for files in dataset.split.by_file.values() for file in files]
        for split, files in dataset.split.by_file.items():
            if not files:
                yield wrong(f"{path}.{split}", "names no file, so it has no rows")
        for file in dict.fromkeys(placed):
            shared = dataset.split.quotas or dataset.split.by_column
            if placed.count(file) > 1 and not shared:
                yield wrong(path, f"{file!r} stands there twice: name every file in exactly one split")
        for file in dataset.files if placed else ():
            if file not in placed:
                yield wrong(path, f"{file!r} is in no split: name every file in exactly one split")


def held_out_in_a_circle(study: Study) -> Iterator[Finding]:
    """Find datasets and sources each of which is to be made after the other.

    Either dataset keeps the other's groups out, or a model is to write about rows that come of what it writes.
    """
    needs = {
        f"datasets.{name}": {
            f"sources.{dataset.source}",
            *(f"datasets.{held_out.partition('/')[0]}" for held_out in dataset.exclude_groups_of),
        }
        for name, dataset in made_of_files(study).items()
    }
    for name, source in study.sources.items():
        about = source.synthesise.rows if source.synthesise else None
        if about:
            first = f"datasets.{about.dataset}" if about.dataset else f"sources.{about.source}"
            needs[f"sources.{name}"] = {first}
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        section, _, name = circle[-1].partition(".")
        key = "exclude_groups_of" if section == "datasets" else "synthesise.rows"
        only = {part.partition(".")[0] for part in circle} == {"datasets"}
        shown = [part.partition(".")[2] if only else part for part in reversed(circle)]
        yield wrong(
            f"{section}.{name}.{key}",
            f"a circle ({' → '.join(shown)}): one of them has to be made first",
        )
