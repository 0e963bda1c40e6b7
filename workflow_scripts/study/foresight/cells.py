"""Cells that a report asks for and that there cannot be."""

from collections.abc import Iterator

from workflow_scripts.study.benchmarks.harness import LmEval
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.messages import unknown
from workflow_scripts.study.report import Bar, Published
from workflow_scripts.study.seeds import SeedsUntil
from workflow_scripts.study.study import Study


def cells_there_are_none_of(study: Study) -> Iterator[Finding]:
    """Find bars, headline columns, published values and a cell of `seeds` that their benchmark cannot have."""
    for path, entry in cells_asked_for(study):
        benchmark = study.benchmarks.get(entry.benchmark)
        cells = benchmark.cells(study) if benchmark else None
        if cells is None or (entry.subset, entry.metric) in cells.named or entry.metric in cells.any_subset:
            continue
        of_metric, of_subset = (path, path) if path == "seeds.on" else (f"{path}.metric", f"{path}.subset")
        every = list(dict.fromkeys(metric for _, metric in cells.named))
        subsets = list(dict.fromkeys(subset for subset, _ in cells.named))
        metrics = [metric for subset, metric in cells.named if subset == entry.subset]
        if entry.metric not in every:
            yield wrong(of_metric, unknown(entry.metric, every, f"metric of {entry.benchmark!r}"))
        elif not metrics:
            yield wrong(of_subset, unknown(entry.subset, subsets, f"subset of {entry.benchmark!r}"))
        else:
            what = f"metric of {entry.benchmark!r} in subset {entry.subset!r}"
            yield wrong(of_metric, unknown(entry.metric, metrics, what))


def tasks_not_asked(study: Study) -> Iterator[Finding]:
    """Find cells of a task that a harness benchmark does not name and that is called as no part of one it names is.

    A doubt: what a group of tasks holds only the harness knows.
    """
    for path, entry in cells_asked_for(study):
        benchmark = study.benchmarks.get(entry.benchmark)
        if not isinstance(benchmark, LmEval) or benchmark.suite or not entry.subset:
            continue
        tasks = [task if isinstance(task, str) else task.task for task in benchmark.tasks]
        if not any(entry.subset == task or entry.subset.startswith(f"{task}_") for task in tasks):
            told = unknown(entry.subset, tasks, f"task of {entry.benchmark!r}")
            yield doubt(
                f"{path}.subset",
                f"{told}; unless one of these is a group that holds it, the table cannot be made",
            )


def cells_asked_for(study: Study) -> Iterator[tuple[str, Bar | Published]]:
    """Yield (path, cell) of each cell that a study names."""
    for section in ("bars", "headline"):
        for index, bar in enumerate(getattr(study.report, section)):
            yield f"report.{section}[{index}]", bar
    for index, published in enumerate(study.report.published):
        yield published.place(index), published
    if isinstance(study.seeds, SeedsUntil) and study.seeds.names_a_cell():
        yield "seeds.on", study.seeds.cell()


def best_by_nothing(study: Study) -> Iterator[Finding]:
    """Find a study that is to keep the best policy's weights, and names no score to know it by."""
    if study.keep_weights == "best" and not (study.report.headline or study.report.bars):
        yield wrong(
            "keep_weights", "best goes by the first cell of report.headline, or of report.bars: name one"
        )


def published_otherwise(study: Study) -> Iterator[Finding]:
    """Find, for each metric once, published values that the authors' program takes otherwise than ours is told to."""
    told = set()
    for index, entry in enumerate(study.report.published):
        benchmark = study.benchmarks.get(entry.benchmark)
        altered = entry.metric in benchmark.fidelity_alters if benchmark else False
        if altered and (benchmark.fidelity or study.fidelity) == "paper" and entry.metric not in told:
            told.add(entry.metric)
            yield doubt(
                entry.place(index),
                f"is what the authors' program gave, which takes {entry.metric!r} otherwise than the paper: set "
                f"benchmarks.{entry.benchmark}.fidelity: code to compare with it",
            )


def nothing_to_report(study: Study) -> Iterator[Finding]:
    """Find studies without a score, which have no table, and comparisons of judges where none judges."""
    if not study.benchmarks:
        yield doubt(
            "benchmarks",
            "there are none, so there is no table: `snakemake policies` makes the policies, "
            "and all else stops at the end",
        )
    for index, pair in enumerate(study.report.agreement):
        for name in pair:
            benchmark = study.benchmarks.get(name)
            if benchmark and not benchmark.is_judged():
                yield doubt(f"report.agreement[{index}]", f"{name!r} asks no judge: nothing will be compared")
