"""What a user can mend ends a step with one message: a full disk, a folder that is shut, no memory, an interrupt."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.surroundings import FULL, needs
from workflow_scripts.common import errors
from workflow_scripts.common.errors import PlumblineError, spelt

ROOT = Path(__file__).resolve().parents[1]


class SafetensorError(Exception):
    """As safetensors tells of a full disk: no OSError, and the number in words."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "results/x"),
        SafetensorError(
            'Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space …" }'
        ),
        RuntimeError("Failed to write: No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_has_one_message_whoever_wrote(error):
    assert spelt(error).startswith("no space left in ") and "run again, finished work is kept" in spelt(error)


def test_a_full_disk_behind_another_error_is_seen(monkeypatch):
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("could not save") from error
    except ValueError as error:
        assert spelt(error).startswith("no space left in ")
    monkeypatch.setattr(errors, "full_folders", lambda: ["/results"])
    assert "no space left in /results" in spelt(
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos")
    )


def test_an_error_of_the_program_stays_one_on_a_full_disk(monkeypatch):
    monkeypatch.setattr(errors, "full_folders", lambda: ["/results"])
    assert spelt(ValueError("wrong")) is None
    assert spelt(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_is_shut_is_named(number):
    assert spelt(OSError(number, os.strerror(number), "results/a.json")).startswith("results/a.json: ")


def test_no_memory_and_too_many_files_say_what_to_set():
    assert "mem_mb" in spelt(MemoryError())
    assert "mem_mb" in spelt(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )
    assert "ulimit -n" in spelt(OSError(errno.EMFILE, "Too many open files"))


def test_an_error_of_ours_is_its_message():
    assert spelt(PlumblineError("datasets.a: b")) == "datasets.a: b"


def step(body: str, **more: object) -> subprocess.Popen:
    code = f"import sys\nfrom workflow_scripts.common.errors import run\ndef main():\n    {body}\nrun(main)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **(pipes | more))


def test_an_interrupted_step_says_so_in_a_line_however_often_it_is_interrupted():
    process = step("import time; print('ready', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    told = process.stderr.read()
    assert process.returncode == 130 and told.startswith("interrupted\n") and "Traceback" not in told, told


def test_a_reader_that_has_gone_makes_no_traceback():
    process = step("print('x' * 100_000, flush=True); print('y', flush=True)")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(timeout=300) == 141


def test_a_pipe_that_breaks_elsewhere_is_not_taken_for_a_reader_that_has_gone():
    process = step("import os; read, write = os.pipe(); os.close(read); os.write(write, b'x')")
    assert "BrokenPipeError" in process.stderr.read()
    assert process.wait(timeout=300) == 1


def test_a_step_on_a_full_disk_ends_with_the_message(tmp_path):
    """The disk is real: a file system of 16 KiB, in a namespace of its own."""
    needs([*FULL, "true"])
    rows = "[{'text': 'x' * 1000}] * 100"
    body = (
        f"from workflow_scripts.common.files import write_jsonl; write_jsonl('{tmp_path}/rows.jsonl', {rows})"
    )
    code = f"from workflow_scripts.common.errors import run\ndef main():\n    {body}\nrun(main)"
    mount = f'mount -t tmpfs -o size=16k none "{tmp_path}" && exec "$@"'
    command = [*FULL, mount, "bash", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left in ") and "Traceback" not in done.stderr
