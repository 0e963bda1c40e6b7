"""Hostile programs against each sandbox that works on this machine."""

import functools
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.programs import sandbox as module
from workflow_scripts.common.programs.sandbox import SANDBOXES, Outcome, find_sandbox, probe, run_python

REPOSITORY = Path(__file__).resolve().parent.parent
LONG = 40  # seconds: far less than the programs below would sleep, far more than a busy machine needs


@pytest.fixture(params=SANDBOXES)
def run(request):
    """Return a function (code, seconds=20) -> Outcome in one sandbox; skip where it does not work."""
    outcome = probe(request.param)
    if not outcome.passed:
        pytest.skip(f"{request.param} does not work here: {outcome.reason}")
    return functools.partial(run_python, seconds=20.0, memory_mb=512, sandbox=request.param)


def survivors(marker: str) -> list[str]:
    """Return the command lines of host processes that hold `marker` in their program text or arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if marker in line:
            found.append(line)
    return found


def own(seconds: float) -> float:
    """Return a time limit by which the programs of this process are known among those of others."""
    return seconds + os.getpid() / 1e9


def nothing_survives(seconds: float) -> None:
    """Hold that what is left of a program with this time limit goes, and soon."""
    end = time.monotonic() + LONG
    while survivors(str(seconds)):
        assert time.monotonic() < end, survivors(str(seconds))
        time.sleep(0.05)


def test_a_program_that_runs_would_be_seen_to_survive(run):
    sleeper = threading.Thread(
        target=run, args=("import time\ntime.sleep(60)\n",), kwargs={"seconds": own(1.0)}
    )
    sleeper.start()
    seen = False
    while sleeper.is_alive():
        seen = seen or bool(survivors(str(own(1.0))))
        time.sleep(0.02)
    assert seen
    nothing_survives(own(1.0))


def test_a_program_that_holds_passes(run):
    outcome = run("import collections, hashlib, math, re, typing\nassert math.factorial(5) == 120\n")
    assert outcome == Outcome(True, "passed")


def test_a_wrong_answer_fails_with_its_error(run):
    outcome = run("def f():\n    return 1\nassert f() == 2, 'not two'\n")
    assert outcome == Outcome(False, "AssertionError: not two")


def test_a_program_that_does_not_parse_fails(run):
    assert run("def f(:\n").reason.startswith("SyntaxError")


def test_an_endless_loop_ends_at_its_time_limit(run):
    started = time.monotonic()
    outcome = run("while True:\n    pass\n", seconds=1.0)
    assert outcome == Outcome(False, "timed out after 1 s")
    assert time.monotonic() - started < LONG


def test_a_sleeper_that_unsets_its_alarm_is_killed(run, monkeypatch):
    monkeypatch.setattr(module, "START_SECONDS", 1.0)
    code = "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(60)\n"
    started = time.monotonic()
    assert not run(code, seconds=0.5).passed
    assert time.monotonic() - started < LONG


def test_a_fork_bomb_is_stopped_and_nothing_survives(run):
    # `probe` has shown that the limit on processes acts: without it this test would take the machine down.
    code = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    started = time.monotonic()
    assert not run(code, seconds=own(1.0)).passed
    assert time.monotonic() - started < LONG
    nothing_survives(own(1.0))
    assert run("pass\n").passed


def test_no_process_outlives_its_program(run):
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n"
    started = time.monotonic()
    assert run(code, seconds=own(20.0)).passed
    assert time.monotonic() - started < LONG
    nothing_survives(own(20.0))


def test_nothing_can_be_written_anywhere(run, tmp_path):
    name = f"plumbline-escape-{os.getpid()}"
    folders = ["/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/usr", "."]
    folders += [str(folder) for folder in (Path.home(), REPOSITORY, tmp_path)]
    code = (
        f"written = []\nfor folder in {folders!r}:\n    try:\n"
        f"        open(folder + '/{name}', 'w').write('x')\n        written.append(folder)\n"
        "    except OSError:\n        pass\nassert not written, written\n"
    )
    assert run(code) == Outcome(True, "passed")
    assert not [folder for folder in folders if os.path.exists(f"{folder}/{name}")]


def test_homes_the_repository_and_system_secrets_are_out_of_sight(run, tmp_path):
    hidden = tmp_path / "secret"
    hidden.write_text("x")
    hidden.chmod(0o644)
    paths = [str(hidden), str(Path(__file__).resolve()), "/etc/passwd", "/etc/shadow", "/sys/kernel"]
    paths.append("/proc/1/environ")
    code = f"import os\nseen = [path for path in {paths!r} if os.path.exists(path)]\nassert not seen, seen\n"
    assert run(code) == Outcome(True, "passed")


def test_a_listener_on_this_machine_cannot_be_reached(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\n"
        outcome = run(code)
        assert not outcome.passed
        assert "Error" in outcome.reason
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_ten_gigabytes_are_refused(run):
    assert run("block = bytearray(10 * 2**30)\n").reason.startswith("MemoryError")


@pytest.mark.parametrize(
    "code", ["import os\nos._exit(0)\n", "import sys\nsys.exit(0)\n", "raise SystemExit\n", "quit()\n"]
)
def test_leaving_early_with_status_0_is_no_pass(run, code):
    assert not run(code + "raise AssertionError\n").passed


def test_guessing_the_token_on_every_channel_is_no_pass(run):
    code = (
        "import os\nfor channel in range(3, 64):\n    try:\n        os.write(channel, b'0' * 32)\n"
        "    except OSError:\n        pass\nprint('passed')\nos._exit(0)\n"
    )
    assert not run(code).passed


def test_a_flood_of_output_is_not_kept(run):
    assert run("import sys\nfor _ in range(100):\n    sys.stdout.write('x' * 10**6)\n").passed
    flood = (
        "import os\nfor channel in range(3, 64):\n    try:\n        while True:\n"
        "            os.write(channel, b'x' * 4096)\n    except OSError:\n        pass\n"
    )
    assert not run(flood, seconds=1.0).passed


def test_the_environment_holds_no_secret_of_ours(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = "import os\nassert 'secret' not in str(dict(os.environ)), dict(os.environ)\n"
    assert run(code) == Outcome(True, "passed")


def test_input_is_empty(run):
    assert run("input()\n").reason.startswith("EOFError")


def test_killing_the_parent_or_everything_harms_nobody(run):
    code = (
        f"import os, signal\nfor pid in (os.getppid(), 1, {os.getpid()}, -1):\n    try:\n"
        "        os.kill(pid, signal.SIGKILL)\n    except OSError:\n        pass\n"
    )
    assert isinstance(run(code), Outcome)
    assert run("pass\n").passed


def test_no_right_is_left_that_could_open_the_sandbox(run):
    code = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.mount(b'none', b'/usr', None, 32 | 4096, None) == -1, 'remounted /usr'\n"
        "assert libc.umount2(b'/usr', 2) == -1, 'unmounted /usr'\n"
        "assert libc.chroot(b'/usr') == -1, 'changed the root'\n"
        "for become in (os.setuid, os.setgid):\n    try:\n        become(12345)\n"
        "    except OSError:\n        continue\n"
        "    raise AssertionError('changed user')\n"
    )
    assert run(code) == Outcome(True, "passed")


def test_without_a_sandbox_the_error_says_how_to_opt_in(monkeypatch):
    monkeypatch.setattr(module, "probe", lambda sandbox: Outcome(False, f"{sandbox} is not installed"))
    with pytest.raises(PlumblineError, match=r'bwrap is not installed.*"allow_unsandboxed": true'):
        find_sandbox(allow_unsandboxed=False)
    assert find_sandbox(allow_unsandboxed=True) == "none"


def test_unsandboxed_programs_still_meet_their_limits(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = "import os\nassert 'secret' not in str(dict(os.environ))\n"
    assert run_python(code, 5.0, 512, "none") == Outcome(True, "passed")
    assert run_python("while True:\n    pass\n", 0.5, 512, "none") == Outcome(False, "timed out after 0.5 s")
    assert run_python("x = bytearray(10 * 2**30)\n", 5.0, 512, "none").reason.startswith("MemoryError")
    assert not run_python("import os\nos._exit(0)\n", 5.0, 512, "none").passed
