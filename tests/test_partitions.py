"""What SLURM's partitions allow, held against what jobs ask for: as it was written down, and as a real SLURM says."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.chain import chain_of
from tests.workflow import ROOT
from workflow_scripts.study import partitions as module
from workflow_scripts.study.checking import examine
from workflow_scripts.study.memory import read_profile
from workflow_scripts.study.partitions import (
    Node,
    Partition,
    ask_slurm,
    gpus_in,
    minutes_in,
    partitions_in,
    startable,
    worked_out,
)

PROFILE = read_profile(ROOT / "profiles/slurm-a100")
# As a cluster of two partitions answers: nodes of two kinds in one, and limits beside.
NODES = """\
cpu*|1-00:00:00|(null)|256000|64|12
gpu|2-00:00:00|gpu:a100:4(S:0-1)|512000|64|6
gpu|2-00:00:00|gpu:h100:8(S:0-3)|1024000|96|1
old|infinite|gpu:2|64000+|16|2
"""
LIMITS = """\
PartitionName=cpu AllowAccounts=ALL Default=YES MaxNodes=UNLIMITED MaxTime=1-00:00:00 MaxMemPerNode=UNLIMITED
PartitionName=gpu AllowAccounts=physics,linguistics Default=NO MaxNodes=4 State=UP MaxMemPerNode=500000
PartitionName=old AllowGroups=ALL DenyAccounts=physics Default=NO MaxNodes=UNLIMITED MaxCPUsPerNode=8 State=DOWN
"""
THERE = partitions_in(NODES, LIMITS)


def test_partitions_are_read_with_their_nodes_and_limits():
    assert {
        "cpu": Partition([Node(12, 64, 256000, {})], 1440, True),
        "gpu": Partition(
            [Node(6, 64, 512000, {"a100": 4}), Node(1, 96, 1024000, {"h100": 8})],
            2880,
            accounts=frozenset({"physics", "linguistics"}),
            most_nodes=4,
            most_memory=500000,
        ),
        "old": Partition(
            [Node(2, 16, 64000, {"": 2})], None, denied=frozenset({"physics"}), most_cpus=8, state="DOWN"
        ),
    } == THERE


def test_times_gpus_and_sums_are_read():
    assert [minutes_in(each) for each in ("30:00", "12:00:00", "2-00:00:00", "infinite")] == [
        30,
        720,
        2880,
        None,
    ]
    assert gpus_in("gpu:a100:4(S:0-1),gpu:h100:2(IDX:0-1),shard:8") == {"a100": 4, "h100": 2}
    assert (gpus_in("gpu:4"), gpus_in("(null)")) == ({"": 4}, {})
    sums = [
        720,
        "min(720 * attempt, 1000)",
        "12h",
        "2 * (3 + attempt)",
        "max(1, 90 / 2)",
        "input.size_mb",
        "f()",
    ]
    assert [worked_out(each, 2) for each in sums] == [720, 1000, 720, 10, 45, None, None]


def test_a_banner_before_what_slurm_says_is_passed_over():
    assert partitions_in("Welcome to the cluster!\n\n" + NODES, "Welcome!\n" + LIMITS) == THERE


def looked_at(tiny: Path, profile: dict, **training: object) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts) of a small study whose trainings ask for `training` on the cluster above."""
    study = chain_of(tiny, training_resources={"mem_mb": 1500, "runtime_minutes": 20} | training)
    found = examine(study, [startable(profile, lambda: THERE)])
    return found.wrong, found.doubts


A100S = {"slurm_partition": "gpu", "gpu_model": "a100"}
ON_GPUS = {"": {"slurm_partition": "cpu"}, "train_sft": A100S, "train_offline": A100S}


def on(**more: object) -> dict:
    """Return a profile that sends trainings to GPUs, and says more of them."""
    return ON_GPUS | {"train_sft": ON_GPUS["train_sft"] | more}


def test_what_fits_is_not_spoken_of(tiny_model):
    assert looked_at(tiny_model, on(), gpu=4, runtime_minutes=2880) == ([], [])
    assert looked_at(tiny_model, on(gpu=8, nodes=2)) == ([], [])
    # Of several partitions SLURM takes the first that has room.
    assert looked_at(tiny_model, on(gpu=1, gpu_model="", slurm_partition="cpu, gpu")) == ([], [])


AT = "the profile's set-resources.train_sft"


@pytest.mark.parametrize(
    ("more", "training", "said"),
    [
        ({"runtime": 3000}, {}, f"{AT}.runtime: 3000 minutes; partition gpu ends jobs after 2880"),
        (
            {},
            {"runtime_minutes": 3000},
            "training_resources.runtime_minutes: 3000 minutes; partition gpu ends",
        ),
        ({"mem_mb": 510000}, {}, f"{AT}.mem_mb: 510000 MB; a node of partition gpu has 500000"),
        ({"gpu": 8}, {}, f"{AT}.gpu: 8 a100 GPUs; a node of partition gpu has 4"),
        ({}, {"gpu": 8}, "training_resources.gpu: 8 a100 GPUs; a node of partition gpu has 4"),
        (
            {"gpu": 16, "nodes": 2},
            {},
            f"{AT}.gpu: 8 a100 GPUs on each of 2 nodes; a node of partition gpu has 4",
        ),
        (
            {"gpu": 2, "gpu_model": "v100"},
            {},
            f"{AT}.gpu_model: 2 v100 GPUs; a node of partition gpu has none, but a100, h100",
        ),
        ({"gpu": 8, "nodes": 8}, {}, f"{AT}.nodes: 8 nodes; partition gpu gives a job 4"),
        ({"gpu": 4, "nodes": 3}, {}, f"{AT}.nodes: 4 GPUs do not share out over 3 nodes"),
        (
            {"slurm_partition": "gpu,tpu"},
            {},
            f"{AT}.slurm_partition: there is no partition 'tpu'; there are cpu",
        ),
        (
            {"slurm_partition": "gpu,cpu", "gpu": 8},
            {},
            f"{AT}.gpu: 8 a100 GPUs; a node of partition gpu has 4",
        ),
        (
            {"slurm_partition": "old", "gpu_model": "", "threads": 16},
            {},
            f"{AT}.threads: 16 CPUs; a node of partition old has 8",
        ),
        ({"threads": 128}, {}, f"{AT}.threads: 128 CPUs; a node of partition gpu has 96"),
        (
            {"gpu": 4, "threads": 96},
            {},
            f"{AT}.gpu: 4 GPUs, 1500 MB and 96 CPUs at once, which no node of partition gpu can give",
        ),
        (
            {"slurm_partition": "a100"},
            {},
            f"{AT}.slurm_partition: there is no partition 'a100'; there are cpu, gpu, old",
        ),
        ({"slurm_account": "maths"}, {}, f"{AT}.slurm_account: partition gpu does not take account 'maths'"),
        (
            {"slurm_partition": "old", "slurm_account": "physics", "gpu_model": ""},
            {},
            "does not take account 'physics'",
        ),
    ],
)
def test_what_could_never_start_is_a_mistake_with_the_path_of_its_key(tiny_model, more, training, said):
    wrong, _ = looked_at(tiny_model, on(**more), **training)
    assert len(wrong) == 1, wrong
    assert said in wrong[0]
    assert wrong[0].endswith("never start")


def test_what_could_not_start_when_it_is_tried_again_is_a_doubt(tiny_model):
    wrong, doubts = looked_at(tiny_model, on(runtime="min(2000 * attempt, 9000)"))
    assert wrong == []
    assert doubts == [
        f"{AT}.runtime: tried again, it asks for 4000 minutes; partition gpu ends jobs after 2880: it could not "
        "start then"
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"mem_mb": "2000GB"},
            "mem_mb: '2000GB' cannot be worked out here, and was not held against SLURM's",
        ),
        ({"runtime": "attempt ** 2"}, "runtime: 'attempt ** 2' cannot be worked out here"),
        ({"mem": "2000GB"}, "mem: is not held against SLURM's partitions, as mem_mb would be"),
        (
            {"gres": "gpu:a100:16"},
            "gres: is not held against SLURM's partitions, as gpu and gpu_model would be",
        ),
        ({"slurm_partition": "old", "gpu_model": ""}, "slurm_partition: partition old is DOWN now"),
    ],
)
def test_what_cannot_be_held_against_partitions_is_a_doubt(tiny_model, more, said):
    wrong, doubts = looked_at(tiny_model, on(**more))
    assert not wrong and [line for line in doubts if line.startswith(f"{AT}.{said}")], doubts


def test_rules_that_the_study_may_have_no_jobs_of_are_a_doubt(tiny_model):
    wrong, doubts = looked_at(tiny_model, on() | {"train_online": {"slurm_partition": "tpu"}})
    assert wrong == []
    assert [line.partition(": ")[0] for line in doubts] == [
        "the profile's set-resources.train_online.slurm_partition"
    ]


def test_a_profile_without_slurm_asks_nothing(tiny_model):
    def never() -> str:
        raise AssertionError

    assert examine(chain_of(tiny_model), [startable({"": {"mem_mb": 5}}, never)]).wrong == []


def test_where_slurm_cannot_be_asked_it_is_said(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = examine(chain_of(tiny_model), [startable(PROFILE)])
    assert found.doubts == [
        "the profile: SLURM was not asked what its partitions allow: there is no sinfo here"
    ]
    sinfo = tmp_path / "sinfo"
    sinfo.write_text(
        "#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2\nexit 1\n"
    )
    sinfo.chmod(0o755)
    assert "Unable to contact slurm controller" in ask_slurm()
    sinfo.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    assert "does not answer" in ask_slurm()


def test_a_real_slurm_is_asked_and_check_study_names_what_it_could_never_start(
    cluster, tiny_model, tmp_path, monkeypatch
):
    for name in ("PATH", "LD_LIBRARY_PATH"):
        if name in cluster.env:
            monkeypatch.setenv(name, cluster.env[name])
    assert ask_slurm() == {
        "cpu": Partition([Node(1, 64, 512000, {})], 2880, True),
        "gpu": Partition([Node(2, 64, 512000, {"a100": 4})], 2880),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(chain_of(tiny_model), sort_keys=False))
    profile = yaml.safe_load((ROOT / "profiles/slurm-a100/config.yaml").read_text())
    command = [
        sys.executable,
        "-m",
        "workflow_scripts.study.check",
        "study.yaml",
        "--profile",
        "profile.yaml",
    ]

    def check() -> subprocess.CompletedProcess:
        (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
        environment = cluster.env | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    fine = check()
    assert fine.returncode == 0, fine.stdout + fine.stderr
    profile["set-resources"]["train_sft"] |= {"runtime": 4000, "gpu": 8}
    wrong = check()
    assert wrong.returncode == 1
    assert (
        f"{AT}.runtime: 4000 minutes; partition gpu ends jobs after 2880: it could never start"
        in wrong.stderr
    )
    assert f"{AT}.gpu: 8 a100 GPUs; a node of partition gpu has 4: it could never start" in wrong.stderr
