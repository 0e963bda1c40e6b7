"""Run tasks of the lm-evaluation-harness (Gao et al. 2023) on a policy and keep the score of each item.

Covers the harness's own tasks and local task files, on local models. A metric is kept if it follows from its
items: a mean, or a perplexity. Others (corpus BLEU, F1 over all items) are named in the output as left out,
and so are the averages of task groups. Not covered: tasks that run code or look at images.
"""

import argparse
import difflib
import json
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.models import precision_of
from workflow_scripts.score.items import make_cell, write_scores

# isort: split
import datasets
import httpx
import huggingface_hub
import lm_eval
import torch
from datasets.exceptions import DatasetsError
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HUB_WAIT = 5  # seconds
LOCAL_FORMATS = {"arrow", "csv", "json", "parquet", "text", "xml"}
IMPOSSIBLE = -1e4  # nats
BYTE = math.log(256)  # nats per byte of a model that knows nothing


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
    pay.
    """
    if folder:
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = [manager.match_tasks([name]) for name in names]
        if all(found) and all(
            manager.task_index[task].kind.name == "TASK" for match in found for task in match
        ):
            return manager
    return TaskManager(include_path=folder)


def sources_of(name: str, manager: TaskManager) -> dict[str, str]:
    """Return {task: where its rows come from} for a task, or for all tasks of a group or tag."""
    entry = manager.task_index[name]
    if entry.kind.name == "TAG":
        members: list = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        members = entry.cfg.get("task") or []
    else:
        return {name: entry.cfg.get("dataset_path") or "python"}
    found: dict[str, str] = {}
    for member in members:
        if isinstance(member, dict) and "dataset_path" in member:
            found[str(member.get("task"))] = member["dataset_path"]
            continue
        inner = member if isinstance(member, str) else member.get("group", member.get("task"))
        if isinstance(inner, str) and inner in manager.task_index:
            found |= sources_of(inner, manager)
    return found


def check_tasks(names: list[str], manager: TaskManager) -> list[str]:
    """Return the task names with patterns spelled out; PlumblineError for one unknown or out of reach."""
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
                f"task {task!r}{more}: reads {source!r} from the model hub, which cannot be reached "
                f"({reason}). Set HF_HUB_OFFLINE=1 to use what an earlier run has cached, or write a task "
                "file over local rows (include_path)"
            )
    return list(dict.fromkeys(matched))


def hub_trouble() -> str | None:
    """Return why the model hub does not answer within seconds, or None if it does."""
    try:
        status = httpx.head(
            huggingface_hub.constants.ENDPOINT, timeout=HUB_WAIT, follow_redirects=True
        ).status_code
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return f"status {status}" if status in (403, 407) or status >= 500 else None


def load_tasks(names: list[str], manager: TaskManager) -> dict[str, Task]:
    """Return {task: Task} with its rows; PlumblineError when rows cannot be had or do not parse."""
    tasks: dict[str, Task] = {}
    for name in names:
        try:
            tasks |= manager.load([name])["tasks"]
        except (DatasetsError, OSError, ValueError, KeyError) as error:
            cause = error.__cause__ or error
            raise PlumblineError(f"task {name!r} cannot be loaded: {type(cause).__name__}: {cause}") from None
    return tasks


# --- calibration ----------------------------------------------------------------------------------


class Oracle(LM):
    """A pseudo-model that answers from the answer key (`gold`) or knows nothing (`empty`).

    gold: the right choice has probability 1, the others none; a text to be predicted has probability 1; a
    text to be written is the target. empty: all choices are equally likely (so the first is taken, and
    accuracy is the share of items whose first choice is right); a text to be predicted is uniform over bytes;
    nothing is written. Tasks that score choices in a way of their own need not give gold 1.
    """

    def __init__(self, kind: str, tasks: dict[str, Task]) -> None:
        super().__init__()
        self.gold = kind == "gold"
        self.tasks = tasks

    def right_choices(self, task: Task, doc: dict) -> list[int]:
        """Return the indices of the right choices of an item."""
        key = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        choices = task.doc_to_choice(doc)
        keys = key if isinstance(key, list) else [key]
        return [choices.index(key) if isinstance(key, str) else key for key in keys]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        answers = []
        for request in requests:
            task = self.tasks[request.task_name]
            if task.OUTPUT_TYPE != "multiple_choice":
                nats = 0.0 if self.gold else -BYTE * len(request.args[1].encode())
                answers.append((nats, self.gold))
            elif self.gold:
                right = request.idx in self.right_choices(task, request.doc)
                answers.append((0.0 if right else IMPOSSIBLE, right))
            else:
                answers.append((0.0, False))
        return answers

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [0.0 if self.gold else -BYTE * len(request.args[0].encode()) for request in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        if not self.gold:
            return [""] * len(requests)
        texts = []
        for request in requests:
            task = self.tasks[request.task_name]
            target = task.doc_to_target(request.doc)
            if isinstance(target, int) and task.config.doc_to_choice is not None:
                target = task.doc_to_choice(request.doc)[target]
            texts.append(str(target[0] if isinstance(target, list) else target))
        return texts

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        return "\n".join(message["content"] for message in chat_history)

    @property
    def tokenizer_name(self) -> str:
        return "oracle"


def load_model(folder: Path, settings: dict) -> HFLM:
    """Return a local model (safetensors only) as the harness sees one."""
    if not (folder / "config.json").is_file():
        raise PlumblineError(f"{folder}: no model here; delete its manifest and run again to make it anew")
    model = HFLM(
        pretrained=str(folder),
        dtype=precision_of(settings["dtype"]),
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=settings["batch_size"],
        trust_remote_code=False,
        use_safetensors=True,
    )
    if settings["apply_chat_template"] and model.tokenizer.chat_template is None:
        raise PlumblineError(f"{folder}: its tokenizer has no chat template; set apply_chat_template: false")
    return model


# --- items ----------------------------------------------------------------------------------------


def columns_of(values: list, reported: float) -> tuple[str, dict[str, list[float]]] | None:
    """Return (estimator, columns) under which items give the number the harness reported, or None if none
    does.

    Items are numbers, averaged or exponentiated as log-likelihoods in nats, or pairs (log-likelihood, count).
    The harness does not say how a metric follows from its items in a form we could read, so its number
    decides.
    """
    pairs = all(isinstance(value, tuple | list) and len(value) == 2 for value in values)
    try:
        numbers = [[float(part) for part in (value if pairs else (value, 1.0))] for value in values]
    except (TypeError, ValueError):
        return None

    def agrees(value: float) -> bool:
        return math.isclose(value, reported, rel_tol=1e-6, abs_tol=1e-9)

    first, counts = [row[0] for row in numbers], [row[1] for row in numbers]
    if not pairs and agrees(sum(first) / len(first)):
        return "mean", {"value": first}
    if min(counts) > 0 and sum(first) <= 0 and agrees(exponential(-sum(first) / sum(counts))):
        return "perplexity", {"nll": [-value for value in first], "tokens": counts}
    return None


def exponential(value: float) -> float:
    """Return exp(value), infinity where it is too large for a float."""
    return math.exp(value) if value < 700 else math.inf


def cells_of(results: dict) -> tuple[list[dict], list[str]]:
    """Return (cells, names of the metrics left out) of the harness's results.

    The subset is the task; the metric is the harness's, with the filter's name where there is one
    ("exact_match,strict-match"); items are the task's own row numbers, each its own group.
    """
    cells, left_out = [], []
    for task, samples in results["samples"].items():
        for kind in dict.fromkeys(sample["filter"] for sample in samples):
            rows = sorted(
                (sample for sample in samples if sample["filter"] == kind), key=lambda row: row["doc_id"]
            )
            items = [str(row["doc_id"]) for row in rows]
            for metric in rows[0]["metrics"]:
                name = metric if kind == "none" else f"{metric},{kind}"
                reported = results["results"][task].get(f"{metric},{kind}")
                values = [row.get(metric) for row in rows]
                found = columns_of(values, reported) if isinstance(reported, int | float) else None
                better = results["higher_is_better"].get(task, {}).get(metric)
                if found is None:
                    left_out.append(f"{task}/{name}")
                    continue
                estimator, columns = found
                if better is None:
                    better = estimator != "perplexity"
                cells.append(
                    make_cell(
                        task, name, items, items, columns, estimator=estimator, higher_is_better=bool(better)
                    )
                )
    return cells, left_out


def evaluate(model: LM, tasks: dict[str, Task], manager: TaskManager, settings: dict) -> dict[str, Any]:
    """Return the harness's results of a model on loaded tasks, with its samples."""
    return lm_eval.simple_evaluate(
        model=model,
        tasks=list(tasks.values()),
        task_manager=manager,
        num_fewshot=settings["num_fewshot"],
        limit=settings["limit"],
        batch_size=settings["batch_size"],
        apply_chat_template=settings["apply_chat_template"],
        bootstrap_iters=0,
        log_samples=True,
    )


def main() -> None:
    """Write the item scores of a policy, or of a pseudo-policy, on tasks of the lm-evaluation-harness."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    policy = parser.add_mutually_exclusive_group(required=True)
    policy.add_argument("--model", type=Path, help="folder of the model")
    policy.add_argument("--oracle", choices=["gold", "empty"], help="a pseudo-policy instead of a model")
    parser.add_argument(
        "--settings", required=True, type=json.loads, help="the benchmark's settings, as JSON"
    )
    parser.add_argument("--output", required=True, type=Path, help="score file to write")
    args = parser.parse_args()
    settings = args.settings
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as copy:
        folder = local_tasks(Path(settings["include_path"]), Path(copy)) if settings["include_path"] else None
        manager = manager_of(settings["tasks"], folder)
        tasks = load_tasks(check_tasks(settings["tasks"], manager), manager)
        model = load_model(args.model, settings) if args.model else Oracle(args.oracle, tasks)
        results = evaluate(model, tasks, manager, settings)
    cells, left_out = cells_of(results)
    if left_out:
        print(f"warning: no item scores, so left out: {', '.join(left_out)}", file=sys.stderr)
    if not cells:
        raise PlumblineError(f"none of these metrics follows from its items: {', '.join(left_out)}")
    write_scores(args.output, "lm_eval", cells, left_out=left_out)


if __name__ == "__main__":
    run(main)
