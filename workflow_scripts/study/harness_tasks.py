"""The lm-evaluation-harness's tasks, told by their files without loading it, and what is asked of them in vain."""

import fnmatch
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from workflow_scripts.common.place import ROOT, SHIPPED
from workflow_scripts.study.benchmarks.harness import LmEval, Task
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.messages import nearest, shown
from workflow_scripts.study.study import Study

SUITES = SHIPPED / "workflow_scripts/score/harness/suites.yaml"
HARNESS_ANSWER = 256  # tokens, where a task names none
ANSWER_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first counts
TASK_FILE = re.compile(r"""^["']?(?:task|group|tag)["']?:[ \t]*(.*)$((?:\n[ \t]*-[ \t]+.*)*)""", re.MULTILINE)


def names_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each task, group and tag in a folder of task files, by its name as their texts spell it."""
    names: dict[str, list[Path]] = {}
    for place, _, files in os.walk(folder):
        for file in sorted(files):
            if Path(file).suffix not in ("", ".yaml", ".yml"):
                continue  # what they include may have any of these names
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


@functools.cache
def suites() -> dict[str, dict]:
    """Return the suites of the harness's tasks, {suite: {group: {task: its row}}}."""
    return yaml.safe_load(SUITES.read_text(encoding="utf-8"))


def suite_rows(name: str | None) -> dict[str, dict]:
    """Return the rows of a suite of the harness's tasks, {task: {"metric", "num_fewshot"}}."""
    if name is None:
        return {}
    return {
        task: row
        for rows in suites().get(name, {}).values()
        for task, row in rows.items()
        if task != "human_eval"
    }


def harness_tasks(study: Study) -> Iterator[Finding]:
    """Find tasks that neither the harness nor a benchmark's own folder has, and what is asked of them in vain."""
    for name, benchmark in study.benchmarks.items():
        if isinstance(benchmark, LmEval):
            yield from tasks_asked(f"benchmarks.{name}", benchmark, study)


def tasks_asked(path: str, benchmark: LmEval, study: Study) -> Iterator[Finding]:
    """Find what is wrong with the tasks of one benchmark."""
    own = names_in(ROOT / benchmark.include_path) if benchmark.include_path else {}
    asked = {f"{path}.suite": [Task(task=task) for task in suite_rows(benchmark.suite)]}
    for index, entry in enumerate(benchmark.tasks):
        here = f"{path}.tasks[{index}]"
        wanted = Task(task=entry) if isinstance(entry, str) else entry
        if not benchmark.source or wanted.task.isidentifier():
            asked[here] = [wanted]  # what a pattern finds in a package, its making tells
        yield from unknown_task(here, wanted.task, own)
    by: dict[str, tuple[str, str]] = {}
    for here, entries in asked.items():
        longest: dict[str, int] = {}
        yield from asked_of_tasks(here, entries, own, by, longest)
        yield from filled_contexts(here, longest, study)


def called(pattern: str, known: dict[str, list[Path]]) -> list[str]:
    """Return which of the known names a name or a pattern stands for, as the harness would; it knows 14 000."""
    if set(pattern) & set("*?["):
        return fnmatch.filter(known, pattern)
    return [pattern] if pattern in known else []


def unknown_task(path: str, task: str, own: dict[str, list[Path]]) -> Iterator[Finding]:
    """Find that neither a benchmark's own folder nor the installed harness has a task, group, tag or pattern."""
    if called(task, own):
        return
    known = harness_names()
    if known is None:
        yield doubt(path, f"{shown(task)} is not looked up: the harness (lm_eval) is not installed here")
    elif not called(task, known):
        near = nearest(task, [*own, *known])
        yield wrong(path, f"lm_eval has no task, group or tag called {shown(task)}{near}")


def asked_of_tasks(
    path: str,
    entries: list[Task],
    own: dict[str, list[Path]],
    by: dict[str, tuple[str, str]],
    longest: dict[str, int],
) -> Iterator[Finding]:
    """Find tasks that are asked for twice or for a metric they have not, or whose examples are fixed.

    entries: tasks, groups, tags or patterns; own: the files of a benchmark's own folder. What is found is kept in `by`,
    {task: (the path that asks for it first, by which name)}, and in `longest`, {task: the tokens of its answers}.
    """
    twice: list[str] = []
    for entry in entries:
        known = own if called(entry.task, own) else harness_names() or {}
        for each in called(entry.task, known):
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
                longest[task] = longest_answer(settings)
    if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        first = " as ".join(by[twice[0]])
        yield wrong(path, f"{twice[0]}{more} is asked for by {first} already; name it once")


def filled_contexts(path: str, longest: dict[str, int], study: Study) -> Iterator[Finding]:
    """Find tasks whose answers may fill a model's context; longest: {task: the tokens its answers may have}."""
    for model, part in study.models.items():
        filling = [task for task, tokens in longest.items() if tokens >= part.context]
        if filling:
            more = f" (and of {len(filling) - 1} more tasks)" if len(filling) > 1 else ""
            yield doubt(
                path,
                f"answers of {filling[0]}{more} may have {longest[filling[0]]} tokens, and models.{model}.context is "
                f"{part.context}: the scoring stops where the model has no more",
            )
