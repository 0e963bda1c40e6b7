"""Keys that every training has: AdamW's numbers, whole batches alone, no validation, float16, double quantisation."""

import math

import pytest
import torch
from accelerate import Accelerator
from transformers import Trainer, TrainingArguments

from tests.command import call
from tests.online import ppo_settings, run_ppo
from tests.tiny import (
    conversations,
    distance,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    sft_flags,
    weights_of,
    write_reference,
    write_tokens,
)
from workflow_scripts.align.ppo_numbers import steps_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.training.arguments import training_arguments
from workflow_scripts.common.training.batches import ProcessShare
from workflow_scripts.common.training.loading import four_bits
from workflow_scripts.sft import train as sft_train

STEP = {"max_steps": 1, "warmup": 0.0, "schedule": "constant", "weight_decay": 0.0}


@pytest.fixture
def tokens(tiny_model, tmp_path):
    return write_tokens(tiny_model, conversations(7), conversations(3), tmp_path / "tokens")


def column(folder, name: str) -> list[float]:
    """Return one column of a run's curve."""
    return [row[name] for row in read_json(folder / "curve.json") if name in row]


# --- AdamW ---------------------------------------------------------------------------------------------------------


def test_adamws_numbers_are_those_of_the_study(tiny_model, tmp_path):
    settings = settings_of(adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)
    arguments = TrainingArguments(**training_arguments(settings, tmp_path, 1, evaluate=False))
    _, numbers = Trainer.get_optimizer_cls_and_kwargs(arguments)
    assert (numbers["betas"], numbers["eps"]) == ((0.8, 0.95), 1e-6)


def test_the_first_step_of_adamw_is_the_gradient_over_itself_and_epsilon(tiny_model, tokens, tmp_path):
    # Δ = −lr g / (|g| + ε): at most lr where ε is tiny, and lr |g| / ε where it is huge.
    def moved(epsilon: float) -> float:
        settings = settings_of(**STEP, learning_rate=1e-2, adam_epsilon=epsilon, max_grad_norm=1e9)
        return distance(
            weights_of(run_sft(tiny_model, tokens, settings, tmp_path / f"{epsilon}")), weights_of(tiny_model)
        )

    assert moved(1e-8) == pytest.approx(1e-2, rel=1e-3)
    assert moved(1e6) < 1e-6


# --- whole batches alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("rows", [1, 2])
def test_what_is_no_whole_batch_is_left_out_of_each_process(processes, rows):
    walked = []
    for process in range(processes):
        share = ProcessShare(range(19), 4, rows, processes, process, drop_last=True)
        batches = list(share)
        assert len(batches) == len(share) == 16 // processes // rows
        walked += [row for batch in batches for row in batch]
    assert sorted(walked) == list(range(16))


def test_drop_last_makes_fewer_steps_says_so_and_leaves_no_validation_row_out(
    tiny_model, tokens, tmp_path, capsys
):
    usual = {"epochs": 2, "per_device_batch": 2, "learning_rate": 0.0, "evaluate_every": 1}
    run_sft(tiny_model, tokens, settings_of(**usual), tmp_path / "all")
    assert "drop_last" not in capsys.readouterr().out
    run_sft(tiny_model, tokens, settings_of(**usual, drop_last=True), tmp_path / "whole")
    assert "drop_last: 1 of 7 rows are left out of each epoch" in capsys.readouterr().out
    steps = [read_json(tmp_path / name / "manifest.json")["steps"] for name in ("all", "whole")]
    assert steps == [8, 6]
    losses = [column(tmp_path / name, "validation_loss")[0] for name in ("all", "whole")]
    assert losses[0] == losses[1]


def test_drop_last_is_for_pairs_too_and_refused_where_nothing_is_left(tiny_model, tmp_path):
    stored = write_reference(tiny_model, pairs(7), tmp_path / "reference")
    settings = preference_settings(per_device_batch=3, drop_last=True)
    run_align("dpo", tiny_model, stored, settings, tmp_path / "dpo")
    assert read_json(tmp_path / "dpo/manifest.json")["steps"] == 2
    with pytest.raises(PlumblineError, match="drop_last: 7 rows are no whole batch of 8"):
        settings = preference_settings(per_device_batch=8, drop_last=True)
        run_align("dpo", tiny_model, stored, settings, tmp_path / "none")


def test_ppo_makes_whole_rollouts_alone_where_it_is_asked_to():
    settings = ppo_settings(rollout_batch=8, epochs=1.0)
    assert [steps_of(settings | {"drop_last": drop}, 12) for drop in (False, True)] == [2, 1]
    with pytest.raises(PlumblineError, match="7 prompts are no whole rollout_batch of 8"):
        steps_of(settings | {"drop_last": True}, 7)


# --- no validation --------------------------------------------------------------------------------------------------


def test_fine_tuning_without_validation_rows_has_a_curve_of_training_losses_alone(tiny_model, tmp_path):
    tokens = write_tokens(tiny_model, conversations(6), [], tmp_path / "tokens")
    assert set(read_json(tokens / "manifest.json")["counts"]) == {"train"}
    settings = settings_of(max_steps=2, evaluate_every=1)
    run_sft(tiny_model, tokens, settings, tmp_path / "run")
    assert len(column(tmp_path / "run", "train_loss")) == 2
    assert column(tmp_path / "run", "validation_loss") == []
    flags = sft_flags(tiny_model, tokens, settings | {"keep": "best"}, tmp_path / "best")
    with pytest.raises(PlumblineError, match="keep: best needs validation rows"):
        call(sft_train.main, *flags)


# --- number formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [True, False])
def test_the_scales_of_four_bit_weights_are_quantised_where_they_are_asked_to_be(double):
    config = four_bits(settings_of(quantise="nf4", quantise_double=double, precision="float16"))
    assert config.bnb_4bit_use_double_quant is double
    assert config.bnb_4bit_compute_dtype == torch.float16
    assert config.bnb_4bit_quant_type == "nf4"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_float16_without_cuda_says_what_to_do(tmp_path):
    with pytest.raises(PlumblineError, match=r"precision: float16 needs a CUDA device.*auto"):
        training_arguments(settings_of(precision="float16"), tmp_path, 1, evaluate=False)


def test_float16_is_refused_where_weights_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(PlumblineError, match="float16 is for parallel: ddp"):
        training_arguments(settings_of(precision="float16"), tmp_path, 1, evaluate=False)


@pytest.fixture
def scaled(monkeypatch):
    """Have trainings scale their losses as float16 does, computing in float32 on any device, from a given scale."""
    usual = Accelerator.__init__

    def make(scale: float) -> None:
        def init(self, *arguments, **named) -> None:
            usual(self, *arguments, **named)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

        def unscale(self, optimizer=None) -> None:
            self.scaler.unscale_(self._optimizers[0].optimizer)  # accelerate's own asks for float16

        monkeypatch.setattr(Accelerator, "unscale_gradients", unscale)
        monkeypatch.setattr(Accelerator, "__init__", init)

    return make


def test_a_scaled_loss_trains_as_one_that_is_not(tiny_model, tokens, tmp_path, scaled):
    settings = settings_of(max_steps=3, learning_rate=1e-2)
    plain = run_sft(tiny_model, tokens, settings, tmp_path / "plain")
    scaled(2.0**10)
    again = run_sft(tiny_model, tokens, settings, tmp_path / "scaled")
    assert distance(weights_of(plain), weights_of(tiny_model)) > 1e-3
    assert distance(weights_of(plain), weights_of(again)) < 1e-6
    assert "skipped_steps" not in read_json(tmp_path / "scaled/manifest.json")


def test_steps_that_overflow_when_scaled_are_skipped_counted_and_said(
    tiny_model, tokens, tmp_path, scaled, capsys
):
    scaled(2.0**127)
    settings = settings_of(epochs=20, learning_rate=1e-2)
    run_sft(tiny_model, tokens, settings, tmp_path / "run")
    manifest = read_json(tmp_path / "run/manifest.json")
    assert 0 < manifest["skipped_steps"] < manifest["steps"] == 40
    said = f"float16: {manifest['skipped_steps']} of 40 steps were skipped"
    assert said in capsys.readouterr().err
    norms = column(tmp_path / "run", "grad_norm")
    assert len(norms) == 40 - manifest["skipped_steps"] and all(map(math.isfinite, norms))


def test_a_gradient_that_no_scale_makes_finite_is_a_divergence(
    tiny_model, tokens, tmp_path, scaled, monkeypatch
):
    scaled(2.0)
    usual = sft_train.LearnedPositionsTrainer.compute_loss

    def steep(self, *arguments, **named):
        loss = usual(self, *arguments, **named)
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    monkeypatch.setattr(sft_train.LearnedPositionsTrainer, "compute_loss", steep)
    flags = sft_flags(tiny_model, tokens, settings_of(max_steps=9), tmp_path / "run")
    with pytest.raises(PlumblineError, match=r"diverged at step 2.*the gradient is not finite"):
        call(sft_train.main, *flags)


def test_ppo_scales_its_loss_and_counts_what_overflows(tiny_model, tmp_path, monkeypatch, capsys):
    settings = ppo_settings(max_steps=3, learning_rate=1e-2)
    plain = run_ppo(tiny_model, settings, tmp_path / "plain") / "model"
    usual = torch.amp.GradScaler

    def scaling(scale: float) -> None:
        monkeypatch.setattr(torch.amp, "GradScaler", lambda device, **_: usual("cpu", init_scale=scale))

    scaling(2.0**10)
    again = run_ppo(tiny_model, settings, tmp_path / "scaled") / "model"
    assert distance(weights_of(plain), weights_of(again)) < 1e-6
    scaling(2.0**127)
    run_ppo(tiny_model, settings | {"max_steps": 9}, tmp_path / "skipping")
    manifest = read_json(tmp_path / "skipping/manifest.json")
    assert 0 < manifest["skipped_steps"] < 18 * 2
    assert "steps were skipped" in capsys.readouterr().err
