"""Parity with the lm-evaluation-harness: our numbers are those of its own command line on the same model and tasks."""

import json

import pytest

from tests.command import call
from tests.harness_files import our_numbers, own_numbers, settings_on, start_own, with_template, write_tasks
from workflow_scripts.common.files import read_json
from workflow_scripts.score.harness import run as lm_eval_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def chatty(tiny_model, tmp_path_factory):
    return with_template(tiny_model, tmp_path_factory.mktemp("chatty"))


def test_every_number_is_the_one_of_the_harness_own_command_line(chatty, folder, tmp_path):
    """Choices, texts with two filters, translations, perplexities, a group; with examples and a chat template.

    F1 and MCC are not here: the command line bootstraps them a hundred thousand times, which takes minutes.
    """
    flags = ["--model", "hf", "--device", "cpu", "--batch_size", "8"]
    flags += ["--model_args", f"pretrained={chatty},dtype=float32"]
    started = start_own(folder, tmp_path / "theirs.json", *flags)
    settings = json.dumps(settings_on(folder))
    call(lm_eval_run.main, "--model", chatty, "--settings", settings, "--output", tmp_path / "ours.json")
    ours = our_numbers(read_json(tmp_path / "ours.json"))
    assert ours == pytest.approx(own_numbers(started, tmp_path / "theirs.json"), rel=1e-6)
    assert len(ours) == 2 + 3 + 1 + 3 + 1
    assert 0 < ours["both", "acc"] < 1
    assert ours["letters", "exact_match,first"] != ours["letters", "exact_match,last"]
