"""Checking a study whole before any rule is built: the schema, every name in it, and what its keys say of the run.

Only the Snakefile and the rules import this module (no stage script does: their import closure decides staleness).
Every mistake is reported with the path to the value and what is allowed. Mistakes of one kind do not hide those of
another: what the schema refuses is left out or stood in for, and the rest is looked at all the same.
"""

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, get_origin

from pydantic import ValidationError

from workflow_scripts.common.code import ROOT
from workflow_scripts.study.basics import plain_name
from workflow_scripts.study.benchmarks import Benchmark
from workflow_scripts.study.benchmarks.answered import Rewards, TextOverlap, Tutor
from workflow_scripts.study.benchmarks.harness import LmEval
from workflow_scripts.study.benchmarks.judged import AlpacaEval, JudgedPreference, JudgeScore, MtBench
from workflow_scripts.study.benchmarks.measured import PairPerplexity, ReplyLoss
from workflow_scripts.study.benchmarks.programs import HumanEval, Mbpp
from workflow_scripts.study.foresight import foreseen
from workflow_scripts.study.judges import Judge, OpenAIJudge, RewardJudge
from workflow_scripts.study.lineage import (
    CALIBRATION,
    Policy,
    all_templates,
    cycles_of,
    extent_of,
    files_of,
    parents_of,
    policies_of,
    splits_of,
)
from workflow_scripts.study.methods import Run
from workflow_scripts.study.methods.offline import OfflineRl, WithValue
from workflow_scripts.study.methods.online import Online
from workflow_scripts.study.methods.sft import Sft
from workflow_scripts.study.mistakes import path_of, spell, steps_of, unknown
from workflow_scripts.study.pairs import RankedPairs
from workflow_scripts.study.reading import extended, mistakes, named, read_yaml, shown
from workflow_scripts.study.rewards import ClassifierReward, GivenReward
from workflow_scripts.study.study import Study

MOST_POLICIES = 2000
LONGEST_LINEAGE = 200  # characters: it is the name of a folder
LONGEST_TOGETHER = (
    215  # with what a policy answers or learns from, and room for seed, ending and what is unfinished
)
ROUNDS = 20  # of leaving out what the schema refuses
Look = Callable[[Study], tuple[list[str], list[str]]]  # a further look at a study: (mistakes, doubts)
SECTIONS = [key for key, field in Study.model_fields.items() if get_origin(field.annotation) is dict]

# --- names ----------------------------------------------------------------------------------------------------------


class References:
    """Looks up every name in a study and collects a sentence for each that refers to nothing."""

    def __init__(self, study: Study, lost: frozenset[str] = frozenset()) -> None:
        self.study = study
        self.lost = lost
        self.policies = known_policies(study)
        self.wrong: list[str] = []

    def need(self, path: str, name: str | None, known: Iterable[str], what: str) -> None:
        if name is not None and name not in known and name not in self.lost:
            self.wrong.append(f"{path}: {unknown(name, known, what)}")

    def need_path(self, path: str, file: str | None) -> None:
        if file is not None and not os.path.exists(ROOT / file):  # pathlib raises for a name that is too long
            self.wrong.append(f"{path}: no such file {shown(file)} (relative to the repository)")

    def need_split(self, path: str, dataset: str, split: str) -> None:
        if dataset in self.study.datasets:
            self.need(path, split, splits_of(self.study.datasets[dataset]), f"split of dataset {dataset!r}")

    def need_annotated(self, path: str, name: str, split: str | None, split_key: str = "split") -> None:
        """Need an annotation, and a split among those it covers."""
        self.need(f"{path}.annotation", name, self.study.annotations, "annotation")
        if name in self.study.annotations:
            covered = self.study.annotations[name].splits
            self.need(f"{path}.{split_key}", split, covered, f"split covered by annotation {name!r}")

    def need_answerable(self, path: str, name: str, split: str) -> None:
        """Need an annotation whose rewards can be given to new answers, and a split of its dataset."""
        self.need(f"{path}.annotation", name, self.study.annotations, "annotation")
        if name in self.study.annotations:
            annotation = self.study.annotations[name]
            self.need_split(f"{path}.split", annotation.dataset, split)
            given = [key for key, reward in annotation.rewards.items() if isinstance(reward, GivenReward)]
            if given:
                self.wrong.append(
                    f"{path}.annotation: new answers have no given rewards, and {name!r} has {', '.join(given)}; "
                    "name an annotation of rules and models"
                )

    def need_file(self, path: str, source: str, file: str | None) -> None:
        names = files_of(self.study.sources[source]) if source in self.study.sources else None
        if names is not None:
            self.need(path, file, names, f"file of source {source!r}")
        elif file is not None:
            try:
                plain_name(file)
            except ValueError as error:
                self.wrong.append(f"{path}: {error}")

    def sources(self) -> None:
        for name, source in self.study.sources.items():
            if source.simulate:
                self.need_path(f"sources.{name}.simulate.problems", source.simulate.problems)
            if len(source.places) == 1 and source.places[0].file:  # else another place may have them
                for wanted, path in source.places[0].file.files.items():
                    self.need_path(f"sources.{name}.places[0].file.files.{named(wanted)}", path)

    def models(self) -> None:
        for name, model in self.study.models.items():
            self.need(f"models.{name}.source", model.source, self.study.sources, "source")
            self.need(f"models.{name}.template", model.template, all_templates(self.study), "template")
            self.need_file(f"models.{name}.weights", model.source, model.weights)
            self.need_file(f"models.{name}.tokenizer", model.source, model.tokenizer)
            if name in CALIBRATION:
                self.wrong.append(f"models.{name}: the calibration rows have this name already")

    def datasets(self) -> None:
        for name, dataset in self.study.datasets.items():
            self.need(f"datasets.{name}.source", dataset.source, self.study.sources, "source")
            for index, file in enumerate(dataset.files):
                self.need_file(f"datasets.{name}.files[{index}]", dataset.source, file)
            for split, files in dataset.split.by_file.items():
                for file in files:
                    self.need(
                        f"datasets.{name}.split.by_file.{split}", file, dataset.files, "file of this dataset"
                    )
            for index, held_out in enumerate(dataset.exclude_groups_of):
                path = f"datasets.{name}.exclude_groups_of[{index}]"
                other, _, split = held_out.partition("/")
                self.need(path, other, self.study.datasets.keys() - {name}, "other dataset")
                self.need_split(path, other, split)

    def rewards(self) -> None:
        study = self.study
        for name, reward in study.reward_models.items():
            self.need(f"reward_models.{name}.parent", reward.parent, study.models, "model")
            self.need(f"reward_models.{name}.dataset", reward.dataset, study.datasets, "dataset")
            self.need_split(f"reward_models.{name}.split", reward.dataset, reward.split)
        for name, annotation in study.annotations.items():
            path = f"annotations.{name}"
            self.need(f"{path}.dataset", annotation.dataset, study.datasets, "dataset")
            for index, split in enumerate(annotation.splits):
                self.need_split(f"{path}.splits[{index}]", annotation.dataset, split)
            self.need_split(f"{path}.fit_split", annotation.dataset, annotation.fit_split)
            for key, reward in annotation.rewards.items():
                if isinstance(reward, ClassifierReward):
                    self.need(
                        f"{path}.rewards.{key}.model", reward.model, study.reward_models, "reward model"
                    )
                    self.need(f"{path}.rewards.{key}.source", reward.source, study.sources, "source")

    def runs(self) -> None:
        study = self.study
        for name, pairs in study.pairs.items():
            if isinstance(pairs, RankedPairs):
                self.need_annotated(f"pairs.{name}", pairs.annotation, pairs.split)
                self.need_annotated(f"pairs.{name}", pairs.annotation, pairs.validation, "validation")
            else:
                self.need(f"pairs.{name}.dataset", pairs.dataset, study.datasets, "dataset")
                self.need_split(f"pairs.{name}.split", pairs.dataset, pairs.split)
        for name, value in study.values.items():
            if value.targets == "generated":
                self.need_answerable(f"values.{name}", value.annotation, value.split)
            else:
                self.need_annotated(f"values.{name}", value.annotation, value.split)
        for name, run in study.runs.items():
            path = f"runs.{name}"
            if name in study.models:
                self.wrong.append(f"{path}: a model has this name already")
            parents = parents_of(run)
            if len(set(parents)) < len(parents) or not parents:
                self.wrong.append(f"{path}.parent: names each parent once, and at least one, not {parents}")
            for parent in parents:
                self.need(f"{path}.parent", parent, [*study.models, *study.runs], "model or run")
                if run.lora and not run.lora.merge and parent in study.runs:
                    self.wrong.append(
                        f"{path}.lora.merge: adapters are kept alone beside a base model only, and {parent!r} is a run; "
                        "leave it out, or train from the base model"
                    )
            if isinstance(run, Sft):
                self.need(f"{path}.dataset", run.dataset, study.datasets, "dataset")
                self.need_split(f"{path}.split", run.dataset, run.split)
                self.need_split(f"{path}.validation", run.dataset, run.validation)
                self.need(f"{path}.template", run.template, all_templates(study), "template")
            elif isinstance(run, OfflineRl):
                self.need_annotated(path, run.annotation, run.split)
                self.need_annotated(path, run.annotation, run.validation, "validation")
                if isinstance(run, WithValue):
                    self.need(f"{path}.value", run.value, study.values, "value head")
                elif run.sampling == "good_random":
                    self.wrong.append(
                        f"{path}.sampling: good_random needs advantages, which {run.method} has not"
                    )
            elif isinstance(run, Online):
                self.need_answerable(path, run.annotation, run.split)
            else:
                self.need(f"{path}.pairs", run.pairs, study.pairs, "set of pairs")
            self.validated(path, run)
        for cycle in cycles_of(study):
            self.wrong.append(f"runs.{cycle[0]}.parent: a cycle of parents ({' → '.join(cycle)})")
        self.lineages()

    def lineages(self) -> None:
        """Need no more policies, and no longer names of them, than there can be folders."""
        if not has_lineages(self.study):
            return
        count, length = extent_of(self.study)
        if count > MOST_POLICIES:
            self.wrong.append(
                f"runs: define {shown(count)} policies, one for each parent of each parent; at most {MOST_POLICIES}"
            )
        if length > LONGEST_LINEAGE:
            self.wrong.append(
                f"runs: a lineage has a name of {length} characters, which is that of its folder; at most "
                f"{LONGEST_LINEAGE}: fewer generations, or shorter names"
            )
            return
        path, longest = max(
            named_beside_policies(self.study), key=lambda found: len(found[1]), default=("", "")
        )
        if length + len(longest) > LONGEST_TOGETHER:
            self.wrong.append(
                f"{path}: {length} characters of the longest lineage and {len(longest)} of this make the name of a file; "
                f"at most {LONGEST_TOGETHER} together: shorten one"
            )

    def validated(self, path: str, run: Run) -> None:
        """Need validation rows where the best checkpoint is to be kept."""
        if isinstance(run, Sft) or run.keep == "last":
            return
        pairs = self.study.pairs.get(getattr(run, "pairs", None))
        where = {
            "validation": getattr(run, "validation", None) or getattr(pairs, "validation", None),
            "validation_share": getattr(pairs, "validation_share", None),
        }
        if not any(where.values()):
            self.wrong.append(
                f"{path}.keep: best needs a validation split, and neither it nor its pairs have one"
            )

    def benchmarks(self) -> None:
        study = self.study
        for name, judge in study.judges.items():
            if isinstance(judge, RewardJudge):
                self.need(f"judges.{name}.model", judge.model, study.reward_models, "reward model")
        for name, benchmark in study.benchmarks.items():
            path = f"benchmarks.{name}"
            if isinstance(benchmark, Rewards):
                self.need_answerable(path, benchmark.annotation, benchmark.split)
            if isinstance(benchmark, Tutor | ReplyLoss | JudgeScore | JudgedPreference | TextOverlap):
                self.need(f"{path}.dataset", benchmark.dataset, study.datasets, "dataset")
                self.need_split(f"{path}.split", benchmark.dataset, benchmark.split)
            if isinstance(benchmark, PairPerplexity | HumanEval | Mbpp):
                self.need(f"{path}.source", benchmark.source, study.sources, "source")
                self.need_file(f"{path}.file", benchmark.source, benchmark.file)
            if isinstance(benchmark, PairPerplexity) and name in study.datasets:
                self.wrong.append(f"{path}: a dataset has this name already, and both are cleaned")
            if benchmark.asks is not None:
                self.need(f"{path}.judge", benchmark.judge, study.judges, "judge")
                self.judged_by(path, benchmark, study.judges.get(benchmark.judge))
            if isinstance(benchmark, MtBench):
                files = ("questions", "references", "judge_prompts")
                self.need_files(path, benchmark, files)
            if isinstance(benchmark, TextOverlap):
                self.need_path(f"{path}.wordnet", benchmark.wordnet)
            if isinstance(benchmark, AlpacaEval):
                self.need_files(path, benchmark, ("prompts", "references", "gamed"))
            if isinstance(benchmark, LmEval):
                self.need_path(f"{path}.include_path", benchmark.include_path)
                self.need(f"{path}.source", benchmark.source, study.sources, "source")
                self.need_file(f"{path}.package_file", benchmark.source, benchmark.package_file)
                coded = [key for key, other in study.benchmarks.items() if other.kind == "humaneval"]
                self.need(f"{path}.humaneval", benchmark.humaneval, coded, "humaneval benchmark")
            for part, taken in (("pairs", study.pairs), ("values", study.values), ("runs", study.runs)):
                if name.startswith(f"{part}-") and name.removeprefix(f"{part}-") in taken:
                    self.wrong.append(f"{path}: the prompts of {name.replace('-', '.', 1)} have this name")

    def need_files(self, path: str, benchmark: Benchmark, keys: Sequence[str]) -> None:
        """Need files of the benchmark's source, or, where it names none, files of the repository."""
        self.need(f"{path}.source", benchmark.source, self.study.sources, "source")
        for key in keys:
            if benchmark.source:
                self.need_file(f"{path}.{key}", benchmark.source, getattr(benchmark, key))
            else:
                self.need_path(f"{path}.{key}", getattr(benchmark, key))

    def judged_by(self, path: str, benchmark: Benchmark, judge: Judge | None) -> None:
        """Refuse a judge that cannot do what the benchmark asks: only an endpoint reads words."""
        asked = {
            "prompt": getattr(benchmark, "prompt", None),
            "judge_prompts": getattr(benchmark, "judge_prompts", None),
            "annotator": getattr(benchmark, "annotator", None),
        }
        for key, wanted in asked.items():
            if wanted and judge is not None and not isinstance(judge, OpenAIJudge):
                self.wrong.append(f"{path}.judge: {key} needs a judge of kind openai, not {judge.kind}")

    def need_policy(self, path: str, name: str | None, others: Iterable[str] = ()) -> None:
        """Need a policy, where it is known which there are."""
        if self.policies is not None and not self.lost & set((name or "").split(".")):
            self.need(path, name, [*self.policies, *others], "policy")

    def opponents(self) -> None:
        """Need the policies that others' answers are compared with."""
        for name, benchmark in self.study.benchmarks.items():
            opponent = getattr(benchmark, "opponent", None)
            self.need_policy(f"benchmarks.{name}.opponent", opponent)
            if getattr(benchmark, "mode", "") == "pairwise" and not (opponent or self.study.report.baseline):
                self.wrong.append(
                    f"benchmarks.{name}.opponent: mode pairwise compares with a policy: name one here or as "
                    "report.baseline"
                )

    def report(self) -> None:
        for index, entry in enumerate(self.study.report.published):
            self.need_policy(f"report.published[{index}].policy", entry.policy, CALIBRATION)
            self.need(
                f"report.published[{index}].benchmark", entry.benchmark, self.study.benchmarks, "benchmark"
            )
        for index, pair in enumerate(self.study.report.agreement):
            if len(pair) != 2:
                self.wrong.append(f"report.agreement[{index}]: two benchmarks, not {len(pair)}")
            for name in pair:
                self.need(f"report.agreement[{index}]", name, self.study.benchmarks, "benchmark")
        self.need_policy("report.baseline", self.study.report.baseline)
        for index, bar in enumerate(self.study.report.bars):
            self.need(f"report.bars[{index}].benchmark", bar.benchmark, self.study.benchmarks, "benchmark")


def named_beside_policies(study: Study) -> Iterable[tuple[str, str]]:
    """Yield (path, text) of what stands beside a policy's name in the names of files."""
    for name in study.benchmarks:
        yield f"benchmarks.{name}", name
    for name in study.pairs:
        yield f"pairs.{name}", f"pairs-{name}"
    for name, run in study.runs.items():
        if isinstance(run, OfflineRl):
            rewarded = f"{run.annotation}-{'0' * 8}"  # and a digest of how it is cut
            yield f"runs.{name}.annotation", "-".join(filter(None, [rewarded, getattr(run, "value", "")]))


def has_lineages(study: Study) -> bool:
    """Tell whether every run descends from a model: lineages exist only where every parent does."""
    known = study.models.keys() | study.runs.keys()
    return not cycles_of(study) and all(
        parents_of(run) and known.issuperset(parents_of(run)) for run in study.runs.values()
    )


def known_policies(study: Study) -> dict[str, Policy] | None:
    """Return the policies of a study, or None where parents are wrong or there are too many."""
    if not has_lineages(study):
        return None
    count, length = extent_of(study)
    return policies_of(study) if count <= MOST_POLICIES and length <= LONGEST_LINEAGE else None


def references(study: Study, lost: Iterable[str] = ()) -> list[str]:
    """Return a sentence for each name in the study that refers to nothing, or to two things.

    `lost` names parts that were left out for mistakes of their own: nobody is wrong to name them.
    """
    looked = References(study, frozenset(lost))
    looked.sources()
    looked.models()
    looked.datasets()
    looked.rewards()
    looked.runs()
    looked.benchmarks()
    looked.opponents()
    looked.report()
    return looked.wrong


# --- what the schema accepts ------------------------------------------------------------------------------------------


def inside(path: str, outer: str) -> bool:
    """Tell whether a path is another one or lies under it."""
    return path == outer or path.startswith((f"{outer}.", f"{outer}["))


class Accepted:
    """As much of a study as the schema accepts: `study` (None if too little is left), and what is `wrong` with the rest.

    A value that is refused gives way to its default; a part that cannot do without it is left out, and its name is `lost`,
    so that nobody is blamed for naming it. A run or a model has descendants: a part that is right stands in for it. Where a
    section is missing as a whole, nobody knows what it would have named (`whole` is False).
    """

    def __init__(self, config: dict) -> None:
        self.config = copy.deepcopy(config)
        self.study: Study | None = None
        self.wrong: list[str] = []
        self.paths: list[str] = []  # of what is wrong, or stood in for
        self.lost: set[str] = set()
        self.whole = True  # no section is missing, so that a name which is not there is nowhere
        for number in range(ROUNDS):
            try:
                self.study = Study.model_validate(self.config)
            except ValidationError as error:
                found = error.errors()
                self.paths += [path_of(item["loc"]) for item in found]
                self.whole = self.whole and all(self.keeps_sections(item) for item in found)
                if number == 0:  # later ones may be of our own making
                    self.wrong = [spell(item) for item in found]
                for item in found:
                    self.leave_out(steps_of(item["loc"]), item["type"] == "missing")
            else:
                return

    def keeps_sections(self, error: dict) -> bool:
        """Tell whether an error leaves every section where it is: one of a wrong kind, or of a wrong name, does not."""
        steps = steps_of(error["loc"])
        return len(steps) > 1 or (
            error["type"] != "extra_forbidden" and steps[:1] not in [[key] for key in SECTIONS]
        )

    def leave_out(self, steps: list[str | int], missing: bool) -> None:
        """Take the value at some steps out of the config, or, where it is missing, what needs it."""
        if missing and len(steps) == 1:
            return self.stand_in_for_all(steps[0])
        part, there = self.config, []
        for step in steps:
            if (
                not isinstance(part, dict) or step not in part
            ):  # of a list all goes: others would get another's number
                break
            there.append(step)
            part = part[step]
        if missing and len(there) == len(steps):
            return None  # an earlier error of this round was mended there
        if not there:
            return None
        if len(there) == 2 and (missing or len(steps) == 2) and there[0] in SECTIONS:
            return self.lose(*there)
        holder = self.config
        for step in there[:-1]:
            holder = holder[step]
        del holder[there[-1]]
        return None

    def lose(self, section: str | int, name: str | int) -> None:
        """Leave out an entry of a section; a run or a model that others descend from is stood in for."""
        entry = self.config[section].pop(name)
        self.lost.add(str(name))
        self.paths.append(path_of([section, name]))
        models = self.config.get("models")
        if section == "runs" and isinstance(entry, dict) and isinstance(models, dict) and models:
            parent = entry.get("parent")
            named = parent if isinstance(parent, str) and parent != name else next(iter(models))
            standing = {"method": "sft", "parent": named, "dataset": "", "learning_rate": 1.0}
            if entry.keys() != standing.keys():  # else it is our own, refused for its name
                self.config[section][name] = standing
        if section == "models" and isinstance(entry, dict) and entry.get("context") != 2**40:
            self.config[section][name] = {"source": "", "template": "", "context": 2**40}

    def stand_in_for_all(self, section: str | int) -> None:
        """Put in what no study can do without."""
        if section == "models":
            self.config[section] = {"model": {"source": "", "template": "", "context": 2**40}}
            self.paths.append("models.model")
        else:
            self.config[section] = "study" if section == "study" else {}

    def blames(self, line: str) -> bool:
        """Tell whether a sentence about the rest blames something that was refused already."""
        path = line.partition(": ")[0]
        return any(inside(path, outer) for outer in self.paths)

    def untouched(self, line: str) -> bool:
        """Tell whether a sentence is about a part in which nothing was refused."""
        entry = line.partition(": ")[0].split(".")[:2]
        return not any(outer.split(".")[:2] == entry for outer in self.paths)


# --- the check ------------------------------------------------------------------------------------------------------


class Examined(NamedTuple):
    """A study that was looked at: None where there are mistakes; a sentence for each mistake and for each doubt."""

    study: Study | None
    wrong: list[str]
    doubts: list[str]


def examine(config: dict, looks: Sequence[Look] = ()) -> Examined:
    """Return what is to be said of a study: what its config alone tells, and what further `looks` at it find."""
    accepted = Accepted(extended(config))
    wrong, doubts = list(accepted.wrong), []
    if accepted.study is None or not accepted.whole:
        return Examined(None, wrong, doubts)
    wrong += [line for line in references(accepted.study, accepted.lost) if not accepted.blames(line)]
    study, policies = cut_short(accepted.study), known_policies(accepted.study) or {}
    for look in (lambda whole: foreseen(whole, policies), *looks):
        mistaken, doubted = look(study)
        wrong += [line for line in mistaken if accepted.untouched(line)]
        doubts += [line for line in doubted if accepted.untouched(line)]
    return Examined(None if wrong else study, wrong, doubts)


def check_study(config: dict, origin: str = "the study") -> Study:
    """Return the checked study; PlumblineError lists every mistake with its path and what is allowed."""
    found = examine(config)
    if found.study is None:
        raise mistakes(origin, found.wrong)
    return found.study


def cut_short(study: Study) -> Study:
    """Return a study with its `limit` put into every part that can be cut, and no warm-ups; without one, as it is."""
    if study.limit is None:
        return study
    cut = study.model_copy(deep=True)
    for dataset in cut.datasets.values():
        dataset.split.limit = min(study.limit, dataset.split.limit or study.limit)
    for part in [*cut.benchmarks.values(), *cut.pairs.values()]:
        if "limit" in type(part).model_fields:
            part.limit = min(study.limit, part.limit or study.limit)
    for run in [*cut.runs.values(), *cut.reward_models.values()]:
        run.warmup = 0.0  # so few rows may make one step, and a warm-up's first has the learning rate 0
    return cut


def check_config(
    config: dict, files: Iterable[Path | str], looks: Sequence[Look] = ()
) -> tuple[Study, list[str]]:
    """Return the study that Snakemake has put together from its config files and its command line, checked, and doubts.

    The files are read again for keys that stand twice: of those Snakemake passes on only the last.
    """
    names = [str(path) for path in files]
    for name in names:
        read_yaml(name)
    found = examine(config, looks)
    if found.study is None:
        raise mistakes(", ".join(names) or "the study", found.wrong)
    return found.study, found.doubts


def load_study(path: Path | str) -> Study:
    """Return the checked study of a YAML file."""
    return check_study(read_yaml(path), str(path))
