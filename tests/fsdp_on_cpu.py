"""Run a module with accelerate's FSDP on CPU processes, where accelerate would quietly take DDP: for tests alone."""

import runpy
import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType


class SaysGpus(PartialState):
    """A state that takes processes on CPUs for such on GPUs, which is all that accelerate asks before it shards."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    import accelerate.state
    import transformers.training_args

    accelerate.state.PartialState = transformers.training_args.PartialState = SaysGpus
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
