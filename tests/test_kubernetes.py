"""The Kubernetes profile against a stand-in for a cluster: what pods ask for, and what failures and dead heads do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.kubernetes_api import Cluster

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / "contrib" / "kubernetes"

pytestmark = pytest.mark.skipif(
    not find_spec("snakemake_executor_plugin_cluster_generic"),
    reason="snakemake-executor-plugin-cluster-generic is not installed",
)

# Rules named as two of ours are, so that the profile's own resources hold for them.
WORKFLOW = """
rule all:
    input: "score.txt"

rule train_sft:
    output: "model.txt"
    threads: 3
    resources: gpu=2, nodes=1
    shell:
        "echo begun >> begun.txt; while [ ! -e go ]; do sleep 0.1; done; "
        "echo '{resources.gpu} GPUs of '$KUBERNETES_SERVICE_HOST > {output}"

rule score_tutor:
    input: "model.txt"
    output: "score.txt"
    shell: "cp {input} {output}"
"""


@pytest.fixture
def folder(tmp_path):
    """A workflow with a copy of the profile, on what is the volume of the cluster; its path is an odd one."""
    folder = tmp_path / "été's [1] (x) y"
    shutil.copytree(PROFILE, folder / "contrib" / "kubernetes")
    (folder / "Snakefile").write_text(WORKFLOW)
    template = folder / "contrib" / "kubernetes" / "job.yaml"
    text = template.read_text()
    assert text.count("mountPath: /plumbline}") == 1
    template.write_text(text.replace("mountPath: /plumbline}", f"mountPath: {json.dumps(str(folder))}}}"))
    return folder


@pytest.fixture
def cluster(folder):
    made = Cluster(folder)
    yield made
    made.close()


def head(folder, cluster, *flags):
    """Start snakemake with the profile, as in a pod on the volume."""
    environment = os.environ | {
        "PLUMBLINE_KUBERNETES": cluster.address,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "snakemake", "--workflow-profile", "contrib/kubernetes"),
            *("--seconds-between-status-checks", "1", "--latency-wait", "5", *flags),
        ],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def set_resources(folder, **resources):
    """Add to what the profile gives train_sft; on the command line it would replace all that the profile sets."""
    path = folder / "contrib" / "kubernetes" / "config.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["set-resources"]["train_sft"] |= resources
    path.write_text(yaml.safe_dump(profile))


def finish(process, seconds=300):
    output = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, output
    return output


def container_of(job):
    return job["spec"]["template"]["spec"]["containers"][0]


def test_a_job_asks_for_what_its_rule_does_and_runs_on_the_volume(folder, cluster):
    (folder / "go").touch()
    set_resources(folder, gpu_product="NVIDIA-A100-SXM4-80GB", machine_type="a2-highgpu-2g")
    finish(head(folder, cluster))
    assert cluster.refusals == []
    (train,), (score,) = cluster.named("train-sft"), cluster.named("score-tutor")
    pod, container = train["spec"]["template"]["spec"], container_of(train)
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "160000Mi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "160000Mi", "nvidia.com/gpu": "2"},
    }
    assert pod["nodeSelector"] == {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        "node.kubernetes.io/instance-type": "a2-highgpu-2g",
    }
    assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert train["spec"]["activeDeadlineSeconds"] == 720 * 60
    assert container["image"] == container_of(yaml.safe_load((PROFILE / "job.yaml").read_text()))["image"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {str(folder), "/dev/shm"}
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "plumbline"}
    assert container_of(score)["resources"]["requests"] == {"cpu": "1", "memory": "8000Mi"}
    assert "tolerations" not in score["spec"]["template"]["spec"]
    assert (folder / "score.txt").read_text() == "2 GPUs of 10.0.0.1\n"


def test_after_lack_of_memory_or_a_dead_node_a_job_runs_again_with_more_memory_and_time(folder, cluster):
    cluster.wants_mb = {"train-sft": 200_000}
    running = head(folder, cluster, "model.txt")
    cluster.lose_node(cluster.wait_for("train-sft"))  # the second: the first had too little memory
    (folder / "go").touch()
    output = finish(running)
    asked = [container_of(job)["resources"]["limits"]["memory"] for job in cluster.named("train-sft")]
    assert asked == ["160000Mi", "320000Mi", "480000Mi"]
    assert [job["spec"]["activeDeadlineSeconds"] for job in cluster.named("train-sft")] == [
        43200,
        86400,
        86400,
    ]
    assert "OOMKilled, exit code 137" in output and "NodeLost" in output


def leave_an_orphan(folder, cluster):
    """Kill a head while its job runs, and return the job's name."""
    first = head(folder, cluster, "model.txt")
    name = cluster.wait_for("train-sft")
    while not (folder / "begun.txt").exists():
        time.sleep(0.1)
    first.kill()
    first.communicate()
    unlock = [sys.executable, "-m", "snakemake", "--unlock"]
    subprocess.run(unlock, cwd=folder, check=True, capture_output=True)
    return name


def test_a_job_that_outlives_its_head_is_waited_for_and_not_started_twice(folder, cluster):
    name = leave_an_orphan(folder, cluster)
    second = head(folder, cluster, "model.txt")
    told = f"{name} was begun by a run before and is waited for"
    assert any(told in line for line in second.stdout)  # read until it is said
    (folder / "go").touch()
    finish(second)
    assert list(cluster.jobs) == [name]
    assert (folder / "begun.txt").read_text() == "begun\n"


def test_a_job_that_outlives_its_head_and_its_settings_is_ended_before_another_writes_its_files(
    folder, cluster
):
    name = leave_an_orphan(folder, cluster)
    (folder / "Snakefile").write_text(
        WORKFLOW.replace("threads: 3", 'threads: 3\n    params: code="another"')
    )
    second = head(folder, cluster, "model.txt")
    while not cluster.deleted:
        time.sleep(0.1)
    (folder / "go").touch()
    output = finish(second)
    assert f"{name} was begun by a run before, from what has changed since, and is ended" in output
    assert cluster.deleted == [name] and len(cluster.jobs) == 2


def test_while_the_cluster_cannot_be_reached_a_job_counts_as_running(folder):
    cluster = Cluster(folder)
    cluster.out_of_order = 3
    command = [sys.executable, PROFILE / "jobs.py", "--status", "train-sft-0"]
    environment = os.environ | {"PLUMBLINE_KUBERNETES": cluster.address}
    overloaded = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    known = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    cluster.close()
    unreachable = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (overloaded.stdout, known.stdout, unreachable.stdout) == ("running\n", "failed\n", "running\n")
    assert "503" in overloaded.stderr and "gone from the cluster" in known.stderr
    assert "cannot be reached" in unreachable.stderr


def test_what_the_cluster_refuses_is_said_in_its_words(folder, cluster):
    template = folder / "contrib" / "kubernetes" / "job.yaml"
    template.write_text(
        template.read_text().replace("mountPath: /dev/shm", f"mountPath: {json.dumps(str(folder))}")
    )
    failed = head(folder, cluster, "--retries", "0")
    output = failed.communicate(timeout=300)[0]
    assert failed.returncode != 0
    assert "the cluster refuses train-sft-" in output and "mountPath: must be unique" in output


def test_a_job_over_several_nodes_is_refused_with_the_reason(folder, cluster):
    set_resources(folder, nodes=2)
    failed = head(folder, cluster, "--retries", "0")
    output = failed.communicate(timeout=300)[0]
    assert failed.returncode != 0 and not cluster.jobs
    assert "asks for 2 nodes; on Kubernetes a job is one pod" in output


def test_cancelling_deletes_the_jobs(folder, cluster):
    running = head(folder, cluster)
    name = cluster.wait_for("train-sft")
    subprocess.run(
        [sys.executable, PROFILE / "jobs.py", name, "gone-already"],
        env=os.environ | {"PLUMBLINE_KUBERNETES": cluster.address},
        check=True,
    )
    assert cluster.deleted == [name]
    running.send_signal(signal.SIGKILL)
    running.communicate()


def test_outside_a_cluster_it_says_how_to_reach_one():
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("KUBERNETES", "PLUMBLINE"))
    }
    done = subprocess.run(
        [sys.executable, PROFILE / "jobs.py", "--status", "x"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "kubectl proxy" in done.stderr
