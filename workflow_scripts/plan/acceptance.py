"""Work that stands though its code or pins have changed since: results/STUDY/accepted.json, and how it stays true.

The file is {"accepted": [{"why", "on": the day, "changed": {"code" or "pins": {name: [old, new]}, "command": [rules]},
"jobs": [...]}]}; a job is {"job": its rule and wildcards, "outputs": [paths], "scores": the score files that rest on
it, "records": {output: what Snakemake's record of it was before, {"params": [texts], "code": its command}}}.
`make accept` writes it (plan.accept). A run looks at it before its first job: a job that is about to run again loses
its acceptance, and the record of its outputs becomes what it was before, so that it is stale should the run end before
it; and scores that have come since are added. Provenance, report and `make verify` say which rows rest on what was
accepted.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json

FILE = "accepted.json"
RESULTS = Path("results")


def accepted_file(results: Path | str) -> Path:
    """Return where a study's acceptances stand."""
    return Path(results) / FILE


def read_accepted(path: Path) -> list[dict]:
    """Return the acceptances in a file, none where there is no file; PlumblineError where it has another shape."""
    value = read_json(path) if path.is_file() else {"accepted": []}
    found = value.get("accepted") if isinstance(value, dict) else None
    if not isinstance(found, list) or not all(
        {"why", "on", "changed", "jobs"} <= set(each) for each in found
    ):
        raise PlumblineError(
            f"{path}: holds no acceptances; delete it, and what it let stand is to be accepted anew"
        )
    return found


def write_accepted(path: Path, accepted: list[dict]) -> None:
    """Write acceptances; those that have no job left are left out."""
    write_json(path, {"accepted": [each for each in accepted if each["jobs"]]})


def accepted_files(results: str, folder: Path = RESULTS) -> list[str]:
    """Return the files whose acceptances a study's scores may rest on: its own, and others' of what studies share.

    Downloads and base models are shared: what one study lets stand, stands in all.
    """
    found = []
    for path in sorted(folder.glob(f"*/{FILE}")):
        outputs = [name for each in read_accepted(path) for job in each["jobs"] for name in job["outputs"]]
        own = path.parent == Path(results)
        study = path.parent.name
        theirs = (f"results/{study}/", f"data/clean/{study}/")
        if own or any(not name.startswith(theirs) for name in outputs):
            found.append(str(path))
    return found


def downstream(graph: Any, jobs: Iterable[Any]) -> set[Any]:
    """Return the jobs of Snakemake's graph that rest on some jobs, these among them.

    An input that only orders two jobs (ancient) hands nothing on.
    """
    found, waiting = set(), list(jobs)
    while waiting:
        job = waiting.pop()
        if job in found:
            continue
        found.add(job)
        for child, files in graph.depending[job].items():
            if not files or not all(file.is_ancient for file in files):
                waiting.append(child)
    return found


def scores_of(jobs: Iterable[Any]) -> set[str]:
    """Return the score files among the outputs of jobs."""
    outputs = [str(output) for job in jobs for output in job.output]
    return {path for path in outputs if "/policies/" in path and Path(path).parent.name == "scores"}


def restored(persistence: Any, job: dict) -> None:
    """Give Snakemake back the records that an accepted job's outputs had before."""
    for output, before in job["records"].items():
        record = persistence._read_record(output)
        if record is not None:
            record.params, record.code = before["params"], before["code"]
            persistence._write_record(output, record)
    persistence._clear_cache()


def settle(workflow: Any, folder: Path = RESULTS) -> None:
    """Take the acceptance from every job that a run is about to make again, and note which scores rest on the others.

    Called by the Snakefile's `onstart`, before the first job.
    """
    paths, graph = sorted(folder.glob(f"*/{FILE}")), workflow.dag
    if not paths:
        return
    makers = {str(output): job for job in graph.jobs for output in job.output}
    due = {str(output) for job in graph.needrun_jobs() for output in job.output}
    planned = scores_of(graph.jobs)
    for path in paths:
        accepted = read_accepted(path)
        before = json.dumps(accepted)
        for each in reversed(
            accepted
        ):  # the last first: its records go back to what the one before it made of them
            for job in [job for job in each["jobs"] if due & set(job["outputs"])]:
                restored(workflow.persistence, job)
                each["jobs"].remove(job)
            for job in each["jobs"]:
                behind = {makers[name] for name in job["outputs"] if name in makers}
                if behind:
                    now = scores_of(downstream(graph, behind))
                    job["scores"] = sorted((set(job["scores"]) - planned) | now)
        if json.dumps(accepted) != before:
            write_accepted(path, accepted)
