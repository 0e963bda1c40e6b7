"""Start Snakemake, as `make` does: `python -m workflow_scripts.common.head [--console] .venv/bin/snakemake FLAGS`.

Snakemake looks for its cache, for the user's name and for a folder of its own before it reads a Snakefile. So that
these are settled (`surroundings`), or said to be missing, it is started by this. With --console it shows our own,
which it finds as a logger plugin beside our package.
"""

import os
import sys
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.place import SHIPPED
from workflow_scripts.common.surroundings import check_place, nearest, settle_temporary, trouble_with

STATE = Path(".snakemake")
CONSOLE = "--console"


def main() -> None:
    command = sys.argv[1:]
    console = command[:1] == [CONSOLE]
    command = command[1:] if console else command
    if not command:
        raise PlumblineError(
            "give the command to start: python -m workflow_scripts.common.head snakemake FLAGS"
        )
    check_place()
    settle_temporary(os.environ)
    if error := trouble_with(nearest(STATE.absolute())):
        raise PlumblineError(
            f"{nearest(STATE.absolute())}: no files can be written here ({error.strerror}), and Snakemake keeps its "
            "state in it; have it made writable or free some of it, or work in a copy of the checkout that is your own"
        )
    if console:
        paths = [str(SHIPPED), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command[1:1] = ["--logger", "plumbline"]
    os.execvp(command[0], command)


if __name__ == "__main__":
    run(main)
