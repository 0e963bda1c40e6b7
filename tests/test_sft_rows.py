"""A step of fine-tuning is so many rows, and packing them changes speed only."""

import pytest
import torch

from tests.tiny import conversations, distance, run_sft, settings_of, weights_of, write_tokens
from workflow_scripts.common.files import read_json
from workflow_scripts.sft.train import packed

COUNT = 15


@pytest.fixture(scope="module")
def tokens(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    return write_tokens(tiny_model, conversations(COUNT), conversations(4), folder, limit=160)


def points(folder, name: str) -> list[float]:
    return [row[name] for row in read_json(folder / "curve.json") if name in row]


def trained(tiny_model, tokens, folder, **settings: object) -> tuple[dict, list[float], int]:
    """Return (weights, losses, steps) of a fine-tuning."""
    run_sft(tiny_model, tokens, settings_of(**settings), folder)
    return (
        weights_of(folder / "model"),
        points(folder, "train_loss"),
        read_json(folder / "manifest.json")["steps"],
    )


@pytest.mark.parametrize("loss_norm", ["token", "example"])
@pytest.mark.parametrize("pack_tokens", [160, 400, 100_000])
def test_packed_rows_train_what_rows_one_by_one_train(tiny_model, tokens, tmp_path, loss_norm, pack_tokens):
    usual = {"batch_size": 4, "per_device_batch": 1, "epochs": 2, "loss_norm": loss_norm, "batch_of": "rows"}
    usual |= {"evaluate_every": 4}
    ones, losses, steps = trained(tiny_model, tokens, tmp_path / "one", **usual)
    packs, told, made = trained(tiny_model, tokens, tmp_path / "packed", **usual, pack_tokens=pack_tokens)
    assert steps == made == 8  # 15 rows by 4, twice
    assert distance(ones, weights_of(tiny_model)) > 1e-3
    assert distance(ones, packs) < 1e-5
    assert told == pytest.approx(losses, abs=1e-5)
    for name in ("validation_loss", "rows", "tokens", "grad_norm"):
        found = points(tmp_path / "packed", name)
        assert found and found == pytest.approx(points(tmp_path / "one", name), rel=1e-4)


def test_packs_are_counted_where_they_are_asked_for(tiny_model, tokens, tmp_path):
    usual = {"batch_size": 4, "per_device_batch": 4, "epochs": 1, "pack_tokens": 100_000}
    assert trained(tiny_model, tokens, tmp_path / "packs", **usual, batch_of="packs")[2] == 1
    assert trained(tiny_model, tokens, tmp_path / "rows", **usual, batch_of="rows")[2] == 4


def test_a_step_of_few_rows_at_the_end_of_an_epoch_is_left_out_with_drop_last(tiny_model, tokens, tmp_path):
    usual = {"batch_size": 4, "epochs": 1, "pack_tokens": 160, "batch_of": "rows", "drop_last": True}
    assert trained(tiny_model, tokens, tmp_path, **usual)[2] == 3


def test_rows_go_where_they_fit_best_and_no_pack_is_too_large():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 50, (200,), generator=generator).tolist()
    rows = [{"input_ids": [0] * length, "number": number} for number, length in enumerate(lengths)]
    packs = packed(rows, 64)
    assert sorted(row["number"] for pack in packs for row in pack) == list(range(200))
    sizes = [sum(len(row["input_ids"]) for row in pack) for pack in packs]
    assert max(sizes) <= 64
    assert len(packs) < sum(lengths) / 64 * 1.1
    assert packed([], 64) == []
    assert [len(pack) for pack in packed([{"input_ids": [0] * 64}] * 2, 64)] == [1, 1]


def test_the_last_step_is_validated_however_few_there_are(tiny_model, tokens, tmp_path):
    """So that there is a validation of the weights that are kept, by which they can be chosen."""
    for every, steps in ((1000, [4]), (3, [3, 4])):
        trained(tiny_model, tokens, tmp_path / str(every), batch_size=4, epochs=1, evaluate_every=every)
        curve = read_json(tmp_path / str(every) / "curve.json")
        assert [row["step"] for row in curve if "validation_loss" in row] == steps
