"""What is still to be filled in, and what may be something else tomorrow."""

import re
from collections.abc import Iterator

from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.sources import Place, Source
from workflow_scripts.study.study import Study

TO_FILL_IN = "0" * 40
BLANK = re.compile(r"OWNER|\byour[-_]|<[^>]*>|\bTODO\b|\bXXX\b")
MOVING = re.compile(r"[/@](main|master|latest|HEAD|nightly)(/|$)")


def names_of_places(source: Source) -> Iterator[tuple[str, str]]:
    """Yield (path below the source, text) of what names a place."""
    for index, place in enumerate(source.places):
        path = f"places[{index}]"
        if place.hf:
            yield f"{path}.hf.repo", place.hf.repo
        if place.https:
            for name, url in place.https.files.items():
                yield f"{path}.https.files.{name}", url
        for kind in ("pypi", "npm"):
            if packed := getattr(place, kind):
                yield f"{path}.{kind}.package", packed.package
                yield f"{path}.{kind}.version", packed.version
        if place.file:
            for name, file in place.file.files.items():
                yield f"{path}.file.files.{name}", file


def blanks(study: Study) -> Iterator[Finding]:
    """Find what is still to be filled in before a study can run."""
    for name, source in study.sources.items():
        for index, place in enumerate(source.places):
            if place.hf and place.hf.revision == TO_FILL_IN:
                yield doubt(
                    f"sources.{name}.places[{index}].hf.revision",
                    "to be filled in before it can run: forty zeros are no commit",
                )
        for path, text in names_of_places(source):
            if BLANK.search(text):
                yield doubt(f"sources.{name}.{path}", f"to be filled in before it can run: {text!r}")
        for file, pin in source.files.items():
            if pin is not None and len(set(pin.removeprefix("git:"))) == 1:
                yield doubt(
                    f"sources.{name}.files.{file}",
                    "to be filled in before it can run: no file has this digest",
                )
    for name, judge in study.judges.items():
        for key, text in judge.places().items():
            if BLANK.search(text or ""):
                yield doubt(f"judges.{name}.{key}", f"to be filled in before it can run: {text!r}")


def unpinned(study: Study) -> Iterator[Finding]:
    """Find what may be something else tomorrow: files without a pin that no commit pins, names that move.

    Files of this machine may, too, but then they are taken anew: who has no pin for them wants what is there.
    """
    for name, source in study.sources.items():
        by_commit = {file for place in source.places if place.hf for file in place.hf.files or source.files}
        here = {file for place in source.places if place.file for file in files_at(place)}
        elsewhere = {
            file for place in source.places if not (place.hf or place.file) for file in files_at(place)
        }
        for file, pin in source.files.items():
            if pin is None and (file in elsewhere or file not in by_commit | here):
                yield doubt(
                    f"sources.{name}.files.{file}",
                    "has neither sha256 nor git object id: nothing tells it from another file of this name",
                )
        for path, text in names_of_places(source):
            pinned = path.rpartition(".files.")[2] if ".https.files." in path else None
            moves = MOVING.search(text) if pinned else path.endswith(".version") and text.lower() == "latest"
            if moves and not source.files.get(pinned or ""):
                yield doubt(f"sources.{name}.{path}", f"{text!r} moves: name a commit or an exact version")


def files_at(place: Place) -> list[str]:
    """Return the names that a place gives."""
    kinds = [getattr(place, kind) for kind in ("https", "pypi", "npm", "file")]
    return [name for kind in kinds if kind for name in kind.files]
