"""What a look at the machine says of how a study would run: its files, the judges' keys, the harness's tasks.

Only the head of a run and `check` look, once: nothing here is a part of the study, so the jobs of a cluster, which read
the study again, need not. Nothing is fetched, and neither torch nor the harness is imported.
"""

import fnmatch
import functools
import importlib.util
import ipaddress
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.files import sha256_of
from workflow_scripts.study.benchmarks.answered import TextOverlap
from workflow_scripts.study.benchmarks.harness import LmEval, Task
from workflow_scripts.study.benchmarks.judged import AlpacaEval
from workflow_scripts.study.checking import known_policies
from workflow_scripts.study.foresight import Finding, doubt, learns_nothing, most_rows, steps_of, wrong
from workflow_scripts.study.judges import OpenAIJudge
from workflow_scripts.study.methods.sft import Sft
from workflow_scripts.study.mistakes import nearest
from workflow_scripts.study.models import Model
from workflow_scripts.study.reading import named, shown
from workflow_scripts.study.sources import Source
from workflow_scripts.study.study import Study

CHEAP = 64 * 2**20  # bytes of a file that is hashed or counted before the first job
CHARACTERS = 4  # to a token, roughly
WORDNET = [f"{kind}.{part}" for part in ("noun", "verb", "adj", "adv") for kind in ("index", "data")]
SUITES = ROOT / "workflow_scripts/score/harness/suites.yaml"
HARNESS_ANSWER = 256  # tokens, where a task names none
ANSWER_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first counts
TASK_FILE = re.compile(r"""^["']?(?:task|group|tag)["']?:[ \t]*(.*)$((?:\n[ \t]*-[ \t]+.*)*)""", re.MULTILINE)


def seen(study: Study) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts) about a checked study on this machine, by path."""
    found = [
        *local_files(study),
        *models_as_they_are(study),
        *folders(study),
        *few_packs(study),
        *missing_deepspeed(study),
        *unset_keys(study),
        *harness_tasks(study),
        *annotators(study),
    ]
    return [item.text for item in found if item.certain], [item.text for item in found if not item.certain]


# --- files ------------------------------------------------------------------------------------------------------------


def local_files(study: Study) -> Iterator[Finding]:
    """Find files of this machine that are not there, or not what was pinned, and wanted files that no place gives."""
    for name, source in study.sources.items():
        for index, place in enumerate(source.places):
            if place.file:
                last = len(source.places) == 1
                yield from files_of_place(
                    f"sources.{name}.places[{index}].file.files", place.file.files, source, last
                )
        yield from ungiven(f"sources.{name}", source)


def files_of_place(path: str, files: dict[str, str], source: Source, last: bool) -> Iterator[Finding]:
    """Find what is wrong with the files of one place; `last`: there is no other to ask."""
    say = wrong if last else doubt
    for file, where in files.items():
        at, here = ROOT / where, f"{path}.{named(file)}"
        if source.files and file not in source.files:
            yield doubt(here, f"is not among the source's files{nearest(file, source.files)}")
        elif not os.path.exists(at):
            if not last:  # else the names' check has said so
                yield doubt(here, f"no such file {shown(where)}: the next place is asked")
        elif not os.path.isfile(at):
            yield say(here, f"{shown(where)} is no file")
        elif not os.access(at, os.R_OK):
            yield say(here, f"{shown(where)} cannot be read")
        elif (pinned := source.files.get(file)) and at.stat().st_size <= CHEAP:
            if (found := sha256_of(at)) != pinned:
                yield say(here, f"{shown(where)} has the sha256 {found}, not the one that sources pins")
        elif at.stat().st_size == 0:
            yield say(here, f"{shown(where)} is empty")


def ungiven(path: str, source: Source) -> Iterator[Finding]:
    """Find wanted files that no place names."""
    given: set[str] = set()
    for place in source.places:
        kind = next(part for part in (place.hf, place.https, place.pypi, place.npm, place.file) if part)
        if place.hf and not place.hf.files:
            return  # the whole repository
        given |= kind.files.keys()
    if not source.files and source.places and not any(place.hf for place in source.places):
        yield wrong(
            f"{path}.files", "names none, and only a repository of the hub can be taken whole: name them"
        )
    for file in source.files if source.places else ():
        if file not in given:
            yield wrong(f"{path}.files.{named(file)}", f"no place has it{nearest(file, given)}")


def sizes_of(model: Model, study: Study) -> dict:
    """Return what the config.json of a model says of its language part; {} where none is on this machine to be read."""
    source = study.sources.get(model.source)
    paths = [place.file.files.get("config.json") for place in source.places if place.file] if source else []
    if model.format != "hf" or not paths or paths[0] is None:
        return {}
    try:
        found = json.loads((ROOT / paths[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the making of the model says what is wrong with it
        return {}
    own = found.get("text_config", found) if isinstance(found, dict) else None
    return own if isinstance(own, dict) else {}


def models_as_they_are(study: Study) -> Iterator[Finding]:
    """Find what models of this machine cannot do by their own account: be as long as is said, take a value head."""
    policies = known_policies(study) or {}
    for name, model in study.models.items():
        sizes = sizes_of(model, study)
        positions = sizes.get("max_position_embeddings") or sizes.get("n_positions")
        if isinstance(positions, int) and model.context > positions:
            yield doubt(
                f"models.{name}.context",
                f"{model.context} is more than the {positions} positions of its config.json: it has not learned what is "
                "longer, or cannot read it at all",
            )
        width = sizes.get("hidden_size") or sizes.get("n_embd")
        for key, value in study.values.items():
            users = {run for run, each in study.runs.items() if getattr(each, "value", None) == key}
            on_it = any(policy.run in users and policy.model == name for policy in policies.values())
            if isinstance(width, int) and on_it and width % value.heads:
                yield wrong(
                    f"values.{key}.heads", f"{value.heads} do not divide the width {width} of models.{name}"
                )


def folders(study: Study) -> Iterator[Finding]:
    """Find folders that do not hold what they are named for."""
    for name, benchmark in study.benchmarks.items():
        if (
            isinstance(benchmark, TextOverlap)
            and benchmark.wordnet
            and os.path.exists(ROOT / benchmark.wordnet)
        ):
            lacking = [file for file in WORDNET if not os.path.isfile(ROOT / benchmark.wordnet / file)]
            if lacking:
                yield wrong(
                    f"benchmarks.{name}.wordnet",
                    f"{shown(benchmark.wordnet)} lacks {', '.join(lacking)} of WordNet",
                )


def lines_and_bytes(path: Path) -> tuple[int, int] | None:
    """Return (rows, bytes) of a file of JSON Lines or JSON; None where it is too large or neither."""
    try:
        if path.stat().st_size > CHEAP:
            return None
        text = path.read_text(encoding="utf-8-sig")
        rows = (
            json.loads(text)
            if text.lstrip()[:1] == "["
            else [line for line in text.splitlines() if line.strip()]
        )
    except (OSError, ValueError, RecursionError):  # what is wrong with it is the cleaning's to say
        return None
    return len(rows), len(text)


def few_packs(study: Study) -> Iterator[Finding]:
    """Find fine-tunings on files of this machine whose rows or packs make one step, at a warm-up's learning rate 0."""
    for name, run in study.runs.items():
        dataset = study.datasets.get(run.dataset) if isinstance(run, Sft) else None
        source = study.sources.get(dataset.source) if dataset else None
        if not dataset or not source or run.objective == "lm" or dataset.history_turns is not None:
            continue
        if learns_nothing(run, steps_of(run, most_rows(study, run.dataset, run.split))):
            continue  # the study alone says so
        files = dataset.split.by_file.get(run.split, dataset.files)
        local = {
            file: path for place in source.places if place.file for file, path in place.file.files.items()
        }
        counted = [lines_and_bytes(ROOT / local[file]) for file in files if file in local]
        if not files or len(counted) < len(files) or not all(counted):
            continue
        rows, size = (sum(part) for part in zip(*[found for found in counted if found], strict=True))
        used = min(
            [
                rows,
                *(quota * len(files) for quota in [dataset.split.quotas.get(run.split)] if quota is not None),
            ]
        )
        used = min(used, dataset.split.limit or used)
        units = used
        if run.pack_tokens and rows:
            units = min(used, math.ceil(size * used / rows / CHARACTERS / run.pack_tokens))
        if learns_nothing(run, steps_of(run, max(units, 1))):
            say = wrong if learns_nothing(run, steps_of(run, used)) else doubt
            about = (
                f"{used} rows make one step"
                if say is wrong
                else f"{used} rows make about {units} packs, one step"
            )
            yield say(
                f"runs.{name}",
                f"learns nothing: {about}, and a warm-up's first step has the learning rate 0; give it more steps "
                "(a smaller batch_size or pack_tokens, more epochs) or warmup: 0.0",
            )


# --- several GPUs ---------------------------------------------------------------------------------------------------


def missing_deepspeed(study: Study) -> Iterator[Finding]:
    """Find a study that asks for ZeRO where DeepSpeed is not installed."""
    asked = study.training_resources
    if asked.gpu < 2 or not asked.parallel.startswith("zero") or not study.runs:
        return
    if importlib.util.find_spec("deepspeed") is None and not (Path(sys.prefix) / "deepspeed").is_dir():
        yield doubt(
            "training_resources.parallel",
            f"{asked.parallel} needs DeepSpeed, which is not here: run `make deepspeed` where it trains",
        )


# --- judges -----------------------------------------------------------------------------------------------------------


def is_here(url: str | None) -> bool:
    """Tell whether an endpoint is on this machine."""
    try:
        host = urlsplit(url or "").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def asked_judges(study: Study) -> Iterable[str]:
    """Return the names of the judges that a benchmark asks."""
    asking = [part for part in study.benchmarks.values() if part.is_judged()]
    return dict.fromkeys(part.judge for part in asking)


def unset_keys(study: Study) -> Iterator[Finding]:
    """Find judges that are asked and whose key is not set."""
    for name in asked_judges(study):
        judge = study.judges.get(name)
        if isinstance(judge, OpenAIJudge) and not os.environ.get(judge.api_key_env, "").strip():
            path = f"judges.{name}.api_key_env"
            if is_here(judge.base_url):
                yield doubt(
                    path,
                    f"{judge.api_key_env} is not set: export {judge.api_key_env}=any-word, if the server asks for none",
                )
            else:
                yield doubt(
                    path,
                    f"{judge.api_key_env} is not set: export it before the judge is asked, or the run stops there",
                )


def annotators(study: Study) -> Iterator[Finding]:
    """Find annotators that the alpaca_eval package has not."""
    package = importlib.util.find_spec("alpaca_eval")
    folder = Path(package.origin).parent / "evaluators_configs" if package and package.origin else None
    known = sorted(path.parent.name for path in folder.glob("*/configs.yaml")) if folder else []
    for name, benchmark in study.benchmarks.items():
        if (
            isinstance(benchmark, AlpacaEval)
            and benchmark.annotator
            and known
            and benchmark.annotator not in known
        ):
            yield wrong(
                f"benchmarks.{name}.annotator",
                f"the alpaca_eval package has none called {shown(benchmark.annotator)}{nearest(benchmark.annotator, known)}",
            )


# --- the harness's tasks ------------------------------------------------------------------------------------------------


def names_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each task, group and tag in a folder of task files, by its name as their texts spell it."""
    names: dict[str, list[Path]] = {}
    for place, _, files in os.walk(folder):
        for file in sorted(files):
            if Path(file).suffix not in (
                "",
                ".yaml",
                ".yml",
            ):  # what they include may have any of these names
                continue
            try:
                text = Path(place, file).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            for value, items in TASK_FILE.findall(text):
                listed = [line.strip()[1:] for line in items.splitlines() if line.strip()]
                for name in [*value.strip().strip("[]").split(","), *listed]:
                    names.setdefault(name.split(" #")[0].strip().strip("\"'"), []).append(Path(place, file))
    return {name: paths for name, paths in names.items() if name not in ("", "null")}


@functools.cache
def harness_names() -> dict[str, list[Path]] | None:
    """Return what the installed harness calls its tasks, groups and tags; None where there is no harness."""
    package = importlib.util.find_spec("lm_eval")
    return names_in(Path(package.origin).parent / "tasks") if package and package.origin else None


class TaskFile(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):
    """Reads a task's file; the functions that it names are left alone."""


TaskFile.add_multi_constructor("!", lambda loader, suffix, node: None)


@functools.cache
def task_settings(path: Path) -> dict:
    """Return the keys of a task's file over those of the files it includes; {} where it cannot be read."""
    try:
        own = yaml.load(path.read_text(encoding="utf-8"), TaskFile)  # a safe loader
        if not isinstance(own, dict):
            return {}
        included = own.pop("include", [])
        found: dict = {}
        for other in [included] if isinstance(included, str) else included:
            found |= task_settings(path.parent / other)
    except (OSError, ValueError, yaml.YAMLError, RecursionError, TypeError, AttributeError):
        return {}
    return found | own


def tasks_of(name: str, known: dict[str, list[Path]], above: tuple[str, ...] = ()) -> dict[str, dict]:
    """Return {task: its settings} of a task, or of all that a group or a tag stands for, as far as files tell."""
    found: dict[str, dict] = {}
    for settings in map(task_settings, dict.fromkeys(known.get(name, ()))):
        tags, task = settings.get("tag"), settings.get("task")
        tags = tags if isinstance(tags, list) else [tags]
        if isinstance(task, str) and name in (task, *tags):
            found[task] = settings
        elif settings.get("group") == name and isinstance(task, list) and name not in above:
            for member in task:
                more = member if isinstance(member, dict) else {"task": member}
                if isinstance(more.get("task"), str):
                    members = tasks_of(more["task"], known, (*above, name))
                    found |= {each: part | more | {"task": each} for each, part in members.items()}
    return found


def longest_answer(settings: dict) -> int:
    """Return how many tokens the harness lets a task's answers have, 0 where it asks for none."""
    if settings.get("output_type", "generate_until") != "generate_until":
        return 0
    given = settings.get("generation_kwargs")
    given = given if isinstance(given, dict) else {}
    lengths = [given[key] for key in ANSWER_KEYS if isinstance(given.get(key), int)]
    return lengths[0] if lengths else HARNESS_ANSWER


def metrics_of(settings: dict) -> list[str]:
    """Return the names of a task's metrics, [] where its file does not say them all."""
    listed = settings.get("metric_list")
    listed = listed if isinstance(listed, list) else []
    names = [part.get("metric") if isinstance(part, dict) else None for part in listed]
    return names if all(isinstance(name, str) for name in names) else []


def suite_rows(name: str | None) -> dict[str, dict]:
    """Return the rows of a suite of the harness's tasks, {task: {"metric", "num_fewshot"}}."""
    if name is None:
        return {}
    groups = yaml.safe_load(SUITES.read_text(encoding="utf-8")).get(name, {})
    return {task: row for rows in groups.values() for task, row in rows.items() if task != "human_eval"}


def harness_tasks(study: Study) -> Iterator[Finding]:
    """Find tasks that neither the installed harness nor a benchmark's own folder has, and what is asked of them in vain."""
    for name, benchmark in study.benchmarks.items():
        if not isinstance(benchmark, LmEval):
            continue
        own = names_in(ROOT / benchmark.include_path) if benchmark.include_path else {}
        asked = {f"benchmarks.{name}.suite": [Task(task=task) for task in suite_rows(benchmark.suite)]}
        for index, entry in enumerate(benchmark.tasks):
            entry, path = (
                Task(task=entry) if isinstance(entry, str) else entry,
                f"benchmarks.{name}.tasks[{index}]",
            )
            task = entry.task
            if (
                not benchmark.source or task.isidentifier()
            ):  # what a pattern finds in a package, its making tells
                asked[path] = [entry]
            if fnmatch.filter(own, task):
                continue
            known = harness_names()
            if known is None:
                yield doubt(
                    path, f"{shown(task)} is not looked up: the harness (lm_eval) is not installed here"
                )
            elif not fnmatch.filter(known, task):
                near = nearest(task, [*own, *known])
                yield wrong(path, f"lm_eval has no task, group or tag called {shown(task)}{near}")
        yield from asked_of_tasks(asked, own, study)


def asked_of_tasks(
    asked: dict[str, list[Task]], own: dict[str, list[Path]], study: Study
) -> Iterator[Finding]:
    """Find tasks that are asked for twice or for a metric they have not, whose examples are fixed, or whose answers fill a
    context.

    asked: {path: tasks, groups, tags or patterns}; own: the files of a benchmark's own folder.
    """
    by: dict[str, tuple[str, str]] = {}
    for path, entries in asked.items():
        twice: list[str] = []
        long: dict[str, int] = {}
        for entry in entries:
            known = own if fnmatch.filter(own, entry.task) else harness_names() or {}
            for each in fnmatch.filter(known, entry.task):
                for task, settings in tasks_of(each, known).items():
                    if by.setdefault(task, (path, each)) != (path, each):
                        twice.append(task)
                    if entry.num_fewshot and settings.get("num_fewshot") == 0:
                        yield wrong(f"{path}.num_fewshot", f"the file of {task} fixes 0: leave it out")
                    measured = metrics_of(settings)
                    for metric in entry.metrics or ():
                        if measured and metric.split(",")[0] not in measured:
                            has = ", ".join(measured)
                            yield wrong(f"{path}.metrics", f"{task} has no {shown(metric)}; it has {has}")
                    long[task] = longest_answer(settings)
        if twice:
            more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
            yield wrong(
                path, f"{twice[0]}{more} is asked for by {' as '.join(by[twice[0]])} already; name it once"
            )
        for model, part in study.models.items():
            filling = [task for task, tokens in long.items() if tokens >= part.context]
            if filling:
                more = f" (and of {len(filling) - 1} more tasks)" if len(filling) > 1 else ""
                yield doubt(
                    path,
                    f"answers of {filling[0]}{more} may have {long[filling[0]]} tokens, and models.{model}.context is "
                    f"{part.context}: the scoring stops where the model has no more",
                )
