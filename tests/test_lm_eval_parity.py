"""Parity with the lm-evaluation-harness: our numbers are those of its own command line on the same model and tasks."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.command import call
from tests.tiny import ANSWERS, QUESTIONS
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.score.harness import run as lm_eval_run

QUIZ = Path(__file__).parents[1] / "data" / "bundled" / "lm_eval" / "biology_quiz.jsonl"
MEAN = "metric_list:\n  - {metric: METRIC, aggregation: mean, higher_is_better: true}\n"
SHORT = "generation_kwargs: {until: ['</s>'], max_gen_toks: 12, do_sample: false}\n"
TEXT = 'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
CHOOSE = 'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
TASKS = {  # name: its file without the rows
    "quiz": "output_type: multiple_choice\n"
    + CHOOSE
    + MEAN.replace("METRIC", "acc")
    + "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n",
    "letters": "output_type: generate_until\n"
    + TEXT
    + SHORT
    + MEAN.replace("METRIC", "exact_match")
    + "filter_list:\n"
    + "  - name: first\n    filter: [{function: regex, regex_pattern: '([a-z])'}, {function: take_first}]\n"
    + "  - name: last\n    filter: [{function: regex, regex_pattern: '([a-z])', group_select: -1},"
    + " {function: take_first}]\n",
    "translation": "output_type: generate_until\n"
    + TEXT
    + SHORT
    + "metric_list: [{metric: bleu}, {metric: ter},"
    " {metric: chrf}]\n",
    "words": "output_type: loglikelihood\n"
    + TEXT
    + "metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]\n",
    "pages": "output_type: loglikelihood_rolling\n"
    + TEXT
    + "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]\n",
    "labels": "output_type: multiple_choice\n" + CHOOSE + "metric_list: [{metric: acc}]\n",
}
GROUPS = (
    "group: both\ntask: [quiz, labels]\naggregate_metric_list:\n  - {metric: acc, weight_by_size: WEIGH}\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of task files with absolute paths, as the harness wants them, over rows of five kinds."""
    folder = tmp_path_factory.mktemp("tasks")
    texts = [{"question": one, "answer": other} for one, other in zip(QUESTIONS, ANSWERS, strict=True)]
    rows = {name: texts for name in TASKS} | {"quiz": read_jsonl(QUIZ)[:24]}
    rows["letters"] = [{"question": row["question"], "answer": "e"} for row in texts]
    rows["labels"] = [
        {"question": question, "choices": ["no", "yes"], "answer": number % 2}
        for number, question in enumerate([*QUESTIONS, *ANSWERS])
    ]
    for name, text in TASKS.items():
        write_jsonl(folder / f"{name}.jsonl", rows[name])
        head = f"task: {name}\ndataset_path: json\ntest_split: test\n"
        head += f"dataset_kwargs:\n  data_files:\n    test: {folder / name}.jsonl\n"
        (folder / f"{name}.yaml").write_text(head + text)
    (folder / "both.yaml").write_text(GROUPS.replace("WEIGH", "true"))
    return folder


@pytest.fixture(scope="module")
def chatty(tiny_model, tmp_path_factory):
    """Return the tiny model with a chat template in its tokenizer."""
    copy = tmp_path_factory.mktemp("chatty")
    for path in tiny_model.iterdir():
        (copy / path.name).symlink_to(path.resolve())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (copy / "tokenizer_config.json").unlink()
    (copy / "tokenizer.json").unlink()
    tokenizer.save_pretrained(copy)
    return copy


def point(cell):
    """Return a cell's number, as the table makes it; formulas of the estimators written out."""
    columns = cell["columns"]
    if cell["estimator"] == "mean":
        return sum(columns["value"]) / len(columns["value"])
    if cell["estimator"] == "perplexity":
        return math.exp(sum(columns["nll"]) / sum(columns["tokens"]))
    if cell["estimator"] == "ratio":
        return sum(columns["numerator"]) / sum(columns["denominator"])
    return cell["point"]


def test_every_number_is_the_one_of_the_harness_own_command_line(chatty, folder, tmp_path):
    """Choices, texts with two filters, translations, perplexities, a group; with examples and a chat template.

    F1 and MCC are not here: the command line bootstraps them a hundred thousand times, which takes minutes.
    """
    names = [*(name for name in TASKS if name not in ("quiz", "labels")), "both"]
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--model",
        "hf",
        "--device",
        "cpu",
        "--batch_size",
        "8",
    ]
    command += ["--model_args", f"pretrained={chatty},dtype=float32", "--tasks", ",".join(names)]
    command += ["--include_path", str(folder), "--num_fewshot", "1", "--apply_chat_template"]
    command += ["--output_path", str(tmp_path / "theirs.json")]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "DISABLE_MULTIPROC": "1"}
    quiet |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    printed = tmp_path / "printed.txt"
    with open(printed, "w") as stream:
        theirs_run = subprocess.Popen(command, env=os.environ | quiet, stdout=stream, stderr=stream)
    settings = {
        "tasks": names,
        "suite": None,
        "fidelity": "paper",
        "include_path": str(folder),
        "limit": None,
    }
    settings |= {"num_fewshot": 1, "batch_size": 8, "dtype": "float32", "apply_chat_template": True}
    flags = ["--model", chatty, "--settings", json.dumps(settings), "--output", tmp_path / "ours.json"]
    call(lm_eval_run.main, *flags)
    assert theirs_run.wait() == 0, printed.read_text()
    (written,) = tmp_path.glob("theirs*.json")
    theirs = {
        (name, metric.removesuffix(",none")): value
        for name, numbers in read_json(written)["results"].items()
        for metric, value in numbers.items()
        if "," in metric and "_stderr" not in metric and name not in ("quiz", "labels")
    }
    scores = read_json(tmp_path / "ours.json")
    ours = {(cell["subset"], cell["metric"]): point(cell) for cell in scores["cells"]}
    assert scores["left_out"] == {}
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert len(ours) == 2 + 3 + 1 + 3 + 1
    assert (
        0 < ours["both", "acc"] < 1
        and ours["letters", "exact_match,first"] != ours["letters", "exact_match,last"]
    )
