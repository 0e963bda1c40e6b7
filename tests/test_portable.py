"""A checkpoint is gone on with by another number of processes, sharing the policy in another way: equal weights."""

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from tests.launching import command_of, deepspeed, norms_of, train
from tests.resuming import kill_all_once_checkpointed
from tests.tiny import align_flags, distance, pairs, preference_settings, weights_of, write_reference
from tests.tiny_model import make_tiny_model
from workflow_scripts.common.files import read_json
from workflow_scripts.common.training.pieces import Piece, files_of, piece_of, read_pieces, write_pieces

DPO = {"batch_size": 12, "per_device_batch": 2, "max_steps": 4, "checkpoint_every": 2}
MODULE = "workflow_scripts.align.dpo"


@pytest.fixture(scope="module")
def stored(tiny_model, tmp_path_factory) -> Path:
    return write_reference(tiny_model, pairs(14), tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def one(tiny_model, stored, tmp_path_factory) -> tuple[Path, str]:
    """DPO on one process, unbroken: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("one")
    flags = align_flags(tiny_model, stored, preference_settings(**DPO), folder)
    return folder, train(command_of(MODULE, flags, None))


def gone_on(
    before: tuple[str | None, int], after: tuple[str | None, int], start: Path, stored: Path, folder: Path
) -> str:
    """Kill a run after two steps, and let others go on with it; return what they printed."""
    flags = align_flags(start, stored, preference_settings(**DPO), folder)
    kill_all_once_checkpointed(MODULE, flags, before[0], folder, before[1])
    return train(command_of(MODULE, flags, *after))


WAYS = [
    ((None, 1), ("fsdp", 2)),
    (("fsdp", 2), ("fsdp", 3)),
    (("fsdp", 3), ("ddp", 2)),
    pytest.param(("zero2", 2), (None, 1), marks=deepspeed),
    pytest.param(("zero3", 2), ("fsdp", 3), marks=deepspeed),
    pytest.param(("ddp", 2), ("zero3", 3), marks=deepspeed),
    pytest.param(("zero3", 3), ("zero2", 2), marks=deepspeed),
    pytest.param((None, 1), ("zero3-offload", 2), marks=deepspeed),
    pytest.param(("zero2-offload", 2), ("ddp", 2), marks=deepspeed),
]


@pytest.mark.parametrize(("before", "after"), WAYS)
def test_others_go_on_with_a_checkpoint_to_the_weights_of_one_process(
    before, after, one, tiny_model, stored, tmp_path
):
    (whole, said), printed = one, gone_on(before, after, tiny_model, stored, tmp_path)
    assert printed.count("resuming from") == 1 and "starts from the beginning" not in printed
    moved = distance(weights_of(whole / "model"), weights_of(tiny_model))
    assert distance(weights_of(whole / "model"), weights_of(tmp_path / "model")) < moved / 100
    assert norms_of(printed) == pytest.approx(norms_of(said)[2:], rel=1e-2)
    losses, wanted = (
        [(entry["step"], entry["loss"]) for entry in read_json(folder / "curve.json") if "loss" in entry]
        for folder in (tmp_path, whole)
    )
    assert losses == [(step, pytest.approx(loss, rel=1e-3)) for step, loss in wanted]


LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "merge": True}


@deepspeed
@pytest.mark.parametrize(
    ("before", "after"), [(("zero2", 2), ("fsdp", 3)), ((None, 1), ("zero3", 2)), (("zero3", 3), (None, 1))]
)
def test_adapters_on_a_policy_whose_head_is_its_embedding_are_gone_on_with(before, after, tmp_path):
    model = make_tiny_model(tmp_path / "tied", tied=True)
    stored = write_reference(model, pairs(14), tmp_path / "reference")
    settings = preference_settings(**DPO, lora=LORA)  # DeepSpeed drops the group that has no weights
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    one, two = (align_flags(model, stored, settings, folder) for folder in folders)
    train(command_of(MODULE, one, None))
    kill_all_once_checkpointed(MODULE, two, before[0], folders[1], before[1])
    assert "resuming from" in train(command_of(MODULE, two, *after))
    found, wanted, start = (weights_of(folder) for folder in (*(each / "model" for each in folders), model))
    assert distance(found, wanted) < distance(wanted, start) / 100


def test_tensors_come_back_from_many_files(tmp_path):
    tensors = {f"{number}.weight": torch.randn(3, number) for number in range(1, 9)}
    tensors["step"] = torch.tensor(7.0)
    write_pieces(tmp_path, {name: piece_of(tensor) for name, tensor in tensors.items()})
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    read_pieces(tmp_path, {name: piece_of(tensor) for name, tensor in found.items()})
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


def test_no_file_holds_more_bytes_than_it_may_unless_it_is_one_tensor():
    sizes = {"a": 12, "b": 4, "c": 8, "d": 36, "e": 16}
    assert files_of(sizes, largest=16) == {"a": 1, "b": 1, "c": 2, "d": 3, "e": 4}


def test_a_tensor_that_is_not_there_is_an_error(tmp_path):
    write_pieces(tmp_path, {"a": piece_of(torch.ones(2))})
    with pytest.raises(CheckpointException):
        read_pieces(tmp_path, {"a": piece_of(torch.ones(2)), "b": piece_of(torch.ones(2))})


def test_a_tensor_of_another_size_is_an_error(tmp_path):
    write_pieces(tmp_path, {"a": piece_of(torch.ones(2))})
    with pytest.raises(CheckpointException, match="a: 3 numbers are wanted, and in the files are 2"):
        read_pieces(tmp_path, {"a": piece_of(torch.ones(3))})


def test_a_part_that_is_in_none_of_the_files_is_an_error(tmp_path):
    numbers = torch.arange(12.0)
    for name, first in (("before", 0), ("after", 8)):
        write_pieces(tmp_path / name, {"a": Piece(numbers[first : first + 4], first, first + 4)})
        (file,) = (tmp_path / name).iterdir()
        file.rename(tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointException, match="a: some of its numbers are in none of the files"):
        read_pieces(tmp_path, {"a": piece_of(torch.zeros(12))})
    found = torch.zeros(4)
    read_pieces(tmp_path, {"a": Piece(found, 8, 12)})
    assert found.tolist() == [8, 9, 10, 11]


@deepspeed
@pytest.mark.parametrize("parallel", ["zero2", "zero3", "zero3-offload"])
def test_what_deepspeed_holds_is_written_from_where_it_is(parallel, tiny_model, stored, tmp_path):
    flags = align_flags(tiny_model, stored, preference_settings(**DPO | {"max_steps": 2}), tmp_path)
    said = train(command_of("tests.in_place", [MODULE, *flags], parallel))
    told = [line for line in said.splitlines() if line.endswith("are copies")]
    assert len(told) == 2 and all(line.startswith("0 of ") for line in told), told


def test_a_tensor_that_is_not_laid_out_in_a_row_comes_back_and_a_part_is_read_alone(tmp_path):
    tensor = torch.arange(12.0).view(3, 4)
    write_pieces(tmp_path, {"a": piece_of(tensor.T)})
    found, part = torch.zeros(3, 4).T, torch.zeros(5)
    read_pieces(tmp_path, {"a": piece_of(found)})
    assert torch.equal(found, tensor.T)
    read_pieces(tmp_path, {"a": Piece(part, 2, 12)})
    assert part.tolist() == tensor.T.reshape(-1)[2:7].tolist()
