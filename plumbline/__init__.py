"""Plumbline: the command `plumbline`, and what a notebook reads results by (`import plumbline.report`).

The workflow itself lies in `home()`: the checkout, or, installed by pip, a folder of this package.
"""

import sys
from pathlib import Path


def shipped() -> Path:
    """Return the folder that holds the Snakefile, the rules and `workflow_scripts`."""
    here = Path(__file__).resolve().parent
    return here / "home" if (here / "home").is_dir() else here.parent


if str(shipped()) not in sys.path:
    sys.path.append(str(shipped()))
