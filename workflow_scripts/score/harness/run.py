"""Run tasks of the lm-evaluation-harness (Gao et al. 2023) on a policy and keep the score of each item.

Covers the harness's own tasks, local task files and suites, on local models: one model is loaded for all of them, and
the library itself runs, by the study's engine (`by_transformers`, `by_vllm`). A metric is kept if it follows from its
items (see `cells`); others are named in the output as left out, with the harness's number. Not covered: tasks that run
code or look at images.
"""

import argparse
import importlib
import logging
import math
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.common.settings import settings_of
from workflow_scripts.score.harness.cells import cells_of
from workflow_scripts.score.harness.counting import Counting
from workflow_scripts.score.harness.suites import suite_cells
from workflow_scripts.score.harness.tasks import (
    Loaded,
    Settings,
    item_rows,
    load_tasks,
    local_tasks,
    manager_of,
    read_suite,
    wanted_of,
)
from workflow_scripts.score.items import write_scores

# isort: split
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

# Names of the longest answer in tokens, as the harness has them: the first that is given counts.
ANSWER_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
IMPOSSIBLE = -1e4  # nats
BYTE = math.log(256)  # nats per byte of a model that knows nothing


class Backend(TypedDict):
    """What runs a policy."""

    name: Literal["transformers", "vllm"]
    gpu_memory_share: float


BY_TRANSFORMERS = Backend(name="transformers", gpu_memory_share=0.9)


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


def note_cuts(model: Counting, tasks: dict[str, Task]) -> None:
    """Say of which tasks requests were cut to the model's context, on standard error and in their cells' notes."""
    for name, count in model.cut.items():
        if count:
            note = (
                f"{count} of {model.asked[name]} requests lost their start: longer than the context of "
                f"{model.max_length}"
            )
            print(f"warning: {name}: {note}", file=sys.stderr)
            metadata = tasks[name].config.metadata or {}
            notes = [metadata["note"], note] if "note" in metadata else [note]
            tasks[name].config.metadata = metadata | {"note": "; ".join(notes)}


def load_model(folder: Path, settings: Settings, backend: Backend = BY_TRANSFORMERS) -> Any:
    """Return a policy as the harness sees one, by this backend.

    A prompt in the chat template has its special tokens already: the harness adds none, with or without BOS in it.
    """
    module = importlib.import_module(f"{__package__}.by_{backend['name']}")
    model = module.load(folder, settings, backend["gpu_memory_share"])
    if settings["apply_chat_template"] and model.tokenizer.chat_template is None:
        raise PlumblineError(f"{folder}: its tokenizer has no chat template; set apply_chat_template: false")
    return model


def check_lengths(model: LM, tasks: dict[str, Task]) -> None:
    """Raise PlumblineError for a task whose answers alone would fill the model's context."""
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "generate_until":
            asked = task.get_config("generation_kwargs") or {}
            lengths = [asked[key] for key in ANSWER_KEYS if asked.get(key) is not None]
            longest = int(lengths[0]) if lengths else model.max_gen_toks
            if longest >= model.max_length:
                raise PlumblineError(
                    f"task {name!r}: answers of {longest} tokens do not fit this model's context of "
                    f"{model.max_length}; leave the task out, or score a model with a longer one"
                )


# --- running --------------------------------------------------------------------------------------


def evaluate(model: LM, loaded: list[Loaded], manager: TaskManager, settings: dict) -> dict[str, Any]:
    """Return the harness's results of a model on loaded tasks, with its samples."""
    return lm_eval.simple_evaluate(
        model=model,
        tasks=[item for entry in loaded for item in entry.top],
        task_manager=manager,
        limit=settings["limit"],
        batch_size=settings["batch_size"],
        apply_chat_template=settings["apply_chat_template"],
        bootstrap_iters=0,
        log_samples=True,
    )


def score(args: argparse.Namespace, loaded: list[Loaded], manager: TaskManager) -> None:
    """Write the score file of a model or pseudo-model on loaded tasks; of several processes the first one does."""
    settings = args.settings
    tasks = {name: task for entry in loaded for name, task in entry.tasks.items()}
    model = load_model(args.model, settings, args.backend) if args.model else Oracle(args.oracle, tasks)
    if args.model:
        check_lengths(model, tasks)
    results = evaluate(model, loaded, manager, settings)
    if processes.number() > 0:
        return
    if args.model:
        note_cuts(model, tasks)
    own, listed = loaded[: len(settings["tasks"])], loaded[len(settings["tasks"]) :]
    cells, left_out = cells_of(own, results)
    if listed:
        human_eval = read_json(args.human_eval) if args.human_eval else None
        cells += suite_cells(read_suite(settings["suite"]), listed, results, human_eval, settings["fidelity"])
    if left_out:
        print(f"warning: no item scores, so left out: {', '.join(left_out)}", file=sys.stderr)
    if not cells:
        raise PlumblineError(f"none of these metrics follows from its items: {', '.join(left_out)}")
    counts = {name: results["n-shot"][name] for name in tasks}
    write_scores(args.output, "lm_eval", cells, left_out=left_out, num_fewshot=counts)


def main() -> None:
    """Write the item scores of a policy, or of a pseudo-policy, on tasks of the lm-evaluation-harness."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", type=Path, help="folder of the model")
    subject.add_argument("--oracle", choices=["gold", "empty"], help="a pseudo-policy instead of a model")
    subject.add_argument("--items", type=Path, help="write the items' texts here and score nothing")
    keys = ", ".join(Settings.__annotations__)
    parser.add_argument("--settings", required=True, type=settings_of(Settings), help=f"as JSON: {keys}")
    parser.add_argument(
        "--backend",
        default=BY_TRANSFORMERS,
        type=settings_of(Backend),
        help="what runs the model: {name: transformers or vllm, gpu_memory_share: of a GPU's what vLLM takes}, as JSON",
    )
    parser.add_argument("--human-eval", type=Path, help="the policy's score file of HumanEval, for a suite")
    parser.add_argument("--output", type=Path, help="score file to write (with --model or --oracle)")
    args = parser.parse_args()
    if args.output is None and args.items is None:
        parser.error("--output is needed with --model and --oracle")
    settings = args.settings
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    wanted = wanted_of(settings)
    with tempfile.TemporaryDirectory() as copy:
        folder = local_tasks(Path(settings["include_path"]), Path(copy)) if settings["include_path"] else None
        manager = manager_of([want.task for want in wanted], folder)
        loaded = load_tasks(wanted, manager, settings["num_fewshot"])
        if args.items:
            write_jsonl(args.items, item_rows(loaded, settings["limit"]))
        else:
            score(args, loaded, manager)


if __name__ == "__main__":
    run(main)
