"""The start of a stage as Python has it and as `common.startup` does: CPU seconds of whole processes, and the ratio.

    .venv/bin/python -m benchmarks.start --repeats 5
    .venv/bin/python -m benchmarks.start --chain --repeats 1

Each module says its flags (`--help`) in a process of its own, in turn as any module would be run, and as `python -m`
of ours: without looking for garbage while it imports, and without what transformers imports for others. One start of
each goes before, so that all is in the machine's cache. `--chain` takes every module that a rule names.
"""

import argparse
import re
import resource
import statistics
import subprocess
import sys

from workflow_scripts.common.code import ROOT

MODULES = ("workflow_scripts.generate.answer", "workflow_scripts.sft.train", "workflow_scripts.report.table")
AS_IT_IS = (
    "import runpy, sys; sys.argv = [{module!r}, '--help']; runpy.run_module({module!r}, run_name='__main__')"
)


def chain() -> list[str]:
    """Return the modules that the rules name and that are commands of jobs."""
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    named = set(re.findall(r"(workflow_scripts(?:\.[a-z_]+)+)", rules)) - {"workflow_scripts.plan.orphans"}
    files = {name: ROOT / f"{name.replace('.', '/')}.py" for name in sorted(named)}
    return [name for name, file in files.items() if file.is_file() and "__main__" in file.read_text()]


def seconds(*command: str) -> float:
    """Run Python in a process of its own; return the CPU seconds it took."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    return spent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", nargs="+", default=MODULES)
    parser.add_argument("--chain", action="store_true", help="every module that a rule names")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'module':<48} {'as it is':>10} {'ours':>10} {'ratio':>8}", flush=True)
    total = [0.0, 0.0]
    for module in chain() if arguments.chain else arguments.modules:
        commands = (("-c", AS_IT_IS.format(module=module)), ("-m", module, "--help"))
        rounds = [[seconds(*command) for command in commands] for _ in range(arguments.repeats + 1)][1:]
        before, after = (statistics.median(times) for times in zip(*rounds, strict=True))
        total = [total[0] + before, total[1] + after]
        print(f"{module:<48} {before:>9.2f}s {after:>9.2f}s {after / before:>8.2f}", flush=True)
    print(f"{'all':<48} {total[0]:>9.2f}s {total[1]:>9.2f}s {total[1] / total[0]:>8.2f}")


if __name__ == "__main__":
    main()
