"""What takes how much room here, and what can be removed at what cost: `make disk`.

A line per study (its results by kind, its cleaned data, its unfinished state), largest first, and a line for everything
that studies share. Nothing is removed. What it costs to have something again is by what was recorded when it was made.
"""

import argparse
import os
from pathlib import Path

from workflow_scripts.common.errors import run
from workflow_scripts.disk.usage import (
    STORE,
    gigabytes,
    hours_and_dollars,
    of_study,
    paid_replies,
    read,
    room,
)
from workflow_scripts.plan.columns import aligned
from workflow_scripts.study.origin import NOTE

SHARED = {
    "data/sources": "downloads: fetched anew by the next run that wants them",
    "data/models": "models as they are trained from: made of the downloads again, in minutes",
    "data/tasks": "tasks of the harness: fetched anew",
    ".snakemake": "what each file was made by: without it every study is made anew",
    ".venv": "the environment: `make .venv/ready` makes it again",
    ".venv-vllm": "vLLM's environment: `make gpu` makes it again",
}
OF_WORK = {
    "cache": "caches of libraries: filled again as they are needed",
    "downloads": "downloads under way, which go on from here: nothing else is lost",
    "hub": "files of a hub that a look at a study needed: fetched anew",
    "serve": "policies taken out to be served: taken out anew",
    "slurm": "the tests' own SLURM: `make slurm` unpacks it again",
    "tmp": "temporary files: nothing is lost while nothing runs",
    "vllm": "what vLLM compiled: compiled anew",
}
CACHE = "SNAKEMAKE_OUTPUT_CACHE"


def names(*folders: Path) -> list[str]:
    """Return the names of all folders in some folders, each once."""
    return sorted(
        {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    )


def studies(root: Path) -> list[str]:
    """Return the studies that have results, cleaned data or unfinished state below a folder."""
    of_work = [name for name in names(root / "work") if name not in OF_WORK and name != STORE.name]
    return sorted({*names(root / "results", root / "data/clean"), *of_work})


def cost_of(root: Path, study: str) -> str:
    """Return what it costs to have a study's results again."""
    results = root / "results" / study
    file = read(results / NOTE).get("file", study)
    hours, dollars = hours_and_dollars(results)
    again = f"{hours:.1f} hours of jobs, by its cost files" if hours else "unknown: no cost files"
    paid = f", and ${dollars:,.2f} if its replies are removed too" if dollars else ""
    return f"`make clean STUDY={file}`; to have it again: {again}{paid}"


def study_rows(root: Path) -> list[tuple[int, list[str]]]:
    """Return (bytes, columns) of each study, largest first."""
    found = []
    for study in studies(root):
        kinds = of_study(root / "results" / study)
        parts = [*kinds.values(), room(root / "data/clean" / study), room(root / "work" / study)]
        found.append(
            (sum(parts), [study, gigabytes(sum(parts)), *map(gigabytes, parts), cost_of(root, study)])
        )
    return sorted(found, key=lambda row: (-row[0], row[1]))


def shared_rows(root: Path) -> list[tuple[int, list[str]]]:
    """Return (bytes, columns) of what studies share, largest first."""
    paid = paid_replies(root / STORE)
    dollars = sum(reply.usd for reply in paid)
    what = {name: (root / name, says) for name, says in SHARED.items()}
    what |= {f"work/{name}": (root / "work" / name, says) for name, says in OF_WORK.items()}
    what[str(STORE)] = (
        root / STORE,
        f"{len(paid)} replies of endpoints, paid for with ${dollars:,.2f}: who removes them pays again",
    )
    if store := os.environ.get(CACHE):
        what[f"${CACHE}"] = (Path(store), "what studies share with others: ask these before you remove any")
    found = [(room(path), name, says) for name, (path, says) in what.items() if path.exists()]
    return [(size, [name, gigabytes(size), says]) for size, name, says in sorted(found, reverse=True)]


def disk(root: Path) -> list[str]:
    """Return what takes how much room below a folder, in lines."""
    own, shared = study_rows(root), shared_rows(root)
    head = ["study", "GB", "weights", "answers", "logs", "other", "clean data", "unfinished", "to remove it"]
    lines = aligned([head, *(row for _, row in own)]) if own else ["no study has run here yet"]
    lines += ["", *aligned([["shared", "GB", "to remove it"], *(row for _, row in shared)])] if shared else []
    total = sum(size for size, _ in own) + sum(size for size, _ in shared)
    return [*lines, "", f"together: {gigabytes(total)} GB"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    print(*disk(Path()), sep="\n")


if __name__ == "__main__":
    run(main)
