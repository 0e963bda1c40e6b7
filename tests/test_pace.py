"""The head looks for jobs to start when one has ended, and sleeps meanwhile."""

import os
import subprocess
import sys

import pytest

from tests.workflow import ROOT
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.plan.sources import source_manifest
from workflow_scripts.study.checking import load_study

# Snakemake as its command is, but for saying so where it would look again after a while.
SPIED = """
import sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

JobScheduler._schedule_reevalutation = lambda *_: print("looks again", flush=True)
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("flags", "again"), [((), 0), (("--max-jobs-per-timespan", "50/1s"), 1)])
def test_the_head_does_not_look_again_unless_somebody_asks_for_a_limit(repository, flags, again):
    plan = plan_of(load_study(ROOT / "tests/tutoring.yaml"))
    target = source_manifest(plan, "dialogues")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", SPIED, "--cores", "1", "--force", *flags, "--", target]
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert min(done.stdout.count("looks again"), 1) == again
