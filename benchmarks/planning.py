"""What Snakemake's head takes to plan a sweep: CPU seconds and memory, by the number of policies.

    .venv/bin/python -m benchmarks.planning --policies 500

The sweep is the default study with so many policies more, five seeds each, in grids of learning rates and betas.
Nothing runs, and no run before has made anything: it is planned in an empty folder. Read are CPU seconds, of a process
of its own, which other load disturbs less than those of the clock; the first line is the default study, which has what
a plan takes in any case (imports, reading the rules).
"""

import argparse
import contextlib
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from plumbline.cli import lay_out
from workflow_scripts.common.code import ROOT

SEEDS = 5
MOST = 100  # combinations of a grid


def sweep(policies: int) -> dict:
    """Return a study with at least so many policies beside the default study's, over all seeds; 1500 at most."""
    runs = {}
    for name in ("dpo", "ipo", "kto"):
        side = math.ceil(math.sqrt(min(max(policies, 0) / SEEDS, MOST)))
        if side:
            rates = [float(f"{1e-6 * (1 + step):.3g}") for step in range(side)]
            betas = [float(f"{0.01 * (1 + step):.3g}") for step in range(side)]
            runs[name] = {"grid": {"learning_rate": rates, "beta": betas}}
        policies -= side**2 * SEEDS
    base = {"extends": str(ROOT / "config.yaml"), "study": "sweep", "seeds": list(range(1, SEEDS + 1))}
    return base | {"runs": runs}


def planned(study: Path) -> tuple[int, float, float, float]:
    """Return (jobs, CPU seconds, seconds, MiB at most) of planning a study; RuntimeError where that fails."""
    command = [sys.executable, "-m", "workflow_scripts.plan.forecast", "--show", "1", "--"]
    command += ["--cores", "2", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(study)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryDirectory() as place:
        with contextlib.chdir(place):
            lay_out(ROOT)
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    found = re.search(r"what would run \(jobs: (\d+)", text)
    if status or not found:
        raise RuntimeError(text[-2000:])
    seconds = time.monotonic() - started
    return int(found[1]), used.ru_utime + used.ru_stime, seconds, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--policies", type=int, nargs="+", default=[100, 500], help="of the sweep, over all seeds"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        study = Path(name) / "sweep.yaml"
        for policies in (0, *arguments.policies):
            study.write_text(yaml.safe_dump(sweep(policies)))
            path = study if policies else ROOT / "config.yaml"
            jobs, spent, seconds, memory = planned(path)
            which = f"{policies} policies more" if policies else "the default study"
            print(
                f"{which}: {jobs} jobs, {spent:.1f} CPU seconds ({seconds:.0f} s), {memory:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
