"""Errors a user can act on, shown without a traceback: ours, a full disk, a folder without write access, no memory."""

import contextlib
import errno
import os
import re
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from workflow_scripts.common.startup import begin_collecting

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}
ROOM = 1 << 20  # bytes: with less a disk counts as full
# Libraries that write on their own tell of a full disk in their words: safetensors, torch, arrow.
FULL_IN_WORDS = re.compile(
    r"No space left on device|StorageFull|os error (28|122)|Disk quota exceeded|disk is full"
)
CUT_SHORT = re.compile(
    r"PytorchStreamWriter|inline_container"
)  # torch.save, of whatever kept it from writing
NO_MEMORY_IN_WORDS = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)


class PlumblineError(Exception):
    """Something a user can mend: the message says what was wrong, where, and what to do."""

    status: int | None = None  # of the process it ends, if it is not 1


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`; what a user can mend ends the process with its message alone, status 1 (3: diverged)."""
    begin_collecting()
    try:
        with told():
            main()
    except KeyboardInterrupt:  # another one, while the first was being told
        end_interrupted()


def end_interrupted() -> NoReturn:
    """Say that this process was interrupted and end it; who is impatient and interrupts it again changes nothing."""
    with contextlib.suppress(ValueError):  # not the main thread: no signal comes here
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def nobody_reads(stream: TextIO) -> bool:
    """Tell whether a stream is a pipe whose other end is closed."""
    looking = select.poll()
    looking.register(stream, 0)  # of an error or a hang-up it always tells
    return bool(looking.poll(0))


@contextlib.contextmanager
def told() -> Iterator[None]:
    """End the process with a message alone where this block raises what a user can mend; all else goes on as it is."""
    try:
        yield
    except KeyboardInterrupt:
        end_interrupted()
    except BrokenPipeError:
        if not nobody_reads(sys.stdout):
            raise
        # Who read our output has gone (`| head`). What Python would still flush at exit must go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if message := spelt(error):
            if isinstance(error, PlumblineError) and error.status:
                print(f"error: {message}", file=sys.stderr)
                sys.exit(error.status)
            sys.exit(f"error: {message}")
        raise


def spelt(error: BaseException) -> str | None:
    """Return an error in words for who can mend it: what, where and what to do; None for an error of the program."""
    if isinstance(error, PlumblineError):
        return str(error)
    chain = list(chained(error))
    numbers = {each.errno for each in chain if isinstance(each, OSError)}
    words = " ".join(map(str, chain))
    full = full_folders()
    if numbers & NO_ROOM or FULL_IN_WORDS.search(words) or (full and CUT_SHORT.search(words)):
        named = [each.filename for each in chain if isinstance(each, OSError) and each.errno in NO_ROOM]
        where = ", ".join(full) or next(
            (f"the disk of {name}" for name in named if name), "a disk or quota in use here"
        )
        return (
            f"no space left in {where} ({type(error).__name__}: {error}): free some of it and run again, "
            "finished work is kept and goes on; results, work and data may each be a link to another disk, TMPDIR "
            "names where temporary files go"
        )
    if numbers & NO_RIGHT:
        denied = next(each for each in chain if isinstance(each, OSError) and each.errno in NO_RIGHT)
        return (
            f"{denied.filename or 'a file'}: {denied.strerror}: have it made readable and its folder writable, or work "
            "in a copy of the checkout that is your own; HOME, TMPDIR, HF_HOME and XDG_CACHE_HOME name where "
            "libraries write"
        )
    if errno.EMFILE in numbers:
        return f"too many open files ({error}): raise the limit, `ulimit -n 4096`"
    if any(isinstance(each, MemoryError) or "OutOfMemory" in type(each).__name__ for each in chain) or (
        isinstance(error, RuntimeError) and NO_MEMORY_IN_WORDS.search(words)
    ):
        return (
            f"no memory left ({type(error).__name__}: {' '.join(str(error).split())[:200]}): give the job more (mem_mb "
            "of its resources), or make per_device_batch, batch_size or max_tokens smaller"
        )
    return None


def chained(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def full_folders() -> list[str]:
    """Return those of the folders a step writes to whose disk is full; of several on one disk the first."""
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # what Python says if none takes a file
        temporary = os.environ.get("TMPDIR") or "/tmp"
    folders = ["results", "work", "data", ".", temporary, os.environ.get("SNAKEMAKE_OUTPUT_CACHE") or "."]
    full: dict[int, str] = {}
    for folder in map(Path, folders):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free < ROOM:
                full.setdefault(folder.stat().st_dev, str(folder.absolute()))
    return list(full.values())
