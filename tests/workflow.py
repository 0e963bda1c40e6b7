"""A finished study without its cost: a copy of the repository whose every output exists and is recorded as made.

The outputs are small made-up files; Snakemake's own `--touch` writes the metadata (parameters, inputs, code) that
decides what is stale. What would run is then read from `--summary`, which plans without running.
"""

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "Makefile",
    "Snakefile",
    "config.yaml",
    "rules",
    "plumbline",
    "workflow_scripts",
    "snakemake_logger_plugin_plumbline",
    "envs",
    "profiles",
    "contrib",
    "report",
    "studies",
    "data/bundled",
)


def copy_repository(folder: Path) -> Path:
    """Copy what a clone holds of the workflow into a folder."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return folder


def copy_with_study(folder: Path) -> Path:
    """Copy the repository with the tests' own studies in place of the default one and of that with offline RL."""
    copy_repository(folder)
    shutil.copy2(ROOT / "tests/tutoring.yaml", folder / "config.yaml")
    text = (ROOT / "tests/tutoring_offline_rl.yaml").read_text()
    extended = text.replace("extends: tests/tutoring.yaml", "extends: config.yaml")
    (folder / "studies/tutor_offline_rl.yaml").write_text(extended)
    return folder


def snakemake(folder: Path, *flags: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run snakemake in a folder; PYTHONPATH is cleared so that the folder's own code is what it imports."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def summary(folder: Path, *flags: str) -> list[dict]:
    """Return Snakemake's summary: one row per output file with its rule and whether it would be made."""
    text = snakemake(folder, "--summary", *flags).stdout
    lines = [line for line in text.splitlines() if "\t" in line]
    return list(csv.DictReader(io.StringIO("\n".join(lines)), delimiter="\t"))


def stale(folder: Path, *flags: str) -> set[str]:
    """Return the output files that a run would make."""
    return {row["output_file"] for row in summary(folder, *flags) if row["plan"] != "no update"}


def verify(folder: Path, study: str) -> subprocess.CompletedProcess:
    """Verify all that a study's table rests on, as `make verify` does."""
    command = [sys.executable, "-m", "workflow_scripts.report.verify", f"results/{study}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def table_of(folder: Path, study: str, name: str = "results.csv") -> list[dict]:
    """Return the rows of a table of a study that has run."""
    with open(folder / "results" / study / name, newline="") as stream:
        return list(csv.DictReader(stream))


def finish(folder: Path, *flags: str, given: Mapping[str, str] = MappingProxyType({})) -> None:
    """Make every output exist and have Snakemake record it as made; `given` are the texts of some outputs."""
    for row in summary(folder, *flags):
        path = folder / row["output_file"]
        if not path.suffix:  # a folder is an output of its own
            path.mkdir(parents=True, exist_ok=True)
            path /= "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(given.get(row["output_file"], row["output_file"]))
    snakemake(folder, "--touch", "--forceall", *flags)


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a file, which has to be there."""
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1))
