"""Runs that would be chosen by what they are tested on, or by what they learn."""

from collections.abc import Iterable, Iterator

from workflow_scripts.study.datasets import made_of
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.foresight.tested import contents_of, files_of_split
from workflow_scripts.study.learned import learned_splits, tested_splits, watched_splits
from workflow_scripts.study.study import Study

TEST = "test"  # what a split is called that is for the end


def shared_with(study: Study, dataset: str, split: str, others: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return the paths, of (path, dataset, split), that read rows of a split, be it as a part of a mixture."""
    own = made_of(study, dataset).keys()
    return [path for path, other, asked in others if asked == split and own & made_of(study, other).keys()]


def watched_on_tests(study: Study) -> Iterator[Finding]:
    """Find watches of a test split, or of one that a benchmark asks: what is chosen by it has no test left."""
    advice = "a policy that is chosen by its test has none left; name a validation split"
    for _, path, dataset, split in watched_splits(study):
        asked = shared_with(study, dataset, split, tested_splits(study))
        if asked:
            yield wrong(f"{path}.split", f"{asked[0]} asks {dataset}/{split}: {advice}")
        elif split == TEST:
            yield wrong(f"{path}.split", f"{split!r} is kept for the end: {advice}")
        else:
            for part in made_of(study, dataset):
                yield from watched_on_files_of_tests(path, part, split, study)


def watched_on_files_of_tests(path: str, dataset: str, split: str, study: Study) -> Iterator[Finding]:
    """Find that what is watched comes from a file that a benchmark asks under another name."""
    files, own = files_of_split(dataset, split, study), f"{dataset}/{split}"
    tested = [
        (where, part, asked) for where, name, asked in tested_splits(study) for part in made_of(study, name)
    ]
    for where, other, asked in tested:
        if other != dataset and files & files_of_split(other, asked, study):
            apart = f"{other}/{asked}" in study.datasets[dataset].exclude_groups_of
            if not apart and own not in study.datasets[other].exclude_groups_of:
                yield doubt(f"{path}.split", f"{where} asks {other}/{asked}, made of the same file as {own}")
    for name, benchmark in study.benchmarks.items():
        source, file = benchmark.item_file() or (None, None)
        if source and contents_of(source, [file], study) & files:
            yield doubt(f"{path}.split", f"benchmarks.{name} asks the file that {own} comes from")


def watched_on_what_is_learned(study: Study) -> Iterator[Finding]:
    """Find watches of a split that the run learns from: it says how well it knows these rows, and no more."""
    learned = list(learned_splits(study))
    for name, path, dataset, split in watched_splits(study):
        if f"runs.{name}" in shared_with(study, dataset, split, learned):
            yield doubt(
                f"{path}.split", f"{split!r} is what the run learns from: what is watched is no validation"
            )
