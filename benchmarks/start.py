"""The start of a stage, with and without looking for garbage while it imports: seconds and the ratio.

    .venv/bin/python -m benchmarks.start --repeats 5

Each module is imported and left again by a process of its own, in turn as it is and as `common.startup` has it; one
start of each goes before, so that all is in the machine's cache.
"""

import argparse
import statistics
import subprocess
import sys
import time

from workflow_scripts.common.code import ROOT

MODULES = ("workflow_scripts.generate.answer", "workflow_scripts.sft.train", "workflow_scripts.report.table")
AS_IT_IS = "import {module}"
WITHOUT = "import gc; gc.disable(); import {module}; gc.freeze(); gc.enable()"


def seconds(code: str) -> float:
    """Run a line of Python in a process of its own; return its seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", nargs="+", default=MODULES)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'module':<40} {'as it is':>10} {'without':>10} {'ratio':>8}")
    for module in arguments.modules:
        codes = [code.format(module=module) for code in (AS_IT_IS, WITHOUT)]
        rounds = [[seconds(code) for code in codes] for _ in range(arguments.repeats + 1)][1:]
        before, after = (statistics.median(times) for times in zip(*rounds, strict=True))
        print(f"{module:<40} {before:>9.2f}s {after:>9.2f}s {after / before:>8.2f}")


if __name__ == "__main__":
    main()
