"""A study's plan as Snakemake prints it: one Job for each that a dry-run in a fresh copy of the repository names.

A dry-run shows a job's details only where its rule has no message: `without_messages` takes them out of the copy.
"""

import re
from pathlib import Path

from tests.workflow import copy_with_study, snakemake


def without_messages(folder: Path) -> Path:
    """Copy the repository into a folder, its rules without their messages."""
    copy_with_study(folder)
    for path in folder.glob("rules/*.smk"):
        path.write_text(re.sub(r"^    message:\n.*\n", "", path.read_text(), flags=re.MULTILINE))
    return folder


class Job:
    """One job of a dry-run: its rule, its wildcards, its resources, threads and shell command."""

    def __init__(self, block: str) -> None:
        lines = dict(re.findall(r"^    (\w+): (.*)$", block, re.MULTILINE))
        self.rule = re.search(r"^(?:local)?rule (\w+):", block, re.MULTILINE).group(1)
        self.wildcards = dict(part.split("=", 1) for part in lines.get("wildcards", "").split(", ") if part)
        self.resources = dict(part.split("=", 1) for part in lines.get("resources", "").split(", "))
        self.threads = int(lines.get("threads", 1))
        self.inputs = lines.get("input", "").split(", ")
        self.command = re.search(r"^Shell command: (.*)$", block, re.MULTILINE).group(1)


def plan_of(folder: Path, study: str) -> list[Job]:
    """Return the jobs of a study's dry-run in a fresh copy of the repository."""
    text = snakemake(
        folder,
        "--dry-run",
        "--printshellcmds",
        "--configfile",
        study,
        "--cores",
        "64",
        "--resources",
        "gpu=4",
    ).stdout
    blocks = re.split(r"^\[.*\]$", text, flags=re.MULTILINE)  # each job begins with its time
    return [Job(block) for block in blocks if re.search(r"^(local)?rule \w+:$", block, re.MULTILINE)]


def of_rule(jobs: list[Job], *rules: str) -> list[Job]:
    return [job for job in jobs if job.rule in rules]
