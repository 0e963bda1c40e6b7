"""`study.lock`, beside a study: what the hub said of each repository that the study names by a branch.

A branch moves, a study's numbers must not: the first check or run asks the hub once for the commit and for what pins
each file, and keeps it in the lock. Commit that file, and others get the same; with it nothing is asked, so that no
network is needed to plan. To go on to what the branch is now, take the entry out (or the whole file).

Only the head asks: a job of a cluster reads the lock alone. What was found out from the files themselves (the schema
of rows, a model's context) stands in `found` of the entry, since a job may have none of the files.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.place import ROOT
from workflow_scripts.study.messages import shown

LOCK = "study.lock"
JOB = "PLUMBLINE_JOB"  # set in a job's process: there nothing is asked
KEYS = ("repo_type", "repo", "revision", "config", "split")


class Entry(NamedTuple):
    """A repository at a commit. `files`: path in the repository: its pin as sources have it, or None."""

    repo_type: str  # model or dataset
    repo: str
    revision: str  # what the study says: a branch, a tag or a commit
    config: str | None  # of a data set
    split: str | None
    commit: str  # 40 hex digits
    files: dict[str, str | None]
    found: dict[str, Any]  # what was found out from its files

    @property
    def key(self) -> tuple[str, ...]:
        """What it is found by."""
        return tuple(str(getattr(self, name) or "") for name in KEYS)


def entry_of(
    folder: Path,
    repo_type: str,
    repo: str,
    revision: str = "main",
    config: str | None = None,
    split: str | None = None,
) -> Entry:
    """Return what is locked of a repository; what is not yet is asked of the hub, and kept.

    `folder` is where the study's file is. Of a data set the files are those of a split of a configuration, of a model
    all that are fetched. PlumblineError, with what to do, where the hub does not say.
    """
    entries = read_lock(folder)
    asked = Entry(repo_type, repo, revision, config, split, "", {}, {})
    if asked.key in entries:
        return entries[asked.key]
    if in_a_job():
        raise PlumblineError(
            f"{folder / LOCK}: has no entry for {described(asked)}, and a job asks no hub; run check-study first, and "
            "let the jobs see the file"
        )
    return keep(folder, resolved(asked))


def in_a_job() -> bool:
    """Tell whether this is a job's process, which asks nothing and says nothing."""
    return bool(os.environ.get(JOB))


def keep(folder: Path, entry: Entry, **found: Any) -> Entry:
    """Write an entry into the lock, with what else was found out, and return it."""
    entry = entry._replace(found=entry.found | found)
    entries = read_lock(folder) | {entry.key: entry}
    rows = [entry._asdict() for _, entry in sorted(entries.items())]
    try:
        write_json(folder / LOCK, {"repositories": rows})
    except OSError as error:
        raise PlumblineError(
            f"{folder / LOCK}: cannot be written ({error.strerror}); the commit of {described(entry)} is kept there, "
            "so that every job and every later run reads the same: make the folder writable"
        ) from None
    return entry


def read_lock(folder: Path) -> dict[tuple[str, ...], Entry]:
    """Return the entries of a folder's lock by their keys; none where there is no such file."""
    path = folder / LOCK
    if not path.is_file():
        return {}
    try:
        entries = [Entry(**row) for row in read_json(path)["repositories"]]
        wrong = [entry for entry in entries if not (entry.commit and isinstance(entry.files, dict))]
    except (TypeError, KeyError) as error:
        raise PlumblineError(
            f"{path}: is no lock of ours ({error}); delete it to have it made anew"
        ) from None
    if wrong:
        raise PlumblineError(f"{path}: {described(wrong[0])} has no commit, or no files; take the entry out")
    return {entry.key: entry for entry in entries}


def hub_file(entry: Entry, name: str) -> Path:
    """Return where a file of a locked repository lies on this machine, fetched and held to its pin if it did not yet.

    For the head alone. PlumblineError where the hub does not give it.
    """
    from workflow_scripts.download.places import from_hf
    from workflow_scripts.download.transfer import Unavailable, as_pinned

    work = ROOT / "work" / "hub" / entry.repo_type / entry.repo / entry.commit
    there, pin = work / "files" / name, entry.files.get(name)
    if there.is_file() and as_pinned(there, pin):
        return there
    place = {"repo": entry.repo, "revision": entry.commit, "repo_type": entry.repo_type, "files": {}}
    try:
        return from_hf(place, {name: pin}, work, 1.0)[name]
    except Unavailable as reason:
        raise PlumblineError(advised(entry, str(reason))) from None


def resolved(asked: Entry) -> Entry:
    """Return what the hub says of a repository now."""
    from workflow_scripts.download.hub import list_repository, refuse_offline, taken_whole
    from workflow_scripts.download.transfer import Unavailable

    try:
        refuse_offline()
        listing = list_repository(asked.repo, asked.repo_type, asked.revision)
        pins = {file.name: file.pin for file in listing.files}
        at_commit = asked._replace(commit=listing.commit, files=pins)
        if asked.repo_type == "dataset":
            from workflow_scripts.study.settling.hub_splits import files_of_split

            split, names = files_of_split(at_commit)
            sizes = {file.name: file.size for file in listing.files}
            found = {"split": split, "smallest": min(names, key=lambda name: sizes[name] or 0)}
        else:
            names, found = [file.name for file in taken_whole(listing.files, asked.repo)], {}
    except Unavailable as reason:
        raise PlumblineError(advised(asked, str(reason))) from None
    return at_commit._replace(files={name: pins[name] for name in names}, found=found)


def described(entry: Entry) -> str:
    """Return an entry in a few words."""
    told = f"{entry.repo_type} {shown(entry.repo)} at {shown(entry.revision)}"
    named = [f"{key} {shown(value)}" for key in ("config", "split") if (value := getattr(entry, key))]
    return ", ".join([told, *named])


def advised(entry: Entry, reason: str) -> str:
    """Return why the hub did not say something, and what to do."""
    hints = [
        "check the name and the revision",
        "set HF_TOKEN for what is private or gated, HF_ENDPOINT for a mirror",
        f"or, without a network, put the {LOCK} of someone who could ask beside the study, or name local files by path",
    ]
    return f"the hub does not say what {described(entry)} is ({reason}); {'; '.join(hints)}"
