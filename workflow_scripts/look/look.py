"""Say what data holds and what a model would learn from it: `make look DATA=qa.csv [MODEL=…] [COLUMNS=…]`.

Everything is found out and done by the code that runs a study: the file is settled as a dataset by `path` is, cleaned
by the cleaning, and written as tokens by the tokenising of fine-tuning. Nothing is kept but what had
to be fetched, where a study finds it. Of a hub's data set the smallest file of the split is looked at.
"""

import argparse
import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.clean.clean import clean_files
from workflow_scripts.clean.reading import read_first
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.shapes import columns_of, kind_of
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.place import ROOT
from workflow_scripts.common.raw_files import PLAIN, suffix_of
from workflow_scripts.common.words import split_words
from workflow_scripts.look.tokens import Speech, speech_of
from workflow_scripts.plan.cleaning import dataset_settings
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.study.basics import REPOSITORY
from workflow_scripts.study.checking import examine
from workflow_scripts.study.datasets import Dataset
from workflow_scripts.study.messages import mistakes
from workflow_scripts.study.settling.local_files import TABLES, found_files
from workflow_scripts.study.settling.lock import entry_of, hub_file
from workflow_scripts.study.study import Study

LARGE = 64 << 20  # bytes of files that are looked at whole
FIRST = 10_000  # rows that are looked at of larger ones
SHOWN = 3  # rows that are printed
LONGEST = 1200  # characters of one
SPLIT = {"train": 0.7, "validation": 0.1, "test": 0.2}  # as is proposed
HINT = re.compile(r"perhaps columns: \{([^}]*)\}")  # of a mistake: {prompt: question, completion: answer}
WIDTH = 40  # characters of the longest bar
OF_A_HUB = {"revision", "hf_config", "hf_split"}
OF_DATA = ("revision", "hf_config", "hf_split", "shape", "sample_by")  # flags that are a dataset's keys
NO_MODEL = {"places": [{"hf": {"repo": "no/model", "revision": "0" * 40}}]}


class Asked(NamedTuple):
    """What is to be looked at, in the words of a study: the dataset's keys, and the model's if there is one."""

    dataset: dict[str, Any]
    model: dict[str, Any] | None


class Looked(NamedTuple):
    """The files that are looked at, {name: path}, and what is said of those that are not."""

    files: dict[str, Path]
    said: list[str]


class Cleaned(NamedTuple):
    """What the cleaning made of a file."""

    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    notes: dict[str, int]


def config_of(asked: Asked) -> dict[str, Any]:
    """Return a study of the dataset and the model alone, as it would be written."""
    model = asked.model or {"source": "none", "template": "plain", "context": 1}
    return {
        "study": "look",
        "sources": {} if asked.model else {"none": NO_MODEL},
        "models": {"model": model},
        "datasets": {"data": asked.dataset},
    }


def settled(asked: Asked, folder: Path) -> tuple[Asked, Study, list[str]]:
    """Return (what is asked for, the study of it, checked, what was found out); `folder` is for its lock.

    Columns that are called otherwise are taken for what their names usually mean, which is said.
    """
    found = examine(config_of(asked), folder=folder)
    hint = next((hint for line in found.wrong if (hint := HINT.search(line))), None)
    if hint and "columns" not in asked.dataset:
        columns = dict(part.split(": ") for part in hint[1].split(", "))
        asked = asked._replace(dataset=asked.dataset | {"columns": columns})
        asked, study, said = settled(asked, folder)
        meant = ", ".join(f"{other} for the {name}" for name, other in columns.items())
        return asked, study, [f"taken by their names: the columns {meant}; COLUMNS=… says otherwise", *said]
    if found.study is None:
        raise mistakes("what was asked for", [line.replace("datasets.data.", "") for line in found.wrong])
    return asked, found.study, [line.removeprefix("datasets.data: ") for line in found.said]


def looked_at(study: Study, asked: Asked, folder: Path) -> Looked:
    """Return the files of the dataset; of those of a hub the smallest, fetched. `folder` has the lock."""
    place, part = study.sources["data"].places[0], study.datasets["data"]
    if place.file:
        return Looked({name: ROOT / path for name, path in place.file.files.items()}, [])
    said = Dataset.model_validate(asked.dataset)  # which the study has written out
    entry = entry_of(folder, "dataset", said.hf, said.revision, said.hf_config, said.hf_split)
    name = smallest if (smallest := entry.found["smallest"]) in part.files else part.files[0]
    told = f"looked at is the smallest of {len(part.files)} files of the split: {name}"
    return Looked({name: hub_file(entry, name)}, [told] if len(part.files) > 1 else [])


def cleaned(study: Study, looked: Looked, folder: Path) -> Cleaned:
    """Return the rows of the dataset as cleaning leaves them; of large files the first ones."""
    settings: Settings = json.loads(dataset_settings(plan_of(study), "data"))
    part, paths = study.datasets["data"], list(looked.files.values())
    if sum(path.stat().st_size for path in paths) > LARGE:
        paths = [first_of(path, number, part, folder) for number, path in enumerate(paths[:1])]
    settings["split"] |= {"by_file": {}, "quotas": {"train": 10**9}, "per_file": False, "order": "file"}
    output, manifest = folder / "rows", folder / "manifest.json"
    with contextlib.redirect_stderr(io.StringIO()):
        clean_files([str(path) for path in paths], settings, str(output), str(manifest))
    return Cleaned(
        read_jsonl(output / "train.jsonl"),
        read_jsonl(output / "rejected.jsonl"),
        read_json(manifest)["notes"],
    )


def first_of(path: Path, number: int, part: Any, folder: Path) -> Path:
    """Write the first rows of a large file into a folder, as JSON Lines, and return where."""
    named = part.columns_of_files().get(path.name, [])
    rows = read_first(path, FIRST, part.max_chars, named, part.sample_by)
    print(f"{path}: large; looked at are its first {len(rows)} rows\n")
    write_jsonl(folder / f"{number}.jsonl", [row.value for row in rows if isinstance(row.value, dict)])
    return folder / f"{number}.jsonl"


def texts_of(row: dict[str, Any]) -> list[str]:
    """Return all that is said in a cleaned row, and of ranked answers the first."""
    said = [message["content"] for message in row["messages"]]
    return [*said, *(answer["content"] for answer in row.get("candidates", [])[:1])]


def histogram(lengths: Sequence[int], unit: str) -> list[str]:
    """Return lines that show how long rows are: a bar for each doubling, then the middle, the 95th and the longest."""
    bins: dict[int, int] = {}
    for length in lengths:
        bins[max(length, 1).bit_length()] = bins.get(max(length, 1).bit_length(), 0) + 1
    most = max(bins.values())
    lines = [
        f"  {2 ** (power - 1):>7} to {2**power - 1:<7} {'#' * max(1, round(WIDTH * count / most))} {count}"
        for power, count in sorted(bins.items())
    ]
    ordered = sorted(lengths)
    middle, most_rows = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return [
        *lines,
        f"  half have at most {middle} {unit}, 95 % at most {most_rows}, the longest {ordered[-1]}",
    ]


def told_columns(study: Study, looked: Looked) -> str:
    """Return the columns of the first file, each with what stands in it."""
    part = study.datasets["data"]
    name, path = next(iter(looked.files.items()))
    rows = read_first(path, 50, part.max_chars, part.columns_of_files().get(name, []), part.sample_by)
    return ", ".join(f"{column} ({kind_of(value)})" for column, value in columns_of(rows).items())


def told_rejected(found: Cleaned) -> list[str]:
    """Return how many rows were kept, and why others were not."""
    reasons: dict[str, list[dict[str, Any]]] = {}
    for entry in found.rejected:
        reasons.setdefault(entry["reason"], []).append(entry)
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    rows = sum(entry["level"] == "row" for entry in found.rejected)
    lines = [f"kept: {len(found.rows)} rows; rejected: {rows}"]
    for reason, entries in ordered[:10]:
        place = f"line {entries[0]['line']}" if entries[0].get("line") else f"row {entries[0].get('index')}"
        lines.append(f"  {len(entries)} × {reason} (a {entries[0]['level']}; first: {place})")
    return [*lines, *(f"  note: {note}: {count}" for note, count in found.notes.items())]


def told_first(rows: Sequence[dict[str, Any]], speech: Speech | None) -> list[str]:
    """Return the first rows as a model will see them, what is learned between « and »; without one, who says what."""
    lines = []
    for row in rows[:SHOWN]:
        shown = speech.marked(row) if speech else "\n".join(spoken(row))
        lines += [f"--- {row['id']}", shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} …"]
    return lines


def spoken(row: dict[str, Any]) -> Iterable[str]:
    """Yield who says what in a cleaned row."""
    for message in row["messages"]:
        yield f"[{message['role']}] {message['content']}"
    for place, answer in enumerate(row.get("candidates", [])):
        yield f"[answer {place + 1}] {answer['content']}"


def report(asked: Asked) -> list[str]:
    """Return all that is to be said of a file, in lines."""
    with tempfile.TemporaryDirectory(prefix="plumbline-look-") as temporary:
        asked, study, said = settled(asked, Path(temporary))
        looked = looked_at(study, asked, Path(temporary))
        said += looked.said
        found = cleaned(study, looked, Path(temporary))
        speech = speech_of(study, config_of(asked), Path(temporary)) if asked.model else None
    if not found.rows:
        return [f"columns: {told_columns(study, looked)}", *said, *told_rejected(found)]
    lengths = [
        speech.length(row) if speech else sum(len(split_words(text)) for text in texts_of(row))
        for row in found.rows
    ]
    unit = "tokens" if speech else "words"
    lines = [f"columns: {told_columns(study, looked)}", *said, *told_rejected(found)]
    lines += ["", f"length of a row, in {unit}:", *histogram(lengths, unit)]
    if speech:
        longer = sum(length > speech.context for length in lengths)
        lines.append(
            f"  a context of {speech.context} tokens cuts {longer} of {len(lengths)} rows ({longer / len(lengths):.1%})"
        )
    what = "as the model sees them, what it learns between « and »" if speech else "as they are cleaned"
    lines += ["", f"the first rows, {what}:", *told_first(found.rows, speech)]
    return [*lines, "", "in a study:", *yaml_of(asked)]


def yaml_of(asked: Asked) -> list[str]:
    """Return the lines of a study that name the data and the model."""
    lines = []
    if asked.model:
        lines += ["models:", f"  model: {flow(asked.model)}"]
    split = {"split": SPLIT}
    return [*lines, "datasets:", f"  data: {flow(asked.dataset | split)}"]


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, float) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # without the point it would be read as text
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./ -]*", value)
    return (
        value if plain and value.lower() not in ("null", "true", "false", "yes", "no") else json.dumps(value)
    )


def columns_in(text: str) -> dict[str, str]:
    """Return the renaming of "prompt=question,completion=answer"; PlumblineError for anything else."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(mark and name.strip() and other.strip() and "=" not in other for name, mark, other in pairs):
        raise PlumblineError(f"COLUMNS={shlex.quote(text)}: write COLUMNS=prompt=question,completion=answer")
    return {name.strip(): other.strip() for name, _, other in pairs}


def model_in(text: str) -> dict[str, str]:
    """Return a model's keys in a study: a folder or a file, else a name that Plumbline knows, or one of a hub."""
    if (ROOT / text).exists():
        return {"path": text}
    return {"hf": text} if is_repository(text) else {"preset": text}


def is_repository(text: str) -> bool:
    """Tell whether something is named as what a hub has is, owner/name, and is not there as a file or a folder."""
    return not (ROOT / text).exists() and "/" in text and bool(re.fullmatch(REPOSITORY, text))


def on_a_hub(text: str) -> bool:
    """Tell whether data is of a hub: a missing file whose name ends as those do that hold rows is not meant so."""
    return is_repository(text) and suffix_of(text) not in (*TABLES, *PLAIN)


def asked_in(arguments: argparse.Namespace) -> Asked:
    """Return what a command's flags ask for."""
    given = {key: value for key in OF_DATA if (value := getattr(arguments, key))}
    dataset: dict[str, Any] = {"hf" if on_a_hub(arguments.data) else "path": arguments.data}
    if "path" in dataset:
        found_files([arguments.data])
        if lost := sorted(given.keys() & OF_A_HUB):
            raise PlumblineError(
                f"DATA={shlex.quote(arguments.data)} is of this machine, and {', '.join(lost).upper()} is of a hub's "
                "data sets (owner/name): leave it out"
            )
    if arguments.columns:
        dataset["columns"] = columns_in(arguments.columns)
    dataset |= given
    model = model_in(arguments.model) if arguments.model else None
    if model and arguments.template:
        model["template"] = arguments.template
    return Asked(dataset, model)


def read_arguments(description: str) -> argparse.ArgumentParser:
    """Return the flags that say which data, and which model."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", required=True, help="a file, a folder, a pattern, or owner/name of a hub")
    parser.add_argument("--revision", default="", help="of a hub's data set: a branch, a tag or a commit")
    parser.add_argument("--hf-config", default="", help="its configuration")
    parser.add_argument("--hf-split", default="", help="which of its splits")
    parser.add_argument(
        "--model", default="", help="a folder, a name that Plumbline knows, or owner/name of a hub"
    )
    parser.add_argument("--columns", default="", help="prompt=question,completion=answer")
    parser.add_argument("--shape", default="", help="what the rows are, where several would fit")
    parser.add_argument("--sample-by", default="", help="of plain text: line, paragraph or document")
    parser.add_argument("--template", default="", help="the template that the model speaks in")
    return parser


def main(argv: list[str] | None = None) -> None:
    print("\n".join(report(asked_in(read_arguments(__doc__).parse_args(argv)))))
    sys.stdout.flush()


if __name__ == "__main__":
    run(main)
