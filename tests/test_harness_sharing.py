"""Processes that share the harness's work write, to the byte, the scores that one alone does."""

import contextlib
import json
from itertools import count as numbers
from pathlib import Path

import pytest
from lm_eval.models.utils import Collator

from tests.launching import command_of, run
from workflow_scripts.common.files import write_jsonl
from workflow_scripts.score.harness import sharing

METRIC = "metric_list:\n  - metric: {}\n    aggregation: {}\n    higher_is_better: {}\n"
TEXT = 'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\noutput_type: '
KINDS = {
    "write": "generate_until\ngeneration_kwargs: {until: ['.'], max_gen_toks: 8}\n"
    + METRIC.format("exact_match", "mean", "true"),
    "guess": "loglikelihood\n" + METRIC.format("perplexity", "perplexity", "false"),
    "bytes": "loglikelihood_rolling\n" + METRIC.format("byte_perplexity", "weighted_perplexity", "false"),
    "choose": "multiple_choice\ndoc_to_choice: ['yes', 'no', 'maybe so']\n"
    + METRIC.format("acc", "mean", "true"),
}
SETTINGS = {
    "tasks": list(KINDS),
    "suite": None,
    "fidelity": "paper",
    "num_fewshot": 0,
    "limit": None,
    "batch_size": 2,
    "dtype": "float32",
    "apply_chat_template": False,
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder of four tasks, one of each kind of request; the fourth row is longer than any context."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, kind in KINDS.items():
        rows = [
            {"question": f"what is a cell {'of ' * (600 if place == 3 else place)}?", "answer": "yes"}
            for place in range(7)
        ]
        write_jsonl(folder / f"{name}.jsonl", rows)
        head = f"task: {name}\ndataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n"
        (folder / f"{name}.yaml").write_text(f"{head}    test: {name}.jsonl\n{TEXT}{kind}")
    return folder


def test_two_processes_write_the_scores_of_one(tiny_model, tasks, tmp_path):
    found = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.json"
        flags = ["--model", str(tiny_model), "--output", str(output)]
        flags += ["--settings", json.dumps(SETTINGS | {"include_path": str(tasks)})]
        done = run(command_of("workflow_scripts.score.harness.run", flags, "ddp", processes))
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stderr.count("warning: guess: 1 of 7 requests lost their start") == 1
        found.append(output.read_bytes())
    assert found[0] == found[1]
    assert len(json.loads(found[0])["cells"]) == 4


@pytest.mark.parametrize("shares", [1, 2, 3, 9])
def test_a_process_gets_every_nth_batch_and_all_answers_come_back_in_order(shares, monkeypatch):
    requests = [(f"text {place}", {"until": "." * (place % 2 + 1)}) for place in range(11)]
    rounds: list[list] = []

    def share(number: int) -> list:
        monkeypatch.setattr(sharing, "number", lambda: number)
        ordered = sharing.SharedCollator(
            requests, sort_fn=lambda asked: asked[0], group_fn=lambda asked: asked[1], group_by="gen_kwargs"
        )
        batches = list(ordered.get_batched(n=2))
        rounds.append(batches)
        answers = [text.upper() for batch in batches for text, _ in batch]
        return ordered.get_original(answers)

    monkeypatch.setattr(sharing, "count", lambda: shares)
    others: list = []
    monkeypatch.setattr(sharing, "gathered", lambda value: others.append(value) or others)
    for number in range(shares - 1):
        with contextlib.suppress(KeyError):  # the others' answers are not there yet
            share(number)
    assert share(shares - 1) == [text.upper() for text, _ in requests]
    whole = Collator(
        requests, sort_fn=lambda asked: asked[0], group_fn=lambda asked: asked[1], group_by="gen_kwargs"
    )
    together = {number: list(batches) for number, batches in enumerate(rounds)}
    places = numbers()
    assert [together[next(places) % shares].pop(0) for _ in range(sum(map(len, rounds)))] == list(
        whole.get_batched(n=2)
    )
