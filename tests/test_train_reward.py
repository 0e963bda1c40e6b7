"""A reward model's training equals TRL's, and its held-out accuracy counts every pair once."""

import json

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl import RewardConfig, RewardTrainer

from tests.tiny import call, own_settings, pairs, settings_of, training_flags
from workflow_scripts.annotate import train_reward
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_jsonl, write_manifest
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.training.arguments import training_arguments

STEPS = {"max_steps": 4, "epochs": 4, "schedule": "constant", "warmup": 0, "evaluate_every": 2}


@pytest.fixture
def written(tmp_path):
    rows = pairs(13)
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    write_manifest(tmp_path / "pairs.json", [tmp_path / "pairs.jsonl"])
    return rows, tmp_path / "pairs.jsonl", tmp_path / "pairs.json"


def run_reward(model, written, settings, folder):
    folder.mkdir(exist_ok=True)
    flags = [*training_flags(model, settings, folder), "--pairs", written[1], "--pairs-manifest", written[2]]
    call(train_reward.main, *flags)
    return folder


def reward_settings(**changed) -> dict:
    settings = settings_of(**(STEPS | {"validation_share": 0.4, "max_tokens": 128} | changed))
    return own_settings(train_reward.Settings, settings)


def test_a_reward_model_is_trained_to_the_weights_that_trl_trains(tiny_model, written, tmp_path):
    settings = reward_settings(per_device_batch=8)
    ours = run_reward(tiny_model, written, settings, tmp_path / "ours")
    tokenizer = load_tokenizer(tiny_model)
    rows, _ = train_reward.token_rows(written[0], tokenizer, 128)
    train_reward.random.Random(1).shuffle(rows)
    set_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    start = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            **training_arguments(settings, tmp_path / "trl", 1, evaluate=False), max_length=None
        ),
        train_dataset=Dataset.from_list(rows[5:]),
        processing_class=tokenizer,
    )
    trainer.train()
    found, wanted = load_file(ours / "model/model.safetensors"), model.state_dict()
    assert found.keys() == wanted.keys()
    moved = max((wanted[name] - start[name]).abs().max().item() for name in wanted)
    assert moved > 1e-3
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)


def test_the_held_out_accuracy_counts_every_pair_once(tiny_model, written, tmp_path):
    # Five pairs held out, in batches of two: the mean of the batches' means would weigh the last pair twice.
    folder = run_reward(
        tiny_model, written, reward_settings(batch_size=8, per_device_batch=2), tmp_path / "m"
    )
    manifest = read_json(folder / "manifest.json")
    assert manifest["counts"] == {"train": 8, "validation": 5, "texts_cut": 5}
    assert round(manifest["validation_accuracy"] * 5, 3) in range(6)
    curve = json.loads((folder / "curve.json").read_text())
    assert curve[-1]["validation_accuracy"] == pytest.approx(manifest["validation_accuracy"], abs=1e-4)
    assert {"train_loss", "margin", "accuracy"} <= curve[0].keys()


def test_a_reward_model_keeps_its_best_checkpoint_where_it_is_asked_to(tiny_model, written, tmp_path):
    """At so high a learning rate the loss on the held-out pairs has its lowest point before the end."""
    fast = {
        "learning_rate": 3e-2,
        "max_steps": 8,
        "evaluate_every": 1,
        "per_device_batch": 4,
        "schedule": "constant",
    }
    folder = run_reward(tiny_model, written, reward_settings(**fast, keep="best"), tmp_path / "best")
    curve = json.loads((folder / "curve.json").read_text())
    losses = [row["validation_loss"] for row in curve if "validation_loss" in row]
    assert max(losses) > min(losses) + 0.1
    assert losses[-1] == pytest.approx(min(losses), abs=1e-4)  # that of what is kept


def test_a_reward_model_of_a_parent_in_16_bits_is_trained_and_kept_in_32(tiny_model, written, tmp_path):
    parent = tmp_path / "parent"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model.save_pretrained(parent)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(parent)
    folder = run_reward(parent, written, reward_settings(max_steps=2), tmp_path / "trained")
    assert {weight.dtype for weight in load_file(folder / "model/model.safetensors").values()} == {
        torch.float32
    }


def test_a_pair_has_a_text_where_the_tokenizer_has_no_end_token(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.eos_token = None
    rows, cut = train_reward.token_rows(pairs(2), tokenizer, 128)
    assert all(row["chosen_ids"] and row["rejected_ids"] for row in rows) and not cut


def test_pairs_too_few_to_hold_some_out_are_refused(tiny_model, written, tmp_path):
    write_jsonl(written[1], pairs(1))
    with pytest.raises(PlumblineError, match="of 1 pairs 1 are held out and none are left"):
        run_reward(tiny_model, written, reward_settings(), tmp_path / "one")
