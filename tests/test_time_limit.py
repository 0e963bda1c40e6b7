"""When a job hands over to itself before its time limit, and what it leaves; on a real SLURM: test_slurm_time_limit.py.

SLURM is played by two scripts: `squeue` says what a file says, `scontrol` notes what it was told.
"""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import TOKENS, train_flags
from workflow_scripts.common import time_limit as module
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.time_limit import EARLIER, NOTE, fits, handed_over, seconds_in, time_limit
from workflow_scripts.common.training.handing_over import saving_guess
