"""Benchmarks that ask what was learned."""

from collections.abc import Iterator

from workflow_scripts.study.datasets import made_of
from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.learned import learned_splits, tested_splits
from workflow_scripts.study.study import Study


def contents_of(source: str, files: list[str], study: Study) -> set[str]:
    """Return what tells a source's files apart: their sha256, else where they are read from."""
    part = study.sources.get(source)
    if part is None:
        return set()
    local = {name: path for place in part.places if place.file for name, path in place.file.files.items()}
    return {part.files.get(file) or local.get(file) or f"{source}/{file}" for file in files}


def files_of_split(dataset: str, split: str, study: Study) -> set[str]:
    """Return what tells the files apart that a split's rows come from."""
    part = study.datasets[dataset]
    return contents_of(part.source, part.split.by_file.get(split, part.files), study)


def tests_that_were_learned(study: Study) -> Iterator[Finding]:
    """Find benchmarks that ask what a run was trained on, or rows of the same file that nothing keeps apart."""
    learned: dict[tuple[str, str], str] = {}  # (dataset, split): what learns from it first
    for path, dataset, split in learned_splits(study):
        for part in made_of(study, dataset):
            learned.setdefault((part, split), path)
    for path, dataset, split in tested_splits(study):
        if not study.benchmarks[path.removeprefix("benchmarks.")].shows_training:
            for part in made_of(study, dataset):
                yield from learned_split(path, part, split, learned, study)
    for name, benchmark in study.benchmarks.items():
        source, file = benchmark.item_file() or (None, None)
        asked = contents_of(source, [file], study) if source else set()
        for (other, trained), learner in learned.items():
            if asked & files_of_split(other, trained, study):
                yield doubt(
                    f"benchmarks.{name}.source", f"{learner} learns from {other}/{trained}, the same file"
                )


def learned_split(
    path: str, dataset: str, split: str, learned: dict[tuple[str, str], str], study: Study
) -> Iterator[Finding]:
    """Find that the split a benchmark asks was learned, or comes from a file that was."""
    files, asked = files_of_split(dataset, split, study), f"{dataset}/{split}"
    for (other, trained), learner in learned.items():
        where = f"{learner} learns from {other}/{trained}"
        if (other, trained) == (dataset, split):
            yield doubt(f"{path}.split", f"{where}, the very rows that are asked: its number is no test")
        elif study.allow_overlap and other != dataset and files & files_of_split(other, trained, study):
            apart = asked in study.datasets[other].exclude_groups_of
            if not apart and f"{other}/{trained}" not in study.datasets[dataset].exclude_groups_of:
                yield doubt(
                    f"{path}.split",
                    f"{where}, made of the same file as {asked}; keep them apart with "
                    f"datasets.{other}.exclude_groups_of: [{asked}], or leave allow_overlap out",
                )
