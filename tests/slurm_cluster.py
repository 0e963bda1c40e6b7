"""A real SLURM on this machine: munge, a controller and a daemon per pretended node, all on loopback, all our children.

It runs from a folder that `envs/slurm-test.sh` filled (PLUMBLINE_SLURM, or work/slurm of the repository) or from
what is installed, as any user, and writes only to a folder of its own. Its nodes claim more CPUs, memory and GPUs than
there are: what a job asks for is granted and counted as on a real cluster, CUDA_VISIBLE_DEVICES included, but no device
is behind it. Not covered: accounting (`sacct`), cgroups, and limits other than those of memory and time.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
CPUS, MEMORY_MB = 64, 512_000  # what each node claims to have

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=15
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
EnforcePartLimits=ALL
GresTypes=gpu
MinJobAge=7200
SlurmdTimeout=6
SlurmctldTimeout=10
KillWait=2
MessageTimeout=10
"""


class Unavailable(Exception):
    """There is no SLURM here, or it does not start; the message says which and what to do."""


class Node(NamedTuple):
    """A pretended node: its partition, and the GPUs it claims to have (`a100:4`)."""

    partition: str
    gpus: str = ""


NODES = {"cpu1": Node("cpu"), "gpu1": Node("gpu", "a100:4"), "gpu2": Node("gpu", "a100:4")}


class Cluster:
    """A running cluster. `env` is the environment in which its commands, and Snakemake, find it."""

    def __init__(self, folder: Path, prefix: Path | None, nodes: dict[str, Node]):
        self.folder, self.prefix, self.nodes = folder, prefix, nodes
        self.processes: dict[str, subprocess.Popen] = {}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.env["PATH"] = f"{folder}/bin:{search_path(prefix)}"
        if prefix:
            self.env["LD_LIBRARY_PATH"] = ":".join(map(str, libraries(prefix)))

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in the cluster's environment; return what it prints."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self, folder: Path, fields: str = "%i %T") -> list[list[str]]:
        """Return the jobs submitted from a folder, finished ones included, the oldest first.

        Each is a list of squeue's `fields`, divided by spaces: %i id, %T state, %k comment, %N nodes, %m memory.
        """
        text = self.run("squeue", "-h", "-t", "all", "-S", "i", "-o", "|".join([*fields.split(), "%Z"]))
        rows = [line.split("|") for line in text.splitlines()]
        return [row[:-1] for row in rows if row[-1] == str(folder)]

    def until(self, condition: Callable[[], object], what: str, seconds: float = 240) -> None:
        """Wait until a condition holds; AssertionError after some seconds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what} did not come within {seconds:.0f} s"
            time.sleep(0.2)

    def kill_node(self, node: str) -> None:
        """Take a node's power away: its daemon and all that runs on it are gone at once.

        That it is down is said to the controller, which would else take half a minute to see it.
        """
        daemon = psutil.Process(self.processes.pop(f"slurmd.{node}").pid)
        here = [process for process in psutil.process_iter() if self._node_of(process) == node]
        victims = [daemon, *here]
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.wait()
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=no-power")

    def _node_of(self, process: psutil.Process) -> str | None:
        """Return a process's node: a job's is told by its environment, that of a step's manager by its open log."""
        try:
            environment = process.environ()
            if str(self.folder) in environment.get("PATH", "") and "SLURMD_NODENAME" in environment:
                return environment["SLURMD_NODENAME"]
            if " ".join(process.cmdline()).startswith("slurmstepd"):
                logs = [Path(opened.path) for opened in process.open_files()]
                return next((log.name.split(".")[1] for log in logs if log.parent == self.folder), None)
        except psutil.Error:  # it has ended, or is another user's
            pass
        return None

    def start_node(self, node: str) -> None:
        """Start a node's daemon, and wait until the controller has it."""
        step = ["-d", str(self.prefix / "usr/sbin/slurmstepd")] if self.prefix else []
        self._start(f"slurmd.{node}", "slurmd", "-D", "-N", node, *step)
        self.await_start(f"node {node}", lambda: self.state_of(node) in ("idle", "mixed", "allocated"))

    def state_of(self, node: str) -> str:
        """Return what the controller thinks of a node: idle, mixed, allocated, down ..."""
        return self.run("sinfo", "-h", "-N", "-n", node, "-o", "%T", check=False).strip().rstrip("*")

    def start(self) -> None:
        """Start munge, the controller and every node."""
        write_configuration(self.folder, self.prefix, self.nodes, free_ports(1 + len(self.nodes)))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        paths = {
            "key-file": key,
            "socket": self.folder / "munge.sock",
            "pid-file": self.folder / "munged.pid",
        }
        paths |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munge.seed"}
        self._start("munged", "munged", "-F", *(f"--{flag}={path}" for flag, path in paths.items()))
        self.await_start("munge", (self.folder / "munge.sock").exists)
        self._start("slurmctld", "slurmctld", "-D")
        self.await_start("the controller", lambda: self.run("sinfo", "-h", check=False))
        for node in self.nodes:
            self.start_node(node)

    def stop(self) -> None:
        """Cancel what still runs, give it time to end, and stop every daemon."""
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            self.run("scancel", "--user", pwd.getpwuid(os.geteuid()).pw_name, check=False)
            self.until(lambda: not self.run("squeue", "-h", check=False), "the end of every job", 10)
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *command: str) -> None:
        program = shutil.which(command[0], path=search_path(self.prefix))
        with open(self.folder / f"{name}.out", "ab") as output:
            self.processes[name] = subprocess.Popen(
                [program, *command[1:]],
                env=self.env | {"SLURM_CONF": str(self.folder / "slurm.conf")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )

    def await_start(self, what: str, ready: Callable[[], object]) -> None:
        """Wait until something is up; Unavailable, with the ends of the logs, if a daemon ends or it takes a minute."""
        end = time.monotonic() + 60
        while not ready():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > end:
                logs = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
                tails = "\n".join(f"{path.name}: {path.read_text()[-500:]}" for path in sorted(logs))
                raise Unavailable(f"{what} did not start (ended: {', '.join(ended) or 'nothing'})\n{tails}")
            time.sleep(0.05)


@contextlib.contextmanager
def slurm_cluster(nodes: dict[str, Node] = NODES) -> Iterator[Cluster]:
    """Give a running cluster and stop it in the end; Unavailable where there is no SLURM or it does not start."""
    prefix = find_prefix()
    folder = Path(
        tempfile.mkdtemp(prefix="slurm-")
    )  # a short path: munge's socket must not exceed 107 characters
    folder.chmod(0o755)  # munge wants it open
    cluster = Cluster(folder, prefix, nodes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def find_prefix() -> Path | None:
    """Return the folder SLURM was unpacked into, or None if it is installed; Unavailable if there is none."""
    folder = Path(os.environ.get("PLUMBLINE_SLURM") or ROOT / "work/slurm").resolve()
    prefix = folder if (folder / "ready").is_file() else None
    if os.environ.get("PLUMBLINE_SLURM") and not prefix:
        raise Unavailable(
            f"PLUMBLINE_SLURM: {folder} holds no SLURM (envs/slurm-test.sh {folder} fetches it)"
        )
    missing = [name for name in (*DAEMONS, *CLIENTS) if not shutil.which(name, path=search_path(prefix))]
    if missing:
        raise Unavailable(f"no SLURM here ({', '.join(missing)}): envs/slurm-test.sh work/slurm fetches one")
    return prefix


def search_path(prefix: Path | None) -> str:
    """Return where SLURM's programs are looked for."""
    own = [str(prefix / "usr/sbin"), str(prefix / "usr/bin")] if prefix else []
    return ":".join([*own, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def libraries(prefix: Path) -> list[Path]:
    """Return the library folders of an unpacked SLURM: the shared ones, and its own plugins."""
    found = next((prefix / "usr/lib").rglob("libmunge.so.2")).parent
    return [found, found / "slurm-wlm"]


def write_configuration(folder: Path, prefix: Path | None, nodes: dict[str, Node], ports: list[int]) -> None:
    """Write slurm.conf, gres.conf, cgroup.conf and the clients that know where slurm.conf is."""
    host = socket.gethostname().split(".")[0]
    lines = [
        CONFIGURATION.format(host=host, port=ports[0], folder=folder, user=pwd.getpwuid(os.geteuid()).pw_name)
    ]
    if prefix:
        lines.append(f"PluginDir={libraries(prefix)[1]}")
    gres = []
    for (name, node), port in zip(nodes.items(), ports[1:], strict=True):
        (folder / f"spool.{name}").mkdir()
        more = ""
        if node.gpus:
            model, count = node.gpus.split(":")
            more = f" Gres=gpu:{node.gpus}"
            gres.append(
                f"NodeName={name} Name=gpu Type={model} File={device_files(folder / name, int(count))}"
            )
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory={MEMORY_MB}"
            f"{more} State=UNKNOWN"
        )
    for number, partition in enumerate(dict.fromkeys(node.partition for node in nodes.values())):
        members = ",".join(name for name, node in nodes.items() if node.partition == partition)
        lines.append(
            f"PartitionName={partition} Nodes={members} Default={'NO' if number else 'YES'} MaxTime=2-0 State=UP"
        )
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    (folder / "gres.conf").write_text("\n".join(gres) + "\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    # Snakemake's jobs shed every SLURM_ variable, SLURM_CONF too; a real cluster has its configuration in /etc.
    (folder / "bin").mkdir()
    for name in CLIENTS:
        client = folder / "bin" / name
        program = shutil.which(name, path=search_path(prefix))
        client.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {program} "$@"\n')
        client.chmod(0o755)


def device_files(folder: Path, count: int) -> str:
    """Return the names of character devices for a node's GPUs: SLURM counts devices, and a plain file is none."""
    if os.geteuid() == 0:
        folder.mkdir()
        with contextlib.suppress(PermissionError):
            for number in range(count):
                os.mknod(folder / f"nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            return f"{folder}/nvidia[0-{count - 1}]"
    return f"/dev/tty[0-{count - 1}]"


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however it ends."""
    ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)
    os.setsid()
