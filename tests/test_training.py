"""Training resumes after a kill -9 and ends with the very bytes of an unbroken run."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from tests.resuming import (
    RESUMED,
    hold_resumed_to_unbroken,
    kill_once_checkpointed,
    leave_a_half_written_checkpoint,
)
from tests.tiny import (
    align_flags,
    conversations,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    sft_flags,
    write_reference,
    write_tokens,
)
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import sha256_of
from workflow_scripts.common.training.arguments import spared_warmup, training_arguments
from workflow_scripts.common.training.batches import split_batch
from workflow_scripts.common.training.checkpoints import last_checkpoint, work_folder
from workflow_scripts.common.training.curve import curve_of


def checkpoint(work: Path, step: int, state: str | None) -> Path:
    """Make a checkpoint folder with a weights file and, if given, the text of its trainer_state.json."""
    folder = work / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_a_fresh_work_folder_has_no_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("state", [None, "", '{"global_step": 10, "log_his', "{}"])
def test_a_half_written_checkpoint_is_passed_over_and_removed(tmp_path, state):
    whole = checkpoint(tmp_path, 8, '{"global_step": 8}')
    half = checkpoint(tmp_path, 10, state)
    assert last_checkpoint(tmp_path) == whole
    assert not half.exists()
    assert last_checkpoint(tmp_path) == whole


def test_the_newest_checkpoint_is_the_one_with_most_steps_not_the_last_by_name(tmp_path):
    for step in (2, 10, 8):
        checkpoint(tmp_path, step, json.dumps({"global_step": step}))
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.fixture
def inputs(tmp_path):
    """Return the arguments of work_folder: a parent's and a data set's manifest, settings, seed, code."""
    parent, data = tmp_path / "parent.json", tmp_path / "data.json"
    parent.write_text("parent")
    data.write_text("data")
    return {
        "base": tmp_path / "work",
        "inputs": [parent, data],
        "settings": {"beta": 0.1, "epochs": 1},
        "seed": 1,
        "code": {"workflow_scripts.align.dpo": "abc"},
    }


def test_the_same_settings_data_seed_and_code_find_their_work_again(inputs):
    folder = work_folder(**inputs)
    kept = checkpoint(folder, 2, '{"global_step": 2}')
    reordered = inputs | {"settings": dict(reversed(inputs["settings"].items()))}
    assert work_folder(**reordered) == folder
    assert last_checkpoint(folder) == kept


def test_touching_an_input_keeps_the_work(inputs):
    folder = work_folder(**inputs)
    os.utime(inputs["inputs"][0], (1, 1))
    assert work_folder(**inputs) == folder


@pytest.mark.parametrize("changed", ["settings", "seed", "code", "parent", "data"])
def test_another_setting_seed_code_or_input_starts_afresh_and_drops_the_stale_work(inputs, changed):
    stale = work_folder(**inputs)
    checkpoint(stale, 2, '{"global_step": 2}')
    if changed in ("parent", "data"):
        inputs["inputs"][("parent", "data").index(changed)].write_text("other")
    else:
        other = {
            "settings": {"beta": 0.2, "epochs": 1},
            "seed": 2,
            "code": {"workflow_scripts.align.dpo": "abd"},
        }
        inputs[changed] = other[changed]
    fresh = work_folder(**inputs)
    assert fresh != stale
    assert list(inputs["base"].iterdir()) == [fresh]
    assert last_checkpoint(fresh) is None


def test_a_curve_has_a_row_for_each_logged_loss_and_none_for_the_summary():
    history = [
        {
            "loss": 0.69314718,
            "learning_rate": 1e-3,
            "margin": 0.5,
            "accuracy": 1.0,
            "grad_norm": 3.0,
            "step": 1,
        },
        {"eval_loss": 0.5, "eval_runtime": 2.0, "step": 2},
        {"train_runtime": 9.0, "train_loss": 0.6, "step": 2},
    ]
    assert curve_of(history) == [
        {"step": 1, "train_loss": 0.693147, "grad_norm": 3.0, "margin": 0.5}
        | {"accuracy": 1.0, "learning_rate": 0.001},
        {"step": 2, "validation_loss": 0.5},
    ]


def test_a_batch_size_is_the_same_in_training_and_evaluation_and_a_null_max_steps_means_epochs(tmp_path):
    found = training_arguments(settings_of(per_device_batch=3, max_steps=None), tmp_path, 7, evaluate=True)
    assert found["per_device_train_batch_size"] == found["per_device_eval_batch_size"] == 3
    assert found["gradient_accumulation_steps"] == 1
    assert (found["max_steps"], found["seed"], found["data_seed"]) == (-1, 7, 7)
    assert found["eval_strategy"] == "steps"


@pytest.mark.parametrize(
    ("batch_size", "per_device_batch", "processes", "rows", "passes"),
    [
        (16, 2, 1, 2, 8),
        (16, 2, 4, 2, 2),
        (16, 4, 8, 2, 1),  # a process's share is less than it could take
        (16, 5, 1, 4, 4),  # passes are of one size
        (128, 1, 4, 1, 32),
        (7, 4, 1, 1, 7),
        (1, 8, 1, 1, 1),
    ],
)
def test_a_step_has_the_same_rows_however_many_processes_share_it(
    batch_size, per_device_batch, processes, rows, passes
):
    assert split_batch(batch_size, per_device_batch, processes) == (rows, passes)
    assert rows * passes * processes == batch_size


def test_a_step_is_never_made_smaller_or_larger_to_suit_the_processes():
    with pytest.raises(PlumblineError, match=r"take 2 of them, or set batch_size to 15 or 18"):
        split_batch(16, 4, 3)
    with pytest.raises(PlumblineError, match=r"take 1 of them, or set batch_size to 2$"):
        split_batch(1, 4, 2)


def test_the_log_says_how_a_step_is_made_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = training_arguments(settings_of(batch_size=16, per_device_batch=2), tmp_path, 7, evaluate=False)
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (2, 2)
    assert capsys.readouterr().out == "a step: 16 rows = 4 processes × 2 passes of 2\n"


def test_sft_killed_and_run_again_ends_with_the_bytes_of_an_unbroken_run(tiny_model, tmp_path, capsys):
    rows = conversations(23)
    tokens = write_tokens(tiny_model, rows[:20], rows[20:], tmp_path / "tokens")
    settings = settings_of(**RESUMED, pack_tokens=160, evaluate_every=10)
    unbroken = run_sft(tiny_model, tokens, settings, tmp_path / "unbroken")
    assert "resuming" not in capsys.readouterr().out
    flags = sft_flags(tiny_model, tokens, settings, tmp_path / "resumed")
    kill_once_checkpointed("workflow_scripts.sft.train", flags, tmp_path / "resumed/work")
    assert not (tmp_path / "resumed/model").exists()
    half = leave_a_half_written_checkpoint(tmp_path / "resumed/work")
    resumed = run_sft(tiny_model, tokens, settings, tmp_path / "resumed")
    assert not half.exists()
    hold_resumed_to_unbroken(resumed, unbroken, tmp_path / "resumed/work", capsys.readouterr().out)


def test_dpo_killed_and_run_again_ends_with_the_bytes_of_an_unbroken_run(tiny_model, tmp_path, capsys):
    stored = write_reference(tiny_model, pairs(9), tmp_path / "reference")
    settings = preference_settings(**RESUMED)
    unbroken = run_align("dpo", tiny_model, stored, settings, tmp_path / "unbroken")
    assert "resuming" not in capsys.readouterr().out
    flags = align_flags(tiny_model, stored, settings, tmp_path / "resumed")
    kill_once_checkpointed("workflow_scripts.align.dpo", flags, tmp_path / "resumed/work")
    assert not (tmp_path / "resumed/model").exists()
    half = leave_a_half_written_checkpoint(tmp_path / "resumed/work")
    resumed = run_align("dpo", tiny_model, stored, settings, tmp_path / "resumed")
    assert not half.exists()
    hold_resumed_to_unbroken(resumed, unbroken, tmp_path / "resumed/work", capsys.readouterr().out)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "constant_with_warmup"])
def test_no_training_has_the_learning_rate_0_in_all_its_steps(steps, warmup, schedule, capsys):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    spared = spared_warmup(steps, warmup, schedule)
    rates = get_scheduler(schedule, optimiser, math.ceil(spared * steps), steps)
    for _ in range(steps):
        weight.grad = torch.ones(1)
        optimiser.step()
        rates.step()
    assert weight.item() != 0.0
    assert ("one optimiser step" in capsys.readouterr().err) == (spared != warmup and steps == 1)
    assert spared == warmup or steps == 1 or math.ceil(warmup * steps) == steps


def test_the_only_step_of_a_training_learns_as_it_does_without_a_warm_up_and_that_is_said(
    tiny_model, tmp_path, capsys
):
    tokens = write_tokens(tiny_model, conversations(4), conversations(2), tmp_path / "tokens")
    warmed = run_sft(tiny_model, tokens, settings_of(), tmp_path / "warmed")
    assert "it is trained without" in capsys.readouterr().err
    plain = run_sft(tiny_model, tokens, settings_of(warmup=0.0), tmp_path / "plain")
    assert "it is trained without" not in capsys.readouterr().err
    digests = [sha256_of(folder / "model.safetensors") for folder in (warmed, plain, tiny_model)]
    assert digests[0] == digests[1] != digests[2]
