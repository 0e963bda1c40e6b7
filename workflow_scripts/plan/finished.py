"""Whether nothing has changed since a run ended with all there: then no plan is made, only to find nothing to do.

    python -m workflow_scripts.plan.finished STUDY.yaml -- workflow_scripts.common.head [--console] snakemake ...

To find that nothing is due Snakemake builds the graph of all jobs, which takes the longer the more there are. So a run
that has made its table notes what its plan rested on, and how it left the plan's files: the checked study, the
workflow's own code and lists of pins, the command, Snakemake's and our settings in the environment; and of every file
that the plan reads or makes when it was written, and its length. So it does with whatever else was read to make the
plan, a user's own function say, and with the folders that were listed for it. If none of it is another, the plan would
be the same and nothing due; else, and wherever flags of Snakemake's are given, Snakemake is started and finds out.

An input that became newer than what is made of it while a run went on is due, so such a run leaves no note. Not seen,
as Snakemake does not see them: a file in a folder that is a job's output, and packages that were changed by hand.
"""

import argparse
import atexit
import contextlib
import hashlib
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.plan.acceptance import accepted_files
from workflow_scripts.plan.layout import Layout
from workflow_scripts.study.checking import load_study
from workflow_scripts.study.origin import named

RESTS_ON = "PLUMBLINE_RESTS_ON"  # tells the head what its plan rests on, so that it can note it in the end
OURS = ("Snakefile", "rules", "workflow_scripts", "plumbline", "report", "envs", "profiles", "contrib")
SETTLES = ("SNAKEMAKE_", "PLUMBLINE_")  # variables that begin so may alter a plan
STATE = Path(".snakemake")


class Left(NamedTuple):
    """How a file was left."""

    own: int
    """When it was written, in ns; of a link, the link itself."""
    there: int
    """When that was written to which a link leads."""
    length: int


def left(path: str) -> Left | None:
    """Return how a file, a folder or what a link leads to was left; None where nothing is there.

    A folder counts by the stamp that Snakemake leaves in it, for what lies beside that may be removed or added.
    """
    try:
        own, there = os.lstat(path), os.stat(path)
        if os.path.isdir(path):
            stamp = os.path.join(path, ".snakemake_timestamp")
            when = os.lstat(stamp).st_mtime_ns if os.path.exists(stamp) else 0
            return Left(when, when, 0)
    except OSError:
        return None
    return Left(own.st_mtime_ns, there.st_mtime_ns, there.st_size)


def listed(folder: str) -> int:
    """Return when a file was last added to a folder or removed from it, in ns; 0 where there is none."""
    return os.stat(folder).st_mtime_ns if os.path.isdir(folder) else 0


def texts(*places: Path) -> Iterable[tuple[str, bytes]]:
    """Yield (path, content) of the files at or below some places, in the order of their paths."""
    for place in places:
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and file.suffix != ".pyc":
                yield str(file), file.read_bytes()


def rests_on(study: Path, command: list[str]) -> str:
    """Return a digest of all that a plan rests on but for its files; PlumblineError for a study with mistakes."""
    found = hashlib.sha256()
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTLES)}
    versions = [version("snakemake"), platform.python_version()]
    checked = load_study(study).model_dump_json()
    found.update(json.dumps([checked, command, variables, versions]).encode())
    profile = [Path(given) for flag, given in itertools.pairwise(command) if "profile" in flag]
    for name, content in texts(*(ROOT / part for part in OURS), *profile):
        found.update(json.dumps([name, hashlib.sha256(content).hexdigest()]).encode())
    return found.hexdigest()


def note_of(study: str) -> Path:
    """Return where it is noted how a run left a study's files."""
    return Path(Layout(study).work) / "finished.json"


def made_of_newer(graph: Any, files: dict[str, Left | None]) -> bool:
    """Return whether a job of Snakemake's graph makes a file that is older than one which it makes it of."""
    for job in graph.jobs:
        made = [files[str(path)] for path in job.output]
        read = [files[str(path)] for path in job.input if not path.is_ancient]
        newest = max((max(each.own, each.there) for each in read if each), default=0)
        if any(each and 0 < each.own < newest for each in made):
            return True
    return False


def note_finished(workflow: Any, study: str, read: "Read") -> None:
    """Note how a run leaves the files of its plan, if all that was due is made, and what else was read for it."""
    graph = workflow.dag
    if graph is None or workflow.touch or not all(map(graph.finished, graph.needrun_jobs())):
        return
    names = {str(path) for job in graph.jobs for path in (*job.input, *job.output)}
    files = {name: left(name) for name in sorted(names | set(accepted_files(f"results/{study}")))}
    if not made_of_newer(graph, files):
        known = read.files | {name: told(at) for name, at in files.items()}
        write_json(note_of(study), {"rests_on": read.rested_on, "files": known, "folders": read.folders})


def note_at_end(workflow: Any, study: str, read: "Read | None") -> None:
    """Have this process, a head, note in the end how it leaves its files, where it looks at what it reads."""

    def note() -> None:
        with contextlib.suppress(
            OSError, PlumblineError
        ):  # without a note the next run has Snakemake plan, no more
            note_finished(workflow, study, read)

    if read:
        atexit.register(note)


def below(folder: str) -> str:
    """Return what a path into a folder begins with."""
    return os.path.join(folder, "")


class Read:
    """What this process reads from now on, by Python's audit events, and how it was found: {path: told} and {folder:
    listed}.

    Left out is what runs write or make anew (results, work, what data/ has of sources), what the digest has already
    (our code), what belongs to Python and the system, and among temporary files and caches what this process has made
    itself. Not seen: whether a file is there that is not opened.
    """

    def __init__(self, rested_on: str) -> None:
        self.rested_on = rested_on
        self.files: dict[str, str | None] = {}
        self.folders: dict[str, int] = {}
        made = (
            ".snakemake",
            "results",
            "work",
            *(f"data/{name}" for name in ("clean", "sources", "models", "tasks")),
        )
        ours = [*map(os.path.abspath, made), *(str(ROOT / part) for part in OURS)]
        system = [sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/etc"]
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.passing = tuple(map(below, [tempfile.gettempdir(), caches]))
        self.began = int(psutil.Process().create_time() * 1e9)
        self.here = below(os.getcwd())
        self.left_out = {True: tuple(map(below, ours)), False: tuple(map(below, [*ours, *system]))}

    def __call__(self, event: str, words: tuple) -> None:
        """Take in an audit event; it has to be quick, and may raise nothing."""
        if event not in ("open", "os.listdir", "os.scandir") or not isinstance(
            words[0], str | bytes | os.PathLike
        ):
            return
        with contextlib.suppress(OSError, ValueError):
            path = os.path.abspath(os.fsdecode(words[0]))
            inside = path.startswith(self.here)
            if below(path).startswith(self.left_out[inside]):
                return
            if not inside and path.startswith(self.passing) and os.stat(path).st_ctime_ns >= self.began:
                return
            name = path.removeprefix(self.here)
            if event != "open":
                if name != "data":  # in which runs make folders
                    self.folders.setdefault(name, listed(path))
            elif name not in self.files and words[2] & os.O_ACCMODE == os.O_RDONLY:
                self.files[name] = told(left(path))


def look_on() -> Read | None:
    """Look at all that this process reads from now on, where it was told what its plan rests on; else None."""
    rested_on = os.environ.pop(RESTS_ON, None)
    if rested_on is None:
        return None
    read = Read(rested_on)
    sys.addaudithook(read)
    return read


def told(at: Left | None) -> str | None:
    """Return how a file was left, as it is noted: in a line."""
    return at and " ".join(map(str, at))


def still_so(study: str, rested_on: str) -> bool:
    """Return whether all is as the run left it that made a study's table last."""
    note = note_of(study)
    unfinished = [path for name in ("incomplete", "locks") for path in (STATE / name).glob("*")]
    if unfinished or not note.is_file():
        return False
    known = read_json(note)
    accepted = set(accepted_files(f"results/{study}"))
    if (
        not isinstance(known, dict)
        or known.get("rests_on") != rested_on
        or not accepted <= set(known["files"])
    ):
        return False
    return all(told(left(name)) == before for name, before in known["files"].items()) and all(
        listed(name) == before for name, before in known["folders"].items()
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="the study's file")
    parser.add_argument(
        "command", nargs="+", help="the module that starts Snakemake, and its words, behind --"
    )
    arguments = parser.parse_args(argv)
    name = named(arguments.study)
    rested_on = rests_on(arguments.study, arguments.command)
    if still_so(name, rested_on):
        print("Nothing to be done (all requested files are present and up to date).")
        return
    sys.stdout.flush()
    environment = os.environ | {RESTS_ON: rested_on}
    os.execve(sys.executable, [sys.executable, "-m", *arguments.command], environment)


if __name__ == "__main__":
    run(main)
