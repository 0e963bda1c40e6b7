"""Task files of six kinds for the lm-evaluation-harness, and what its own command line makes of them."""

import math
import os
import subprocess
import sys
from pathlib import Path

from transformers import AutoTokenizer

from tests.tiny_model import ANSWERS, QUESTIONS
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl

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


def write_tasks(folder: Path) -> Path:
    """Write task files with absolute paths, as the harness wants them, over rows of five kinds; return their folder."""
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


def with_template(model: Path, copy: Path) -> Path:
    """Make a folder of a model with a chat template in its tokenizer; return it."""
    for path in model.iterdir():
        (copy / path.name).symlink_to(path.resolve())
    tokenizer = AutoTokenizer.from_pretrained(model)
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


NAMES = [*(name for name in TASKS if name not in ("quiz", "labels")), "both"]


def settings_on(folder: Path) -> dict:
    """Return a benchmark's settings that ask for all these tasks, with one example and in the chat template."""
    return {
        "tasks": NAMES,
        "suite": None,
        "fidelity": "paper",
        "include_path": str(folder),
        "limit": None,
        "num_fewshot": 1,
        "batch_size": 8,
        "dtype": "float32",
        "apply_chat_template": True,
    }


def start_own(folder: Path, output: Path, *flags: str, **environment: str) -> subprocess.Popen:
    """Start the harness's own command line on these tasks; what it prints goes beside `output`, into printed.txt."""
    command = [sys.executable, "-m", "lm_eval", "run", *flags, "--tasks", ",".join(NAMES)]
    command += ["--include_path", str(folder), "--num_fewshot", "1", "--apply_chat_template"]
    command += ["--output_path", str(output)]
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(output.parent / "cache"),
        "DISABLE_MULTIPROC": "1",
    }
    quiet |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with open(output.parent / "printed.txt", "w") as stream:
        return subprocess.Popen(command, env=os.environ | quiet | environment, stdout=stream, stderr=stream)


def own_numbers(started: subprocess.Popen, output: Path) -> dict[tuple[str, str], float]:
    """Return {(task, metric): value} of what was started; groups count, their members do not."""
    assert started.wait() == 0, (output.parent / "printed.txt").read_text()[-4000:]
    (written,) = output.parent.glob(f"{output.stem}*.json")
    return {
        (name, metric.removesuffix(",none")): value
        for name, numbers in read_json(written)["results"].items()
        for metric, value in numbers.items()
        if "," in metric and "_stderr" not in metric and name not in ("quiz", "labels")
    }


def our_numbers(scores: dict) -> dict[tuple[str, str], float]:
    """Return {(task, metric): value} of a score file."""
    assert scores["left_out"] == {}
    return {(cell["subset"], cell["metric"]): point(cell) for cell in scores["cells"]}
