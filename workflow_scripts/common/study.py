"""Reading a study and checking it whole before any rule is built, and the lineages it defines.

Only the Snakefile and the rules import this module (no stage script does: their import closure decides staleness).
Every mistake is reported with the path to the value and what is allowed.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Discriminator, Tag, ValidationError

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.schema import (
    CALIBRATION,
    CONTROL,
    JUDGED,
    PATTERNS,
    ROW_FILES,
    TAGGED,
    AlpacaEval,
    Benchmark,
    ClassifierReward,
    Dataset,
    GivenReward,
    HumanEval,
    Judge,
    JudgedPreference,
    JudgeScore,
    LmEval,
    Mbpp,
    MtBench,
    OfflineRl,
    Online,
    OpenAIJudge,
    PairPerplexity,
    RankedPairs,
    ReplyLoss,
    RewardJudge,
    Rewards,
    RowSimulation,
    Run,
    Sft,
    Source,
    Study,
    TextOverlap,
    Tutor,
    WithValue,
    plain_name,
)

PLAIN = {
    "a valid number": "a number",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid list": "a list",
}

# --- lineages -------------------------------------------------------------------------------------------------------


class Policy(BaseModel):
    """A model that can speak: its parent plus one method (both None for a base model)."""

    name: str
    model: str
    parent: str | None = None
    run: str | None = None
    method: str | None = None


def parents_of(run: Run) -> list[str]:
    """Return the models and runs that a run starts from."""
    return [run.parent] if isinstance(run.parent, str) else run.parent


def policies_of(study: Study) -> dict[str, Policy]:
    """Return every policy by lineage name, parents before children, in the order of the study."""
    policies = {name: Policy(name=name, model=name) for name in study.models}
    lineages = {name: [name] for name in study.models}

    def expand(name: str) -> list[str]:
        if name not in lineages:
            run = study.runs[name]
            lineages[name] = []
            for lineage in [lineage for parent in parents_of(run) for lineage in expand(parent)]:
                child = f"{lineage}.{name}"
                model = policies[lineage].model
                policies[child] = Policy(name=child, model=model, parent=lineage, run=name, method=run.method)
                lineages[name].append(child)
        return lineages[name]

    for name in study.runs:
        expand(name)
    return policies


def seeds_of(study: Study, policy: Policy) -> list[int]:
    """Return the seeds a policy exists for: a base model is one thing, a trained one exists per seed."""
    return study.seeds if policy.parent else study.seeds[:1]


def cycles_of(study: Study) -> list[list[str]]:
    """Return each cycle of parents as the runs along it, the first one repeated at the end."""
    cycles: dict[frozenset, list[str]] = {}

    def follow(name: str, path: list[str]) -> None:
        if name in path:
            cycle = [*path[path.index(name) :], name]
            cycles.setdefault(frozenset(cycle), cycle)
        elif name in study.runs:
            for parent in parents_of(study.runs[name]):
                follow(parent, [*path, name])

    for name in study.runs:
        follow(name, [])
    return list(cycles.values())


# --- checks ---------------------------------------------------------------------------------------------------------


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """Return the sentence for a name that is not there, with the nearest one that is."""
    known = list(known)
    return f"no {what} is called {name!r}{nearest(name, known)} (there are: {', '.join(known) or 'none'})"


def all_templates(study: Study) -> dict[str, dict]:
    """Return the templates that come with Plumbline and the study's own, by name."""
    return bundled_templates() | study.templates


@functools.cache
def bundled_templates() -> dict[str, dict]:
    """Return the templates that come with Plumbline, by name."""
    return yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text(encoding="utf-8"))


def files_of(source: Source) -> list[str] | None:
    """Return the names of a source's files, or None where only the hub knows them."""
    if isinstance(source.simulate, RowSimulation):
        return ROW_FILES[source.simulate.rows]
    if source.simulate:
        numbered = [f"bio-dataset-{number}.json" for number in range(1, source.simulate.files + 1)]
        return [*numbered, *(["bio-dataset-ppl.json"] if source.simulate.ppl_pairs else [])]
    return list(source.files) or None


def splits_of(dataset: Dataset) -> list[str]:
    """Return the names of a dataset's splits."""
    return list(dataset.split.quotas or dataset.split.by_file)


class References:
    """Looks up every name in a study and collects a sentence for each that refers to nothing."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.wrong: list[str] = []

    def need(self, path: str, name: str | None, known: Iterable[str], what: str) -> None:
        if name is not None and name not in known:
            self.wrong.append(f"{path}: {unknown(name, known, what)}")

    def need_path(self, path: str, file: str | None) -> None:
        if file is not None and not (ROOT / file).exists():
            self.wrong.append(f"{path}: no such file {file!r} (relative to the repository)")

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
            for index, place in enumerate(source.places):
                for wanted, path in (place.file.files if place.file else {}).items():
                    self.need_path(f"sources.{name}.places[{index}].file.files.{wanted}", path)

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
            if benchmark.kind in JUDGED:
                self.need(f"{path}.judge", benchmark.judge, study.judges, "judge")
                self.judged_by(path, benchmark, study.judges.get(benchmark.judge))
            if isinstance(benchmark, MtBench):
                files = ("questions", "references", "judge_prompts")
                self.need_files(path, benchmark, files)
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

    def opponents(self) -> None:
        """Need the policies that others' answers are compared with."""
        for name, benchmark in self.study.benchmarks.items():
            opponent = getattr(benchmark, "opponent", None)
            self.need(f"benchmarks.{name}.opponent", opponent, policies_of(self.study), "policy")
            if getattr(benchmark, "mode", "") == "pairwise" and not (opponent or self.study.report.baseline):
                self.wrong.append(
                    f"benchmarks.{name}.opponent: mode pairwise compares with a policy: name one here or as "
                    "report.baseline"
                )

    def report(self) -> None:
        known = [*policies_of(self.study), *CALIBRATION]
        for index, entry in enumerate(self.study.report.published):
            self.need(f"report.published[{index}].policy", entry.policy, known, "policy")
            self.need(
                f"report.published[{index}].benchmark", entry.benchmark, self.study.benchmarks, "benchmark"
            )
        for index, pair in enumerate(self.study.report.agreement):
            if len(pair) != 2:
                self.wrong.append(f"report.agreement[{index}]: two benchmarks, not {len(pair)}")
            for name in pair:
                self.need(f"report.agreement[{index}]", name, self.study.benchmarks, "benchmark")
        self.need("report.baseline", self.study.report.baseline, policies_of(self.study), "policy")
        for index, bar in enumerate(self.study.report.bars):
            self.need(f"report.bars[{index}].benchmark", bar.benchmark, self.study.benchmarks, "benchmark")


def references(study: Study) -> list[str]:
    """Return a sentence for each name in the study that refers to nothing, or to two things."""
    looked = References(study)
    looked.sources()
    looked.models()
    looked.datasets()
    looked.rewards()
    looked.runs()
    looked.benchmarks()
    if not looked.wrong:  # lineages exist only where every parent does
        looked.opponents()
        looked.report()
    return looked.wrong


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the schema classes inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def tag_of(model: type[BaseModel]) -> str | None:
    """Return the method or kind of a run, judge or benchmark class, if it has one."""
    field = model.model_fields.get("method") or model.model_fields.get("kind")
    values = get_args(field.annotation) if field else ()
    return values[0] if values else None


def is_tagged_union(annotation: Any) -> bool:
    """Tell whether a type is a union whose kinds a function tells apart, their tags in brackets."""
    return any(isinstance(part, Discriminator) for part in getattr(annotation, "__metadata__", ()))


def descend(annotation: Any, step: str | int) -> Any:
    """Return the type one step of an error's location further down; None where the schema ends."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return descend(parts[0], step)
    if origin in (Union, UnionType):
        for part in parts:
            if get_origin(part) is Annotated and Tag(str(step)) in part.__metadata__:
                return part.__origin__
        classes = models_in(annotation)
        if len(classes) > 1 and (tagged := next((p for p in parts if is_tagged_union(p)), None)):
            return descend(tagged, step)
        if len(classes) > 1:
            return {tag_of(model): model for model in classes}.get(step)
        return next((found for part in parts if (found := descend(part, step)) is not None), None)
    if origin is dict:
        return parts[1]
    if origin is list:
        return parts[0]
    for key, field in annotation.model_fields.items() if models_in(annotation) else ():
        if step in (key, field.alias):
            return field.annotation
    return None


def keys_at(location: Iterable[str | int]) -> list[str]:
    """Return the keys allowed at a place in the study."""
    annotation: Any = Study
    for step in location:
        annotation = descend(annotation, step)
    return sorted(
        {field.alias or key for model in models_in(annotation) for key, field in model.model_fields.items()}
    )


def path_of(location: Iterable[str | int]) -> str:
    """Return an error's location as it stands in the YAML: without method, kind and the like."""
    steps = [step for step in location if step != "[key]" and not str(step).startswith("(")]
    if len(steps) > 2 and steps[0] in TAGGED:
        del steps[2]
    if len(steps) > 3 and steps[0] == "runs" and steps[2] == "parent":
        del steps[3]  # which side of `str | list[str]` was tried
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def bounds_at(location: tuple[str | int, ...]) -> str:
    """Return the bounds of the number at a place in the study, as " > 0", or nothing."""
    annotation: Any = Study
    for step in location[:-1]:
        annotation = descend(annotation, step)
    fields = [model.model_fields.get(str(location[-1])) for model in models_in(annotation)]
    limits = [limit for field in fields if field for limit in field.metadata]
    signs = {"gt": ">", "ge": "≥", "le": "≤", "lt": "<"}
    words = [
        f"{sign} {getattr(limit, name):g}"
        for limit in limits
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    return f" {' and '.join(words)}" if words else ""


def number_hint(text: str) -> str:
    """Return how to write a number that YAML has read as text, or nothing if it is none."""
    try:
        float(text)
    except ValueError:
        return ""
    mantissa, mark, exponent = text.strip().lower().partition("e")
    if not mark:
        return " (a number, in quotes: leave them out)"
    dotted = mantissa if "." in mantissa else f"{mantissa}.0"
    signed = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f" (YAML reads this as text: write {dotted}e{signed})"


def spell(error: dict) -> str:
    """Return one pydantic error as `path: what is wrong and what is allowed`."""
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    path = path_of(error["loc"])
    if kind == "extra_forbidden":
        keys = keys_at(error["loc"][:-1])
        return f"{path}: unknown key{nearest(error['loc'][-1], keys)} (allowed here: {', '.join(keys)})"
    if kind == "missing":
        return f"{path}: is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        tags = [tag_of(model) for model in models_in({"method": Run, "kind": Judge | Benchmark}[key])]
        if kind == "union_tag_invalid":
            tags = re.findall(r"'([^']+)'", context["expected_tags"])
            return f"{path}.{key}: no {key} {found[key]!r}{nearest(found[key], tags)} (allowed: {', '.join(tags)})"
        part = {"runs": Run, "judges": Judge, "benchmarks": Benchmark}[error["loc"][0]]
        tags = [tag_of(model) for model in models_in(part)]
        return f"{path}: needs {key} (one of: {', '.join(tags)})"
    if found is None:
        return f"{path}: has no value: give one, or leave the key out"
    if kind == "string_pattern_mismatch":
        return f"{path}: must be {PATTERNS[context['pattern']]}, not {found!r}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{path}: must be a mapping (key: value), not {found!r}"
    if "list[str]" in error["loc"] or error["loc"][-1] == "str":
        return f"{path}: must be a name or a list of names, not {found!r}"
    if kind == "too_short":
        return f"{path}: must have at least {context['min_length']}, not {found!r}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    for word, plain in PLAIN.items():
        message = message.replace(word, plain)
    if kind == "value_error":
        return f"{path}: {message}"
    hint = ""
    if kind in ("float_type", "int_type"):
        message += bounds_at(error["loc"])
    if isinstance(found, str):
        hint = (
            nearest(found, re.findall(r"'([^']+)'", context["expected"])) if kind == "literal_error" else ""
        )
        hint = hint or (number_hint(found) if kind in ("float_type", "int_type") else "")
    return f"{path}: {message}, not {found!r}{hint}"


def repeated_keys(root: yaml.Node | None) -> list[str]:
    """Return a sentence for each key that stands twice in one mapping; YAML keeps the last in silence."""
    wrong: list[str] = []
    seen: set[int] = set()

    def walk(node: yaml.Node, path: str) -> None:
        if id(node) in seen:  # an alias
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                walk(item, f"{path}[{index}]")
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                here = f"{path}.{name}".lstrip(".")
                if name in lines:
                    wrong.append(f"{here}: stands twice, in lines {lines[name]} and {line}")
                lines[name] = line
                walk(value, here)

    if root is not None:
        walk(root, "")
    return wrong


def read_yaml(path: Path | str) -> dict:
    """Return the mapping in a YAML file; PlumblineError if there is none, or if a key stands twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        wrong, config = repeated_keys(yaml.compose(text, yaml.SafeLoader)), yaml.safe_load(text)
    except OSError as error:
        raise PlumblineError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlumblineError(f"{path}: not YAML: {error}") from None
    if not isinstance(config, dict):
        found = "it is empty" if config is None else f"it is a {type(config).__name__}"
        raise PlumblineError(f"{path}: must be a mapping (key: value), but {found}; see docs/config.md")
    if wrong:
        raise mistakes(str(path), wrong)
    return config


def mistakes(origin: str, lines: list[str]) -> PlumblineError:
    """Return the error that lists every mistake once."""
    lines = [CONTROL.sub(lambda found: repr(found[0])[1:-1], line) for line in dict.fromkeys(lines)]
    listing = "\n".join(f"  {line}" for line in lines)
    return PlumblineError(f"{origin} has {len(lines)} mistake{'s' * (len(lines) > 1)}:\n{listing}")


def extended(config: dict, above: tuple[str, ...] = ()) -> dict:
    """Return a study's config with what it `extends` underneath: mappings are merged, everything else is replaced."""
    name, own = config.get("extends"), {key: value for key, value in config.items() if key != "extends"}
    if name is None:
        return own
    if not isinstance(name, str) or not (ROOT / name).is_file():
        raise PlumblineError(f"extends: no such study {name!r} (a path relative to the repository)")
    if name in above:
        raise PlumblineError(f"extends: a cycle of studies ({' → '.join([*above, name])})")
    return merge(extended(read_yaml(ROOT / name), (*above, name)), own)


def merge(below: dict, above: dict) -> dict:
    """Return two mappings as one, the keys of `above` winning, mappings inside merged alike."""
    both = {
        key: merge(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both


def check_study(config: dict, origin: str = "the study") -> Study:
    """Return the checked study; PlumblineError lists every mistake with its path and what is allowed."""
    try:
        study = Study.model_validate(extended(config))
    except ValidationError as error:
        raise mistakes(origin, [spell(item) for item in error.errors()]) from None
    wrong = references(study)
    if wrong:
        raise mistakes(origin, wrong)
    return cut_short(study)


def cut_short(study: Study) -> Study:
    """Return a study with its `limit` put into every part that can be cut; without one, as it is."""
    if study.limit is None:
        return study
    cut = study.model_copy(deep=True)
    for dataset in cut.datasets.values():
        dataset.split.limit = min(study.limit, dataset.split.limit or study.limit)
    for part in [*cut.benchmarks.values(), *cut.pairs.values()]:
        if "limit" in type(part).model_fields:
            part.limit = min(study.limit, part.limit or study.limit)
    return cut


def check_config(config: dict, files: Iterable[Path | str]) -> Study:
    """Return the study that Snakemake has put together from its config files and its command line, checked.

    The files are read again for keys that stand twice: of those Snakemake passes on only the last.
    """
    names = [str(path) for path in files]
    for name in names:
        read_yaml(name)
    return check_study(config, ", ".join(names) or "the study")


def load_study(path: Path | str) -> Study:
    """Return the checked study of a YAML file."""
    return check_study(read_yaml(path), str(path))
