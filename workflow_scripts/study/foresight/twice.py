"""Lists that name a thing twice."""

from collections.abc import Iterator

from workflow_scripts.study.datasets import Dataset
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.report import Report
from workflow_scripts.study.study import Study


def named_twice(study: Study) -> Iterator[Finding]:
    """Find lists that name a thing twice: it would be read, asked, scored or drawn twice, or make two of one name."""
    for path, entries in lists_of(study):
        if len(set(entries)) < len(entries):
            yield wrong(path, f"each once, not {entries}")
    yield from twice_in_report(study.report)


def lists_of(study: Study) -> Iterator[tuple[str, list]]:
    """Yield (path, list) of the lists in which nothing may stand twice."""
    yield "seeds", study.all_seeds()
    for name, dataset in study.datasets.items():
        if isinstance(dataset, Dataset):
            yield f"datasets.{name}.files", dataset.files
    for name, annotation in study.annotations.items():
        yield f"annotations.{name}.splits", annotation.splits
    for name, benchmark in study.benchmarks.items():
        for key in benchmark.each_once:
            yield f"benchmarks.{name}.{key}", getattr(benchmark, key)


def twice_in_report(report: Report) -> Iterator[Finding]:
    """Find cells with two published values, and judges that are compared with themselves."""
    cells: set[tuple] = set()
    for index, entry in enumerate(report.published):
        cell = (entry.policy, entry.benchmark, entry.subset, entry.metric)
        if cell in cells:
            yield wrong(entry.place(index), f"{' '.join(filter(None, cell))} stands there already")
        cells.add(cell)
    for index, pair in enumerate(report.agreement):
        if len(set(pair)) < len(pair):
            yield wrong(f"report.agreement[{index}]", f"{pair[0]!r} with itself: name two benchmarks")
