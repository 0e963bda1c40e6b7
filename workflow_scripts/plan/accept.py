"""Let finished work stand after a change of code or pins: `make accept WHY="…"`.

Snakemake would run again what was made by other code, other locked versions or another command line. Where one of these
is all that has changed, its record of the job is brought up to date, without a run and without a touched file, and the
reason is written into results/STUDY/accepted.json (see plan.acceptance). What is stale by its settings or its inputs is
not accepted, nor what rests on such: it is named, and will run. Tables, figures and the page are made anew: they are
cheap, and have to say it.

Not covered: whether the work would come out the same. That is what WHY is for.
"""

import argparse
import ast
import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.plan.acceptance import (
    accepted_file,
    downstream,
    read_accepted,
    scores_of,
    write_accepted,
)
from workflow_scripts.plan.columns import listed
from workflow_scripts.plan.forecast import changed_params, own_reasons, run_snakemake

LOCKS = Path(".snakemake/locks")
TABLES = "report.smk"  # the rules whose jobs are made anew: tables, figures, the page
OURS = "workflow_scripts"
SHOWN = 20  # jobs that are named one by one


def is_code(text: str) -> bool:
    """Tell whether a parameter, as Snakemake keeps it, is digests of code or locked versions: a mapping.

    Settings are handed over as JSON, which is text; `tests/test_accept.py` holds all rules to this.
    """
    try:
        return isinstance(ast.literal_eval(text), dict)
    except (ValueError, SyntaxError):
        return False


def merged(texts: Iterable[str]) -> dict[str, str]:
    """Return the digests and versions of several parameters as one mapping."""
    found: dict[str, str] = {}
    for text in texts:
        found |= ast.literal_eval(text)
    return found


def differences(old: Iterable[str], new: Iterable[str]) -> dict[str, dict[str, list]]:
    """Return {"code" or "pins": {module or package: [old, new]}} of parameters before and now, None for neither."""
    before, now = merged(old), merged(new)
    found: dict[str, dict[str, list]] = {}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            kind = "code" if name.startswith(OURS) else "pins"
            found.setdefault(kind, {})[name] = [before.get(name), now.get(name)]
    return found


def job_name(job: Any) -> str:
    """Return a job as people call it: its rule and its wildcards."""
    return " ".join([job.rule.name, *map(str, job.wildcards_dict.values())])


def is_table(job: Any) -> bool:
    return Path(str(job.rule.snakefile)).name == TABLES


class Stale:
    """The jobs of a study that are stale, by what has changed: `acceptable`, and `refused` with the reasons."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.recorded = graph, graph.workflow.persistence
        self.acceptable: list[Any] = []
        self.refused: dict[Any, list[str]] = {}
        self.changed: dict[Any, Any] = {}
        jobs = [job for job in graph.jobs if job.output and not is_table(job)]
        for job in jobs:
            self.look(job)
        following = downstream(graph, self.refused) | {job for job in jobs if graph.needrun(job)}
        self.acceptable = [job for job in jobs if job in self.changed and job not in following]
        self.following = [job for job in jobs if job in following and job not in self.refused]

    def look(self, job: Any) -> None:
        """Note what has changed about a job, whatever has become of those before it."""
        params = self.recorded.params_changed(job)
        command = any(self.recorded.code_changed(job))
        settings = [text for text in [*params.only_old, *params.only_new] if not is_code(text)]
        reasons = own_reasons(job, self.graph.reason(job), self.recorded)
        if settings:
            named = {repr(value): name for name, value in job.params.items()}
            now = {
                named.get(text, "a parameter"): text for text in sorted(params.only_new) if not is_code(text)
            }
            reasons += changed_params([text for text in params.only_old if not is_code(text)], now)
        if reasons:
            self.refused[job] = reasons
        elif params or command:
            self.changed[job] = params


def entry_of(job: Any, stale: Stale) -> dict:
    """Return what is noted of an accepted job."""
    records = {}
    for output in job.output:
        record = stale.recorded.metadata(output)
        if record is not None:
            records[str(output)] = {"params": record.params, "code": record.code}
    scores = sorted(scores_of(downstream(stale.graph, [job])))
    outputs = [str(output) for output in job.output]
    return {"job": job_name(job), "outputs": outputs, "scores": scores, "records": records}


def acceptance(stale: Stale, why: str, day: str) -> dict:
    """Return an acceptance of all that may be accepted."""
    changes = [stale.changed[job] for job in stale.acceptable]
    changed: dict[str, Any] = differences(
        [text for change in changes for text in change.only_old],
        [text for change in changes for text in change.only_new],
    )
    commands = {job.rule.name for job in stale.acceptable if any(stale.recorded.code_changed(job))}
    if commands:
        changed["command"] = sorted(commands)
    return {
        "why": why,
        "on": day,
        "changed": changed,
        "jobs": [entry_of(job, stale) for job in stale.acceptable],
    }


def bring_up_to_date(stale: Stale) -> None:
    """Have Snakemake's records of the accepted jobs say what it would hand them today."""
    recorded = stale.recorded
    for job in stale.acceptable:
        params, code = recorded._params(job), recorded._code(job.rule)
        for output in job.output:
            record = recorded.metadata(output)
            if record is not None:
                record.params, record.code = params, code
                recorded._write_record(recorded._get_key(output), record)
    recorded._clear_cache()


def changes_in_words(changed: dict[str, Any]) -> list[str]:
    """Return a line for each kind of thing that has changed: which modules, packages or commands."""
    lines = []
    for kind, parts in changed.items():
        if isinstance(parts, dict):
            parts = [f"{name} {old or 'new'} → {new or 'gone'}" for name, (old, new) in parts.items()]
        lines.append(f"{kind}: {listed(parts, SHOWN)}")
    return lines


def accept(flags: list[str], why: str, day: str) -> list[str]:
    """Accept what may be accepted of a study; return what was done, in lines. PlumblineError where nothing may."""
    why = " ".join(why.split())
    if not why:
        raise PlumblineError(
            'why may it stand? Say so: make accept WHY="…", which goes into provenance and the report'
        )
    if any(LOCKS.glob("*.lock")):
        raise PlumblineError(
            "a run is at work here, or was killed: wait for it, or start `make results` and stop it, which clears up; "
            "then accept"
        )
    graph = run_snakemake(["--rerun-triggers", "mtime", "input", *flags])
    stale = Stale(graph)
    lines = [f"not accepted: {job_name(job)}: {' and '.join(why)}" for job, why in stale.refused.items()]
    lines = [*lines[:SHOWN], *([f"and {len(lines) - SHOWN} jobs more"] if len(lines) > SHOWN else [])]
    if stale.following and stale.refused:
        lines.append(f"they run again, and so do {len(stale.following)} jobs that rest on them")
    if not stale.acceptable:
        what = "nothing is stale by its code, pins or command alone, so there is nothing to accept"
        raise PlumblineError("\n".join([*lines, what]))
    path = accepted_file(graph.workflow.globals["RESULTS"])
    added = acceptance(stale, why, day)
    write_accepted(path, [*read_accepted(path), added])
    bring_up_to_date(stale)
    lines += changes_in_words(added["changed"])
    lines.append(
        f"accepted: {len(added['jobs'])} jobs stand as they are: {listed([job['job'] for job in added['jobs']], SHOWN)}"
    )
    lines.append(f"{path} has the reason; `make results` makes tables and report anew, which say so")
    return lines


def main() -> None:
    """Let finished jobs stand that are stale by code, locked versions or their command alone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--why", default="", help="why they may stand: it goes into provenance and the report"
    )
    parser.add_argument("--on", default="", help="the day that is noted (default: today)")
    parser.add_argument("snakemake", nargs="*", metavar="-- FLAG", help="what Snakemake would be run with")
    arguments = parser.parse_args()
    day = arguments.on or datetime.date.today().isoformat()
    print(*accept(arguments.snakemake, arguments.why, day), sep="\n")


if __name__ == "__main__":
    run(main)
