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
import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.api import metrics
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_json, write_jsonl
from workflow_scripts.score.harness import run as lm_eval_run
from workflow_scripts.score.harness import tasks as lm_eval_tasks
from workflow_scripts.score.harness.cells import columns_of
from workflow_scripts.score.harness.suites import linear_values

FOLDER = Path(__file__).parents[1] / "data" / "bundled" / "lm_eval"
QUIZ = read_jsonl(FOLDER / "biology_quiz.jsonl")
SETTINGS = {
    "tasks": ["biology_quiz"],
    "suite": None,
    "fidelity": "paper",
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


def own(task, num_fewshot=None, metrics=None):
    return {"task": task, "num_fewshot": num_fewshot, "metrics": metrics}


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
    assert cell["higher_is_better"] is True and scores["left_out"] == {}
    assert values(run_main(monkeypatch, tmp_path, ["--model", model], batch_size=3, limit=10)) == {
        ("biology_quiz", "acc"): right[:10],
        ("biology_quiz", "acc_norm"): right_norm[:10],
    }


def test_a_missing_model_or_chat_template_is_said(model, tmp_path):
    with pytest.raises(PlumblineError, match="no model here"):
        lm_eval_run.load_model(tmp_path, SETTINGS)
    with pytest.raises(PlumblineError, match="no chat template"):
        lm_eval_run.load_model(model, SETTINGS | {"apply_chat_template": True})


def test_answers_longer_than_the_models_context_are_said_before_anything_runs(model, monkeypatch, tmp_path):
    write = 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
    write += "generation_kwargs: {until: ['.'], max_gen_toks: 256}\n"
    folder = task(tmp_path / "tasks", "long", [{"question": "a", "answer": "b"}], write)
    with pytest.raises(PlumblineError, match=r"'long': answers of 256 tokens .* context of 256"):
        run_main(monkeypatch, tmp_path, ["--model", model], tasks=["long"], include_path=str(folder))


def test_what_the_harness_cuts_to_the_context_is_counted_in_the_notes_of_its_task(
    model, monkeypatch, tmp_path, capsys
):
    rows = [{"question": "what is a cell? " * (60 if place == 1 else 1), "answer": "b"} for place in range(3)]
    text = 'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\noutput_type: '
    metric = "metric_list:\n  - metric: {}\n    aggregation: {}\n    higher_is_better: {}\n"
    writing = text + "generate_until\ngeneration_kwargs: {until: ['.'], max_gen_toks: 8}\n"
    folder = task(tmp_path / "tasks", "write", rows, writing + metric.format("exact_match", "mean", "true"))
    task(folder, "guess", rows, text + "loglikelihood\n" + metric.format("acc", "mean", "true"))
    task(folder, "short", rows[:1], text + "loglikelihood\n" + metric.format("acc", "mean", "true"))
    tasks = {"tasks": ["write", "guess", "short"], "include_path": str(folder)}
    scores = run_main(monkeypatch, tmp_path, ["--model", model], **tasks)
    notes = {cell["subset"]: cell.get("note") for cell in scores["cells"]}
    lost = "1 of 3 requests lost their start: longer than the context of 256"
    assert notes == {"write": lost, "guess": lost, "short": None}
    assert f"warning: guess: {lost}" in capsys.readouterr().err


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
        bits = cells["bytes", "bits_per_byte"]
        assert bits["estimator"] == "ratio" and bits["higher_is_better"] is False
        assert ratio(bits["columns"]) == pytest.approx(math.log2(perplexity))
        assert len(cells) == 4 and scores["left_out"] == {}


def ratio(columns):
    return sum(columns["numerator"]) / sum(columns["denominator"])


def test_an_estimator_is_taken_only_if_it_gives_the_harness_its_number():
    assert columns_of([1, 0, 0, 1], 0.5)[:2] == ("mean", {"value": [1, 0, 0, 1]})
    assert columns_of([1, 0, 0, 1], 0.6) is None
    assert columns_of([-4.0, -2.0], math.exp(3), metrics.perplexity)[:2] == (
        "perplexity",
        {"nll": [4, 2], "tokens": [1, 1]},
    )
    assert columns_of([(-4.0, 2), (-2.0, 1)], math.exp(2), metrics.weighted_perplexity)[:2] == (
        "perplexity",
        {"nll": [4, 2], "tokens": [2, 1]},
    )
    assert columns_of([(-4.0, 2), (-2.0, 0)], math.exp(3), metrics.weighted_perplexity) is None
    assert columns_of([("a", "b")], 1.0) is None


def test_f1_and_mcc_are_known_by_their_function_even_where_their_numbers_agree():
    """All predicted 0: F1 and MCC are both 0, yet each must have the estimator it has for other policies."""
    constant = [(1, 0), (0, 0), (1, 0)]
    labels = {"gold": ["1", "0", "1"], "predicted": ["0", "0", "0"]}
    assert columns_of(constant, 0.0, metrics.f1_score)[:2] == ("f1", labels)
    assert columns_of(constant, 0.0, metrics.matthews_corrcoef)[:2] == ("matthews", labels)


def test_labels_give_the_f1_and_mcc_of_the_harness():
    """F1 = 2 tp / (2 tp + fp + fn), MCC = (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn))."""
    items = [(1, 1)] * 4 + [(0, 1)] * 2 + [(1, 0)] * 1 + [(0, 0)] * 3
    columns = columns_of(items, 8 / 11, metrics.f1_score).columns
    pairs = list(zip(columns["gold"], columns["predicted"], strict=True))
    tp, fp, fn, tn = (pairs.count(pair) for pair in (("1", "1"), ("0", "1"), ("1", "0"), ("0", "0")))
    assert metrics.f1_score(items) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert metrics.matthews_corrcoef(items) == pytest.approx((tp * tn - fp * fn) / below)
    assert columns_of(items, 0.4, metrics.matthews_corrcoef).columns == columns


def test_a_metric_over_labels_is_recomputed_on_the_same_draws_for_every_policy():
    """The harness's own function on each draw: here, how often class 2 is found."""

    def recall_of_2(items):
        right = [guess == 2 for truth, guess in items if truth == 2]
        return sum(right) / len(right) if right else math.nan

    first = columns_of([(2, 2), (2, 0), (1, 1), (0, 0)], 0.5, recall_of_2)
    second = columns_of([(2, 0), (2, 0), (1, 1), (0, 0)], 0.0, recall_of_2)
    assert first.estimator == "replicates" and first.extra["point"] == 0.5
    assert first.columns == {"value": [1, 0, 1, 1]}
    drawn = np.random.default_rng(0).integers(0, 4, size=(1000, 4))
    for row, replicate in zip(drawn, first.extra["replicates"], strict=True):
        twos = [place == 0 for place in row if place < 2]
        assert replicate == (sum(twos) / len(twos) if twos else 0.5)
    assert set(second.extra["replicates"]) == {0.0}


TEXTS = [  # (reference, translation)
    ("the cat sat on the mat today", "the cat sat on a mat today"),
    ("a whale is a mammal and not a fish", "a whale is a mammal and no fish at all"),
    ("plants make sugar out of light and air", "plants make sugar out of light and air"),
]


def test_ter_is_edits_by_reference_words():
    """By hand: the/a in 7 words; no for not, "a" left out, "at" and "all" put in, in 9; none in 8."""
    found = columns_of(TEXTS, metrics.ter(TEXTS), metrics.ter)
    assert found.estimator == "ratio"
    assert found.columns["denominator"] == [7, 9, 8]
    assert found.columns["numerator"] == [100, 400, 0]
    assert ratio(found.columns) == pytest.approx(metrics.ter(TEXTS))


@pytest.mark.parametrize("aggregate", [metrics.bleu, metrics.chrf, metrics.chrfpp])
def test_bleu_and_chrf_are_those_of_the_drawn_sentences(aggregate):
    found = columns_of(TEXTS, aggregate(TEXTS), aggregate)
    assert found.estimator == "replicates" and found.extra["point"] == pytest.approx(aggregate(TEXTS))
    for number in (0, 1, 999):
        drawn = np.random.default_rng(0).integers(0, 3, size=(1000, 3))[number]
        assert found.extra["replicates"][number] == pytest.approx(
            aggregate([TEXTS[place] for place in drawn])
        )


def test_squad_scores_are_the_best_over_an_items_answers():
    """By hand: exact 0, 1, 1; F1 of "red blood cells" and "blood cells" is 2 · (2/3) · 1 / (2/3 + 1) = 0.8."""
    items = [
        ({"prediction_text": "red blood cells"}, {"answers": {"text": ["blood cells", "plasma"]}}),
        ({"prediction_text": "The mouth."}, {"answers": {"text": ["mouth"]}}),
        ({"prediction_text": ""}, {"answers": {"text": []}}),
    ]
    exact, f1 = columns_of(items, 200 / 3), columns_of(items, 280 / 3)
    assert exact[:2] == ("mean", {"value": [0, 100, 100]})
    assert f1.columns["value"] == pytest.approx([80, 100, 100])
    assert columns_of(items, 50.0) is None  # of the answerable only, a part we do not score


def test_a_task_of_the_hub_is_refused_at_once_where_there_is_no_hub(monkeypatch, tmp_path):
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: someone/something\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
    )
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    message = r"'far': reads 'someone/something' from the model hub.*reached.*harness_tasks.*include_path"
    with pytest.raises(PlumblineError, match=message):
        run_main(monkeypatch, tmp_path, ["--oracle", "gold"], tasks=["far"], include_path=str(tmp_path))


def test_an_unknown_task_is_answered_with_its_nearest_name():
    manager = lm_eval_tasks.TaskManager(include_path=FOLDER, include_defaults=False)
    with pytest.raises(PlumblineError, match="did you mean 'biology_quiz'"):
        lm_eval_tasks.check_tasks(["biology_quizz"], manager)


def test_broken_task_folders_are_named(monkeypatch, tmp_path):
    with pytest.raises(PlumblineError, match="no such folder"):
        lm_eval_tasks.local_tasks(tmp_path / "nowhere", tmp_path / "copy0")
    folder = tmp_path / "tasks"
    folder.mkdir()
    text = (FOLDER / "biology_quiz.yaml").read_text()
    (folder / "biology_quiz.yaml").write_text(text)
    with pytest.raises(PlumblineError, match=r"biology_quiz.yaml: .*no such file 'biology_quiz.jsonl'"):
        lm_eval_tasks.local_tasks(folder, tmp_path / "copy1")
    (folder / "biology_quiz.jsonl").write_text('{"question": "x", "choices": [')
    with pytest.raises(PlumblineError, match="'biology_quiz' cannot be loaded"):
        run_main(monkeypatch, tmp_path, ["--oracle", "gold"], include_path=str(folder))
    (folder / "biology_quiz.yaml").write_text("task: [")
    with pytest.raises(PlumblineError, match=r"biology_quiz.yaml: not YAML"):
        lm_eval_tasks.local_tasks(folder, tmp_path / "copy2")


def test_function_tags_survive_the_copy(tmp_path):
    folder = task(tmp_path / "tasks", "mine", [{"a": "b"}], "process_docs: !function utils.process\n")
    copy = lm_eval_tasks.local_tasks(folder, tmp_path / "copy")
    text = (copy / "mine.yaml").read_text()
    assert "!function" in text and str(folder / "mine.jsonl") in text


# --- few-shot counts, metrics, groups, suites -----------------------------------------------------

ACC = "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
NORM = ACC + ACC.partition("\n")[2].replace("acc", "acc_norm")
CHOOSE = 'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\n'
CHOOSE += "doc_to_target: answer\n"


def choices(count, right):
    """Return `count` questions of which knowing nothing gets the first `right`."""
    return [
        {"question": f"{number}?", "choices": ["yes", "no"], "answer": int(number >= right)}
        for number in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    """Return a folder of tasks `small` (4 items, 1 right by chance), `large` (8, 6) and groups of both."""
    folder = task(tmp_path / "tasks", "small", choices(4, 1), CHOOSE + NORM + "tag: [both]\n")
    task(folder, "large", choices(8, 6), CHOOSE + NORM + "tag: [both]\nmetadata: {note: rows of ours}\n")
    for name, by_size in (("pooled", "true"), ("macro", "false")):
        (folder / f"{name}.yaml").write_text(
            f"group: {name}\ntask: [small, large]\naggregate_metric_list:\n"
            f"  - metric: acc\n    weight_by_size: {by_size}\n"
        )
    return folder


def requests_of(monkeypatch):
    """Return a list that will hold the prompts a pseudo-model is asked."""
    prompts = []
    answer = lm_eval_run.Oracle.loglikelihood

    def ask(self, requests):
        prompts.extend(request.args[0] for request in requests)
        return answer(self, requests)

    monkeypatch.setattr(lm_eval_run.Oracle, "loglikelihood", ask)
    return prompts


def test_each_task_has_its_own_few_shot_count_and_one_model_answers_all(monkeypatch, tmp_path, folder):
    task(folder, "closed", choices(3, 3), CHOOSE + ACC + "num_fewshot: 0\n")
    prompts = requests_of(monkeypatch)
    asked = [own("small", num_fewshot=3), "large", own("closed")]
    scores = run_main(
        monkeypatch, tmp_path, ["--oracle", "gold"], tasks=asked, num_fewshot=1, include_path=str(folder)
    )
    assert scores["num_fewshot"] == {
        "small": 3,
        "large": 1,
        "closed": 0,
    }  # a file's own 0 stays, as in the harness
    assert [prompt.count("?") - 1 for prompt in prompts[::2]] == [3] * 4 + [1] * 8 + [0] * 3
    with pytest.raises(PlumblineError, match="'closed': its file fixes num_fewshot: 0"):
        run_main(
            monkeypatch,
            tmp_path,
            ["--oracle", "gold"],
            tasks=[own("closed", num_fewshot=2)],
            include_path=str(folder),
        )


def test_only_the_metrics_asked_for_are_kept(monkeypatch, tmp_path, folder):
    options = {"include_path": str(folder)}
    asked = [own("small", metrics=["acc_norm"])]
    scores = run_main(monkeypatch, tmp_path, ["--oracle", "gold"], tasks=asked, **options)
    assert values(scores).keys() == {("small", "acc_norm")}
    with pytest.raises(PlumblineError, match="no f1; it has acc, acc_norm"):
        asked = [own("small", metrics=["f1"])]
        run_main(monkeypatch, tmp_path, ["--oracle", "gold"], tasks=asked, **options)


def test_a_task_that_two_names_ask_for_is_refused(monkeypatch, tmp_path, folder):
    with pytest.raises(PlumblineError, match="'small' is asked for by 'pooled' and by 'small'"):
        run_main(
            monkeypatch, tmp_path, ["--oracle", "gold"], tasks=["pooled", "small"], include_path=str(folder)
        )


def test_a_group_is_one_number_over_items_or_over_tasks_as_its_file_says(monkeypatch, tmp_path, folder):
    """Knowing nothing: 1 of 4 and 6 of 8, so 7/12 over items and (1/4 + 3/4) / 2 over tasks."""
    for name, estimator in (("pooled", "mean"), ("macro", "macro_mean")):
        scores = run_main(
            monkeypatch, tmp_path, ["--oracle", "empty"], tasks=[name], include_path=str(folder)
        )
        (cell,) = scores["cells"]
        assert (cell["subset"], cell["metric"], cell["estimator"]) == (name, "acc", estimator)
        assert cell["columns"]["value"] == [1] + [0] * 3 + [1] * 6 + [0] * 2
        assert cell["items"][3:5] == ["small/3", "large/0"] and cell["note"] == "rows of ours"
        if name == "macro":
            assert cell["columns"]["stratum"] == ["small"] * 4 + ["large"] * 8
    tagged = run_main(monkeypatch, tmp_path, ["--oracle", "empty"], tasks=["both"], include_path=str(folder))
    assert {name for name, _ in values(tagged)} == {"small", "large"}


SUITE = """
pair:
  first: {both: {metric: acc, num_fewshot: 0}, quiz: {metric: acc, num_fewshot: null}}
  second: {translate: {metric: ter, num_fewshot: 0}}
  third: {human_eval: {metric: pass@1, num_fewshot: 0}}
"""


def macro(cell):
    """Return the mean over strata of the means of their values."""
    strata = {}
    for value, stratum in zip(cell["columns"]["value"], cell["columns"]["stratum"], strict=True):
        strata.setdefault(stratum, []).append(value)
    return sum(sum(own) / len(own) for own in strata.values()) / len(strata)


@pytest.fixture
def suite(monkeypatch, tmp_path, folder):
    """Return settings of a suite with 3 groups; an empty translation of n words has TER 100."""
    task(folder, "quiz", choices(2, 1), CHOOSE + ACC)
    write = 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
    write += "generation_kwargs: {until: ['.']}\ntag: [translate]\n"
    ter = "metric_list:\n  - metric: ter\n    aggregation: ter\n    higher_is_better: false\n"
    task(folder, "to_french", [{"question": "a", "answer": "un deux trois"}] * 3, write + ter)
    task(folder, "to_german", [{"question": "a", "answer": "eins"}], write + ter)
    path = tmp_path / "suites.yaml"
    path.write_text(SUITE)
    monkeypatch.setattr(lm_eval_tasks, "SUITES", path)
    return {"tasks": [], "suite": "pair", "include_path": str(folder)}


@pytest.mark.parametrize(("fidelity", "second"), [("paper", 0.0), ("code", 1.0)])
def test_a_suite_is_the_mean_of_its_groups_means(monkeypatch, tmp_path, suite, fidelity, second):
    """Rows 7/12, 1/2 | TER 100 | pass@1 1/4: groups 13/24, 0 (or 1, as published), 1/4, whose mean is the suite's."""
    cells = [{"subset": "all", "metric": "pass@1", "items": list("abcd"), "columns": {"value": [1, 0, 0, 0]}}]
    cells[0] |= {"estimator": "mean", "groups": list("abcd"), "higher_is_better": True}
    write_json(tmp_path / "human_eval.json", {"cells": cells})
    subject = ["--oracle", "empty", "--human-eval", tmp_path / "human_eval.json"]
    scores = run_main(monkeypatch, tmp_path, subject, **suite, fidelity=fidelity)
    cells = {(cell["subset"], cell["metric"]): cell for cell in scores["cells"]}
    assert list(cells) == [
        ("both", "acc"),
        ("quiz", "acc"),
        ("translate", "ter"),
        ("human_eval", "pass@1"),
        ("first", "mean"),
        ("second", "mean"),
        ("third", "mean"),
        ("all", "mean of groups"),
    ]
    assert sum(cells["both", "acc"]["columns"]["value"]) / 12 == pytest.approx(7 / 12)
    assert cells["translate", "ter"]["higher_is_better"] is False
    assert sum(cells["translate", "ter"]["columns"]["value"]) / 4 == pytest.approx(100)
    assert macro(cells["first", "mean"]) == pytest.approx((7 / 12 + 1 / 2) / 2)
    assert macro(cells["second", "mean"]) == pytest.approx(second)
    assert macro(cells["all", "mean of groups"]) == pytest.approx((13 / 24 + second + 1 / 4) / 3)
    assert len(set(cells["all", "mean of groups"]["items"])) == 12 + 2 + 4 + 4


def test_a_suite_without_human_eval_says_so(monkeypatch, tmp_path, suite):
    scores = run_main(monkeypatch, tmp_path, ["--oracle", "gold"], **suite)
    cell = scores["cells"][-1]
    assert macro(cell) == pytest.approx(1) and "without human_eval" in cell["note"]
    assert "third" not in {cell["subset"] for cell in scores["cells"]}


def test_the_items_of_a_ratio_have_its_value_and_its_sampling_error():
    """The variance of R + (n - R d) / mean d is the textbook one of a ratio: Σ (n - R d)² / (N mean d)²."""
    numerator, denominator = [3.0, 1.0, 4.0, 1.0], [5.0, 2.0, 6.0, 3.0]
    cell = {"estimator": "ratio", "columns": {"numerator": numerator, "denominator": denominator}}
    items = linear_values(cell)
    assert sum(items) / 4 == pytest.approx(9 / 16)
    expected = sum((n - 9 / 16 * d) ** 2 for n, d in zip(numerator, denominator, strict=True)) / 16**2
    assert sum((item - 9 / 16) ** 2 for item in items) / 4**2 == pytest.approx(expected)


def test_the_items_of_every_kind_of_task_have_their_text(monkeypatch, tmp_path, folder):
    write = 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
    task(folder, "sums", [{"question": "2 + 2 =", "answer": "4"}], write)
    shown = CHOOSE.replace("{{question}}", "{{question}} yes or no")
    task(folder, "shown", choices(1, 1), shown + ACC)
    output = tmp_path / "items.jsonl"
    settings = SETTINGS | {"tasks": ["small", "sums", "shown"], "include_path": str(folder), "limit": 2}
    flags = ["--items", str(output), "--settings", json.dumps(settings)]
    monkeypatch.setattr(sys, "argv", ["lm_eval_run", *flags])
    lm_eval_run.main()
    assert read_jsonl(output) == [
        {"item": "small/0", "text": "0?\nyes\nno"},
        {"item": "small/1", "text": "1?\nyes\nno"},
        {"item": "sums/0", "text": "2 + 2 =\n4"},
        {"item": "shown/0", "text": "0? yes or no"},
    ]


@pytest.fixture(scope="module")
def harness():
    """Return the index of the harness's own files of the benchmarks that studies name."""
    names = "arc bbh bigbench coqa glue gsm8k hellaswag hendrycks_ethics lambada lambada_multilingual openbookqa piqa"
    names += (
        " sciq squad_completion squadv2 super_glue toxigen translation triviaqa truthfulqa winogrande wsc273"
    )
    base = Path(lm_eval.__file__).parent / "tasks"
    folders = [base / "mmlu" / "default", *(base / name for name in names.split())]
    return lm_eval_tasks.TaskManager(include_path=folders, include_defaults=False)


def test_the_usual_benchmarks_are_known_by_name(harness):
    names = ["mmlu", "glue", "super-glue-lm-eval-v1", "bigbench_multiple_choice_a", "bigbench_generate_until"]
    names += [
        "squadv2",
        "squad_completion",
        "triviaqa",
        "bbh",
        "arc_easy",
        "arc_challenge",
        "sciq",
        "openbookqa",
    ]
    for name in names:
        assert lm_eval_tasks.complete(name, harness), name
        assert set(lm_eval_tasks.sources_of(name, harness).values()).isdisjoint({"python"}), name


def test_the_instruction_modelling_suite_is_the_published_one(harness):
    """Six groups and the metric of each row as published; each is a metric of the harness's own task files."""
    suite = lm_eval_tasks.read_suite("instruction_modelling")
    assert [len(rows) for rows in suite.values()] == [5, 2, 4, 2, 1, 3]
    shots = {name: row["num_fewshot"] for rows in suite.values() for name, row in rows.items()}
    expected = {
        "mmlu": 5,
        "ai2_arc": 25,
        "hellaswag": 10,
        "piqa": 10,
        "winogrande": 5,
        "gsm8k_cot": 8,
        "coqa": 0,
    }
    assert expected.items() <= shots.items()
    for name, row in (
        (name, row) for rows in suite.values() for name, row in rows.items() if name != "human_eval"
    ):
        assert lm_eval_tasks.complete(name, harness)
        metric, _, kind = row["metric"].partition(",")
        for task_name in lm_eval_tasks.sources_of(name, harness):
            config = harness.task_index[task_name].cfg
            assert metric in [own["metric"] for own in config["metric_list"]], task_name
            assert not kind or kind in [own["name"] for own in config["filter_list"]], task_name
