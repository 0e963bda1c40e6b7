"""Supervised fine-tuning equals TRL's stock trainer, however the rows are laid out in batches."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from tests.tiny import conversations, distance, run_sft, settings_of, weights_of, write_tokens
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.templates import IGNORED
from workflow_scripts.common.training.arguments import training_arguments
from workflow_scripts.common.training.trainer import Shared
from workflow_scripts.sft import train as sft_train
from workflow_scripts.sft.train import LearnedPositionsTrainer

COUNT, STEPS = 12, 3
PLAIN = {"drop_last": False, "neftune_alpha": None, "kl": None, "loss_norm": "token"}
PLAIN |= {"pack_tokens": None, "batch_of": "rows"}
WHOLE = {"per_device_batch": 2 * COUNT, "max_steps": STEPS, "epochs": STEPS}  # every row in each step


@pytest.fixture(scope="module")
def tokens(tiny_model, tmp_path_factory) -> Path:
    rows = conversations(COUNT + 3)
    return write_tokens(tiny_model, rows[:COUNT], rows[COUNT:], tmp_path_factory.mktemp("tokens"))


def rows_of(tokens: Path) -> list[dict]:
    return pyarrow.parquet.read_table(tokens / "train.parquet").to_pylist()


def losses(folder: Path, name: str = "train_loss") -> list[float]:
    """Return the logged losses of a run, in steps."""
    return [row[name] for row in json.loads((folder / "curve.json").read_text()) if name in row]


def loss_row_by_row(model_folder: Path, rows: list[dict]) -> float:
    """Return the mean loss over the learned tokens of all rows, one row a forward, by a plain log_softmax."""
    model, total, learned = load_policy(model_folder), 0.0, 0
    for row in rows:
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
        targets = [(step, label) for step, label in enumerate(row["labels"][1:]) if label != IGNORED]
        total -= sum(logps[step, label].item() for step, label in targets)
        learned += len(targets)
    return total / learned


def trainer_of(
    kind: type[SFTTrainer], model: Path, rows: list[dict], work: Path, **layout: object
) -> SFTTrainer:
    """Return a trainer on token rows with the settings of a run and a layout of batches of its own."""
    arguments = training_arguments(settings_of(**WHOLE), work, 1, evaluate=False) | layout
    own = {"settings": PLAIN} if kind is LearnedPositionsTrainer else {}
    return kind(
        **own,
        model=load_policy(model),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model),
    )


class Stock(Shared, SFTTrainer):
    """TRL's own losses, with what all our trainers share."""


def stock_trainer(settings: dict, reference: None, **arguments: object) -> SFTTrainer:
    """Return TRL's own trainer in the place of ours."""
    return Stock(**arguments)


@pytest.mark.parametrize("pack_tokens", [160, None])
@pytest.mark.parametrize("learned", ["replies", "everything"])
def test_projecting_only_learned_positions_trains_what_trl_trains(
    tiny_model, tokens, tmp_path, monkeypatch, pack_tokens, learned
):
    if learned == "everything":  # a row's first token is then labelled too, which nothing predicts
        rows = [row | {"labels": row["input_ids"]} for row in rows_of(tokens)]
        folder = tmp_path / "tokens"
        folder.mkdir()
        for name in ("train", "validation"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")
        (folder / "manifest.json").write_text((tokens / "manifest.json").read_text())
        tokens = folder
    batches = {"batch_size": 4, "per_device_batch": 2, "max_steps": 4, "epochs": 4, "evaluate_every": 2}
    settings = settings_of(**batches, pack_tokens=pack_tokens)
    ours = weights_of(run_sft(tiny_model, tokens, settings, tmp_path / "ours"))
    monkeypatch.setattr(sft_train, "LearnedPositionsTrainer", stock_trainer)
    theirs = weights_of(run_sft(tiny_model, tokens, settings, tmp_path / "theirs"))
    assert distance(ours, weights_of(tiny_model)) > 1e-3
    assert distance(ours, theirs) < 1e-5
    found = losses(tmp_path / "ours")
    assert len(found) == 4
    assert found == pytest.approx(losses(tmp_path / "theirs"), abs=1e-5)


@pytest.mark.parametrize(
    "layout",
    [
        {"packing": True, "max_length": 160},
        {
            "packing": True,
            "max_length": 160,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 64,
        },
        {"padding_free": True, "max_length": None},
        {"padding_free": False, "max_length": None},
    ],
    ids=["packed", "packed-accumulated", "padding-free", "padded"],
)
def test_packed_padding_free_padded_and_accumulated_rows_train_the_same(tiny_model, tokens, tmp_path, layout):
    rows = rows_of(tokens)
    assert len({len(row["input_ids"]) for row in rows}) > 1
    one_by_one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": COUNT, "max_length": None}
    single = trainer_of(LearnedPositionsTrainer, tiny_model, rows, tmp_path / "single", **one_by_one)
    laid_out = trainer_of(LearnedPositionsTrainer, tiny_model, rows, tmp_path / "laid-out", **layout)
    if "packing" in layout:
        assert 1 < len(laid_out.train_dataset) < COUNT
    for trainer in (single, laid_out):
        trainer.train()
        first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        assert first == pytest.approx(loss_row_by_row(tiny_model, rows), abs=1e-4)
    assert distance(single.model.state_dict(), laid_out.model.state_dict()) < 1e-5


def test_a_batch_with_nothing_to_learn_leaves_the_weights_whole(tiny_model, tokens, tmp_path):
    rows = rows_of(tokens)[:2]
    rows[0]["labels"] = [IGNORED] * len(rows[0]["labels"])
    one_by_one = {"per_device_train_batch_size": 1, "max_length": None, "max_steps": 2}
    trained = {}
    for kind in (LearnedPositionsTrainer, SFTTrainer):
        trainer = trainer_of(kind, tiny_model, rows, tmp_path / kind.__name__, **one_by_one)
        trainer.train()
        trained[kind] = trainer.model.state_dict()
    assert all(value.isfinite().all() for value in trained[LearnedPositionsTrainer].values())
    assert distance(trained[LearnedPositionsTrainer], trained[SFTTrainer]) < 1e-5
