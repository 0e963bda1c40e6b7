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


def command(verb: str, *studies: str, **told: str) -> str:
    """Return the line that somebody types for a verb of the command line: make's in a checkout, else plumbline's.

    told: what the verb is told by name, `profile`, `policy` and so on; what is "" is left out.
    """
    named = {name: value for name, value in told.items() if value}
    if ROOT == SHIPPED:
        words = [f"STUDY={name}" for name in studies]
        return shlex.join(
            ["make", verb, *words, *(f"{name.upper()}={value}" for name, value in named.items())]
        )
    words = [word for name, value in named.items() for word in (f"--{name}", value)]
    return shlex.join(["plumbline", verb, *studies, *words])
