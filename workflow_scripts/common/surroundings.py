"""What surrounds a run: who runs it, where caches and temporary files may lie, which folders can be written to.

`settle` is called before anything else of ours is imported (workflow_scripts/__init__.py), so in each head and in each
job, wherever it was started: a container's user without a name and an unwritable HOME stop nobody. The Snakefile
calls `check_place` and, before the first job, `check_folders`. Not covered: what a disk still holds when a job comes to
write to it (`errors`).
"""

import contextlib
import getpass
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.place import ROOT

PROBE = 65_536  # bytes that a folder must take to count as one with room
# What libraries keep in a user's home, unless told otherwise.
CACHES = {
    "XDG_CACHE_HOME": ".cache",
    "MPLCONFIGDIR": ".config/matplotlib",
    "TRITON_CACHE_DIR": ".triton/cache",
}


def settle(environment: MutableMapping[str, str], root: Path = ROOT) -> None:
    """Name the user if the system has no name for them, and move the caches to work/cache where the home takes none."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        environment["LOGNAME"] = f"user-{os.getuid()}"
    home = os.path.expanduser("~")
    for variable, place in CACHES.items():
        if not can_be_made(Path(environment.get(variable) or os.path.join(home, place))):
            environment[variable] = str(root / "work" / "cache" / variable.lower())


def can_be_made(folder: Path) -> bool:
    """Tell whether a folder is there and takes files, or can be made."""
    there = nearest(folder)
    return folder.is_absolute() and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def nearest(path: Path) -> Path:
    """Return a path, or the first folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def trouble_with(folder: Path) -> OSError | None:
    """Return why a folder takes no files, having tried it, or None."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"0" * PROBE)
    except OSError as error:
        return error
    return None


def settle_temporary(environment: MutableMapping[str, str], root: Path = ROOT) -> None:
    """See to it that temporary files have a folder with room, and say so where it is another than was asked for.

    Raises PlumblineError if there is none: Snakemake's own solver needs one, beside every library.
    """
    asked = next((environment[name] for name in ("TMPDIR", "TEMP", "TMP") if environment.get(name)), "/tmp")
    error = trouble_with(Path(asked))
    if error is None:
        return
    for folder in (Path("/tmp"), Path("/var/tmp"), root / "work" / "tmp"):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if trouble_with(folder) is None:
                environment["TMPDIR"] = tempfile.tempdir = str(folder)
                print(
                    f"note: {asked} takes no temporary files ({error.strerror}): they go to {folder}; TMPDIR names "
                    "another place",
                    file=sys.stderr,
                )
                return
    raise PlumblineError(
        f"no folder takes temporary files, neither {asked} ({error.strerror}) nor /tmp, /var/tmp and work/tmp: free "
        "some of them, or set TMPDIR to a folder with room"
    )


def check_place(root: Path = ROOT) -> None:
    """Raise PlumblineError where the checkout's own path cannot be worked with, however it is quoted."""
    for character, reader in (
        ("{", "Snakemake takes it for a wildcard"),
        ("}", "Snakemake takes it for a wildcard"),
        (os.pathsep, "it parts the folders of PATH and PYTHONPATH"),
        ("\n", "it ends a line"),
    ):
        if character in str(root):
            raise PlumblineError(
                f"the checkout lies in {str(root)!r}: {character!r} in it will not do, for {reader}; move it"
            )


def check_folders(paths: Iterable[str]) -> None:
    """Raise PlumblineError if one of the folders that a run is to write into takes no files, and say which and why.

    `paths` are the files and folders it is to write; work/, where jobs keep what they resume from, is looked at
    besides.
    """
    folders = Counter(nearest(Path(path).parent) for path in [*paths, "work/x"])
    wrong = []
    for folder, count in sorted(folders.items()):
        if error := trouble_with(folder):
            wrong.append(
                f"{folder.absolute()}: {error.strerror}; {count} of the files to be made go below it"
            )
    if wrong:
        raise PlumblineError(
            "no files can be written here:\n  "
            + "\n  ".join(wrong)
            + "\nHave it made writable or free some of it. "
            "results, work and data may each be a link to a folder elsewhere, and so may what is in them"
        )
