"""profiles/slurm-a100 on a real SLURM: what jobs ask for and get, and what becomes of them when they fail, are
cancelled, or lose their node or their head.

The cluster is that of slurm_cluster.py; without one these tests are skipped. A whole study is in test_slurm_study.py.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.chain import chain_of
from tests.slurm_workflow import PROFILE, Workflow
from tests.workflow import ROOT, copy_with_study, snakemake, stale


@pytest.fixture
def workflow_in(cluster) -> Iterator[Callable[..., Workflow]]:
    """Make workflows on the cluster, whose heads end with the test."""
    made = []

    def make(*arguments: object) -> Workflow:
        made.append(Workflow(cluster, *arguments))
        return made[-1]

    yield make
    for head in [head for workflow in made for head in workflow.heads]:
        head.kill()
        head.wait()


def test_the_profile_names_every_rule_that_may_have_gpus():
    rules = "".join(path.read_text() for path in ROOT.glob("rules/*.smk"))
    bodies = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", rules, re.MULTILINE | re.DOTALL)
    launched = {name for name, body in bodies if "LAUNCH" in body}
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert launched
    assert launched == set(profile["set-resources"]) == set(profile["set-threads"])


ASKING = """
rule all:
    input: "tidy", "trained", "answered"

rule tidy:
    output: "tidy"
    shell: "echo ${{CUDA_VISIBLE_DEVICES-none}} > {output}"

rule train_sft:
    output: "trained"
    resources: gpu=2, nodes=1, mem_mb=900, runtime=20
    shell: "echo try >> tries; [ $(wc -l < tries) = 2 ]; echo $CUDA_VISIBLE_DEVICES $SLURMD_NODENAME > {output}"

rule answer_prompts:
    output: "answered"
    resources: gpu=0, mem_mb=900, runtime=20
    shell: "echo ${{CUDA_VISIBLE_DEVICES-none}} > {output}"
"""


def test_jobs_get_the_gpus_cpus_memory_and_time_of_the_profile_and_more_when_tried_again(
    cluster, workflow_in, tmp_path
):
    workflow = workflow_in(tmp_path, ASKING)
    workflow.run()
    assert (tmp_path / "trained").read_text().split()[0].count(",") == 1, "two devices"
    assert (tmp_path / "tidy").read_text() == (tmp_path / "answered").read_text() == "none\n"
    jobs = {}
    for number, rule, *rest in workflow.jobs("%i %k %P %T %m %l"):
        details = cluster.run("scontrol", "show", "job", "-d", number)
        asked = {key: re.search(rf"\b{key}=(\S*)", details)[1] for key in ("JOB_GRES", "NumCPUs", "Requeue")}
        jobs.setdefault(rule.strip(), []).append([*rest, *asked.values()])
    assert jobs == {
        "rule_tidy": [["cpu", "COMPLETED", "8000M", "1:00:00", "(null)", "1", "1"]],
        "rule_answer_prompts": [["gpu", "COMPLETED", "80000M", "4:00:00", "(null)", "8", "1"]],
        "rule_train_sft": [
            ["gpu", "FAILED", "160000M", "12:00:00", "gpu:a100:2", "8", "1"],
            ["gpu", "COMPLETED", "312.50G", "1-00:00:00", "gpu:a100:2", "8", "1"],
        ],
    }


WRITING = """
rule all:
    input: "made"

# While it runs it says so, ten times a second and by its job's id.
rule made:
    output: "made"
    params: beta=config.get("beta", 1)
    shell:
        "for i in $(seq {config[tenths]}); do echo $SLURM_JOB_ID >> writers; sleep 0.1; done;"
        " echo {params.beta} > {output}"
"""


def kill_head_while_it_writes(workflow: Workflow, tenths: int) -> None:
    head = workflow.start("--config", f"tenths={tenths}")
    workflow.until(lambda: workflow.lines("writers"), "the job")
    head.kill()
    head.wait()
    assert workflow.jobs("%T") == [["RUNNING"]], "a killed head's job runs on"


def test_after_a_killed_head_its_job_is_cancelled_before_another_writes(workflow_in, tmp_path):
    workflow = workflow_in(tmp_path, WRITING)
    kill_head_while_it_writes(workflow, 900)
    said = workflow.orphans()
    assert "cancelling SLURM jobs" in said and "unlocked" in said
    ((first, state),) = workflow.jobs("%i %T")
    assert state == "CANCELLED"
    before = workflow.lines("writers")
    workflow.run("--config", "tenths=3")
    assert [job[0] for job in workflow.jobs("%T")] == ["CANCELLED", "COMPLETED"]
    after = workflow.lines("writers")[len(before) :]
    assert after and first not in after
    assert (tmp_path / "made").read_text() == "1\n"


def test_a_killed_heads_job_may_finish_and_its_file_then_counts_as_what_it_is(workflow_in, tmp_path):
    workflow = workflow_in(tmp_path, WRITING)
    kill_head_while_it_writes(workflow, 50)
    said = workflow.orphans("--wait")
    assert "waiting for SLURM jobs" in said and "1 files were finished" in said
    workflow.run("--config", "tenths=3")
    assert "Nothing to be done" in workflow.log()
    workflow.run("--config", "tenths=3", "beta=2")
    assert [job[0] for job in workflow.jobs("%T")] == ["COMPLETED", "COMPLETED"]
    assert (tmp_path / "made").read_text() == "2\n"


MEETING = """
rule all:
    input: "met"

rule train_sft:
    output: "met"
    resources: gpu=1, nodes=1, parallel="ddp"
    shell:
        "python -m workflow_scripts.common.launch --gpus {resources.gpu} --nodes {resources.nodes}"
        " --parallel {resources.parallel} --processes 1 -- meet {output}"
"""

MEET = """
import os, sys
import torch
from torch import distributed

distributed.init_process_group("gloo")
number = torch.tensor([float(10 ** distributed.get_rank())])
distributed.all_reduce(number)
told = [None, None]
distributed.all_gather_object(told, (os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]))
if distributed.get_rank() == 0:
    open(sys.argv[1], "w").write(f"{number.item():.0f} {sorted(told)}")
distributed.destroy_process_group()
"""


def test_a_training_on_two_nodes_runs_as_the_profiles_comment_says(workflow_in, tmp_path):
    text = (PROFILE / "config.yaml").read_text()
    example = "".join(re.findall(r"^  # (train_sft: .*\n)^  # (.*\n)", text, re.MULTILINE)[0])
    wanted = yaml.safe_load(example)["train_sft"]
    assert (wanted["gpu"], wanted["nodes"], wanted["parallel"]) == (8, 2, "zero3")
    profile = yaml.safe_load(text)
    profile["set-resources"]["train_sft"] = wanted | {"parallel": "ddp"}  # ZeRO needs DeepSpeed and its GPUs
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text(yaml.safe_dump(profile))
    (tmp_path / "meet.py").write_text(MEET)
    workflow = workflow_in(tmp_path, MEETING)
    workflow.run(profile=tmp_path / "profile")
    assert (tmp_path / "met").read_text() == "11 [('gpu1', '0,1,2,3'), ('gpu2', '0,1,2,3')]"
    assert workflow.jobs("%N %D %C") == [["gpu[1-2]", "2", "16"]]


def checkpoints(folder: Path) -> set[str]:
    """Return the names of a training's whole checkpoints."""
    states = folder.glob("work/*/train/*/*/checkpoint-*/trainer_state.json")
    return {state.parent.name for state in states}


def test_a_training_that_is_cancelled_and_then_loses_its_node_ends_in_the_weights_of_one_left_alone(
    cluster, workflow_in, tmp_path, tiny_model
):
    calm = copy_with_study(tmp_path / "calm")
    study = chain_of(tiny_model, training_resources={"gpu": 1, "mem_mb": 1500, "runtime_minutes": 20})
    study["runs"]["sft"] |= {"max_steps": 80, "checkpoint_every": 5}
    (calm / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    target = "results/chain/policies/tiny.sft/seed-1/manifest.json"
    flags = [target, "--set-threads", "train_sft=1"]
    snakemake(calm, "results/chain/tokens/tiny.sft/manifest.json")
    shutil.copytree(calm, tmp_path / "stormy", symlinks=True)
    snakemake(calm, *flags)

    stormy = workflow_in(tmp_path / "stormy")
    head = stormy.start(*flags)
    stormy.until(lambda: checkpoints(stormy.folder), "a checkpoint")
    cluster.run("scancel", stormy.jobs("%i")[-1][0])
    stormy.until(lambda: stormy.jobs("%T")[-1] == ["CANCELLED"], "its cancelling")
    seen = checkpoints(stormy.folder)
    stormy.until(lambda: checkpoints(stormy.folder) - seen, "a checkpoint of the second job")
    node = stormy.jobs("%N")[-1][0]
    cluster.kill_node(node)
    assert head.wait(300) == 0, stormy.log()[-4000:]
    cluster.start_node(node)

    (_, cancelled, _), (rule, completed, last) = stormy.jobs("%k %T %N")
    assert (cancelled, completed, rule) == ("CANCELLED", "COMPLETED", "rule_train_sft_wildcards_tiny.sft_1")
    assert last != node
    log = (stormy.folder / "results/chain/logs/train_sft/tiny.sft-1.log").read_text()
    assert "resuming from" in log
    assert "1 process on GPU" in log, "the device that SLURM gave is used as it is"
    assert (stormy.folder / target).read_text() == (calm / target).read_text()
    assert stale(stormy.folder, target) == set()


def test_what_one_study_made_on_a_node_another_fetches_on_a_node(cluster, workflow_in, tmp_path, tiny_model):
    store = tmp_path / "store"
    store.mkdir()
    clone = copy_with_study(tmp_path / "clone")
    for name in ("first", "second"):
        folder = Path(shutil.copytree(clone, tmp_path / name))
        (folder / "config.yaml").write_text(yaml.safe_dump(chain_of(tiny_model, name), sort_keys=False))
        workflow = workflow_in(folder)
        workflow.env["SNAKEMAKE_OUTPUT_CACHE"] = str(store)
        workflow.run(f"data/clean/{name}/chat/manifest.json", "--cache")
        assert workflow.jobs("%k %T") == [["rule_clean_dataset_wildcards_chat", "COMPLETED"]]
    rows = tmp_path / "second/data/clean/second/chat/rows/train.jsonl"
    assert rows.resolve().is_relative_to(store)
    assert rows.read_text() == (tmp_path / "first/data/clean/first/chat/rows/train.jsonl").read_text()
