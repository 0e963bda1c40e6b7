"""What a run would do and why, and what it would take by what earlier runs took: `make plan`.

Snakemake itself plans: its command line is called in this process with the flags it would be run with and `--dry-run`,
so that study, profile and every flag mean what they mean in the run. Neither its text nor `--summary` tells all of a
job (parameters print as one line of code digests, resources not at all), so the job graph itself is read: `--debug-dag`
makes Snakemake log each job as an object (`LogEvent.DEBUG_DAG`, of its interface for logger plugins), and the object
knows the graph. Everything that is taken from Snakemake is taken in `run_snakemake` and `planned_job`.

A job of the plan does run: Snakemake does not stop where a job made again gives the same bytes as before.

An estimate is, in this order: the job's own last record; the median of the records of the same rule in this study;
that of other studies, which is a rough guide; else the limit that the job asks for, "at most". A job's record is the
file behind `--cost` in its command, `costs/<rule>/<job>.json` in the study's results. Records of a CPU say nothing of a
job on GPUs, nor the other way round. GPU-hours are taken as they are, however many GPUs they were spent on; the hours
are then those GPU-hours over the GPUs asked for now. What is not known is said to be unknown, and adds to no sum.

Not covered: how many jobs run side by side (hours are those of all jobs one after another), the wait in a queue, how
much of a job is left when it resumes, what judges charge (`make judge-plan`).
"""

import argparse
import ast
import contextlib
import io
import json
import logging
import math
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake import cli
from snakemake_interface_logger_plugins.common import LogEvent

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.plan import needs
from workflow_scripts.plan.columns import aligned, counted, listed
from workflow_scripts.report.costs import measured
from workflow_scripts.study.memory import Profile, said_in
from workflow_scripts.study.seeds import SeedsUntil
from workflow_scripts.study.study import Study

SHORT = 30  # characters of a value that is shown; of a longer one it is said that it changed


@dataclass(frozen=True)
class Job:
    """One job of the plan.

    gpus is the number over all its nodes; runtime_minutes the limit it asks for, if any; cost its record's place below
    costs/ ("rule/name.json"), or None for a job that keeps none. why are the reasons of its own, after the rules whose
    outputs are made anew before it.
    """

    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)
    gpus: int = 0
    runtime_minutes: float | None = None
    cost: str | None = None
    why: tuple[str, ...] = ()
    after: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Range:
    """The lowest, the middle and the highest of some hours; ranges add up end by end."""

    low: float
    middle: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.middle + other.middle, self.high + other.high)


@dataclass(frozen=True)
class Estimate:
    """What a job takes, in hours: known from records, at most so much, or (all None) unknown. source says from what."""

    source: str
    hours: Range | None = None
    gpu_hours: Range | None = None
    most_hours: float | None = None
    most_gpu_hours: float | None = None


# --- what a job waits for, and what has changed -----------------------------------------------------------------


def value_of(text: str) -> Any:
    """Return the value of a parameter as Snakemake keeps it: a Python literal, and JSON within a literal string."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def difference(old: Any, new: Any, path: str) -> list[str]:
    """Return what differs between two values, a phrase per leaf: "beta 0.1 → 0.2", or the path of a longer value."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        missing = object()
        found = []
        for key in keys:
            before, now = old.get(key, missing), new.get(key, missing)
            place = f"{path}.{key}" if path else str(key)
            if before is missing or now is missing:
                found.append(f"{'+' if before is missing else '−'}{place}")
            elif before != now:
                found += difference(before, now, place)
        return found
    texts = [
        value if isinstance(value, str) and value else json.dumps(value, default=str) for value in (old, new)
    ]
    return [f"{path} {' → '.join(texts)}" if max(map(len, texts)) <= SHORT else path]


def shared_keys(old: Any, new: Any) -> int:
    """Return how many keys two values share: the same parameter before and now shares most; 0 for what has none."""
    return len(old.keys() & new.keys()) if isinstance(old, dict) and isinstance(new, dict) else 0


def changed_params(before: Iterable[str], now: dict[str, str]) -> list[str]:
    """Return why changed parameters make a job stale: the modules whose code changed, and the settings that did.

    Snakemake keeps parameters as the text of their values, without their names: before holds those of the last run that
    are gone, now those that are new by name. Mappings are paired by the keys they share, what is left if it is a pair.
    """
    old = sorted(((text, value_of(text)) for text in before), key=lambda item: item[0])
    modules, settings, left = [], [], {}
    for name, text in now.items():
        new = value_of(text)
        like = max(old, key=lambda item: shared_keys(item[1], new), default=None)
        if like and shared_keys(like[1], new):
            old.remove(like)
            for phrase in difference(like[1], new, ""):
                code = re.match(r"[+−]?(workflow_scripts[\w.]*)", phrase)
                (modules if code else settings).append(code.group(1) if code else phrase)
        else:
            left[name] = new
    if len(left) == len(old) == 1:
        settings += difference(old[0][1], *left.values(), *left)
    else:
        settings += [f"+{name}" for name in left]
        settings += ["−a parameter"] * (len(old) > 0)
    return [f"{kind}: {listed(found)}" for kind, found in (("code", modules), ("params", settings)) if found]


# --- what earlier runs took -------------------------------------------------------------------------------------


def read_records(results: Path, rules: Iterable[str]) -> tuple[dict[tuple[str, str], dict], list[str]]:
    """Return ({(study, place): record}, the cost files that are not what they should be) of some rules in all studies.

    results is the folder of all studies, a record {"wall_seconds", "gpu_seconds"}: what its job's cost file says.
    """
    records, broken = {}, []
    for rule in sorted(set(rules)):
        for file in sorted(results.glob(f"*/costs/{rule}/*.json")):
            try:
                row = measured(file)
            except PlumblineError:
                broken.append(str(file))
                continue
            if "wall_seconds" not in row:
                broken.append(str(file))
                continue
            study = file.relative_to(results).parts[0]
            records[study, f"{rule}/{file.name}"] = {
                key: row.get(key, 0.0) for key in ("wall_seconds", "gpu_seconds")
            }
    return records, broken


def gpus_of(record: dict) -> int:
    """Return how many GPUs a recorded job had: its GPU-seconds over its seconds."""
    if not record["gpu_seconds"] or not record["wall_seconds"]:
        return 0
    return max(1, round(record["gpu_seconds"] / record["wall_seconds"]))


def range_of(values: list[float]) -> Range:
    return Range(min(values), statistics.median(values), max(values))


def from_records(job: Job, records: list[dict], source: str) -> Estimate | None:
    """Return the median of the records that were made on what the job asks for (GPUs or a CPU), None without any."""
    fitting = [record for record in records if (gpus_of(record) > 0) == (job.gpus > 0)]
    if not fitting:
        return None
    source = source.format(len(fitting))
    if not job.gpus:
        return Estimate(source, range_of([record["wall_seconds"] / 3600 for record in fitting]))
    had = sorted({gpus_of(record) for record in fitting} - {job.gpus})
    hours = [
        (record["wall_seconds"] if gpus_of(record) == job.gpus else record["gpu_seconds"] / job.gpus) / 3600
        for record in fitting
    ]
    scaled = f", hours scaled from {listed(map(str, had))} to {job.gpus} GPUs" if had else ""
    spent = range_of([record["gpu_seconds"] / 3600 for record in fitting])
    return Estimate(source + scaled, range_of(hours), spent)


def estimate(job: Job, study: str, records: dict[tuple[str, str], dict]) -> Estimate:
    """Return what a job takes by the best of what is recorded, or at most by its limit."""
    own = [records[study, job.cost]] if (study, job.cost) in records else []
    same = {at: record for at, record in records.items() if at[1].split("/")[0] == job.rule}
    here = [record for (where, _), record in same.items() if where == study]
    elsewhere = [record for (where, _), record in same.items() if where != study]
    studies = listed(sorted({where for where, _ in same} - {study}))
    for found, source in (
        (own, "own record"),
        (here, "median of {} of the rule"),
        (elsewhere, f"rough: median of {{}} in {studies}"),
    ):
        known = from_records(job, found, source)
        if known:
            return known
    if here or elsewhere:
        source = f"none recorded on {'GPUs' if job.gpus else 'a CPU'}"
    else:
        source = "none recorded" if job.cost else "keeps no record"
    if job.runtime_minutes is None:
        return Estimate(source)
    most = job.runtime_minutes / 60
    return Estimate(source, most_hours=most, most_gpu_hours=most * job.gpus if job.gpus else None)


# --- the plan as text -------------------------------------------------------------------------------------------


def number(hours: float) -> str:
    """Return hours with two digits that matter; from ten on whole."""
    return format(hours, ".2g") if hours < 9.95 else format(hours, ",.0f")


def amount(known: list[Range], most: list[float], unknown: int) -> str:
    """Return hours of some jobs: the known summed with their range, then the limits of others, then who has none."""
    parts = []
    if known:
        total = sum(known[1:], known[0])
        low, middle, high = number(total.low), number(total.middle), number(total.high)
        parts.append(middle if low == middle == high else f"{middle} ({low}–{high})")
    if most:
        parts.append(f"≤ {number(sum(most))}")
    if unknown:
        parts.append("unknown" if not parts else f"{unknown} unknown")
    return " + ".join(parts)


def hours_of(estimates: list[Estimate]) -> str:
    return amount(
        [one.hours for one in estimates if one.hours],
        [one.most_hours for one in estimates if one.most_hours is not None],
        sum(one.hours is None and one.most_hours is None for one in estimates),
    )


def gpu_hours_of(jobs: list[Job], estimates: list[Estimate]) -> str:
    """Return the GPU-hours of the jobs that ask for GPUs, a dash where none does."""
    asking = [one for job, one in zip(jobs, estimates, strict=True) if job.gpus]
    return (
        amount(
            [one.gpu_hours for one in asking if one.gpu_hours],
            [one.most_gpu_hours for one in asking if one.most_gpu_hours is not None],
            sum(one.gpu_hours is None and one.most_gpu_hours is None for one in asking),
        )
        or "–"
    )


def reasons_of(jobs: list[Job]) -> str:
    """Return why the jobs of a stage run; those that only follow others share one reason that names all of these."""
    rules = sorted(set().union(*(job.after for job in jobs if not job.why)))
    return counted([" and ".join(job.why) or f"input made anew by {listed(rules, 2)}" for job in jobs])


def cells_of(jobs: list[Job], most: int) -> str:
    """Return which jobs of a stage run: the values of each wildcard, or few jobs one by one where these are no grid."""
    names = list(jobs[0].wildcards)
    values = {name: sorted({job.wildcards[name] for job in jobs}) for name in names}
    if len(jobs) <= most and len(jobs) < math.prod(map(len, values.values())):
        return ", ".join(sorted("-".join(job.wildcards.values()) for job in jobs))
    return "  ".join(f"{name}={listed(found, most).replace(', ', ',')}" for name, found in values.items())


def plan_text(
    study: str, jobs: list[Job], records: dict[tuple[str, str], dict], broken: list[str], most: int = 6
) -> str:
    """Return the plan: a line per stage, their total, which jobs they are, and what to know of the numbers.

    jobs come in the order of the stages; records and broken are those of `read_records`; most is how many jobs of a
    stage are named.
    """
    if not jobs:
        return "Nothing to be done: all that was asked for is there and up to date."
    stages: dict[str, list[Job]] = {}
    for job in jobs:
        stages.setdefault(job.rule, []).append(job)
    estimates = {rule: [estimate(job, study, records) for job in of_rule] for rule, of_rule in stages.items()}
    rows = [["stage", "jobs", "GPUs", "hours", "GPU-hours", "estimate", "why"]]
    for rule, of_rule in stages.items():
        asked = sorted({job.gpus for job in of_rule})
        rows.append(
            [
                rule,
                str(len(of_rule)),
                "–".join(map(str, sorted({asked[0], asked[-1]}))) if asked[-1] else "–",
                hours_of(estimates[rule]),
                gpu_hours_of(of_rule, estimates[rule]),
                counted([one.source for one in estimates[rule]]),
                reasons_of(of_rule),
            ]
        )
    flat = [job for of_rule in stages.values() for job in of_rule]
    every = [one for of_rule in estimates.values() for one in of_rule]
    rows.append(["total", str(len(jobs)), "", hours_of(every), gpu_hours_of(flat, every), "", ""])
    which = [[rule, cells_of(of_rule, most)] for rule, of_rule in stages.items() if of_rule[0].wildcards]
    lines = [f"Study {study}: what would run (jobs: {len(jobs)}, stages: {len(stages)})", "", *aligned(rows)]
    lines += ["", *aligned(which), ""] if which else [""]
    lines.append(
        "hours: of all jobs, one after another; (least–most of the records); ≤ limits that the jobs ask for"
    )
    if broken:
        lines.append(f"cost files that hold no costs and were not used ({len(broken)}): {listed(broken)}")
    return "\n".join(lines)


def more_seeds(
    seeds: list[int] | SeedsUntil, study: str, jobs: list[Job], records: dict[tuple[str, str], dict]
) -> list[str]:
    """Return what the plan leaves open where the number of seeds is yet to be chosen, in lines."""
    if not isinstance(seeds, SeedsUntil) or all(job.rule != "choose_seeds" for job in jobs):
        return []
    line = f"seeds: {seeds.first} to {seeds.at_most}, chosen once the first {seeds.first} are scored, which stand here"
    of_last = [job for job in jobs if job.wildcards.get("seed") == str(seeds.first)]
    if of_last and (more := seeds.at_most - seeds.first):
        hours = hours_of([estimate(job, study, records) for job in of_last])
        line += f"; up to {more} more, each for as many hours as the jobs of seed {seeds.first}: {hours}"
    return [line]


# --- Snakemake's plan -------------------------------------------------------------------------------------------


class Listener(logging.Handler):
    """Keeps the job graph of the jobs that Snakemake logs, and its warnings and errors."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: Any = None
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == LogEvent.DEBUG_DAG:
            if "job" in vars(record):
                self.graph = record.job.dag
                logging.getLogger(record.name).setLevel(logging.INFO)  # one such line is enough
        elif record.levelno >= logging.WARNING:
            self.messages.append(record.getMessage())


def run_snakemake(flags: list[str]) -> Any:
    """Return the job graph of a dry run with these flags, None where no job could make anything.

    Snakemake's own message and exit status end the process where it cannot plan. Its warnings go to standard error.
    """
    listener, said, status = Listener(), io.StringIO(), None
    snakemake = logging.getLogger("snakemake")
    snakemake.addHandler(listener)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            # So quiet, a dry run ends when its graph is whole: each job in words takes as long again.
            cli.main(["--dry-run", "--quiet", "rules", "progress", "--debug-dag", *flags])
    except SystemExit as stopped:
        status = stopped.code
    finally:
        snakemake.removeHandler(listener)
    if isinstance(status, str):  # the study's mistakes, as the Snakefile gives them
        sys.exit(status)
    if status:
        print("\n".join(listener.messages) or said.getvalue(), file=sys.stderr)
        sys.exit(status)
    if listener.messages:
        print("\n".join(listener.messages), file=sys.stderr)
    return listener.graph


def own_reasons(job: Any, reason: Any, recorded: Any) -> list[str]:
    """Return why Snakemake runs a job, but for what other jobs make anew; recorded is its memory of the last run."""
    edited = sorted(reason.updated_input - reason.updated_input_run)
    found = []
    if reason.forced:
        found.append("forced")
    if reason.nooutput or reason.noio:
        found.append("always runs")
    if reason.missing_output:
        found.append("missing")
    if reason.incomplete_output:
        found.append("cut short last time")
    if edited:
        found.append(f"input changed: {listed(edited)}")
    if reason.input_changed:
        before, now = set(recorded.input(job.output[0]) or ()), set(job.input)
        names = [f"+{name}" for name in sorted(now - before)] + [f"−{name}" for name in sorted(before - now)]
        found.append(f"inputs: {listed(names)}")
    if reason.params_changed:
        named = {repr(value): name for name, value in job.params.items()}
        now = {named.get(text, "a parameter"): text for text in sorted(reason.params_changed.only_new)}
        found += changed_params(reason.params_changed.only_old, now)
    if reason.code_changed:
        found.append("command changed")
    if reason.software_stack_changed:
        found.append("environment changed")
    return found


def planned_job(job: Any, graph: Any, makers: dict[str, str]) -> Job:
    """Return what the plan says of one of Snakemake's jobs; makers are the rules that make files anew, by file."""
    reason = graph.reason(job)
    resources = dict(job.resources.items())
    cost = re.search(r"--cost[ =]\S+", job.rule.shellcmd or "")
    if cost:
        cost = re.search(r"([^/\s]+/[^/\s]+\.json)", job.format_wildcards(cost.group()))
    runtime = resources.get("runtime")
    return Job(
        rule=job.rule.name,
        wildcards=dict(job.wildcards_dict),
        gpus=int(resources.get("gpu", 0)),
        runtime_minutes=runtime if isinstance(runtime, int | float) else None,
        cost=cost and cost.group(1),
        why=tuple(own_reasons(job, reason, graph.workflow.persistence)),
        after=frozenset(makers[file] for file in reason.updated_input_run if file in makers),
    )


def plan_of(flags: list[str]) -> tuple[Study | None, list[Job], Profile]:
    """Return (study, the jobs of a run of Snakemake with these flags, in an order they could run in, its profile)."""
    graph = run_snakemake(flags)
    if graph is None:
        return None, [], {}
    due = graph.needrun_jobs(exclude_finished=False)
    makers = {file: job.rule.name for job in due for file in job.output}
    jobs = [
        planned_job(job, graph, makers)
        for level in graph.toposorted()
        for job in sorted(level, key=lambda job: (job.rule.name, *job.wildcards_dict.values()))
        if graph.needrun(job) and not (job.rule.norun and not job.output)  # targets do nothing themselves
    ]
    return graph.workflow.globals["STUDY"], jobs, said_in(graph.workflow.resource_settings)


def main() -> None:
    """Print what a run of Snakemake with these flags would do and why, and what it would take by earlier costs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--show", type=int, default=6, help="how many jobs of a stage are named (default: 6)")
    parser.add_argument("snakemake", nargs="*", metavar="-- FLAG", help="what Snakemake would be run with")
    arguments = parser.parse_args()
    study, jobs, profile = plan_of(arguments.snakemake)
    records, broken = read_records(Path("results"), [job.rule for job in jobs])
    name = study.study if study else ""
    text = plan_text(name, jobs, records, broken, arguments.show)
    seeds = more_seeds(study.seeds if study else [], name, jobs, records)
    memory = needs.lines_of(study, profile) if jobs else []
    print(text, *seeds, *memory, sep="\n")


if __name__ == "__main__":
    run(main)
