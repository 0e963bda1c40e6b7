"""Leases of devices that are only names: many processes, killed holders, surviving children, lock files of others."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.gpu_lease import claim, found_gpus, lease, lock_names, taken

ROOT = Path(__file__).resolve().parents[1]

# Jobs one after the other, each with devices of its own: a marker made with O_EXCL tells if another job is on a device.
JOBS = """
import os, random, sys, time
from workflow_scripts.common.gpu_lease import found_gpus, lease
markers, jobs, most, pick = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), random.Random(sys.argv[4])
for _ in range(jobs):
    count = pick.randint(1, most)
    with lease(count, found_gpus()) as held:
        assert len(held) == count
        for device in held:
            os.close(os.open(f"{markers}/{device}", os.O_CREAT | os.O_EXCL))
        time.sleep(pick.uniform(0, 0.1))
        for device in held:
            os.remove(f"{markers}/{device}")
    print("done", flush=True)
"""

# A holder that is killed, or ends, with or without a child that has the descriptors.
HOLDER = """
import subprocess, sys, time
from workflow_scripts.common.gpu_lease import found_gpus, lease
with lease(int(sys.argv[1]), found_gpus()) as held:
    if sys.argv[2] == "child":
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        child = subprocess.Popen(["sleep", "60"], pass_fds=held.values(), **quiet)
        print(child.pid, flush=True)
    print("held", *held, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of four GPUs that are only names, with its own lock folder, outside any scheduler."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLUMBLINE_GPUS", "0,1,2,3")
    monkeypatch.setenv("PLUMBLINE_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def start(script: str, *arguments: object, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def held_by(*arguments: object) -> tuple[subprocess.Popen, list[str]]:
    """Start HOLDER and return it with the lines it printed once it held its devices."""
    holder, lines = start(HOLDER, *arguments), []
    while not lines or not lines[-1].startswith("held"):
        lines.append(holder.stdout.readline().strip())
        assert lines[-1], holder.stderr.read()
    return holder, lines


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def finish(workers: list[subprocess.Popen], seconds: float = 120) -> list[str]:
    """Wait for workers, hold each to status 0, and return what each printed."""
    told = []
    for worker in workers:
        out, errors = worker.communicate(timeout=seconds)
        assert worker.returncode == 0, errors
        told.append(out)
    return told


def fake_nvidia_smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("PLUMBLINE_GPUS")


# --- nobody shares a device ---------------------------------------------------------------------------------------


def test_forty_jobs_of_two_pipelines_never_share_a_device(tmp_path):
    """The second pipeline sees other devices than the first, in another order: they have no queue in common."""
    (tmp_path / "markers").mkdir()
    pipelines = [{"PLUMBLINE_GPUS": "0,1,2,3"}, {"PLUMBLINE_GPUS": "3,2,1"}]
    workers = [start(JOBS, tmp_path / "markers", 5, 3, seed, **pipelines[seed % 2]) for seed in range(8)]
    assert "".join(finish(workers)).count("done") == 40


def test_jobs_that_each_want_most_devices_do_not_block_each_other(tmp_path):
    (tmp_path / "markers").mkdir()
    workers = [start(JOBS, tmp_path / "markers", 3, 4, f"wide {seed}") for seed in range(4)]
    assert "".join(finish(workers)).count("done") == 12


def test_a_job_that_wants_all_devices_is_not_overtaken_for_ever_by_small_ones(machine):
    holder, _ = held_by(1, "alone")
    wide = start(HOLDER, 4, "alone")
    assert "waiting for 4 of GPUs 0,1,2,3" in wide.stderr.readline()
    small = start(HOLDER, 1, "alone")
    assert "waiting for a turn to take 1" in small.stderr.readline()
    end(holder)
    assert wide.stdout.readline() == "held 0 1 2 3\n"
    assert small.poll() is None
    end(wide)
    assert small.stdout.readline() == "held 0\n"
    end(small)


def test_those_who_wait_are_told_who_holds_the_device(machine):
    holder, _ = held_by(4, "alone")
    waiter = start(HOLDER, 1, "alone")
    told = waiter.stderr.readline()
    assert f"3 is held by process {holder.pid} (" in told
    assert time.strftime("since %Y-") in told
    for process in (waiter, holder):
        end(process)


def test_a_request_for_more_devices_than_there_are_is_an_error_at_once(machine, monkeypatch):
    with pytest.raises(PlumblineError, match=r"5 GPUs are wanted and this machine has 4 \(0, 1, 2, 3\)"):
        with lease(5, found_gpus()):
            pass
    monkeypatch.setenv("PLUMBLINE_GPUS", "")
    with pytest.raises(PlumblineError, match=r"has 0 \(none\)"):
        with lease(1, found_gpus()):
            pass


# --- holders that end ---------------------------------------------------------------------------------------------


def test_a_killed_holder_frees_its_devices(machine):
    holder, _ = held_by(4, "alone")
    end(holder)
    with lease(4, found_gpus()) as held:
        assert list(held) == ["0", "1", "2", "3"]


def test_a_holder_killed_while_it_waits_leaves_the_turn_to_the_next(machine):
    holder, _ = held_by(1, "alone")
    wide = start(HOLDER, 4, "alone")
    assert "waiting" in wide.stderr.readline()
    end(wide)
    with lease(3, found_gpus()) as held:
        assert list(held) == ["1", "2", "3"]
    end(holder)


def test_a_child_that_outlives_its_killed_holder_keeps_the_devices(machine):
    holder, lines = held_by(3, "child")
    end(holder)
    child = int(lines[0])
    waiter = start(HOLDER, 2, "alone")
    try:
        assert f"0 is held by what is left of process {holder.pid}" in waiter.stderr.readline()
        time.sleep(0.5)
        assert waiter.poll() is None
    finally:
        os.kill(child, signal.SIGKILL)
    assert waiter.stdout.readline() == "held 0 1\n"
    end(waiter)


def test_a_lease_that_is_given_back_stays_with_a_child_that_has_its_descriptors(machine):
    with lease(1, ["0"]) as held:
        child = subprocess.Popen(["sleep", "60"], pass_fds=held.values())
    path = machine / "locks" / "0.lock"
    assert taken(path) is None
    end(child)
    os.close(taken(path))


# --- lock files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"\xff\x00 no JSON",
        b"[1, 2]",
        b'{"pid": "x"}',
        json.dumps(
            {"pid": 1, "host": "elsewhere", "command": "a" * 5000, "since": "\x1b[2Jlong ago"}
        ).encode(),
        json.dumps({"pid": 2**70, "host": os.uname().nodename, "command": "x", "since": "y"}).encode(),
    ],
)
def test_what_a_lock_file_holds_is_never_believed(machine, told, capfd):
    (machine / "locks").mkdir()
    path = machine / "locks" / "0.lock"
    path.write_bytes(told)
    with lease(1, ["0"]):
        path.write_bytes(told)
        waiter = start(HOLDER, 1, "alone", PLUMBLINE_GPUS="0")
        line = waiter.stderr.readline()
        assert "waiting for 1 of GPUs 0: 0 is held by" in line
        assert "\x1b" not in line
        assert len(line) < 500
    assert waiter.stdout.readline() == "held 0\n"
    end(waiter)


def test_everybody_may_use_the_locks_whatever_the_umask(machine):
    before = os.umask(0o077)
    try:
        with lease(2, found_gpus()):
            pass
    finally:
        os.umask(before)
    folder = machine / "locks"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_user_can_take_the_device_that_another_has_given_back(tmp_path_factory, monkeypatch):
    folder = Path("/tmp") / f"plumbline-test-{os.getpid()}-{random.randrange(10**9)}"
    monkeypatch.setenv("PLUMBLINE_GPU_LOCKS", str(folder))
    try:
        with lease(1, ["0"]):
            pass
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                with lease(1, ["0"]):
                    os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_lock_folder_that_cannot_be_used_says_what_to_do(machine, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_GPU_LOCKS", "/proc/locks-here")
    with pytest.raises(PlumblineError, match=r"/proc/locks-here.*PLUMBLINE_GPU_LOCKS"), lease(1, ["0"]):
        pass


def test_a_claim_waits_for_another_and_is_freed_by_a_kill(machine):
    script = "import sys, time\nfrom workflow_scripts.common.gpu_lease import claim\n"
    script += "with claim(sys.argv[1]):\n    print('mine', flush=True)\n    time.sleep(60)"
    path = machine / "deep" / "folder" / "model.lock"
    first = start(script, path)
    assert first.stdout.readline() == "mine\n"
    second = start(script, path)
    assert f"waiting for the claim {path}: held by process {first.pid}" in second.stderr.readline()
    end(first)
    assert second.stdout.readline() == "mine\n"
    end(second)
    with claim(path) as descriptors:
        assert len(descriptors) == 1


# --- which devices there are --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("2,0", ["2", "0"]),
        ("GPU-8f3a1c22-77,GPU-1b", ["GPU-8f3a1c22-77", "GPU-1b"]),
        ("MIG-5c89,1", ["MIG-5c89", "1"]),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
        ("", []),
    ],
)
def test_visible_devices_are_taken_as_they_are_written(monkeypatch, visible, ids):
    monkeypatch.delenv("PLUMBLINE_GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert found_gpus() == ids


LISTING = "echo 'GPU-8f3a1c22-77, 0'; echo 'GPU-1b2c3d4e-88, 1'"


def test_the_driver_is_asked_where_nothing_is_said(machine, monkeypatch):
    fake_nvidia_smi(machine / "bin", LISTING, monkeypatch)
    assert found_gpus() == ["0", "1"]


def test_a_driver_that_fails_is_no_gpu_and_is_told(machine, monkeypatch, capsys):
    fake_nvidia_smi(machine / "bin", "echo 'Driver/library version mismatch'; exit 18", monkeypatch)
    assert found_gpus() == []
    assert "Driver/library version mismatch" in capsys.readouterr().err


def test_a_machine_without_the_driver_has_no_gpus(machine, monkeypatch):
    monkeypatch.delenv("PLUMBLINE_GPUS")
    monkeypatch.setenv("PATH", str(machine))
    assert found_gpus() == []


def test_the_index_and_the_uuid_of_a_device_lead_to_one_lock(machine, monkeypatch):
    fake_nvidia_smi(machine / "bin", LISTING, monkeypatch)
    assert lock_names(["GPU-1b", "GPU-8f3a1c22-77", "MIG-5c89"]) == ["1", "0", "MIG-5c89"]
    assert lock_names(["1", "0"]) == ["1", "0"]


def test_a_device_that_is_named_twice_is_one(machine, monkeypatch):
    fake_nvidia_smi(machine / "bin", LISTING, monkeypatch)
    with pytest.raises(PlumblineError, match="this machine has 1"), lease(2, ["1", "GPU-1b"]):
        pass


def test_allocations_that_count_devices_from_zero_do_not_wait_for_each_other(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu1")
    assert lock_names(["0"]) == ["0"]  # the driver's own count, where SLURM gave nothing
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert lock_names(["0"]) == ["job-7-gpu1-0"]


def test_looking_for_devices_loads_nothing_heavy():
    script = "import sys; from workflow_scripts.common.gpu_lease import found_gpus; found_gpus()\n"
    script += "print(*{'torch', 'numpy', 'filelock', 'asyncio'} & set(sys.modules))"
    assert finish([start(script)]) == ["\n"]
