"""How fast Snakemake's head hands light jobs over to SLURM: jobs a second, beside `sbatch` called by itself.

    .venv/bin/python -m benchmarks.submission --jobs 300        # where sbatch is; asks the partition of the profile

The jobs do nothing, and are cancelled in the end. The first second of the head (starting, planning) is not counted: the
clock runs from the first jobs that SLURM has to the last one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.code import ROOT

# By the name of a rule that the profile knows, so that it has partition, memory and time of one.
SNAKEFILE = """
rule all:
    input: [f"out/{{number}}" for number in range({jobs})]

rule score_lm_eval:
    output: "out/{{number}}"
    shell: "touch {{output}}"
"""
LOOK = 0.2  # seconds between two looks at the queue


class Rates(NamedTuple):
    """Jobs a second."""

    head: float
    alone: float
    """By sbatch, called by itself, one after the other."""


def submitted(place: Path) -> list[str]:
    """Return the numbers of the jobs that were submitted from a folder."""
    command = ["squeue", "-h", "-t", "all", "-o", "%i|%Z"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [number for number, folder in (line.split("|", 1) for line in lines) if folder == str(place)]


def by_head(place: Path, jobs: int, profile: Path, partition: str) -> float:
    """Return how many jobs a second Snakemake submits from an empty folder; RuntimeError where it ends before that."""
    (place / "Snakefile").write_text(SNAKEFILE.format(jobs=jobs))
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(profile), "--jobs", str(jobs + 1)]
    command += ["--set-resources", f"score_lm_eval:slurm_partition={partition}", "score_lm_eval:gpu=0"]
    command += ["score_lm_eval:mem_mb=100"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PLUMBLINE": str(ROOT)}
    first: tuple[float, int] | None = None
    with tempfile.TemporaryFile("w+") as said:
        head = subprocess.Popen(command, cwd=place, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            while True:
                there, now = len(submitted(place)), time.monotonic()
                first = first or ((now, there) if there else None)
                if there >= jobs:
                    return (there - first[1]) / max(now - first[0], LOOK)
                if head.poll() is not None:
                    said.seek(0)
                    raise RuntimeError(said.read()[-2000:])
                time.sleep(LOOK)
        finally:
            head.kill()
            head.wait()


def by_hand(place: Path, jobs: int, partition: str) -> float:
    """Return how many jobs a second sbatch takes from one caller."""
    started = time.monotonic()
    for _ in range(jobs):
        command = ["sbatch", "--hold", "-p", partition, "--mem=10", "--wrap", "true"]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
    return jobs / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--profile", type=Path, default=ROOT / "profiles/slurm-a100")
    parser.add_argument("--partition", default="cpu")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        places = Path(name).resolve() / "head", Path(name).resolve() / "hand"
        for place in places:
            place.mkdir()
        try:
            hand = by_hand(places[1], asked.jobs, asked.partition)
            rates = Rates(by_head(places[0], asked.jobs, asked.profile.absolute(), asked.partition), hand)
        finally:
            for number in (number for place in places for number in submitted(place)):
                subprocess.run(["scancel", number], check=False, capture_output=True)
    print(f"{asked.jobs} jobs: {rates.head:.1f} a second by the head, {rates.alone:.1f} by sbatch alone")


if __name__ == "__main__":
    main()
