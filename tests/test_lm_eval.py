"""What runs of the lm-evaluation-harness promise: its own numbers, item by item."""

import json
import math
import os
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import huggingface_hub
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.score import lm_eval_run
from workflow_scripts.score.lm_eval_run import columns_of

FOLDER = Path(__file__).parents[1] / "data" / "bundled" / "lm_eval"
QUIZ = read_jsonl(FOLDER / "biology_quiz.jsonl")
SETTINGS = {
    "tasks": ["biology_quiz"],
    "include_path": str(FOLDER),
    "num_fewshot": 0,
    "limit": None,
    "batch_size": 16,
    "dtype": "float32",
    "apply_chat_template": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the folder of a tiny random Llama."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([row["question"] for row in QUIZ], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run_main(monkeypatch, tmp_path, subject, **changes):
    """Run the command line in this process; return the score file."""
    output = tmp_path / "scores.json"
    flags = [*subject, "--settings", json.dumps(SETTINGS | changes), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["lm_eval_run", *map(str, flags)])
    lm_eval_run.main()
    return read_json(output)


def values(scores):
    return {(cell["subset"], cell["metric"]): cell["columns"]["value"] for cell in scores["cells"]}


def task(folder, name, rows, text):
    """Write a task file with its rows beside it."""
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / f"{name}.jsonl", rows)
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {name}.jsonl\n{text}"
    )
    return folder


def test_the_quiz_is_balanced_and_plain():
    assert len({row["question"] for row in QUIZ}) == 60
    assert Counter(row["answer"] for row in QUIZ) == dict.fromkeys(range(4), 15)
    assert all(len(set(row["choices"])) == 4 for row in QUIZ)
    assert (FOLDER / "biology_quiz.jsonl").read_text().isascii()


def test_items_are_right_exactly_where_their_likelihoods_say_so(model, monkeypatch, tmp_path):
    """By hand: the sum of log-probs of " choice" after "Question: …\\nAnswer:", and that per character."""
    policy, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model).eval(),
        AutoTokenizer.from_pretrained(model),
    )
    sums = []
    for row in QUIZ:
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        sums.append([])
        for choice in row["choices"]:
            answer = tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = policy(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            sums[-1].append(
                sum(float(logits[place, token]) for place, token in zip(places, answer, strict=True))
            )
    right = [
        float(max(range(4), key=row.__getitem__) == item["answer"])
        for row, item in zip(sums, QUIZ, strict=True)
    ]
    per_character = [
        [value / len(choice) for value, choice in zip(row, item["choices"], strict=True)]
        for row, item in zip(sums, QUIZ, strict=True)
    ]
    right_norm = [
        float(max(range(4), key=row.__getitem__) == item["answer"])
        for row, item in zip(per_character, QUIZ, strict=True)
    ]

    monkeypatch.chdir(tmp_path)  # data_files work from anywhere
    scores = run_main(monkeypatch, tmp_path, ["--model", model])
    assert values(scores) == {("biology_quiz", "acc"): right, ("biology_quiz", "acc_norm"): right_norm}
    assert 0 < sum(right) < 60 and right != right_norm
    cell = scores["cells"][0]
    assert cell["items"] == cell["groups"] == [str(number) for number in range(60)]
    assert cell["higher_is_better"] is True and scores["left_out"] == []
    assert values(run_main(monkeypatch, tmp_path, ["--model", model], batch_size=3, limit=10)) == {
        ("biology_quiz", "acc"): right[:10],
        ("biology_quiz", "acc_norm"): right_norm[:10],
    }


def test_a_missing_model_or_chat_template_is_said(model, tmp_path):
    with pytest.raises(PlumblineError, match="no model here"):
        lm_eval_run.load_model(tmp_path, SETTINGS)
    with pytest.raises(PlumblineError, match="no chat template"):
        lm_eval_run.load_model(model, SETTINGS | {"apply_chat_template": True})


@pytest.mark.parametrize("changes", [{}, {"num_fewshot": 2, "apply_chat_template": True}])
def test_gold_answers_are_all_right(monkeypatch, tmp_path, changes):
    found = values(run_main(monkeypatch, tmp_path, ["--oracle", "gold"], **changes))
    assert found == {("biology_quiz", "acc"): [1] * 60, ("biology_quiz", "acc_norm"): [1] * 60}


def test_knowing_nothing_is_chance(monkeypatch, tmp_path):
    found = values(run_main(monkeypatch, tmp_path, ["--oracle", "empty"]))
    assert [sum(column) / 60 for column in found.values()] == [0.25, 0.25]


def test_oracles_also_write_and_predict_texts(monkeypatch, tmp_path):
    rows = [{"question": "2 + 2 =", "answer": "4"}, {"question": "3 + 4 =", "answer": "7"}]
    metric = "metric_list:\n  - metric: {}\n    aggregation: {}\n    higher_is_better: {}\n"
    text = 'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\noutput_type: '
    folder = task(
        tmp_path / "tasks",
        "sums",
        rows,
        text + "generate_until\n" + metric.format("exact_match", "mean", "true"),
    )
    task(folder, "words", rows, text + "loglikelihood\n" + metric.format("perplexity", "perplexity", "false"))
    rolling = (
        text + "loglikelihood_rolling\n" + metric.format("byte_perplexity", "weighted_perplexity", "false")
    )
    task(
        folder,
        "bytes",
        rows,
        rolling + metric.format("bits_per_byte", "bits_per_byte", "false").partition("\n")[2],
    )
    tasks = {"tasks": ["sums", "words", "bytes"], "include_path": str(folder)}
    for oracle, right, perplexity in (("gold", 1, 1), ("empty", 0, 256)):
        scores = run_main(monkeypatch, tmp_path, ["--oracle", oracle], **tasks)
        cells = {(cell["subset"], cell["metric"]): cell for cell in scores["cells"]}
        assert cells["sums", "exact_match"]["columns"]["value"] == [right, right]
        for name in (("bytes", "byte_perplexity"), ("words", "perplexity")):
            columns = cells[name]["columns"]
            assert cells[name]["estimator"] == "perplexity" and cells[name]["higher_is_better"] is False
            assert math.exp(sum(columns["nll"]) / sum(columns["tokens"])) == pytest.approx(perplexity)
        assert cells.keys() | {("bytes", "bits_per_byte")} == {
            ("sums", "exact_match"),
            ("words", "perplexity"),
            ("bytes", "byte_perplexity"),
            ("bytes", "bits_per_byte"),
        }
        if oracle == "empty":
            assert scores["left_out"] == ["bytes/bits_per_byte"]  # 8, and no estimator of ours gives it


def test_an_estimator_is_taken_only_if_it_gives_the_harness_its_number():
    assert columns_of([1, 0, 0, 1], 0.5) == ("mean", {"value": [1, 0, 0, 1]})
    assert columns_of([1, 0, 0, 1], 0.6) is None
    assert columns_of([(-4.0, 2), (-2.0, 1)], math.exp(2)) == (
        "perplexity",
        {"nll": [4, 2], "tokens": [2, 1]},
    )
    assert columns_of([("a", "b")], 1.0) is None


def test_a_task_of_the_hub_is_refused_at_once_where_there_is_no_hub(monkeypatch, tmp_path):
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: someone/something\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
    )
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(PlumblineError, match=r"'far': reads 'someone/something' from the model hub.*reached"):
        run_main(monkeypatch, tmp_path, ["--oracle", "gold"], tasks=["far"], include_path=str(tmp_path))


def test_an_unknown_task_is_answered_with_its_nearest_name():
    manager = lm_eval_run.TaskManager(include_path=FOLDER, include_defaults=False)
    with pytest.raises(PlumblineError, match="did you mean 'biology_quiz'"):
        lm_eval_run.check_tasks(["biology_quizz"], manager)


def test_broken_task_folders_are_named(monkeypatch, tmp_path):
    with pytest.raises(PlumblineError, match="no such folder"):
        lm_eval_run.local_tasks(tmp_path / "nowhere", tmp_path / "copy0")
    folder = tmp_path / "tasks"
    folder.mkdir()
    text = (FOLDER / "biology_quiz.yaml").read_text()
    (folder / "biology_quiz.yaml").write_text(text)
    with pytest.raises(PlumblineError, match=r"biology_quiz.yaml: .*no such file 'biology_quiz.jsonl'"):
        lm_eval_run.local_tasks(folder, tmp_path / "copy1")
    (folder / "biology_quiz.jsonl").write_text('{"question": "x", "choices": [')
    with pytest.raises(PlumblineError, match="'biology_quiz' cannot be loaded"):
        run_main(monkeypatch, tmp_path, ["--oracle", "gold"], include_path=str(folder))
    (folder / "biology_quiz.yaml").write_text("task: [")
    with pytest.raises(PlumblineError, match=r"biology_quiz.yaml: not YAML"):
        lm_eval_run.local_tasks(folder, tmp_path / "copy2")


def test_function_tags_survive_the_copy(tmp_path):
    folder = task(tmp_path / "tasks", "mine", [{"a": "b"}], "process_docs: !function utils.process\n")
    copy = lm_eval_run.local_tasks(folder, tmp_path / "copy")
    text = (copy / "mine.yaml").read_text()
    assert "!function" in text and str(folder / "mine.jsonl") in text
