"""Fetch a source's files from the first of its places that gives them all as they are pinned.

The output folder and its manifest are the same whichever place served them; the place is only printed.
Half-done downloads stay under --work and are continued by the next run. Not covered: converting what was
fetched.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_folder, write_manifest
from workflow_scripts.common.settings import settings_of
from workflow_scripts.download.places import KINDS, Place, Wanted, describe
from workflow_scripts.download.transfer import Unavailable, as_pinned
from workflow_scripts.download.unpack import refuse_unsafe_name


class Settings(TypedDict):
    """A source: its files by name with what pins them (null: any content), and its places, in order."""

    files: dict[str, str | None]
    places: list[Place]


ADVICE = (
    "What to do: set HF_ENDPOINT to a hub mirror, point pip (index-url) or npm (registry) at a mirror that"
    " has the package, or copy the files to this machine and give the source a place of kind `file`."
    " Then run again: what was downloaded is kept."
)


def fetch_files(
    name: str, wanted: Wanted, places: list[Place], work: Path, pause: float = 1.0
) -> dict[str, Path]:
    """Return where each wanted file lies now, asking `places` in order.

    `wanted` maps names to what pins them (None: any content is accepted); empty means a whole hub repository.
    `pause` is the first wait between tries, in seconds. Raises PlumblineError with every place's reason.
    """
    for file in wanted:
        try:
            refuse_unsafe_name(file, f"sources.{name}.files")
        except Unavailable as reason:
            raise PlumblineError(str(reason)) from None
    reasons = []
    for number, place in enumerate(places, 1):
        ready = find_ready(wanted, work)
        missing = {file: pin for file, pin in wanted.items() if file not in ready}
        if wanted and not missing:
            print(f"{name}: already under {work}", file=sys.stderr)
            return ready
        try:
            found = ready | ask_place(place, wanted, missing, work, pause)
        except Unavailable as reason:
            print(f"{name}: not from {describe(place)}: {reason}", file=sys.stderr)
            reasons.append(f"  {number}. {describe(place)}: {reason}")
            continue
        lacking = ", ".join(file for file in wanted if file not in found)
        if not lacking:
            print(f"{name}: from {describe(place)}", file=sys.stderr)
            return found
        print(f"{name}: in part from {describe(place)}, which has no {lacking}", file=sys.stderr)
        reasons.append(f"  {number}. {describe(place)}: does not provide {lacking}")
    listed = "\n".join(reasons) or "  (it names none)"
    raise PlumblineError(
        f"sources.{name}: none of its {len(places)} places gave all files\n{listed}\n{ADVICE}"
    )


def ask_place(place: Place, wanted: Wanted, missing: Wanted, work: Path, pause: float) -> dict[str, Path]:
    """Return those of the missing files that one place provides; Unavailable when it provides none.

    Only pinned files may come from different places: together they are still what was pinned.
    """
    kind, spec = next(iter(place.items()))
    provided = spec["files"]
    if not wanted and kind != "hf":
        raise Unavailable("`files` of the source is empty, and only an hf place can be taken whole")
    if kind == "hf" and not provided:
        return KINDS[kind](spec, missing, work, pause)
    lacking = [file for file in missing if file not in provided]
    if lacking and (len(lacking) == len(missing) or not all(wanted.values())):
        raise Unavailable(f"does not provide {', '.join(lacking)}")
    return KINDS[kind](spec, {file: missing[file] for file in missing if file not in lacking}, work, pause)


def find_ready(wanted: Wanted, work: Path) -> dict[str, Path]:
    """Return the wanted files that an earlier run left whole under `work`."""
    paths = {file: work / "files" / file for file in wanted}
    return {
        file: path
        for file, path in paths.items()
        if wanted[file] and path.is_file() and as_pinned(path, wanted[file])
    }


def place_file(found: Path, target: Path, work: Path) -> None:
    """Put a found file into the output: a hard link when it is ours, a copy when it is someone else's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if found.is_relative_to(work):
        try:
            os.link(found, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(found, target)


def main(argv: list[str] | None = None) -> None:
    """Fetch one source into --output and write its manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the source's name, for messages")
    parser.add_argument(
        "--settings", type=settings_of(Settings), required=True, help='{"files": …, "places": […]}'
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to build")
    parser.add_argument("--manifest", type=Path, required=True, help="written last: the sha256 of each file")
    parser.add_argument(
        "--work", type=Path, required=True, help="kept between runs, so that downloads are continued"
    )
    arguments = parser.parse_args(argv)
    settings = arguments.settings
    found = fetch_files(arguments.name, settings["files"], settings["places"], arguments.work)
    with finished_folder(arguments.output) as folder:
        for file, path in sorted(found.items()):
            place_file(path, folder / file, arguments.work)
    write_manifest(arguments.manifest, [arguments.output])


if __name__ == "__main__":
    run(main)
