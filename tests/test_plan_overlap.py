"""Decontamination: which benchmarks' items are looked for, where their texts are, and in which training sets."""

import pytest

from tests.plans import DEFAULT, EVERY_KEY, SHIPPED, changed, planned, told
from workflow_scripts.plan import overlap

RESULTS, CLEANED = "results/every-key", "data/clean/every-key"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_benchmark_is_looked_for_wherever_something_is_trained_on(name):
    plan = planned(name)
    wanted = list(plan.study.benchmarks) if plan.trained() else []
    assert overlap.compared(plan) == wanted
    assert overlap.overlap_files(plan) == [plan.layout.overlap(benchmark) for benchmark in wanted]


def test_without_training_sets_nothing_is_looked_for():
    plan = planned("tutorbot-published")
    assert overlap.compared(plan) == overlap.training_words(plan) == overlap.training_inputs(plan) == []


def test_a_study_may_leave_it_out():
    plan = changed(DEFAULT, {"report.decontaminate": False})
    assert overlap.compared(plan) == overlap.overlap_files(plan) == []


def test_the_texts_of_items_are_prompts_replies_or_a_list_of_the_harnesss():
    plan = planned(EVERY_KEY)
    wanted = {
        "labels": (f"{RESULTS}/prompts/labels.json", f"{RESULTS}/prompts/labels.jsonl"),
        "rewarded": (f"{RESULTS}/prompts/rewarded.json", f"{RESULTS}/prompts/rewarded.jsonl"),
        "losses": (f"{CLEANED}/tutored/manifest.json", f"{CLEANED}/tutored/rows/test.jsonl"),
        "likely": (f"{CLEANED}/likely/manifest.json", f"{CLEANED}/likely/rows/pairs.jsonl"),
        "local": (f"{RESULTS}/items/local.jsonl", f"{RESULTS}/items/local.jsonl"),
    }
    found = {name: (overlap.items_input(plan, name), overlap.items_file(plan, name)) for name in wanted}
    assert found == wanted


def test_they_are_looked_for_in_the_rows_of_every_training_set():
    plan = planned(EVERY_KEY)
    sets = ("chatted/sft", "ranked/train", "tutored/preference", "tutored/sft")
    rows = {name: f"{CLEANED}/{name.replace('/', '/rows/')}.jsonl" for name in sets}
    assert overlap.training_words(plan) == [f"{name}={file}" for name, file in rows.items()]
    manifests = {f"{CLEANED}/{dataset}/manifest.json" for dataset in ("chatted", "ranked", "tutored")}
    assert set(overlap.training_inputs(plan)) == manifests


def test_it_is_looked_for_by_thirteen_words_and_by_eight():
    assert told(overlap.SETTINGS) == {"sizes": [13, 8], "common": 10}
