"""A training that its job's time limit would cut off hands over to itself, on a real SLURM (slurm_cluster.py)."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chain import chain_of
from tests.slurm_workflow import Workflow
from tests.workflow import copy_with_study, snakemake, stale

# What `squeue` says of the time left is cut to 20 s, but of a job that was queued again: all else is SLURM's own.
SHORT = """#!/bin/sh
real={real}
case "$*" in
*%L*)
  for job in "$@"; do case "$job" in [0-9]*) number=$job;; esac; done
  if {scontrol} show job -o "$number" | grep -q ' Restarts=0 '; then
    "$real" "$@" | sed 's/^[^|]*|/0:20|/'
    exit
  fi;;
esac
exec "$real" "$@"
"""


def in_a_hurry(workflow: Workflow, folder: Path) -> None:
    """Have the jobs of a workflow be told that they have 20 s left, until they are queued again."""
    folder.mkdir()
    path = workflow.env["PATH"]
    programs = {name: shutil.which(name, path=path) for name in ("squeue", "scontrol")}
    (folder / "squeue").write_text(SHORT.format(real=programs["squeue"], scontrol=programs["scontrol"]))
    (folder / "squeue").chmod(0o755)
    workflow.env["PATH"] = f"{folder}:{path}"


@pytest.fixture
def workflow(cluster, tmp_path, tiny_model) -> Iterator[Workflow]:
    """A small study whose rows are written as tokens, in `hasty`; and a copy of it, in `calm`."""
    calm = copy_with_study(tmp_path / "calm")
    study = chain_of(tiny_model, training_resources={"mem_mb": 1500, "runtime_minutes": 20})
    study["runs"]["sft"] |= {"max_steps": 24, "checkpoint_every": 10}
    (calm / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    snakemake(calm, "results/chain/tokens/tiny.sft/manifest.json")
    shutil.copytree(calm, tmp_path / "hasty", symlinks=True)
    made = Workflow(cluster, tmp_path / "hasty")
    yield made
    for head in made.heads:
        head.kill()
        head.wait()


def test_a_training_that_would_be_cut_off_is_queued_again_and_ends_in_the_weights_of_one_left_alone(
    cluster, workflow, tmp_path
):
    cell = "results/chain/policies/tiny.sft/seed-1"
    flags = [f"{cell}/manifest.json", "--set-threads", "train_sft=1"]
    in_a_hurry(workflow, tmp_path / "hurry")
    workflow.run(*flags)
    snakemake(tmp_path / "calm", *flags)

    ((number, rule, state),) = workflow.jobs("%i %k %T")
    assert (rule, state) == ("rule_train_sft_wildcards_tiny.sft_1", "COMPLETED")
    assert " Restarts=1 " in cluster.run("scontrol", "show", "job", "-o", number)
    assert "Error in rule" not in workflow.log()
    log = (workflow.folder / "results/chain/logs/train_sft/tiny.sft-1.log").read_text()
    said = [
        log.index(each)
        for each in ("20 s are left", "handing over at step 1 of 24", "going on", "resuming from")
    ]
    assert said == sorted(said), "the log of both turns is in one file"
    cost = json.loads((workflow.folder / "results/chain/costs/train_sft/tiny.sft-1.json").read_text())
    assert cost["hand_overs"] == 1
    for name in (f"{cell}/manifest.json", f"{cell}/curve.json", f"{cell}/model/model.safetensors"):
        assert (workflow.folder / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert stale(workflow.folder, flags[0]) == set()
