"""Where a study's relative paths begin, and where Plumbline's own files are.

In a checkout both are the checkout. Of an installed Plumbline (`pip install .`) the Snakefile, rules, environments and
studies lie in the package, and data/, results/ and work/ in the folder that one works in: the Snakefile and the command
`plumbline` name it in PLUMBLINE_PLACE.
"""

import os
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2]  # holds Snakefile, rules/, workflow_scripts/, envs/, studies/
ROOT = Path(os.environ.get("PLUMBLINE_PLACE") or SHIPPED)


def snakefile_flags() -> list[str]:
    """Return the flags by which Snakemake finds our Snakefile: none in a folder that has one."""
    return [] if Path("Snakefile").is_file() else ["--snakefile", str(SHIPPED / "Snakefile")]
