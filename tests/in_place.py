"""Run a training as `python -m MODULE ARGS` would, and say whether what it writes is where DeepSpeed holds it.

On a GPU a copy of what is in the machine's memory would fill it; on a CPU nobody would notice: so here the device that
DeepSpeed moves things to is one that holds nothing.
"""

import runpy
import sys
from unittest import mock

from deepspeed.accelerator import get_accelerator

from workflow_scripts.common.training import portable, zero_pieces

places: list = []  # where DeepSpeed holds weights and moments
write_own, moments_own, held_own = portable.write_pieces, zero_pieces.moments_of, zero_pieces.held


def write(folder, pieces):
    """Write pieces, and say whether they are where DeepSpeed holds them."""
    known = {part.untyped_storage().data_ptr() for part in places}
    held = [piece.own for name, piece in pieces.items() if not name.endswith(".step") and len(piece.own)]
    copies = sum(own.untyped_storage().data_ptr() not in known for own in held)
    print(f"{copies} of {len(held)} are copies", flush=True)
    write_own(folder, pieces)


def moments_of(model, optimizer):
    """Return the moments, and note where they and the weights are held."""
    found = moments_own(model, optimizer)
    for part in zero_pieces.parts_of(optimizer):
        places.extend([part, *(optimizer.optimizer.state[part][name] for name in zero_pieces.MOMENTS)])
    return found


def held(*asked):
    """Return what is held, where what would be moved to the device is lost."""
    with mock.patch.object(get_accelerator(), "current_device_name", lambda: "meta"):
        return held_own(*asked)


if __name__ == "__main__":
    portable.write_pieces, zero_pieces.moments_of, zero_pieces.held = write, moments_of, held
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
