"""Data sets named by `path` or `hf`: their files found, what their rows are found out, and both written out.

Such a data set gets a source of its own name, of these files, and a schema, a split and a group where it says none.
What was found is said. Of a model hub the commit and the pins come from the lock, and so does the schema.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from workflow_scripts.clean.reading import read_first
from workflow_scripts.clean.rows import renamed
from workflow_scripts.clean.shapes import Found, found_shape
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import canonical_json
from workflow_scripts.common.place import ROOT
from workflow_scripts.study.datasets import STRUCTURED, Dataset
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.settling.local_files import counted, found_files, readable
from workflow_scripts.study.settling.lock import Entry, entry_of, hub_file, in_a_job, keep
from workflow_scripts.study.sources import Source
from workflow_scripts.study.splits import Split
from workflow_scripts.study.study import Study

SHORT = ("path", "hf", "revision", "hf_config", "hf_split", "shape")  # keys of the short forms
FIRST = 50  # rows by which a shape is known
LOOKED_INTO = 20  # files of which the first rows are looked at
HELD_OUT = (
    "test",
    "valid",
    "val",
    "dev",
    "eval",
    "heldout",
    "held_out",
)  # what files of other splits are called


def settle_data(study: Study, folder: Path) -> Iterator[Finding]:
    """Write out the data sets that name files of this machine or a repository of the hub."""
    for name, part in study.datasets.items():
        if isinstance(part, Dataset) and part.source is None:
            key = "path" if part.path else "hf"
            if name in study.sources:
                yield wrong(
                    f"datasets.{name}.{key}",
                    f"a source is called {name}, too, and the files would be its: rename the dataset or the source",
                )
                continue
            try:
                yield settled_part(study, name, part, folder)
            except PlumblineError as error:
                yield wrong(f"datasets.{name}.{key}", str(error).replace(f"{ROOT}/", ""))
            except ValidationError as error:
                yield wrong(f"datasets.{name}.{key}", "; ".join(item["msg"] for item in error.errors()))


def settled_part(study: Study, name: str, part: Dataset, folder: Path) -> Finding:
    """Give a data set its source and whatever else it does not say; return what was found."""
    taken = of_this_machine(part) if part.path else of_the_hub(part, folder)
    study.sources[name] = Source.model_validate(taken.source)
    part.source, part.files = name, list(taken.source["files"])
    part.data_schema = taken.shape.schema if taken.shape else part.data_schema
    if taken.shape:
        part.looked_at(taken.shape.columns)
    if "group_by" not in part.model_fields_set and part.data_schema not in STRUCTURED:
        part.group_by = "question"
    said = [
        f"{told_of_shape(taken.shape, part) if taken.shape else f'schema {part.data_schema}'}, {taken.where}"
    ]
    if taken.shape and taken.shape.others:
        said.append(f"its columns would fit {', '.join(taken.shape.others)} as well (set shape or schema)")
    if taken.left_out:
        said.append(f"left out {told_of(taken.left_out)}")
    for key in SHORT:  # what they said is written out now: the part is as if it had named the source itself
        setattr(part, key, Dataset.model_fields[key].default)
    if part.split is None:
        part.split = Split(by_file={"train": part.files})
        if others := [file for file in part.files if is_held_out(file)]:
            told = told_of(others)
            said.append(f"all rows are split train, those of {told}, too: split.by_file tells them apart")
    return doubt(f"datasets.{name}", "; ".join(said))


class Taken(NamedTuple):
    """What a data set is made of: its source, as a study writes it; what its rows are, unless it says so itself; in
    words where they are; which files were left out."""

    source: dict[str, Any]
    shape: Found | None
    where: str
    left_out: list[str]


def of_this_machine(part: Dataset) -> Taken:
    """Find the files that `path` names."""
    found, left_out = found_files(part.path if isinstance(part.path, list) else [part.path])
    here = {file: ROOT / path for file, path in found.items()}
    shape = None if part.data_schema else shape_of(here, part)
    rows = None if in_a_job() else counted(here, part)
    where = told_of(list(found.values()))
    source = {"files": dict.fromkeys(found), "places": [{"file": {"files": found}}]}
    return Taken(source, shape, where if rows is None else f"{rows} rows in {where}", left_out)


def of_the_hub(part: Dataset, folder: Path) -> Taken:
    """Find the files that the lock has of a split of a repository, as its commit has them."""
    entry = entry_of(folder, "dataset", part.hf, part.revision, part.hf_config, part.hf_split)
    names, left_out = readable(entry.files, part.hf)
    shape = None if part.data_schema else shape_in_lock(folder, entry, names, part)
    place = {"repo": part.hf, "revision": entry.commit, "repo_type": "dataset"}
    source = {"files": {name: entry.files[name] for name in names}, "places": [{"hf": place}]}
    branch = "" if part.revision == entry.commit else f" ({part.revision})"
    where = f"split {entry.found['split']} of {part.hf}@{entry.commit[:10]}{branch}: {told_of(names)}"
    return Taken(source, shape, where, left_out)


def shape_of(files: dict[str, Path], part: Dataset) -> Found:
    """Return what fits the first rows of files, {name: path}; PlumblineError where nothing does, or not one for all."""
    settings, renames, named = part.model_dump(by_alias=True), part.renames(), part.columns_of_files()
    found: dict[str, Found] = {}
    for name, path in list(files.items())[:LOOKED_INTO]:
        rows = read_first(path, FIRST, part.max_chars, named.get(name, []), part.sample_by)
        try:
            found[name] = found_shape([renamed(row, renames) for row in rows], settings, part.shape)
        except PlumblineError as error:
            raise PlumblineError(f"{path}: {error}") from None
    schemas = {each.schema: name for name, each in found.items()}
    if len(schemas) > 1:
        told = ", ".join(f"{name} is {schema}" for schema, name in schemas.items())
        raise PlumblineError(f"its files hold rows of several kinds ({told}): make a dataset of each kind")
    return next(iter(found.values()))


def shape_in_lock(folder: Path, entry: Entry, names: list[str], part: Dataset) -> Found:
    """Return what fits the rows of a locked repository; looked for once, in its smallest file, and kept in the lock."""
    asked = canonical_json({"shape": part.shape, "columns": part.columns, "sample_by": part.sample_by})
    known: dict[str, Any] = entry.found.get("shapes", {})
    if asked not in known:
        if in_a_job():
            raise PlumblineError(
                "the lock does not say what its rows are, and a job asks no hub: run check-study first"
            )
        name = smallest if (smallest := entry.found["smallest"]) in names else names[0]
        found = shape_of({name: hub_file(entry, name)}, part)
        known = known | {asked: found._asdict()}
        keep(folder, entry, shapes=known)
    return Found(**known[asked])


def told_of_shape(found: Found, part: Dataset) -> str:
    """Return a shape with the columns that are read, as the files call them."""
    renames = part.renames()
    columns = [f"{name}: {renames[name]}" if name in renames else name for name in found.columns]
    schema = "" if found.shape == found.schema else f", schema {found.schema}"
    return f"{found.shape} ({', '.join(columns)}){schema}"


def told_of(names: list[str]) -> str:
    """Return names in a few words."""
    listed = ", ".join(names[:3])
    return listed if len(names) <= 3 else f"{len(names)} files ({listed}, …)"


def is_held_out(file: str) -> bool:
    """Tell whether a file is called as those are that nobody trains on."""
    stem = Path(file).name.lower()
    return any(stem.startswith(word) or f"-{word}" in stem or f"_{word}" in stem for word in HELD_OUT)
