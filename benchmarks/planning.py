"""What Snakemake's head takes to plan a sweep: CPU seconds and memory, by the number of policies.

    .venv/bin/python -m benchmarks.planning --policies 500
    .venv/bin/python -m benchmarks.planning --policies 1000 --finished    # half an hour, mostly asleep

The sweep is the default study with so many policies more, five seeds each, in grids of learning rates and betas.
Nothing runs, and no run before has made anything: it is planned in an empty folder. Read are CPU seconds, of a process
of its own, which other load disturbs less than those of the clock; the first line is the default study, which has what
a plan takes in any case (imports, reading the rules).

With --finished every file of the sweep is made up and recorded as made, and `plumbline results` is started on it twice:
the first time Snakemake plans and finds nothing to do, the second time nothing has changed since (plan.finished).
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
from typing import NamedTuple

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


class Spent(NamedTuple):
    """What a process took."""

    said: str
    cpu: float
    """Seconds of CPUs, of itself and its children."""
    seconds: float
    memory: float
    """MiB at most."""


def spent(place: Path, *words: str) -> Spent:
    """Run a module in a folder; RuntimeError where that fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PLUMBLINE_PLACE": str(place)}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=place, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    if status:
        raise RuntimeError(text[-2000:])
    return Spent(text, used.ru_utime + used.ru_stime, time.monotonic() - started, used.ru_maxrss / 1024)


def empty_place(folder: Path) -> Path:
    """Return a folder to work in that has what shipped studies name, and nothing else."""
    folder.mkdir()
    with contextlib.chdir(folder):
        lay_out(ROOT)
    return folder


def planned(study: Path, place: Path) -> tuple[int, Spent]:
    """Return (jobs, what it took) of planning a study in an empty folder."""
    told = ["--cores", "2", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(study)]
    found = spent(place, "workflow_scripts.plan.forecast", "--show", "1", "--", *told)
    jobs = re.search(r"what would run \(jobs: (\d+)", found.said)
    if not jobs:
        raise RuntimeError(found.said[-2000:])
    return int(jobs[1]), found


def make_up(study: Path, place: Path) -> None:
    """Have every file of a study's plan lie in a folder, as files of no meaning that Snakemake has recorded as made."""
    told = ["snakemake", "--cores", "2", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(study)]
    lines = [
        line.split("\t")[0] for line in spent(place, *told, "--summary").said.splitlines() if "\t" in line
    ]
    for name in lines[1:]:
        path = place / name
        path = path if path.suffix else path / "file"  # a folder is an output of its own
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    spent(place, *told, "--touch", "--forceall", "--quiet", "all")


def found_finished(study: Path, place: Path) -> list[Spent]:
    """Return what two runs in a row took that found nothing to do; RuntimeError where they found something."""
    found = [spent(place, "plumbline", "results", "--study", str(study)) for _ in range(2)]
    if not all("Nothing to be done" in each.said for each in found):
        raise RuntimeError("\n".join(each.said[-2000:] for each in found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--policies", type=int, nargs="+", default=[100, 500], help="of the sweep, over all seeds"
    )
    parser.add_argument(
        "--finished", action="store_true", help="find out that a finished sweep is finished, too"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        study = Path(name) / "sweep.yaml"
        for policies in (0, *arguments.policies):
            study.write_text(yaml.safe_dump(sweep(policies)))
            path = study if policies else ROOT / "config.yaml"
            place = empty_place(Path(name) / str(policies))
            jobs, plan = planned(path, place)
            which = f"{policies} policies more" if policies else "the default study"
            print(
                f"{which}: {jobs} jobs, {plan.cpu:.1f} CPU seconds ({plan.seconds:.0f} s), {plan.memory:.0f} MiB",
                flush=True,
            )
            if arguments.finished:
                make_up(path, place)
                for how, found in zip(
                    ("planned", "nothing changed"), found_finished(path, place), strict=True
                ):
                    print(
                        f"  nothing due, {how}: {found.cpu:.1f} CPU seconds ({found.seconds:.0f} s)",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
