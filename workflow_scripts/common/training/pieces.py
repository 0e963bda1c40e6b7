"""What a process holds of a tensor, in files of safetensors that any number of processes read, cut in any other way.

However a policy is shared, a process holds of each tensor some numbers that follow each other, if its numbers are laid
out in one row: all (one process, DDP), some rows (FSDP), a part that begins within a row (ZeRO). torch's distributed
checkpoints know of each row which part is in which file. A process writes what it holds and reads what it will hold.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from workflow_scripts.common import processes

AT_ONCE = 2**30  # bytes of a file, of those of a process: it holds them once more as it writes


@dataclass
class Piece:
    """The numbers of a tensor that a process holds, `own` (n,), the first of them number `start` of `whole`.

    put_back: what is to be done once they were read, where `own` is not the place that they belong to.
    """

    own: torch.Tensor
    start: int
    whole: int
    put_back: Callable[[], object] = lambda: None

    def places(self) -> list[ChunkStorageMetadata]:
        """Return where in the row its numbers are; none where there are none."""
        place = ChunkStorageMetadata(offsets=torch.Size([self.start]), sizes=self.own.size())
        return [place] if len(self.own) else []


class Writing(DefaultSavePlanner):
    """Writes pieces in place of tensors."""

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan(
            [
                WriteItem(
                    index=MetadataIndex(name, place.offsets),
                    type=WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        chunk=place,
                        properties=TensorProperties.create_from_tensor(piece.own),
                        size=torch.Size([piece.whole]),
                    ),
                )
                for name, piece in self.state_dict.items()
                for place in piece.places()
            ]
        )
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        return self.state_dict[index.fqn].own


class Reading(DefaultLoadPlanner):
    """Reads into pieces in place of tensors. ValueError for a tensor that is not in the files, or not of that size."""

    def set_up_planner(self, pieces: dict[str, Piece], metadata: Any = None, first: bool = False) -> None:
        self.state_dict = self.original_state_dict = pieces
        self.metadata, self.is_coordinator = metadata, first

    def create_local_plan(self) -> LoadPlan:
        stored, items = self.metadata.state_dict_metadata, []
        for name, piece in self.state_dict.items():
            found = stored[name].size.numel() if name in stored else None
            if found != piece.whole:
                raise ValueError(
                    f"{name}: {piece.whole} numbers are wanted, and in the files are {found or 'none'}"
                )
            found = create_read_items_for_chunk_list(name, stored[name], piece.places())
            if sum(item.lengths.numel() for item in found) != len(piece.own):
                raise ValueError(f"{name}: some of its numbers are in none of the files; one of them is gone")
            items += found
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        return self.state_dict[index.fqn].own


def piece_of(tensor: torch.Tensor) -> Piece:
    """Return what a process holds of a tensor: all, or of a DTensor its rows."""
    if not isinstance(tensor, DTensor):
        return piece_from(tensor, 0, tensor.numel())
    shape, (first, *_) = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    assert shape[1:] == tensor.shape[1:], "shared by anything but its rows"
    return piece_from(tensor.to_local(), first * math.prod(shape[1:]), tensor.numel())


def piece_from(local: torch.Tensor, start: int, whole: int) -> Piece:
    """Return the piece whose numbers are a tensor's, in their order there."""
    local = local.detach()
    own = local.reshape(-1)
    if local.is_contiguous():
        return Piece(own, start, whole)
    return Piece(own, start, whole, lambda: local.copy_(own.view(local.shape)))


def files_of(sizes: dict[str, int], largest: int = AT_ONCE) -> dict[str, int]:
    """Return {name: the number of its file, from 1} for {name: bytes}: so many that none of several is too large."""
    numbers, number, size = {}, 1, 0
    for name, own in sizes.items():
        if size and size + own > largest:
            number, size = number + 1, 0
        numbers[name], size = number, size + own
    return numbers


def write_pieces(folder: Path, pieces: dict[str, Piece]) -> None:
    """Write what the processes hold of some tensors; every process has to ask, with the same names."""
    sizes = {name: piece.whole * piece.own.itemsize for name, piece in pieces.items()}
    files = files_of(sizes, AT_ONCE * processes.count())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*")
        to = HuggingFaceStorageWriter(str(folder), files, save_distributed=True)
        dcp.save(dict(pieces), storage_writer=to, planner=Writing(flatten_state_dict=False))


def read_pieces(folder: Path, pieces: dict[str, Piece]) -> None:
    """Read what the processes hold of some tensors; every process has to ask. All have to be in the files."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=".*single process.*")
        dcp.load(dict(pieces), storage_reader=HuggingFaceStorageReader(str(folder)), planner=Reading())
        for piece in pieces.values():
            piece.put_back()
