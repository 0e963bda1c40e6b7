"""GPUs of one machine leased by file locks, so that no two jobs of any pipeline or user on it share a device.

One lock file per device in a folder that everybody on the machine shares. The kernel keeps the lock for as long as any
process has its descriptor, so a killed holder leaves nothing behind, and a holder that hands the descriptors to its
children keeps the devices leased until the last of them has ended. What a lock file holds (who took it, since when) is
told to those who wait and never believed.

Not covered: parts of a device (MIG slices are devices of their own if CUDA_VISIBLE_DEVICES names them), devices of
other machines, programs that do not ask.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError

POLL = 0.2  # seconds between two looks at locks that are held
ASKING = 30  # seconds after which a driver that does not answer counts as none


def say(text: str) -> None:
    """Tell the reader of the job's log."""
    print(text, file=sys.stderr, flush=True)


# --- which devices there are --------------------------------------------------------------------------------------


def listed_gpus() -> dict[str, str]:
    """Return {UUID: index} of what `nvidia-smi` lists; nothing, and why, where it fails."""
    return dict(asked_of_driver("uuid,index", r"^(\S+), *(\d+)"))


def asked_of_driver(query: str, line: str) -> list:
    """Return what the pattern `line` finds in what `nvidia-smi` says of each GPU; nothing, and why, where it fails."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASKING, check=False)
    except subprocess.TimeoutExpired:
        say(f"nvidia-smi did not answer in {ASKING} s: taking this machine to have no GPU")
        return []
    if done.returncode:
        told = " ".join((done.stdout + done.stderr).split())[:200]
        say(f"nvidia-smi failed ({told}): taking this machine to have no GPU")
        return []
    return re.findall(line, done.stdout, re.MULTILINE)


def found_gpus() -> list[str]:
    """Return the ids of this machine's GPUs: of PLUMBLINE_GPUS, else of CUDA_VISIBLE_DEVICES, else `nvidia-smi`'s.

    An id is an index or a UUID, as it was written; `nvidia-smi` gives indices. Like CUDA, stop at the first id of
    CUDA_VISIBLE_DEVICES that can be none ("-1", "NoDevFiles").
    """
    named = os.environ.get("PLUMBLINE_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES"))
    if named is None:
        return list(listed_gpus().values())
    ids = (part.strip() for part in named.split(","))
    return list(dict.fromkeys(takewhile(re.compile(r"\d+$|GPU-|MIG-").match, ids)))


def smallest_memory() -> float | None:
    """Return the memory of this machine's smallest GPU in GB, by `nvidia-smi`; None where it lists none."""
    found = [float(mib) * 2**20 / 1e9 for mib in asked_of_driver("memory.total", r"^(\d+) MiB$")]
    return min(found, default=None)


def lock_names(devices: list[str]) -> list[str]:
    """Return the names of the devices' locks: the index by which `nvidia-smi` knows a device, so that a UUID, which may
    be cut short, and the index of one device lead to one lock.

    What SLURM names in CUDA_VISIBLE_DEVICES may be counted from 0 in each allocation (cgroups): the names then carry
    the allocation's number and the node's name.
    """
    if not all(device.isdigit() for device in devices):
        listed = listed_gpus()
        devices = [
            next((index for uuid, index in listed.items() if uuid.startswith(device)), device)
            for device in devices
        ]
    job = os.environ.get("SLURM_JOB_ID") if "CUDA_VISIBLE_DEVICES" in os.environ else None
    prefix = f"job-{job}-{os.environ.get('SLURMD_NODENAME', '')}-" if job else ""
    return [re.sub(r"[^\w-]", "_", prefix + device) for device in devices]


# --- locks --------------------------------------------------------------------------------------------------------


def lock_folder() -> Path:
    """Return the folder of the GPUs' locks: PLUMBLINE_GPU_LOCKS, else one where the system keeps temporary files."""
    return Path(os.environ.get("PLUMBLINE_GPU_LOCKS") or Path(tempfile.gettempdir(), "plumbline-gpus"))


def make_for_everybody(folder: Path) -> None:
    """Make a folder in which every user may make files and none may remove another's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(0)
    try:
        folder.mkdir(mode=0o1777, exist_ok=True)
    finally:
        os.umask(before)


def opened(path: Path) -> int:
    """Return a descriptor of a lock file that every user may open, making the file if there is none.

    Never O_CREAT on a file that exists: Linux refuses that for another user's file in a sticky folder.
    """
    before = os.umask(0)
    try:
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            with contextlib.suppress(FileExistsError):
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise PlumblineError(
            f"{path}: cannot be opened ({error.strerror}); PLUMBLINE_GPU_LOCKS names another folder for GPUs' locks"
        ) from None
    finally:
        os.umask(before)


def taken(path: Path) -> int | None:
    """Return the descriptor that holds the lock of a file from now on, or None while another process holds it.

    To close the descriptor is to give the lock back, once no child has it any more. OSError: a file system without
    locks.
    """
    from filelock import lock_descriptor  # as slow to import as all else here, and most callers lock nothing

    descriptor = opened(path)
    locked = False
    try:
        locked = lock_descriptor(descriptor, blocking=False)
    finally:
        if not locked:
            os.close(descriptor)
    if not locked:
        return None
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.orig_argv)[:1000]}
    text = json.dumps(holder | {"since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    return descriptor


def holder_of(path: Path) -> str:
    """Return what a lock file tells of its holder, fit to print; it may be out of date, or anything at all."""
    try:
        with open(path, "rb") as stream:
            told = json.loads(stream.read(8000))
        pid, words = int(told["pid"]), [str(told[key]) for key in ("host", "command", "since")]
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that left no name"
    host, command, since = ["".join(filter(str.isprintable, word))[:120] for word in words]
    if host != socket.gethostname():
        return f"process {pid} on {host} ({command}) since {since}"
    ended = ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        ended = "what is left of "
    except PermissionError:
        pass
    return f"{ended}process {pid} ({command}) since {since}"


def waited_for(path: Path, what: str) -> int:
    """Return the descriptor that holds the lock of a file, after waiting for it; `what` names it to the waiting."""
    told, looks = "", 0
    while (descriptor := taken(path)) is None:
        text = f"waiting for {what}: held by {holder_of(path)}"
        if looks and text != told:  # a lock that is held for a moment is not worth a line
            say(told := text)
        looks += 1
        time.sleep(POLL)
    return descriptor


@contextlib.contextmanager
def claim(path: Path | str) -> Iterator[list[int]]:
    """Hold the lock of a file of its own, made if need be, after waiting for it; give its descriptor, for children.

    On a file system without locks (Lustre mounted without `flock`) say so and hold nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptors = [waited_for(path, f"the claim {path}")]
    except OSError as error:
        say(f"{path}: no lock on this file system ({error.strerror}): two writers would not see each other")
        descriptors = []
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def taken_together(count: int, paths: dict[str, Path]) -> tuple[dict[str, int], list[str]]:
    """Return ({device: descriptor} of `count` devices whose locks are now held, []); else ({}, the busy devices)."""
    held: dict[str, int] = {}
    busy = []
    for device, path in paths.items():
        if len(held) == count:
            break
        if (descriptor := taken(path)) is None:
            busy.append(device)
        else:
            held[device] = descriptor
    if len(held) == count:
        return held, []
    for descriptor in held.values():
        os.close(descriptor)
    return {}, busy


@contextlib.contextmanager
def lease(count: int, devices: list[str]) -> Iterator[dict[str, int]]:
    """Hold `count` of the devices, all at once, after waiting for them; give {device: descriptor of its lock}.

    One job at a time waits at the locks of the same devices, and takes nothing before it can take all it wants: so jobs
    that want several neither block each other nor wait for ever while smaller ones go before them. Children that get
    the descriptors (`pass_fds`) keep the devices leased until they end. PlumblineError at once if there are too few.
    """
    names = dict(
        zip(lock_names(devices), devices, strict=True)
    )  # one name, one device, however it was written
    if not 0 < count <= len(names):
        raise PlumblineError(
            f"{count} GPUs are wanted and this machine has {len(names)} ({', '.join(devices) or 'none'}): "
            "ask for fewer in the study's resources, or name the devices in CUDA_VISIBLE_DEVICES"
        )
    folder, which = lock_folder(), f"{count} of GPUs {','.join(devices)}"
    paths = {device: folder / f"{name}.lock" for name, device in names.items()}
    queue = hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:12]
    try:
        make_for_everybody(folder)
        turn = waited_for(folder / f"queue-{queue}.lock", f"a turn to take {which}")
    except OSError as error:
        raise PlumblineError(
            f"{folder}: holds no locks ({error.strerror}); name a folder that does in PLUMBLINE_GPU_LOCKS"
        ) from None
    told = ""
    try:
        while not (found := taken_together(count, paths))[0]:
            holders = "; ".join(f"{device} is held by {holder_of(paths[device])}" for device in found[1])
            text = f"waiting for {which}: {holders}"
            if text != told:
                say(told := text)
            time.sleep(POLL * random.uniform(0.5, 1.5))
        held = found[0]
    finally:
        os.close(turn)
    try:
        yield held
    finally:
        for descriptor in held.values():
            os.close(descriptor)
