"""Running untrusted Python where it can neither see nor change anything of ours.

Two sandboxes with the same promises: bubblewrap, and util-linux namespaces where bubblewrap is missing or
does not work. The program sees /usr, the Python installation and /dev/null, all read-only; no /proc, no
home, no repository, no writable place; no network; an environment of ours; its own process ids, all of which
die with it. Limits: wall time, CPU time, address space, processes, file size and open files. Started as
root, it runs as `nobody`. Its tests run beside it in a process of their own, which it can neither read nor
patch (`channel`).

Not covered: kernel bugs; and "none", where a program that runs as root can do what it likes to its tests, too.
"""

import functools
import inspect
import marshal
import os
import re
import secrets
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.programs import channel, wire
from workflow_scripts.common.programs.tested import Program

SANDBOXES = ("bwrap", "unshare")
UNSANDBOXED = "none"
NOBODY = 65534
PROCESSES = 9  # its tests' and eight per program; with memory_mb each this bounds a fork bomb's memory
START_SECONDS = 5.0  # allowed on top of a program's own time for namespaces and interpreter on a busy machine
TIMED_OUT = "timed out"
LONGEST_OUTPUT = 4096  # bytes read from a sandbox; a verdict is shorter than this
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
PYTHON = os.path.realpath(sys.executable)
PYTHON_FLAGS = ("-B", "-P", "-S", "-s")

IMPORTED = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)

# Starts `channel` inside the sandbox, after the `wire` that it imports. Both are compiled already: their code stands
# before the program in the input. Nothing else can import them afterwards.
BOOTSTRAP = """
import marshal, os, sys
codes = marshal.loads(os.read(0, int(sys.argv[1])))
for name, code in codes:
    channel = sys.modules[name] = type(sys)(name)
    exec(code, channel.__dict__)
for name, _ in codes:
    del sys.modules[name]
channel.main(sys.argv[2], float(sys.argv[3]), *map(int, sys.argv[4:]))
"""

# A sandbox is used only if it proves that it is closed and that a fork bomb would end: a limit on processes
# never binds root, and a machine out of process ids takes everyone's work down with it.
PROBE = """
import os, random, time
assert not os.access("/", os.W_OK), "its root folder is writable"
try:
    for _ in range(64):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(1)
except BlockingIOError:
    pass
else:
    raise AssertionError("its limit on processes does not act")
"""


class SandboxMissing(PlumblineError):
    """This machine offers no sandbox, and the study did not allow running without one."""


@dataclass(frozen=True)
class Outcome:
    """Whether a program ran to its last line without an error in its limits, and if not, why."""

    passed: bool
    reason: str


def find_sandbox(allow_unsandboxed: bool = False, asked_in: str = "this benchmark") -> str:
    """Return the first sandbox that works here: "bwrap", "unshare", or "none" if that is allowed.

    Each is tried by really running a program in it. Raises SandboxMissing, with what each attempt said; `asked_in` is
    where a study may allow to do without.
    """
    failures = []
    for sandbox in SANDBOXES:
        outcome = probe(sandbox)
        if outcome.passed:
            return sandbox
        failures.append(f"{sandbox}: {outcome.reason}")
    if allow_unsandboxed:
        return UNSANDBOXED
    raise SandboxMissing(
        f"no sandbox for model-written code ({'; '.join(failures)}). Install bubblewrap, or allow "
        f'unprivileged user namespaces; or set "allow_unsandboxed": true in {asked_in} to run that code '
        "unprotected, with your own rights"
    )


@functools.cache
def probe(sandbox: str) -> Outcome:
    """Return what became of a harmless program that tests the sandbox from inside, once per process."""
    return run_python(PROBE, 10.0, 512, sandbox)


@functools.cache
def compiled_channel() -> bytes:
    """Return the code of `wire` and `channel` for this interpreter: compiling it costs more than starting a program."""
    codes = [
        (module.__name__, compile(inspect.getsource(module), module.__name__, "exec", optimize=2))
        for module in (wire, channel)
    ]
    return marshal.dumps(codes)


def run_python(code: str, seconds: float, memory_mb: int, sandbox: str) -> Outcome:
    """Run code of ours, which has no tests: passed if its last line was reached within the limits."""
    return run_program(Program(code), seconds, memory_mb, sandbox)


def run_program(program: Program, seconds: float, memory_mb: int, sandbox: str) -> Outcome:
    """Run a program in what find_sandbox returned: passed if it and its tests reached their last lines in the limits.

    The limits are wall time in seconds and memory_mb MiB of address space for each process. Leaving early
    with status 0 is no pass: only a token is that the tests' process tells after their last line. Output is thrown
    away; the input is empty. Safe to call from several threads.
    """
    token = secrets.token_hex(16)
    deadline = time.monotonic() + seconds + START_SECONDS
    isolated = sandbox in SANDBOXES
    user = NOBODY if isolated and os.getuid() == 0 else 0
    limits = [seconds, memory_mb * 2**20, _process_limit(isolated), user]
    needed = ",".join(sorted(set(IMPORTED.findall(program.setup)) & sys.stdlib_module_names))
    python = [PYTHON, *PYTHON_FLAGS, "-c", BOOTSTRAP, *map(str, [len(compiled_channel()), needed, *limits])]
    parts = (program.code, program.names, program.setup, program.tests)
    with ExitStack() as stack:
        source = stack.enter_context(tempfile.TemporaryFile())
        source.write(compiled_channel() + channel.packed(token, *parts))
        source.seek(0)
        folder = os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory(prefix="plumbline-")))
        if sandbox == "bwrap":
            command = _bwrap_command(python)
        elif sandbox == "unshare":
            command = _unshare_command(python, folder, seconds + START_SECONDS)
        else:
            command = python
        try:
            process = subprocess.Popen(
                command,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                cwd="/" if isolated else folder,
                start_new_session=True,
            )
        except FileNotFoundError:
            return Outcome(False, f"{command[0]} is not installed")
        try:
            output = _read(process.stdout, deadline)
            if output is not None and len(output) < LONGEST_OUTPUT:  # it has ended; others are not waited for
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the namespace's first process dies with its parent
            status = process.wait()
            process.stdout.close()
    if output == token.encode() and status == 0:
        return Outcome(True, "passed")
    return Outcome(False, _reason(output, status, seconds))


def run_programs(
    programs: Iterable[Program], seconds: float, memory_mb: int, sandbox: str, workers: int
) -> dict[Program, Outcome]:
    """Return what became of each distinct program, `workers` of them running at a time; else as `run_program`."""
    distinct = list(dict.fromkeys(programs))
    with ThreadPoolExecutor(workers) as pool:
        outcomes = pool.map(lambda program: run_program(program, seconds, memory_mb, sandbox), distinct)
        return dict(zip(distinct, outcomes, strict=True))


def _read(stream, deadline: float) -> bytes | None:
    """Return what a pipe gives until its end or LONGEST_OUTPUT bytes; None if the deadline came before."""
    output = b""
    while len(output) < LONGEST_OUTPUT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            return None
        chunk = os.read(stream.fileno(), LONGEST_OUTPUT - len(output))
        if not chunk:
            break
        output += chunk
    return output


def _reason(output: bytes | None, status: int, seconds: float) -> str:
    number = -status if status < 0 else status - 128  # a shell and bwrap report a signal as 128 + its number
    if output is None or number in (signal.SIGALRM, signal.SIGXCPU):
        return f"{TIMED_OUT} after {seconds:g} s"
    text = output.decode(errors="replace").strip()
    if text:
        return text[:500]
    if number in set(signal.Signals):
        return f"killed by {signal.Signals(number).name}"
    return f"ended before its last line, with status {status}"


def _process_limit(isolated: bool) -> int:
    """Return RLIMIT_NPROC for one program; the kernel counts threads, and those of all programs of a user.

    From Linux 5.14 on, each user namespace has its own count. Otherwise those that the user already has are
    added, or no program could start a thread.
    """
    owner = os.getuid() or (NOBODY if isolated else 0)
    release = tuple(map(int, re.match(r"(\d+)\.(\d+)", os.uname().release).groups()))
    if isolated and os.getuid() != 0 and release >= (5, 14):
        return PROCESSES
    present = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == owner:
                present += len(os.listdir(f"/proc/{name}/task"))
    return PROCESSES + present


def _visible_folders() -> tuple[list[str], dict[str, str]]:
    """Return the folders a program may read, and the links {path: target} that lead into them."""
    folders, links = ["/usr"], {}
    for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.isdir(path):
            folders.append(path)
    installation = os.path.realpath(sys.base_prefix)
    if not f"{installation}/".startswith("/usr/"):
        folders.append(installation)
    return folders, links


def _bwrap_command(python: list[str]) -> list[str]:
    command = ["bwrap", "--die-with-parent", "--new-session"]
    command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if os.getuid() != 0:
        command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    else:  # RLIMIT_NPROC never binds root, not even renamed in a user namespace, so BOOTSTRAP becomes nobody
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    folders, links = _visible_folders()
    for folder in folders:
        # Where the real parents are closed to others, so are those that bwrap makes by itself.
        for parent in reversed(Path(folder).parents[:-1]):
            command += ["--dir", str(parent)]
        command += ["--ro-bind", folder, folder]
    for path, target in links.items():
        command += ["--symlink", target, path]
    command += ["--dev-bind", "/dev/null", "/dev/null", "--remount-ro", "/", "--chdir", "/"]
    return [*command, *python]


def _unshare_command(python: list[str], root: str, seconds: float) -> list[str]:
    command = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
        # Root of the namespace could undo its mounts; without capabilities it is nobody special.
        python = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", *python]
    return [*command, "sh", "-c", _mount_script(root), "sh", "timeout", "-s", "KILL", f"{seconds:g}", *python]


def _mount_script(root: str) -> str:
    """Return a shell script that makes a closed root folder at `root` and runs its arguments in it.

    The shell stays the namespace's first process: when it goes, the kernel ends all others. It does not read
    its own input, which is the program's.
    """
    folders, links = _visible_folders()
    quoted = shlex.quote(root)
    lines = ["set -e", "umask 022", f"mount -t tmpfs -o mode=755,size=1m tmpfs {quoted}"]
    for folder in folders:
        lines += [f"mkdir -p {quoted}{shlex.quote(folder)}"]
        lines += [f"mount --rbind {shlex.quote(folder)} {quoted}{shlex.quote(folder)}"]
    lines += [f"ln -s {shlex.quote(target)} {quoted}{path}" for path, target in links.items()]
    lines += [
        # Each mount below a bound folder stays writable unless it is itself remounted.
        "points=$(cut -d' ' -f5 /proc/self/mountinfo)",
        f"for point in $points; do case $point in {quoted}/*)"
        " mount -o remount,bind,ro,nosuid,nodev $point;; esac; done",
        f"cd {quoted}",
        "mkdir old dev",
        ": > dev/null",
        "mount --bind /dev/null dev/null",
        "ln -s old/proc proc",  # umount needs a /proc; the link dangles once the old root is gone
        f"mount -o remount,bind,ro {quoted}",
        "pivot_root . old",
        "cd /",
        "umount -l /old",
        'set +e; "$@"; exit $?',
    ]
    return "\n".join(lines)
