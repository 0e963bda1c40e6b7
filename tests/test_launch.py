"""Jobs under the launcher: which command is built, which devices they see, and that nothing of them is left behind."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.waiting import until
from workflow_scripts.common import launch
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.gpu_lease import taken
from workflow_scripts.common.launch import (
    compiling,
    described,
    job_command,
    job_environment,
    parsed,
    per_node,
    slurm_port,
    step_command,
)

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
ACCELERATE = [PYTHON, "-m", "accelerate.commands.launch", "--config_file"]
CONFIGURATIONS = ROOT / "envs" / "accelerate"
LAUNCH = [PYTHON, "-m", "workflow_scripts.common.launch"]

# What a process of a job says of itself.
TELL = """
import json, os, sys
names = ("CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "MASTER_PORT")
told = {name: os.environ.get(name) for name in names} | {"arguments": sys.argv[1:], "pid": os.getpid()}
print(json.dumps(told), flush=True)
"""
MODULES = {
    "tell": TELL,
    "fail": "import sys\nsys.exit(3)",
    "crash": "import os\nos.kill(os.getpid(), 9)",
    "wait": f"{TELL}\nimport time\ntime.sleep(60)",
    "stubborn": f"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{TELL}\ntime.sleep(60)",
    "polite": "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    f"{TELL}\ntime.sleep(60)",
    "counting": "import signal, sys, time\nseen = []\n"
    "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
    f"{TELL}\nend = time.monotonic() + 60\n"
    "while not seen and time.monotonic() < end: time.sleep(0.05)\n"
    "time.sleep(1)\nsys.exit(40 + len(seen))",
    "littering": "import subprocess, sys\n"
    "child = subprocess.Popen(['sleep', '60'], start_new_session=True, stdout=-3, stderr=-3)\n"
    "print(child.pid, flush=True)",
    "parent": "import subprocess, sys, time\n"
    "stubborn = ['sh', '-c', 'trap \"\" TERM; sleep 60']\n"
    "for command in (['sleep', '60'], stubborn):\n"
    "    child = subprocess.Popen(command, stdout=-3, stderr=-3)\n"
    "    print(child.pid, flush=True)\n"
    "time.sleep(60)",
    "aborting": "import atexit, os, sys\n"
    "class Library:\n"
    "    def __del__(self): os.abort()  # as a thread's terminate() does while Python is taken apart\n"
    "library = Library()\n"
    "tell = lambda word: print(word, os.environ['RANK'], flush=True)\n"
    "atexit.register(tell, 'bye')\n"
    "tell('done')\n"
    "sys.argv[1:] == [os.environ['RANK']] and sys.exit(3)",
    "chatty": "for number in range(2): print(number, 'of', 2)",
    "hungry": "held = bytearray(80 * 2**20)\nimport time\ntime.sleep(0.3)",
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of two GPUs that are only names, outside any scheduler, with small modules to run."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PLUMBLINE", "PET_STANDALONE"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith(("SLURM", "KUBERNETES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PLUMBLINE_GPUS", "0,1")
    monkeypatch.setenv("PLUMBLINE_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    modules = tmp_path / "modules"
    modules.mkdir()
    for name, text in MODULES.items():
        (modules / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{modules}")
    return tmp_path


def start(*arguments: object, **more: object) -> subprocess.Popen:
    command = [*LAUNCH, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **more
    )


def ended(launcher: subprocess.Popen, seconds: float = 300) -> tuple[int, list[dict], str]:
    """Return (exit status, what its processes told, its stderr)."""
    out, errors = launcher.communicate(timeout=seconds)
    return (
        launcher.returncode,
        [json.loads(line) for line in out.splitlines() if line.startswith('{"')],
        errors,
    )


def running(*arguments: object) -> tuple[subprocess.Popen, dict]:
    """Start a job and return it with what its process tells, once it does."""
    launcher = start(*arguments)
    line = launcher.stdout.readline()
    assert line, launcher.stderr.read()
    return launcher, json.loads(line)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_free(path: Path) -> bool:
    """Return whether a lock can be had."""
    if (descriptor := taken(path)) is None:
        return False
    os.close(descriptor)
    return True


# --- commands -----------------------------------------------------------------------------------------------------

TRAIN = ["workflow_scripts.sft.train", "--seed", "1"]
WORKER = ["-m", "workflow_scripts.common.worker", *TRAIN]


@pytest.mark.parametrize("parallel", [None, "ddp", "fsdp", "zero2", "zero3", "zero3-offload"])
def test_one_process_on_the_cpu_is_a_plain_python(parallel):
    assert job_command(TRAIN, parallel=parallel, processes=1, gpus=0) == [PYTHON, "-m", *TRAIN]


@pytest.mark.parametrize("parallel", [None, "ddp", "fsdp", "zero2", "zero3"])
def test_one_process_on_a_gpu_is_a_plain_python(parallel):
    assert job_command(TRAIN, parallel=parallel, processes=1, gpus=1) == [PYTHON, "-m", *TRAIN]


@pytest.mark.parametrize("parallel", ["zero2-offload", "zero3-offload"])
def test_offloading_is_worth_accelerate_on_one_gpu(parallel):
    command = job_command(TRAIN, parallel=parallel, processes=1, gpus=1)
    assert command[:4] == [*ACCELERATE, str(CONFIGURATIONS / f"{parallel}.yaml")][:4]
    assert command[-len(WORKER) :] == WORKER


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "zero2", "zero3", "zero2-offload", "zero3-offload"])
def test_a_process_per_gpu_is_started_by_accelerate_on_a_port_of_its_own(parallel):
    counts = ["--num_processes", "4", "--num_machines", "1", "--machine_rank", "0"]
    expected = [*ACCELERATE, str(CONFIGURATIONS / f"{parallel}.yaml"), *counts]
    expected += ["--main_process_port", "0", *WORKER]
    assert job_command(TRAIN, parallel=parallel, processes=4, gpus=4) == expected
    manner = {"devices": None, "parallel": "ddp", "processes": 4, "gpus": 4}
    assert job_environment({}, **manner)["PET_STANDALONE"] == "1"
    assert "PET_STANDALONE" not in job_environment({}, **manner, nodes=2)


@pytest.mark.parametrize("parallel", ["ddp", "zero3"])
def test_each_node_is_told_its_rank_and_where_to_meet(parallel):
    manner = {"parallel": parallel, "processes": 2, "gpus": 2, "nodes": 3, "rank": 1}
    command = job_command(TRAIN, **manner, rendezvous="node-1:12000")
    counts = ["--num_processes", "6", "--num_machines", "3", "--machine_rank", "1"]
    expected = [*ACCELERATE, str(CONFIGURATIONS / f"{parallel}.yaml"), *counts]
    expected += ["--main_process_ip", "node-1", "--main_process_port", "12000"]
    expected += ["--deepspeed_multinode_launcher", "standard"] if parallel == "zero3" else []
    assert command == [*expected, *WORKER]


def test_one_process_on_each_of_two_cpu_nodes_needs_accelerate():
    manner = {"parallel": "ddp", "processes": 1, "gpus": 0, "nodes": 2, "rank": 0}
    assert job_command(TRAIN, **manner, rendezvous="a:1")[:4] == [*ACCELERATE[:3], "--config_file"]


def test_srun_starts_one_launcher_on_each_node(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    words = ["--gpus", "8", "--nodes", "2", "--parallel", "zero3", "--claim", "x", "--cost", "y"]
    command = step_command(parsed([*words, "--", *TRAIN]))
    text = " ".join(command)
    assert text.startswith("srun --nodes 2 --ntasks 2 --ntasks-per-node 1 --gpus-per-node 4 --overlap ")
    inner = f"{' '.join(LAUNCH)} --gpus 8 --nodes 2 --rank SLURM_PROCID --parallel zero3 -- {' '.join(TRAIN)}"
    assert text.endswith(inner)
    assert "--gpus-per-node" not in step_command(parsed(["--nodes", "2", "--parallel", "ddp", "--", *TRAIN]))


def test_gpus_that_nodes_cannot_share_are_an_error():
    assert per_node(8, 2) == 4
    with pytest.raises(PlumblineError, match="5 GPUs do not share out over 2 nodes; ask for 4 or 6"):
        per_node(5, 2)
    with pytest.raises(PlumblineError, match="ask for 2"):
        per_node(1, 2)


def test_threads_are_shared_out_over_the_processes_of_a_node():
    manner = {"devices": None, "parallel": "ddp", "gpus": 4}
    assert job_environment({"OMP_NUM_THREADS": "8"}, **manner, processes=4)["OMP_NUM_THREADS"] == "2"
    assert job_environment({"OMP_NUM_THREADS": "2"}, **manner, processes=4)["OMP_NUM_THREADS"] == "1"
    assert job_environment({"OMP_NUM_THREADS": "8"}, **manner, processes=1)["OMP_NUM_THREADS"] == "8"
    assert "OMP_NUM_THREADS" not in job_environment({}, **manner, processes=4)


def test_indices_mean_what_the_driver_means_by_them():
    manner = {"parallel": None, "processes": 1, "gpus": 2}
    found = job_environment({}, **manner, devices=["3", "1"])
    assert found == {"CUDA_VISIBLE_DEVICES": "3,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    given = {"CUDA_VISIBLE_DEVICES": "GPU-8f"}
    assert job_environment(given, **manner, devices=None) == given


def test_deepspeed_is_found_in_its_own_folder_or_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    manner = {"devices": None, "parallel": "zero3", "processes": 2, "gpus": 2}
    with pytest.raises(PlumblineError, match="make deepspeed"):
        job_environment({}, **manner)
    (tmp_path / "deepspeed").mkdir()
    found = job_environment({"PYTHONPATH": "/mine", "PATH": "/bin"}, **manner)
    assert found["PYTHONPATH"] == f"/mine:{tmp_path}/deepspeed"
    assert found["PATH"] == f"/bin:{tmp_path}/deepspeed/bin"
    assert "PYTHONPATH" not in job_environment({}, **manner | {"parallel": "fsdp"})
    assert job_environment({}, **manner | {"processes": 1, "gpus": 0}) == {}
    monkeypatch.setattr(launch, "find_spec", lambda name: name)
    assert "PYTHONPATH" not in job_environment({}, **manner)


def test_operators_are_compiled_for_one_machine_python_and_torch_or_where_the_user_says(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(launch, "find_spec", lambda name: name)  # as if DeepSpeed were here
    manner = {"devices": None, "parallel": "zero3", "processes": 2, "gpus": 2}
    found = Path(job_environment({"XDG_CACHE_HOME": str(tmp_path)}, **manner)["TORCH_EXTENSIONS_DIR"])
    assert found.parent == tmp_path / "plumbline" / "operators"
    assert found.name.startswith(platform.node()) and found.name.endswith(f"torch{version('torch')}")
    own = {"TORCH_EXTENSIONS_DIR": "/mine"}
    assert job_environment(own, **manner)["TORCH_EXTENSIONS_DIR"] == "/mine"
    assert "TORCH_EXTENSIONS_DIR" not in job_environment({}, **manner | {"parallel": "fsdp"})


def test_what_a_killed_job_left_locked_while_it_compiled_is_removed_once_no_job_is_left(machine, capfd):
    left = machine / "operators" / "cpu_adam" / "lock"
    left.parent.mkdir(parents=True)
    with compiling(machine / "operators"):
        left.touch()
        with compiling(machine / "operators"):  # the first one may be compiling
            assert left.exists()
    assert left.exists()
    with compiling(machine / "operators"):
        assert not left.exists()
    assert "cpu_adam/lock: left by a job that was killed, removed\n" in capfd.readouterr().err


def test_a_folder_that_cannot_be_made_keeps_no_job_from_running(machine):
    (machine / "file").touch()
    with compiling(machine / "file" / "operators") as descriptors:
        assert descriptors == []


@pytest.mark.skipif(
    not (Path(sys.prefix) / "deepspeed").is_dir(), reason="DeepSpeed is not installed (make deepspeed)"
)
def test_a_job_that_may_compile_holds_the_folder_until_the_last_of_it_has_ended(machine, monkeypatch):
    folder = machine / "operators"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
    launcher, told = start("--gpus", 2, "--parallel", "zero2", "--", "wait"), []
    while len(told) < 2:  # DeepSpeed tells of itself, too
        line = launcher.stdout.readline()
        assert line, launcher.stderr.read()
        told += [json.loads(line)] if line.startswith('{"') else []
    left = folder / "cpu_adam" / "lock"
    left.parent.mkdir()
    left.touch()
    with compiling(folder):
        assert left.exists()
    launcher.kill()
    launcher.wait()
    until(lambda: not any(is_alive(each["pid"]) for each in told))

    def removed() -> bool:
        with compiling(folder):
            return not left.exists()

    until(removed)


@pytest.mark.parametrize(
    ("parallel", "processes", "devices", "asked", "nodes", "text"),
    [
        (None, 1, [], 0, 1, "1 process on the CPU"),
        ("zero3", 1, [], 0, 1, "1 process on the CPU"),
        ("ddp", 2, [], 0, 1, "2 processes (ddp) on the CPU"),
        (None, 1, ["3"], 1, 1, "1 process on GPU 3"),
        (None, 1, ["0", "1"], 2, 1, "1 process on GPUs 0,1"),
        ("zero3", 2, ["0", "1"], 2, 1, "2 processes (zero3) on GPUs 0,1"),
        ("ddp", 2, ["0", "1"], 4, 1, "2 processes (ddp) on GPUs 0,1, of 4 GPUs asked for"),
        ("fsdp", 2, ["0", "1"], 2, 2, "2 processes (fsdp) on GPUs 0,1, on each of 2 nodes"),
        ("ddp", 1, [], 0, 2, "1 process (ddp) on the CPU, on each of 2 nodes"),
    ],
)
def test_a_job_says_what_it_got(parallel, processes, devices, asked, nodes, text):
    assert described(parallel, processes, devices, asked, nodes) == text


def test_ports_of_job_steps_are_apart_and_below_those_the_kernel_gives_out():
    ports = {slurm_port(job, step) for job in range(10_000, 10_100) for step in range(5)}
    assert len(ports) == 500
    assert all(10_000 <= slurm_port(job, 0) < 30_000 for job in range(0, 10**7, 9_999))


def test_a_configuration_that_does_not_exist_is_named_with_those_that_do(machine):
    with pytest.raises(PlumblineError, match=r"parallel: ddpp: no .*ddpp.yaml; there are: ddp, fsdp, zero2"):
        parsed(["--parallel", "ddpp", "--", "tell"])
    status, _, errors = ended(start("--parallel", "ddpp", "--", "tell"))
    assert status == 1
    assert errors.startswith("error: parallel: ddpp")


def test_several_nodes_outside_slurm_are_told_how_to_begin():
    with pytest.raises(PlumblineError, match=r"--rank 0, 1 .+ and one --rendezvous HOST:PORT"):
        parsed(["--nodes", "2", "--parallel", "ddp", "--", "tell"])


def test_starting_a_job_loads_nothing_heavy():
    script = "import sys, workflow_scripts.common.launch\n"
    script += "print(*{'torch', 'numpy', 'yaml', 'filelock', 'asyncio', 'accelerate'} & set(sys.modules))"
    assert subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


# --- devices ------------------------------------------------------------------------------------------------------


def test_a_cpu_job_sees_no_device(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    status, told, errors = ended(start("--", "tell", "--flag", "a b", "--", "-x"))
    assert (status, errors) == (0, "1 process on the CPU\n")
    assert [(each["CUDA_VISIBLE_DEVICES"], each["RANK"]) for each in told] == [("", None)]
    assert told[0]["arguments"] == ["--flag", "a b", "--", "-x"]
    assert not (machine / "locks").exists()


def test_jobs_on_one_machine_get_devices_of_their_own():
    jobs = [running("--gpus", 1, "--", "wait") for _ in range(2)]
    assert sorted(told["CUDA_VISIBLE_DEVICES"] for _, told in jobs) == ["0", "1"]
    third = start("--gpus", 1, "--", "tell")
    assert "waiting for 1 of GPUs 0,1: 0 is held by process" in third.stderr.readline()
    jobs[0][0].terminate()
    status, told, errors = ended(third)
    freed = jobs[0][1]["CUDA_VISIBLE_DEVICES"]
    assert (status, told[0]["CUDA_VISIBLE_DEVICES"]) == (0, freed)
    assert errors.endswith(f"1 process on GPU {freed}\n")
    jobs[1][0].terminate()
    for launcher, _ in jobs:
        assert ended(launcher)[0] == 128 + signal.SIGTERM


def test_one_process_sees_all_devices_of_its_job():
    status, told, errors = ended(start("--gpus", 2, "--", "tell"))
    assert (status, errors) == (0, "1 process on GPUs 0,1\n")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in told] == ["0,1"]


def test_more_gpus_than_the_machine_has_are_an_error_at_once():
    status, told, errors = ended(start("--gpus", 3, "--", "tell"))
    assert (status, told) == (1, [])
    assert errors.startswith("error: 3 GPUs are wanted and this machine has 2 (0, 1)")


@pytest.mark.parametrize("scheduler", ["SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"])
def test_devices_that_a_scheduler_gave_are_used_as_they_are(machine, monkeypatch, scheduler):
    monkeypatch.delenv("PLUMBLINE_GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f,GPU-1b")
    monkeypatch.setenv(scheduler, "1")
    jobs = [running("--gpus", 2, "--", "wait") for _ in range(2)]
    for launcher, told in jobs:
        assert told["CUDA_VISIBLE_DEVICES"] == "GPU-8f,GPU-1b"
        launcher.terminate()
        assert ended(launcher)[2] == "1 process on GPUs GPU-8f,GPU-1b\nended by SIGTERM (signal 15)\n"
    assert not (machine / "locks").exists()


def test_jobs_inside_one_allocation_share_out_its_devices(monkeypatch):
    monkeypatch.delenv("PLUMBLINE_GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    jobs = [running("--gpus", 1, "--", "wait") for _ in range(2)]
    assert sorted(told["CUDA_VISIBLE_DEVICES"] for _, told in jobs) == ["4", "5"]
    for launcher, _ in jobs:
        launcher.terminate()
        ended(launcher)


def test_fewer_devices_than_asked_for_are_used_and_told(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PLUMBLINE_GPUS", "6")
    status, _, errors = ended(start("--gpus", 2, "--parallel", "ddp", "--", "tell"))
    assert (status, errors) == (0, "1 process on GPU 6, of 2 GPUs asked for\n")
    monkeypatch.setenv("PLUMBLINE_GPUS", "")
    status, _, errors = ended(start("--gpus", 2, "--", "tell"))
    assert status == 1
    assert "2 GPUs were asked for and the scheduler gave none" in errors


# --- how jobs end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "status"), [("tell", 0), ("fail", 3), ("crash", 128 + 9)])
def test_a_job_ends_with_the_status_of_its_module(machine, module, status):
    cost = machine / "costs" / "job.json"
    assert ended(start("--cost", cost, "--", module))[0] == status
    assert cost.exists() == (status == 0)


def test_the_cost_of_a_job_is_its_time_its_devices_and_its_memory(machine):
    began = time.monotonic()
    assert ended(start("--gpus", 2, "--cost", machine / "cost.json", "--", "hungry"))[0] == 0
    cost = json.loads((machine / "cost.json").read_text())
    assert set(cost) == {"wall_seconds", "gpu_seconds", "peak_memory_mb", "processes"}
    assert 0.3 <= cost["wall_seconds"] <= time.monotonic() - began + 0.1
    assert cost["gpu_seconds"] == pytest.approx(2 * cost["wall_seconds"], abs=0.11)
    assert 80 <= cost["peak_memory_mb"] < 160
    assert cost["processes"] == 1


def test_a_module_may_end_in_its_own_way_when_the_launcher_is_told_to():
    launcher, _ = running("--", "polite")
    launcher.terminate()
    assert ended(launcher)[0] == 7


def test_an_interrupt_at_the_terminal_reaches_the_module_once():
    launcher, _ = running("--", "counting")
    os.killpg(launcher.pid, signal.SIGINT)
    assert ended(launcher)[0] == 41


def test_a_hangup_that_was_to_be_ignored_is(machine):
    launcher = start("--", "wait", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    told = json.loads(launcher.stdout.readline())
    launcher.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert is_alive(told["pid"])
    launcher.terminate()
    ended(launcher)


def test_what_a_job_leaves_running_is_ended_before_its_devices_are_given_back(machine):
    launcher = start("--gpus", 1, "--", "littering")
    left = int(launcher.stdout.readline())
    assert ended(launcher)[0] == 0
    assert not is_alive(left)


def test_a_killed_launcher_takes_its_job_with_it(machine):
    launcher, told = running("--gpus", 1, "--claim", machine / "claim", "--", "wait")
    assert not is_free(machine / "claim")
    launcher.kill()
    launcher.wait()
    until(lambda: not is_alive(told["pid"]))
    until(lambda: is_free(machine / "locks" / "0.lock") and is_free(machine / "claim"))


def test_a_job_that_ignores_the_end_of_its_launcher_is_killed_and_keeps_lease_and_claim_until_then(machine):
    launcher, told = running("--gpus", 1, "--claim", machine / "claim", "--", "stubborn")
    launcher.kill()
    launcher.wait()
    time.sleep(0.5)
    assert is_alive(told["pid"])
    assert not is_free(machine / "locks" / "0.lock")
    assert not is_free(machine / "claim")
    until(lambda: not is_alive(told["pid"]))
    until(lambda: is_free(machine / "locks" / "0.lock") and is_free(machine / "claim"))


def test_what_a_job_started_ends_with_a_killed_launcher(machine):
    """A process of the job that has none of the descriptors, as engines that start their own processes make them."""
    launcher = start("--gpus", 1, "--", "parent")
    children = [int(launcher.stdout.readline()) for _ in range(2)]
    launcher.kill()
    launcher.wait()
    until(lambda: is_free(machine / "locks" / "0.lock"))
    assert not any(is_alive(child) for child in children)


def test_a_second_writer_says_whom_it_waits_for_and_waits(machine):
    path = machine / "claims" / "model.lock"
    first, told = running("--claim", path, "--", "wait")
    second = start("--claim", path, "--", "tell")
    assert f"waiting for the claim {path}: held by process {first.pid}" in second.stderr.readline()
    time.sleep(0.5)
    assert second.poll() is None
    first.kill()
    first.wait()
    status, told, errors = ended(second)
    assert (status, len(told)) == (0, 1)
    assert errors.endswith("1 process on the CPU\n")


# --- many processes -----------------------------------------------------------------------------------------------


def test_two_gpus_make_two_processes():
    launcher = start("--gpus", 2, "--parallel", "ddp", "--", "tell", "--settings", '{"a": [1]}')
    status, told, errors = ended(launcher)
    assert status == 0, errors
    assert "2 processes (ddp) on GPUs 0,1\n" in errors
    assert sorted((each["RANK"], each["WORLD_SIZE"]) for each in told) == [("0", "2"), ("1", "2")]
    assert {each["CUDA_VISIBLE_DEVICES"] for each in told} == {"0,1"}
    assert {each["OMP_NUM_THREADS"] for each in told} == {"1"}
    assert all(each["arguments"] == ["--settings", '{"a": [1]}'] for each in told)


def test_what_aborts_after_a_worker_is_done_fails_nothing():
    launcher = start("--gpus", 2, "--parallel", "ddp", "--", "aborting")
    out, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    assert sorted(out.splitlines()) == ["bye 0", "bye 1", "done 0", "done 1"]


def test_a_worker_writes_a_line_whole_so_that_no_other_process_can_tear_it():
    read, write = os.pipe2(os.O_DIRECT)  # keeps apart what is written apart
    subprocess.run([PYTHON, "-u", "-m", "workflow_scripts.common.worker", "chatty"], stdout=write, check=True)
    os.close(write)
    assert [os.read(read, 4096).decode() for _ in range(3)] == ["0 of 2\n", "1 of 2\n", ""]
    os.close(read)


def test_a_worker_that_fails_fails_its_job_whatever_the_others_do():
    launcher = start("--gpus", 2, "--parallel", "ddp", "--", "aborting", "1")
    assert ended(launcher)[0] != 0


@pytest.mark.parametrize("victim", ["launcher", "agent"])
def test_no_worker_outlives_a_kill(machine, victim):
    """Of the launcher, and of the process by which accelerate starts workers in sessions of their own."""
    launcher = start("--gpus", 2, "--parallel", "ddp", "--", "wait")
    told = [json.loads(launcher.stdout.readline()) for _ in range(2)]
    parent = int(Path(f"/proc/{told[0]['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != launcher.pid
    os.kill(launcher.pid if victim == "launcher" else parent, signal.SIGKILL)
    launcher.wait(timeout=300)
    until(lambda: not any(is_alive(pid) for pid in [parent, *(each["pid"] for each in told)]))
    until(lambda: is_free(machine / "locks" / "0.lock"))


def test_two_nodes_of_slurm_meet(machine, monkeypatch):
    """`srun` and `scontrol` are stand-ins: two tasks on this machine, whose node is only known by its address."""
    folder = machine / "bin"
    folder.mkdir()
    scripts = {
        "srun": 'while [ "${1%python*}" = "$1" ]; do echo "$1" >> $OPTIONS; shift; done\n'
        "export SLURM_STEP_ID=0\n"
        "SLURM_PROCID=1 CUDA_VISIBLE_DEVICES=2 $@ & SLURM_PROCID=0 CUDA_VISIBLE_DEVICES=3 $@ && wait $!",
        "scontrol": '[ "$2" = hostnames ] && printf "node1\\nnode2\\n" || echo "NodeName=$4 NodeAddr=127.0.0.1 X=1"',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("OPTIONS", str(machine / "options"))
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.delenv("PLUMBLINE_GPUS")
    status, told, errors = ended(
        start("--gpus", 2, "--nodes", 2, "--parallel", "ddp", "--cost", machine / "cost.json", "--", "tell")
    )
    assert status == 0, errors
    assert sorted((each["RANK"], each["LOCAL_RANK"], each["CUDA_VISIBLE_DEVICES"]) for each in told) == [
        ("0", "0", "3"),
        ("1", "0", "2"),
    ]
    assert {each["MASTER_PORT"] for each in told} == {str(slurm_port(os.getpid(), 0))}
    assert "1 process (ddp) on GPU 3, on each of 2 nodes\n" in errors
    assert "--gpus-per-node\n1\n" in (machine / "options").read_text()
    cost = json.loads((machine / "cost.json").read_text())
    assert (cost["processes"], "peak_memory_mb" in cost) == (2, False)


def test_two_nodes_by_hand_train_the_weights_that_one_process_does(tiny_model, machine):
    from safetensors.torch import load_file

    from tests.tiny import align_flags, pairs, preference_settings, write_reference

    stored = write_reference(tiny_model, pairs(12), machine / "reference")
    settings = preference_settings(batch_size=4, per_device_batch=4, max_steps=3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def flags(folder: Path) -> list[str]:
        return ["workflow_scripts.align.dpo", *align_flags(tiny_model, stored, settings, folder)]

    one, two = machine / "one", machine / "two"
    meet = ["--nodes", 2, "--parallel", "ddp", "--rendezvous", f"127.0.0.1:{port}"]
    nodes = [start("--gpus", 2, *meet, "--rank", rank, "--", *flags(two)) for rank in (0, 1)]
    for node in nodes:
        status, _, errors = ended(node, 240)
        assert status == 0, errors[-3000:]
    status, _, errors = ended(start("--", *flags(one)), 240)
    assert status == 0, errors[-3000:]
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    before = load_file(tiny_model / "model.safetensors")
    moved = max((first[name] - before[name]).abs().max().item() for name in first)
    apart = max((first[name] - second[name]).abs().max().item() for name in first)
    assert json.loads((two / "cost.json").read_text())["processes"] == 2
    assert moved > 1e-3
    assert apart < moved / 100
