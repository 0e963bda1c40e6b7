"""DPO, IPO and KTO on stored references train the weights that TRL trains on a live reference model.

Every run takes the whole data set as one batch, so that TRL and ours see the same rows at each step whatever
their samplers do; a step differs only in the order of its sums.
"""

from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tests.tiny import distance, pairs, preference_settings, run_align, weights_of, write_reference
from workflow_scripts.align.pair_reference import COMPLETIONS, with_mismatched
from workflow_scripts.align.preference import divergence_over
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.training import row_trainer
from workflow_scripts.common.training.arguments import training_arguments

COUNT, STEPS = 6, 5
WHOLE = {"per_device_batch": COUNT, "max_steps": STEPS, "epochs": STEPS}


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are tokens already."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


class TokenisedKTOTrainer(KTOTrainer):
    """TRL's trainer on rows that are tokens already and bring their mismatched completion with them."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


@pytest.fixture(scope="module")
def stored(tiny_model, tmp_path_factory) -> Path:
    return write_reference(tiny_model, pairs(COUNT), tmp_path_factory.mktemp("reference"))


def rows_of(stored: Path) -> list[dict]:
    return pyarrow.parquet.read_table(stored / "rows.parquet").to_pylist()


def trl_weights(trainer: type, config: type, rows: list[dict], model: Path, folder: Path, **options):
    """Train with TRL and a live reference model; return the weights."""
    settings = preference_settings(**WHOLE, **options.pop("settings", {}))
    settings |= {"batch_size": len(rows), "per_device_batch": len(rows)}
    arguments = training_arguments(settings, folder / "trl", 1, evaluate=False)
    trained = trainer(
        model=load_policy(model),
        ref_model=load_policy(model),
        args=config(**arguments, **options, beta=settings["beta"], max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model),
    )
    trained.train()
    assert trained.state.global_step == STEPS
    trained.save_model(str(folder / "trl-model"))
    return weights_of(folder / "trl-model")


@pytest.fixture(scope="module")
def ours(tiny_model, stored, tmp_path_factory):
    """Return a function that trains with align.<method>, each different run once."""
    done: dict[tuple, dict[str, torch.Tensor]] = {}

    def run(method: str, **changed) -> dict[str, torch.Tensor]:
        key = (method, *sorted(changed.items()))
        if key not in done:
            settings = preference_settings(**(WHOLE | changed))
            done[key] = weights_of(
                run_align(method, tiny_model, stored, settings, tmp_path_factory.mktemp(method))
            )
        return done[key]

    return run


@pytest.mark.parametrize(("method", "loss_type"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_dpo_and_ipo_train_the_weights_that_trl_trains(tiny_model, stored, ours, tmp_path, method, loss_type):
    rows = [
        {"prompt_ids": row["prompt"], "chosen_ids": row["chosen"], "rejected_ids": row["rejected"]}
        for row in rows_of(stored)
    ]
    theirs = trl_weights(TokenisedDPOTrainer, DPOConfig, rows, tiny_model, tmp_path, loss_type=[loss_type])
    assert distance(ours(method), weights_of(tiny_model)) > 1e-3
    assert distance(ours(method), theirs) < 1e-5


def test_dpo_with_an_sft_term_trains_the_weights_that_trl_trains_on_one_pair_a_batch(tiny_model, tmp_path):
    # TRL averages its likelihood over all tokens, ours (as the paper) over each reply's: same for one
    stored = write_reference(tiny_model, pairs(2), tmp_path)
    both = rows_of(stored)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(both[:1]), stored / "rows.parquet")
    settings = preference_settings(**(WHOLE | {"per_device_batch": 1}), sft_weight=0.5)
    trained = weights_of(run_align("dpo", tiny_model, stored, settings, tmp_path / "ours"))
    rows = [{f"{name}_ids": both[0][name] for name in ("prompt", "chosen", "rejected")}]
    options = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    theirs = trl_weights(TokenisedDPOTrainer, DPOConfig, rows, tiny_model, tmp_path, **options)
    assert distance(trained, theirs) < 1e-5


@pytest.mark.parametrize(("desirable", "undesirable"), [(1.0, 1.0), (1.5, 0.5)])
def test_kto_trains_the_weights_that_trl_trains(tiny_model, stored, ours, tmp_path, desirable, undesirable):
    rows = [
        {
            "prompt_ids": row["prompt"],
            "completion_ids": row[name],
            "KL_completion_ids": row[f"mismatched_{name}"],
            "label": name == "chosen",
        }
        for row in rows_of(stored)
        for name in ("chosen", "rejected")
    ]
    options = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    theirs = trl_weights(TokenisedKTOTrainer, KTOConfig, rows, tiny_model, tmp_path, **options)
    trained = ours("kto", **options)
    assert distance(trained, weights_of(tiny_model)) > 1e-3
    assert distance(trained, theirs) < 1e-5


def test_the_stored_reference_is_what_the_live_model_says(tiny_model, stored):
    model = load_policy(tiny_model)
    for row in rows_of(stored):
        for name in COMPLETIONS:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row["prompt"] + row[name]])).logits[0]
            said = logits[len(row["prompt"]) - 1 : -1].log_softmax(-1)
            live = said[torch.arange(len(row[name])), row[name]]
            torch.testing.assert_close(torch.tensor(row[f"reference_{name}"]), live, rtol=0, atol=2e-5)


def test_the_stored_reference_does_not_depend_on_the_batch_size(tiny_model, stored, tmp_path):
    one = rows_of(write_reference(tiny_model, pairs(COUNT), tmp_path, batch_size=1))
    for row, other in zip(rows_of(stored), one, strict=True):
        for name in COMPLETIONS:
            assert row[f"reference_{name}"] == pytest.approx(other[f"reference_{name}"], abs=2e-5)


def test_mismatched_completions_are_those_of_the_next_pair_where_prompts_differ(stored):
    rows = rows_of(stored)
    for row, following in zip(rows, rows[1:] + rows[:1], strict=True):
        assert row["mismatched_chosen"] == following["chosen"]
        assert row["mismatched_rejected"] == following["rejected"]


def rows_with_prompts(prompts: str) -> list[dict]:
    """Return a row per letter, which is its prompt; its completions name it."""
    return [
        {"asked": prompt, "chosen": [ord(prompt), place, 1], "rejected": [ord(prompt), place, 0]}
        for place, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("prompts", ["aabb", "aaab", "abab", "abcabc", "aaabbbccc", "baaaaaaaa", "abca"])
def test_a_mismatched_completion_is_never_the_same_prompt_s(prompts):
    for row in with_mismatched(rows_with_prompts(prompts)):
        assert row["mismatched_chosen"][0] == row["mismatched_rejected"][0] != ord(row["asked"])
        assert (row["mismatched_chosen"][2], row["mismatched_rejected"][2]) == (1, 0)


def test_the_pairs_of_one_prompt_take_different_completions_of_the_next():
    taken = [row["mismatched_chosen"][1] for row in with_mismatched(rows_with_prompts("aaabbb"))]
    assert taken == [3, 4, 5, 0, 1, 2]


def test_pairs_of_one_prompt_alone_have_no_estimate_and_it_is_said(tiny_model, tmp_path, capsys):
    rows = [
        pairs(1)[0] | {"id": f"p{n}", "chosen": text} for n, text in enumerate(("One.", "Two.", "Three."))
    ]
    held_out = [row | {"id": f"v{place}", "split": "validation"} for place, row in enumerate(pairs(2))]
    stored = write_reference(tiny_model, rows + held_out, tmp_path)
    assert "3 pairs have the only prompt of their split" in capsys.readouterr().err
    assert read_json(stored / "manifest.json")["counts"]["without_mismatched"] == 3
    assert [bool(row["reference_mismatched_chosen"]) for row in rows_of(stored)] == [False] * 3 + [True] * 2
    learned = [row for row in rows_of(stored) if row["split"] == "train"]

    def said(_, prompts, completions):
        return [[torch.full((len(each),), -2.0) for each in group] for group in completions]

    assert divergence_over(said)(None, learned).tolist() == [0.0, 0.0]
    settings = preference_settings(max_steps=2, epochs=2, per_device_batch=3)
    assert (
        distance(
            weights_of(run_align("kto", tiny_model, stored, settings, tmp_path / "kto")),
            weights_of(tiny_model),
        )
        > 0
    )


def test_a_row_without_a_mismatched_completion_counts_for_nothing():
    row = {"prompt": [1], "chosen": [2, 3], "rejected": [4], "reference_chosen": [-9.0, -9.0]}
    row |= {"reference_rejected": [-9.0], "mismatched_chosen": [5], "mismatched_rejected": [6, 7]}
    row |= {"reference_mismatched_chosen": [-1.0], "reference_mismatched_rejected": [-1.0, -1.5]}

    def said(_, prompts, completions):
        return [[torch.full((len(each),), -0.5) for each in group] for group in completions]

    alone = row | {"mismatched_chosen": [], "mismatched_rejected": []}
    expected = [(-0.5 + 1.0) + (-1.0 + 2.5), 2.0]
    assert divergence_over(said)(None, [row]).tolist() == expected
    assert divergence_over(said)(None, [alone, row, alone]).tolist() == expected


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_batch_4_trains_the_same_in_one_pass_and_in_two(tiny_model, stored, tmp_path, monkeypatch, method):
    # KTO is left out: its divergence is the mean of one device's batch, in TRL as here. Plain gradient steps, not
    # clipped: Adam would hide a wrong scale.
    usual = row_trainer.training_arguments
    monkeypatch.setattr(
        row_trainer, "training_arguments", lambda *given, **named: usual(*given, **named) | {"optim": "sgd"}
    )
    steps = {"max_steps": 3, "epochs": 3, "max_grad_norm": 0.0, "schedule": "constant", "warmup": 0}
    steps["learning_rate"] = 1e-2 if method == "dpo" else 1e-4

    def run(folder: Path, **batch) -> dict[str, torch.Tensor]:
        return weights_of(
            run_align(method, tiny_model, stored, preference_settings(**steps, **batch), folder)
        )

    whole = run(tmp_path / "whole", per_device_batch=4)
    assert distance(whole, weights_of(tiny_model)) > 1e-3
    assert distance(whole, run(tmp_path / "parts", batch_size=4, per_device_batch=2)) < 1e-5


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_sharing_prompts_trains_the_same_weights(ours, method):
    assert distance(ours(method), ours(method, share_prompts=False)) < 1e-5


def test_gradient_checkpointing_trains_the_same_weights(ours):
    plain = ours("dpo", share_prompts=False)
    assert distance(plain, ours("dpo", share_prompts=False, gradient_checkpointing=True)) < 1e-5
