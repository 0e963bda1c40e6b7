"""Checking a study whole before anything is planned: the schema, every name in it, and what its keys say of the run.

Every mistake is reported with the path to the value and what is allowed. Mistakes of one kind do not hide those of
another: what the schema refuses is left out or stood in for, and the rest is looked at all the same.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.place import ROOT
from workflow_scripts.study.accepted import Accepted
from workflow_scripts.study.datasets import Dataset
from workflow_scripts.study.foresight import foreseen
from workflow_scripts.study.lineage import known_policies
from workflow_scripts.study.messages import mistakes
from workflow_scripts.study.reading import as_read, extended, merge, read_yaml
from workflow_scripts.study.references import references
from workflow_scripts.study.settling import settled
from workflow_scripts.study.study import Study

Look = Callable[[Study], tuple[list[str], list[str]]]  # a further look at a study: (mistakes, doubts)


class Examined(NamedTuple):
    """A study that was looked at: None where there are mistakes; a sentence for each mistake and for each doubt.

    `said` are sentences about what was left to its files to say.
    """

    study: Study | None
    wrong: list[str]
    doubts: list[str]
    said: list[str]


def examine(config: dict, looks: Sequence[Look] = (), folder: Path = ROOT) -> Examined:
    """Return what is to be said of a study: what its config alone tells, and what further `looks` at it find.

    `folder` is where the study's file is.
    """
    accepted = Accepted(extended(config))
    wrong, doubts = list(accepted.wrong), []
    if accepted.study is None or not accepted.whole:
        return Examined(None, wrong, doubts, [])
    whole, unsettled, said = settled(accepted.study, folder)
    wrong += [line for line in unsettled if accepted.untouched(line)]
    if not all(line.startswith("pairs.") for line in unsettled):
        return Examined(
            None, wrong, doubts, said
        )  # what a model, data or runs are is not known: no more can be said
    wrong += [
        line for line in as_written(references(whole, accepted.lost), whole) if not accepted.blames(line)
    ]
    study, policies = cut_short(whole), known_policies(whole) or {}
    for look in (lambda whole: foreseen(whole, policies), *looks):
        mistaken, doubted = (as_written(lines, whole) for lines in look(study))
        wrong += [line for line in mistaken if accepted.untouched(line)]
        doubts += [line for line in doubted if accepted.untouched(line)]
    return Examined(None if wrong else study, wrong, doubts, said)


def as_written(lines: list[str], study: Study) -> list[str]:
    """Return sentences about parts that were written out with the path that the study's file has, each once.

    That is the run of a grid, and whatever an annotation was made of.
    """
    runs = {name: run.written_as() for name, run in study.runs.items() if run.written_as()}
    annotations = {name: at for name, part in study.annotations.items() if (at := part.written_as())}

    def told(line: str) -> str:
        path, mark, text = line.partition(": ")
        section, *steps = path.split(".")
        name = steps[0] if steps else ""
        if section == "annotations" and name in annotations:
            return f"{annotations[name]}{mark}{text}"
        if section != "runs" or name not in runs:
            return line
        return f"{'.'.join([section, str(runs[name]), *steps[1:]])}{mark}{text}"

    return list(dict.fromkeys(map(told, lines)))


def check_study(config: dict, origin: str = "the study", folder: Path = ROOT) -> Study:
    """Return the checked study; PlumblineError lists every mistake with its path and what is allowed.

    `folder` is where the study's file is.
    """
    found = examine(config, folder=folder)
    if found.study is None:
        raise mistakes(origin, found.wrong)
    return found.study


def cut_short(study: Study) -> Study:
    """Return a study with its `limit` put into every part that can be cut, and no warm-ups; without one, as it is."""
    if study.limit is None:
        return study
    cut = study.model_copy(deep=True)
    cut.seeds = study.first_seeds()  # of so few items no number of seeds makes an interval narrow
    for dataset in cut.datasets.values():
        if isinstance(dataset, Dataset):  # a mixture has what these have
            dataset.split.limit = min(study.limit, dataset.split.limit or study.limit)
    written = [source.synthesise for source in cut.sources.values() if source.synthesise]
    watches = [run.watch for run in cut.trainings().values() if run.watch]
    for part in [*cut.benchmarks.values(), *cut.pairs.values(), *written, *watches]:
        if "limit" in type(part).model_fields:
            part.limit = min(study.limit, part.limit or study.limit)
    for run in [*cut.trainings().values(), *cut.reward_models.values()]:
        run.warmup = 0.0  # so few rows may make one step, and a warm-up's first has the learning rate 0
    return cut


def check_config(
    config: dict, files: Iterable[Path | str], looks: Sequence[Look] = ()
) -> tuple[Study, list[str], list[str]]:
    """Return the study that Snakemake has put together from its config files and its command line, checked; what is in
    doubt of it, and what its files have said.

    The files are read again for keys that stand twice, of which Snakemake passes on only the last, and for numbers that
    it takes for text.
    """
    names = [str(path) for path in files]
    read: dict = {}
    for name in names:
        read = merge(read, read_yaml(name))
    found = examine(as_read(config, read), looks, folder_of(names[-1]) if names else ROOT)
    if found.study is None:
        raise mistakes(", ".join(names) or "the study", found.wrong)
    return found.study, found.doubts, found.said


def folder_of(path: Path | str) -> Path:
    """Return the folder that a study's file is in."""
    return Path(path).resolve().parent


def load_study(path: Path | str) -> Study:
    """Return the checked study of a YAML file."""
    return check_study(read_yaml(path), str(path), folder_of(path))
