"""Remove a study's results and resumable state, or those of all: `make clean [STUDY=…]`. It says what, and asks.

Downloads stay. Replies that were paid for (work/judge, recordings) stay, too, unless somebody types yes for them: with
them a study that is made anew asks nobody again. Links are removed, and never what they lead to, but for results/,
work/ and data/ themselves, which may each be a link.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.disk.usage import STORE, gigabytes, paid_replies, recordings, room
from workflow_scripts.study.basics import NAME
from workflow_scripts.study.origin import named

LOCKS = Path(".snakemake/locks")
Ask = Callable[[str], str]


class Removal(NamedTuple):
    """What is to be removed: folders, and files in or beside them that were paid for, with what they cost."""

    folders: list[Path]
    paid: list[Path]
    usd: float

    def lines(self) -> list[str]:
        """Return what would be removed, largest first."""
        sizes = sorted(((room(folder), str(folder)) for folder in self.folders), reverse=True)
        return [f"  {gigabytes(size):>8} GB  {folder}" for size, folder in sizes]

    def of_the_paid(self) -> str:
        count = "1 file" if len(self.paid) == 1 else f"{len(self.paid)} files"
        first = f"{self.paid[0]} …" if len(self.paid) > 1 else self.paid[0]
        return f"{count} of replies that were paid for with ${self.usd:,.2f} ({first})"


def study_named(study: str) -> str:
    """Return the name of a study given by its file, or, where that is gone, by its name."""
    if not Path(study).exists() and re.fullmatch(NAME, study) and (Path("results") / study).is_dir():
        return study
    return named(study)


def children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def removal_of(study: str | None) -> Removal:
    """Return what is to be removed of a study by its name, or, with None, of all."""
    if study is None:
        folders = [*children(Path("results")), *children(Path("work")), *children(Path("data/clean"))]
    else:
        folders = [Path("results") / study, Path("work") / study, Path("data/clean") / study]
        folders = [folder for folder in folders if folder.exists() or folder.is_symlink()]
    folders = [folder for folder in folders if folder != STORE]
    replies = [reply for reply in paid_replies() if study in (None, reply.study)]
    recorded = [path for folder in folders if not folder.is_symlink() for path in recordings(folder)]
    return Removal(
        folders, [*recorded, *(reply.file for reply in replies)], sum(reply.usd for reply in replies)
    )


def remove(path: Path, kept: set[Path]) -> None:
    """Remove a file, a link or a folder but for the files that are kept, and the folders that hold these."""
    if path.is_symlink() or not path.is_dir():
        if path not in kept:
            path.unlink(missing_ok=True)
    elif not any(path in file.parents for file in kept):
        shutil.rmtree(path)
    else:
        for child in children(path):
            remove(child, kept)


def refuse_a_run() -> None:
    """Raise PlumblineError while a run holds the folder."""
    if any(LOCKS.glob("*.lock")):
        raise PlumblineError(
            "a run is at work here, or was killed: wait for it, or start `make results` and stop it, which clears up; "
            "then clean"
        )


def clean(study: str | None, yes: bool, verdicts: str, ask: Ask | None) -> list[str]:
    """Remove what is to be removed and return what was done, in lines. `ask` asks somebody; None: nobody is there.

    `yes` answers for all but what was paid for, for which `verdicts` must be the word yes.
    """
    refuse_a_run()
    removal = removal_of(study)
    whose = f"study {study}" if study else "all studies"
    if not removal.folders and not removal.paid:
        return [f"nothing of {whose} is here"]
    if removal.folders and not yes:
        listed = "\n".join([f"to be removed, of {whose}:", *removal.lines()])
        if ask is None:
            raise PlumblineError(f"{listed}\nnobody is there to be asked: say YES=1 (plumbline clean --yes)")
        if ask(f"{listed}\nRemove this? [y/N] ").strip().lower() not in ("y", "yes"):
            return ["nothing was removed"]
    paid_too = settle_the_paid(removal, verdicts, ask)
    kept = set() if paid_too else set(removal.paid)
    freed = sum(map(room, removal.folders)) + (sum(map(size_of, removal.paid)) if paid_too else 0)
    for path in [*removal.folders, *(removal.paid if paid_too else [])]:
        remove(path, kept)
    freed -= sum(size_of(path) for path in kept if any(folder in path.parents for folder in removal.folders))
    said = [f"removed {gigabytes(freed)} GB of {whose}"]
    if removal.paid and not paid_too:
        said.append(f"kept: {removal.of_the_paid()}; VERDICTS=yes removes them, too")
    return said


def size_of(path: Path) -> int:
    return path.lstat().st_blocks * 512 if path.exists() else 0


def settle_the_paid(removal: Removal, verdicts: str, ask: Ask | None) -> bool:
    """Return whether what was paid for is removed: only where somebody types yes, or said VERDICTS=yes."""
    if not removal.paid or verdicts == "yes":
        return bool(removal.paid)
    if verdicts:
        raise PlumblineError(f"VERDICTS={verdicts}: only yes removes {removal.of_the_paid()}")
    if ask is None:
        return False
    question = f"There are {removal.of_the_paid()}. To remove them, too, type yes; anything else keeps them: "
    return ask(question).strip() == "yes"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", default="", help="the study's file, or its name (default: all studies)")
    parser.add_argument("--yes", action="store_true", help="do not ask, but for what was paid for")
    parser.add_argument(
        "--verdicts", default="", metavar="yes", help="yes: remove replies that were paid for, too"
    )
    arguments = parser.parse_args(argv)
    study = study_named(arguments.study) if arguments.study else None
    ask = input if sys.stdin.isatty() else None
    print(*clean(study, arguments.yes, arguments.verdicts, ask), sep="\n")


if __name__ == "__main__":
    run(main)
