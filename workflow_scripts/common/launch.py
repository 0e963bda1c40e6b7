"""Start a job's module on the GPUs it is to have: `python -m workflow_scripts.common.launch --gpus 2 -- MODULE ARGS...`

On one machine the devices are leased (gpu_lease); under a scheduler those that it gave to the job are used as they are;
a job without GPUs sees none. Without --parallel one process sees all of them. With it each device has a process of its
own, by `accelerate launch` and envs/accelerate/NAME.yaml. With --nodes a process of this module is started by `srun` on
each node of the SLURM allocation, or by hand: `--rank 0 --rendezvous HOST:PORT`, the same on the others with their
rank.

Whatever the job started ends with it, and before its devices are given back; so it does when the launcher is killed.

Not covered: restarts (Snakemake's `retries`), a job that grows or shrinks, schedulers other than SLURM for many nodes.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import write_json
from workflow_scripts.common.gpu_lease import claim, found_gpus, lease, say
from workflow_scripts.common.progress import VARIABLE as PROGRESS
from workflow_scripts.common.progress import progress_file

MODULE = "workflow_scripts.common.launch"
WORKER = "workflow_scripts.common.worker"
ROOT = Path(os.environ.get("PLUMBLINE") or Path(__file__).resolve().parents[2])
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIGNALLED = 128  # what a shell adds to the number of the signal that ended a process
GRACE = 5.0  # seconds that processes left behind by a job have to end after SIGTERM


# --- what is to be run --------------------------------------------------------------------------------------------


def configuration_of(parallel: str) -> Path:
    """Return the accelerate configuration of a name; PlumblineError with those there are if there is none."""
    folder = ROOT / "envs" / "accelerate"
    if not (folder / f"{parallel}.yaml").is_file():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
        raise PlumblineError(f"parallel: {parallel}: no {folder / parallel}.yaml; there are: {names}")
    return folder / f"{parallel}.yaml"


def per_node(total: int, nodes: int) -> int:
    """Return how many of a job's GPUs each node has."""
    if total % nodes:
        fits = [str(count) for count in (total - total % nodes, total - total % nodes + nodes) if count]
        raise PlumblineError(f"{total} GPUs do not share out over {nodes} nodes; ask for {' or '.join(fits)}")
    return total // nodes


def by_accelerate(parallel: str | None, processes: int, gpus: int) -> bool:
    """Return whether `accelerate launch` starts a job's processes, of which there are so many in all.

    One alone needs none, unless it keeps what the optimiser remembers in the machine's memory (`-offload`).
    """
    return parallel is not None and (processes > 1 or (parallel.endswith("-offload") and gpus > 0))


def job_command(
    module: list[str],
    *,
    parallel: str | None,
    processes: int,
    gpus: int,
    nodes: int = 1,
    rank: int | None = None,
    rendezvous: str | None = None,
) -> list[str]:
    """Return the command of one node's share of a job.

    `module` is the module with its arguments, `processes` and `gpus` are those of each node, `rendezvous` is the
    host:port at which several nodes meet.
    """
    if not by_accelerate(parallel, processes * nodes, gpus):
        return [sys.executable, "-m", *module]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(configuration_of(parallel))]
    command += ["--num_processes", str(processes * nodes), "--num_machines", str(nodes)]
    command += ["--machine_rank", str(rank or 0)]
    if nodes > 1:
        host, port = rendezvous.rsplit(":", 1)
        command += ["--main_process_ip", host, "--main_process_port", port]
        if parallel.startswith("zero"):
            command += ["--deepspeed_multinode_launcher", "standard"]
    else:
        command += ["--main_process_port", "0"]
    return [*command, "-m", WORKER, *module]


def step_command(arguments: argparse.Namespace) -> list[str]:
    """Return the `srun` that starts this module once on each node of the allocation, with its rank in SLURM_PROCID."""
    gpus = per_node(arguments.gpus, arguments.nodes)
    command = ["srun", "--nodes", str(arguments.nodes), "--ntasks", str(arguments.nodes)]
    command += ["--ntasks-per-node", "1", *(["--gpus-per-node", str(gpus)] if gpus else [])]
    command += ["--overlap", "--cpu-bind", "none", "--mpi", "none", "--kill-on-bad-exit=1"]
    command += [sys.executable, "-m", MODULE, "--gpus", str(arguments.gpus), "--nodes", str(arguments.nodes)]
    command += ["--rank", "SLURM_PROCID"]
    for flag, value in (("--parallel", arguments.parallel), ("--processes", arguments.processes)):
        command += [flag, str(value)] if value is not None else []
    return [*command, "--", *arguments.module]


def job_environment(
    environment: dict[str, str],
    *,
    devices: list[str] | None,
    parallel: str | None,
    processes: int,
    gpus: int,
    nodes: int = 1,
) -> dict[str, str]:
    """Return the environment of one node's share of a job.

    It names the devices (None: they stay as they are), shares out the threads over the processes, has torchrun find a
    free port, and leads to DeepSpeed's own folder, and to one for what it compiles, where the configuration needs it.
    """
    environment = dict(environment)
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # indices as nvidia-smi counts
    if not by_accelerate(parallel, processes * nodes, gpus):
        return environment
    threads = environment.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        environment["OMP_NUM_THREADS"] = str(max(1, int(threads) // processes))
    if nodes == 1:
        environment["PET_STANDALONE"] = "1"  # a port that the system chose and that torchrun has held since
    if parallel.startswith("zero"):
        environment["TORCH_EXTENSIONS_DIR"] = str(operators_folder(environment))
    if parallel.startswith("zero") and not find_spec("deepspeed"):
        folder = Path(sys.prefix) / "deepspeed"
        if not folder.is_dir():
            raise PlumblineError(
                f"parallel: {parallel} needs DeepSpeed, which is not here: run `make deepspeed`"
            )
        for name, path in (
            ("PYTHONPATH", folder),
            ("PATH", folder / "bin"),
        ):  # it compiles with its own ninja
            environment[name] = os.pathsep.join(filter(None, [environment.get(name), str(path)]))
    return environment


def operators_folder(environment: dict[str, str]) -> Path:
    """Return where DeepSpeed's operators are compiled: for each machine, Python and torch, or where the user says."""
    if named := environment.get("TORCH_EXTENSIONS_DIR"):
        return Path(named)
    cache = Path(os.path.expanduser(environment.get("XDG_CACHE_HOME") or "~/.cache"))
    python = ".".join(map(str, sys.version_info[:2]))
    return cache / "plumbline" / "operators" / f"{platform.node()}-python{python}-torch{version('torch')}"


@contextlib.contextmanager
def compiling(folder: Path) -> Iterator[list[int]]:
    """Give the descriptor that a job's processes share while they may compile in a folder; nobody's locks there go.

    Who compiles an operator leaves a file `lock` beside it until that is done, and who finds one waits: without end,
    and without a word, if it was left by a job that was killed. Where no job has a descriptor, nobody compiles. In a
    folder that cannot be written to nothing can be compiled, and no descriptor is given: not every job needs an
    operator.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "in-use", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield []
        return
    try:
        with contextlib.suppress(OSError):  # another job has one, or the file system knows no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob("*/lock"):
                say(f"{left}: left by a job that was killed, removed")
                left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield [descriptor]
    finally:
        os.close(descriptor)


def described(parallel: str | None, processes: int, devices: list[str], asked: int, nodes: int = 1) -> str:
    """Return one line that says what a job got: "2 processes (zero3) on GPUs 0,1"; `asked` is the GPUs it wanted."""
    manner = f" ({parallel})" if parallel and processes * nodes > 1 else ""
    text = f"{processes} process{'es' if processes > 1 else ''}{manner}"
    if devices:
        text += f" on GPU{'s' if len(devices) > 1 else ''} {','.join(devices)}"
    else:
        text += " on the CPU"
    if len(devices) < asked:
        text += f", of {asked} GPUs asked for"
    return text if nodes == 1 else f"{text}, on each of {nodes} nodes"


# --- where several nodes meet -------------------------------------------------------------------------------------


def rank_of(text: str) -> int:
    """Return a node's rank, given as a number or as the environment variable that holds it."""
    value = os.environ.get(text, text)
    if not value.isdigit():
        raise PlumblineError(f"--rank {text}: neither a number nor an environment variable that holds one")
    return int(value)


def slurm_port(job: int, step: int) -> int:
    """Return a port that all nodes of a job step know without being told, below those the kernel gives out."""
    return 10_000 + (job * 13 + step) % 20_000


def slurm_rendezvous() -> str:
    """Return host:port of the first node of this SLURM job step, by the address SLURM itself finds it at."""
    try:
        hosts = subprocess.run(["scontrol", "show", "hostnames"], capture_output=True, text=True, check=True)
        first = hosts.stdout.split()[0]
        node = subprocess.run(
            ["scontrol", "-o", "show", "node", first], capture_output=True, text=True, check=True
        )
        address = re.search(r"\bNodeAddr=(\S+)", node.stdout)
        job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_ID"])
    except (OSError, subprocess.CalledProcessError, IndexError, KeyError, ValueError) as error:
        raise PlumblineError(
            f"several nodes cannot meet: this is no task of a SLURM job step, or scontrol does not answer ({error}); "
            "give --rank and --rendezvous HOST:PORT"
        ) from None
    return f"{address[1] if address else first}:{slurm_port(job, step)}"


# --- running it ---------------------------------------------------------------------------------------------------


def children() -> list[int]:
    """Return the ids of this process's children, those included that it was left with."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def end_the_rest() -> None:
    """End whatever the job left running, and wait for it: first by SIGTERM, after GRACE seconds by SIGKILL."""
    started, told = time.monotonic(), False
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        late = time.monotonic() - started
        if late > GRACE or (late > 0.5 and not told):
            told = True
            for child in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL if late > GRACE else signal.SIGTERM)
        time.sleep(0.05)


def guard_of(group: int) -> int:
    """Start a process that ends a process group once this process has ended, however; return its id.

    It shares this process's descriptors, so lease and claim last until it is done.
    """
    reading, writing = os.pipe()
    if guard := os.fork():
        os.close(reading)
        return guard
    try:
        os.setsid()
        os.close(writing)
        for signum in FORWARDED:
            signal.signal(signum, signal.SIG_IGN)
        os.read(reading, 1)  # returns when the other end is closed: nobody else has it
        for signum in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(group, signum)
            end = time.monotonic() + GRACE
            while time.monotonic() < end:
                time.sleep(0.05)
                os.killpg(group, 0)  # ProcessLookupError: the last one has ended
    finally:
        os._exit(0)


def supervised(command: list[str], environment: dict[str, str], descriptors: list[int]) -> int:
    """Run a command that shares the descriptors until nothing of it is left; return its exit status (128 + a signal).

    SIGTERM, SIGINT and SIGHUP are passed on to it. If this process is killed, it gets SIGTERM, and SIGKILL if that does
    not do; so that no way of killing leaves it running, it has the kernel's promise beside the guard's.
    """
    launcher, library = os.getpid(), ctypes.CDLL(None)
    linux = sys.platform == "linux"
    if linux:
        library.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def end_with_the_launcher() -> None:
        if linux:
            library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:
            os._exit(1)

    waiting: list[int] = []
    job: subprocess.Popen | None = None

    def forward(signum: int, _frame: object) -> None:
        if command[0] == "srun":
            signum = signal.SIGTERM  # it only tells its state at the first SIGINT
        if job is None:
            waiting.append(signum)
        else:
            job.send_signal(signum)

    for signum in FORWARDED:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, background jobs
            signal.signal(signum, forward)
    job = subprocess.Popen(
        command,
        env=environment,
        pass_fds=descriptors,
        start_new_session=True,  # Ctrl-C reaches the job once, through us
        preexec_fn=end_with_the_launcher,
    )
    guard = guard_of(job.pid)
    for signum in waiting:
        job.send_signal(signum)
    status = job.wait()
    os.kill(guard, signal.SIGKILL)
    os.waitpid(guard, 0)
    if linux:
        end_the_rest()
    return SIGNALLED - status if status < 0 else status


def signal_name(number: int) -> str:
    """Return a signal in words: "SIGKILL (signal 9)"."""
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


class Share(NamedTuple):
    """What one node runs of a job, or all of it: with how many GPUs and processes in the whole job."""

    command: list[str]
    environment: dict[str, str]
    descriptors: list[int]
    gpus: int
    processes: int


def node_share(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Share:
    """Return one node's share of a job, on devices that are its own until the stack closes."""
    nodes, parallel = arguments.nodes, arguments.parallel
    wanted = per_node(arguments.gpus, nodes)
    there = found_gpus() if wanted else []
    scheduled = "SLURM_JOB_ID" in os.environ or "KUBERNETES_SERVICE_HOST" in os.environ
    descriptors = []
    if wanted and scheduled and len(there) <= wanted:
        devices, visible = there, None
        if not there or (len(there) < wanted and nodes > 1):
            raise PlumblineError(
                f"{wanted} GPUs were asked for and the scheduler gave {','.join(there) or 'none'}; "
                "see how the profile asks for GPUs"
            )
    else:
        leased = stack.enter_context(lease(wanted, there)) if wanted else {}
        devices = visible = list(leased)
        descriptors = list(leased.values())
    processes = arguments.processes or (max(1, len(devices)) if parallel else 1)
    rank = rendezvous = None
    if nodes > 1:
        rank = rank_of(arguments.rank)
        rendezvous = arguments.rendezvous or slurm_rendezvous()
    manner = {"parallel": parallel, "processes": processes, "gpus": len(devices), "nodes": nodes}
    say(described(parallel, processes, devices, wanted, nodes))
    environment = job_environment(dict(os.environ), devices=visible, **manner)
    if parallel and parallel.startswith("zero") and "TORCH_EXTENSIONS_DIR" in environment:
        descriptors += stack.enter_context(compiling(Path(environment["TORCH_EXTENSIONS_DIR"])))
    return Share(
        job_command(arguments.module, **manner, rank=rank, rendezvous=rendezvous),
        environment,
        descriptors,
        len(devices) * nodes,
        processes * nodes,
    )


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's values; what they cannot mean together is a PlumblineError."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.split("\n")[0])
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of the job, all its nodes together")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument(
        "--parallel", metavar="NAME", help="one process per GPU, by envs/accelerate/NAME.yaml"
    )
    parser.add_argument("--processes", type=int, help="processes per node, instead of one per GPU")
    parser.add_argument("--rank", help="this node's rank, or the environment variable that holds it")
    parser.add_argument("--rendezvous", metavar="HOST:PORT", help="where nodes meet; default: ask SLURM")
    parser.add_argument("--claim", type=Path, help="lock file to hold while the job runs")
    parser.add_argument("--cost", type=Path, help="JSON file of time and memory to write after success")
    parser.add_argument("module", nargs="+", help="after --: the module and its arguments")
    found = parser.parse_args(arguments)
    if found.gpus < 0 or found.nodes < 1 or (found.processes is not None and found.processes < 1):
        parser.error("--gpus is at least 0, --nodes and --processes are at least 1")
    if found.parallel:
        configuration_of(found.parallel)
    elif found.nodes > 1 or (found.processes or 1) > 1:
        parser.error("several nodes or processes need --parallel")
    if found.nodes > 1 and found.rank is None and "SLURM_JOB_ID" not in os.environ:
        raise PlumblineError(
            f"--nodes {found.nodes}: outside SLURM start this on each node, with --rank 0, 1 ... and one "
            "--rendezvous HOST:PORT"
        )
    return found


def main() -> None:
    arguments = parsed(sys.argv[1:])
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # who interrupts a waiting job wants no traceback
    if file := progress_file():
        os.environ[PROGRESS] = str(file)  # workers on other nodes have no log to find it by
    with contextlib.ExitStack() as stack:
        descriptors = stack.enter_context(claim(arguments.claim)) if arguments.claim else []
        if arguments.nodes > 1 and arguments.rank is None:
            processes = arguments.nodes * (
                arguments.processes or max(1, per_node(arguments.gpus, arguments.nodes))
            )
            share = Share(step_command(arguments), dict(os.environ), [], arguments.gpus, processes)
        else:
            share = node_share(arguments, stack)
        started = time.monotonic()
        status = supervised(share.command, share.environment, [*descriptors, *share.descriptors])
        seconds = time.monotonic() - started
    if status > SIGNALLED:
        say(f"ended by {signal_name(status - SIGNALLED)}")
    if arguments.cost and status == 0:
        measures = {
            "wall_seconds": round(seconds, 1),
            "gpu_seconds": round(seconds * share.gpus, 1),
            "processes": share.processes,
        }
        if arguments.nodes == 1:  # else the children are elsewhere; of several the largest counts
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            measures["peak_memory_mb"] = peak // 1024
        write_json(arguments.cost, measures)
    sys.exit(status)


if __name__ == "__main__":
    run(main)
