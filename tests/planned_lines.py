"""Print, as JSON, the shell line of each job of a study: `python -m tests.planned_lines STUDY`.

It runs in a copy of the repository. Each is {rule, wildcards, line, words}: the line as Snakemake hands it to the
shell, and the values that stand in it, as they are to arrive: the study's folder for its variable, no quotes.
"""

import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

PLACEHOLDER = re.compile(r"(?<!dirname )\{(?:(params|input|output)(?:\.(\w+))?)(?::([qu]))?\}")


def spelt_out(word: str) -> str:
    """Return a word with the study's folder for the variable that it begins with, if it does."""
    return re.sub(r"^([\w/-]+=)?\$(RESULTS|WORK|CLEAN)(?=/)", lambda m: (m[1] or "") + os.environ[m[2]], word)


def words_of(job) -> list[str]:
    """Return the values of a job that stand in its shell line."""
    found = []
    for part, name, quoted in PLACEHOLDER.findall(job.rule.shellcmd):
        values = getattr(job, part)
        values = getattr(values, name) if name else list(values)
        for value in [values] if isinstance(values, str | int) else values:
            found += map(spelt_out, shlex.split(value)) if quoted == "u" else [str(value)]
    return found


def main() -> None:
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(sys.argv[1])]),
            snakefile=Path("Snakefile"),
        )
        targets = {"results", "judge_plan"}
        workflow.dag(DAGSettings(forceall=True, targets=targets)).execute_workflow(executor="dryrun")
        lines = [
            {
                "rule": job.rule.name,
                "wildcards": dict(job.wildcards.items()),
                "line": job.shellcmd,
                "words": words_of(job),
            }
            for job in workflow._workflow.dag.jobs
            if job.shellcmd
        ]
    folders = {name: os.environ[name] for name in ("RESULTS", "WORK", "CLEAN")}
    print(json.dumps({"folders": folders, "lines": lines}))


if __name__ == "__main__":
    main()
