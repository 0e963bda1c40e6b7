"""The store that studies and people share: Snakemake's `--cache` in the folder $SNAKEMAKE_OUTPUT_CACHE.

Snakemake moves a finished job's outputs there and links them back; it notices a store that is gone, read-only or full
only then, when the job has cost its hours. So it is looked at before the first job, and a training asks for room before
it gives up the checkpoints it could be resumed from. Not covered: who may write there (a group's permissions), tidying
up.
"""

import os
import shutil
import tempfile
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError

VARIABLE = "SNAKEMAKE_OUTPUT_CACHE"
WITHOUT = "or run without --cache"


def check_store(folder: str | None) -> None:
    """Raise PlumblineError where a store is not named, not there, or cannot be written to."""
    if not folder:
        raise PlumblineError(
            f"--cache: ${VARIABLE} is not set; set it to a folder that all can reach, {WITHOUT}"
        )
    if not Path(folder).is_dir():
        raise PlumblineError(
            f"--cache: ${VARIABLE}={folder} is not there; make the folder or mount its disk, {WITHOUT}"
        )
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"0" * 4096)
            stream.flush()
    except OSError as error:
        raise PlumblineError(
            f"--cache: ${VARIABLE}={folder} cannot be written to ({error.strerror}): what is made here could not be "
            f"kept there; have it made writable, free some of it, {WITHOUT}"
        ) from None


def check_links(folders: list[str]) -> None:
    """Raise PlumblineError where links in these folders lead nowhere: what was fetched is gone with its store."""
    lost = [
        path
        for folder in folders
        for base, names, files in os.walk(folder)
        for path in (os.path.join(base, name) for name in (*names, *files))
        if os.path.islink(path) and not os.path.exists(path)
    ]
    if lost:
        raise PlumblineError(
            f"{len(lost)} links to fetched files lead nowhere, the first is {lost[0]} -> {os.readlink(lost[0])}; mount "
            f"the shared store again, or have them made anew: find {' '.join(folders)} -xtype l -delete"
        )


def refuse_full_store(outputs: list[Path]) -> None:
    """Raise PlumblineError where the store in use has no room for these files and folders; nothing without one.

    The store may be a disk of its own, so what is moved there needs its size once more.
    """
    folder = os.environ.get(VARIABLE)
    if not folder or "PLUMBLINE_STORED" not in os.environ:
        return
    if not Path(folder).is_dir():
        raise PlumblineError(
            f"${VARIABLE}={folder} has vanished; mount it again and run again: this job goes on where it was"
        )
    files = [file for output in outputs for file in ([output] if output.is_file() else output.rglob("*"))]
    needed, free = sum(file.stat().st_size for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise PlumblineError(
            f"${VARIABLE}={folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are to be kept there; free some "
            f"{WITHOUT}, and run again: this job goes on where it was"
        )
