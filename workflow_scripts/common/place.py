"""Where a study's relative paths begin, and where Plumbline's own files are.

In a checkout both are the checkout. Of an installed Plumbline (`pip install .`) the Snakefile, rules, environments and
studies lie in the package, and data/, results/ and work/ in the folder that one works in: the Snakefile and the command
`plumbline` name it in PLUMBLINE_PLACE.
"""

import os
import shlex
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2]  # holds Snakefile, rules/, workflow_scripts/, envs/, studies/
ROOT = Path(os.environ.get("PLUMBLINE_PLACE") or SHIPPED)


def snakefile_flags() -> list[str]:
    """Return the flags by which Snakemake finds our Snakefile: none in a folder that has one."""
    return [] if Path("Snakefile").is_file() else ["--snakefile", str(SHIPPED / "Snakefile")]


def command(verb: str, *studies: str, profile: str = "") -> str:
    """Return the line that somebody types for a verb of the command line: make's in a checkout, else plumbline's."""
    if ROOT == SHIPPED:
        words = [
            "make",
            verb,
            *(f"STUDY={name}" for name in studies),
            *([f"PROFILE={profile}"] if profile else []),
        ]
    else:
        words = ["plumbline", verb, *studies, *(["--profile", profile] if profile else [])]
    return shlex.join(words)
