"""Published numbers that stand in tables, each by itself."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.findings import Finding
from workflow_scripts.study.report import PublishedTable
from workflow_scripts.study.study import Study


def published_tables(study: Study, folder: Path) -> Iterator[Finding]:
    """Put the numbers of each table in its place."""
    numbers = []
    for index, entry in enumerate(study.report.published):
        table = isinstance(entry, PublishedTable)
        numbers += entry.written_out(f"report.published[{index}]") if table else [entry]
    study.report.published = numbers
    yield from ()
