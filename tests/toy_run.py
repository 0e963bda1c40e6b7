"""A workflow of a few seconds with the names of ours, for tests of what is shown while it runs."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.workflow import ROOT

SNAKEFILE = """
import os
os.environ["RESULTS"] = "results/toy"
print("warning: a doubt of the study", file=sys.stderr)
LOG = "results/toy/logs/{}/{}.log".format

rule results:
    input: WANTED

rule prepare_model:
    output: "model"
    log: LOG("prepare_model", "tiny")
    message: "Preparing tiny"
    shell: "echo said past the log; touch {output} 2> {log}"

rule train_sft:
    input: "model"
    output: "sft"
    log: LOG("train_sft", "tiny.sft-1")
    message: "Fine-tuning tiny.sft (seed 1)"
    shell: "python train.py '{{\\"a\\": \\"long JSON\\"}}' 2> {log} && touch {output}"

rule train_aligned:
    input: "model"
    output: "dpo"
    log: LOG("train_aligned", "tiny.dpo-1")
    message: "Aligning tiny.dpo (seed 1)"
    shell: "false || python die.py '{{\\"b\\": \\"long JSON\\"}}' 2> {log}"

rule build_table:
    input: "sft"
    output: "table"
    log: LOG("build_table", "all")
    message: "Building the table"
    shell: "touch {output} 2> {log}"
"""
TRAIN = """
import time
from workflow_scripts.common.progress import Progress
steps = Progress("training", "steps", 40)
for step in range(1, 41):
    time.sleep(SECONDS / 40)
    steps.at(step, loss=4 / step, tokens=1000 * step)
"""
DIE = "import os, sys; print('step 3', file=sys.stderr); os.kill(os.getpid(), 9)\n"


def toy(folder: Path, wanted: list[str], seconds: float = 4.0) -> Path:
    """Write the workflow into a folder: `table` goes well, `dpo` is killed; a training takes so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Snakefile").write_text(SNAKEFILE.replace("WANTED", repr(wanted)))
    (folder / "train.py").write_text(TRAIN.replace("SECONDS", str(seconds)))
    (folder / "die.py").write_text(DIE)
    return folder


def command(*flags: str) -> list[str]:
    """Return the command of a run with our console."""
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--logger",
        "plumbline",
        "--cores",
        "1",
        "--keep-going",
        *flags,
    ]


def surroundings(**more: str) -> dict[str, str]:
    """Return the environment of a run."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    plain = {name: value for name, value in os.environ.items() if name not in ("RESULTS", "COLUMNS")}
    return plain | {"PYTHONPATH": str(ROOT), "PATH": path, "TERM": "xterm", **more}


def in_lines(folder: Path, *flags: str, **more: str) -> subprocess.CompletedProcess:
    """Run the workflow where there is no terminal; stdout holds both streams."""
    return subprocess.run(
        command(*flags),
        cwd=folder,
        env=surroundings(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def on_terminal(folder: Path, *flags: str, most: float = 120.0, **more: str) -> tuple[int, str]:
    """Run the workflow on a pseudo-terminal; return its exit status and all that was written to the terminal."""
    own, theirs = pty.openpty()
    job = subprocess.Popen(
        command(*flags),
        cwd=folder,
        env=surroundings(COLUMNS="100", LINES="40", **more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen, until = b"", time.monotonic() + most
    try:
        while time.monotonic() < until:
            if select.select([own], [], [], 0.5)[0]:
                try:
                    part = os.read(own, 65536)
                except OSError:  # Linux: nobody has the other end any more
                    break
                if not part:
                    break
                seen += part
        return job.wait(timeout=30), seen.decode(errors="replace")
    finally:
        job.kill()
        os.close(own)
