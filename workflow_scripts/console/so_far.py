"""The table as far as it goes: of what is scored so far, with a row that says why for each score that is not.

For a study whose run still goes on, or has failed. Built by what builds the table itself, over the score files that are
there; in place of each that is not stands a refusal. A score that the run is to make anew is not there before it has:
the head notes them all as it starts, and the curves of trainings. The table is written to results/<study>/so_far/, so
that no file of a finished table is another; a run that ends well takes it away. Its records of provenance are digests
of the files alone.
"""

import contextlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import finished_file, read_json, write_json
from workflow_scripts.plan.growing import plan_at_hand
from workflow_scripts.plan.index import index_entries, score_files
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.policies import lineage
from workflow_scripts.plan.report import curve_files, table_settings
from workflow_scripts.report.index import entries_of
from workflow_scripts.report.last_words import Failed
from workflow_scripts.report.markdown import markdown
from workflow_scripts.report.results import COLUMNS, FEWER, results
from workflow_scripts.report.scores import load_scores
from workflow_scripts.report.spreadsheets import write_table

FOLDER, DUE = "so_far", "due.json"
OF_A_POLICY = re.compile(r"(?P<policy>.+?)-(?P<seed>\d+)(-(?P<benchmark>.+))?")
CLOCKS = 2.0  # seconds that the clocks of a file's host and of this one may be apart
DRAWS = 1_000  # of a table that will be made again


class Cause(NamedTuple):
    """A job that failed: of which policy, seed and benchmark, None where it is of none or of all; and why, in words."""

    what: str
    why: str
    policy: str | None = None
    seed: str | None = None
    benchmark: str | None = None


def about(plan: Plan, log: str) -> tuple[str | None, str | None, str | None]:
    """Return the policy, seed and benchmark that a job was about, by the name of its log; None: not named."""
    found = OF_A_POLICY.fullmatch(Path(log).stem)
    known = {*plan.policies, *plan.again, *plan.study.policies}
    return found.group("policy", "seed", "benchmark") if found and found["policy"] in known else (None,) * 3


def causes(plan: Plan, failed: Iterable[Failed]) -> list[Cause]:
    """Return the jobs of a run that failed, as what scores lack by."""
    return [Cause(job.words, job.why().reason, *about(plan, next(iter(job.logs), ""))) for job in failed]


def is_behind(plan: Plan, failed: Cause, entry: dict) -> bool:
    """Tell whether a score cannot be there because a job failed, by their policies, seeds and benchmarks."""
    named = entry.get("of", entry["policy"])
    behind = {named, *(lineage(plan, named) if named in plan.policies else ())}
    return (
        (failed.policy is None or failed.policy in behind)
        and (failed.seed is None or failed.seed == str(entry["seed"]))
        and (failed.benchmark is None or failed.benchmark in (entry["benchmark"], *plan.study.pairs))
    )


def why_not(plan: Plan, failed: Sequence[Cause]) -> Callable[[dict], str]:
    """Return a function from an entry of the index to why it has no score, by the jobs that failed."""

    def why(entry: dict) -> str:
        told = next((job for job in failed if is_behind(plan, job, entry)), None)
        return f"{told.what} failed: {told.why}" if told else "not there so far"

    return why


def note_due(plan: Plan, outputs: Iterable[str]) -> None:
    """Note which scores and curves a run that starts now is to make: until it has, those there are of another study."""
    folder = Path(plan.layout.results) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(set(outputs) & {*score_files(plan), *curve_files(plan)})
    write_json(folder / DUE, {"since": time.time(), "files": files})


def unmade(plan: Plan) -> Callable[[str], bool]:
    """Return a function that tells of a score or curve whether it is not there, or of before the run that makes it."""
    noted = Path(plan.layout.results) / FOLDER / DUE
    due = read_json(noted) if noted.is_file() else {"since": 0.0, "files": []}
    files, since = set(due.get("files", [])), due["since"]

    def is_unmade(path: str) -> bool:
        file = Path(path)
        return not file.is_file() or (path in files and file.stat().st_mtime < since - CLOCKS)

    return is_unmade


def entries_so_far(plan: Plan, stand_ins: Path, why: Callable[[dict], str]) -> list[dict]:
    """Return the entries of the index, those whose score is not there with a refusal in the folder `stand_ins`.

    Where seeds are chosen as the study runs, of those that were chosen, or of the first.
    """
    entries, is_unmade = [], unmade(plan)
    for number, entry in enumerate(entries_of(json.loads(index_entries(plan_at_hand(plan))))):
        if is_unmade(entry["file"]):
            refusal = stand_ins / f"{number}.json"
            write_json(refusal, {"refused": why(entry)})
            entry = entry | {"file": str(refusal), "generations": None}
        if entry["overlap"] and not Path(entry["overlap"]).is_file():
            entry = entry | {"overlap": None}
        entries.append(entry)
    return entries


def rows_so_far(plan: Plan, why: Callable[[dict], str]) -> list[dict]:
    """Return the rows of the table as far as it goes, as `report.results` makes them."""
    with tempfile.TemporaryDirectory() as folder:
        entries = entries_so_far(plan, Path(folder), why)
        settings = json.loads(table_settings(plan))
        settings["draws"] = min(settings["draws"], DRAWS)
        return results(load_scores(entries), settings)


def write_so_far(plan: Plan, failed: Sequence[Cause]) -> list[str]:
    """Write the table as far as it goes; return in words where it is and what it lacks, [] where nothing is scored."""
    rows = rows_so_far(plan, why_not(plan, failed))
    lacking = [row for row in rows if row["value"] == "" and row["metric"] == ""]
    if len(lacking) == len(rows):
        return []
    folder = Path(plan.layout.results) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "results.csv", FEWER, rows)
    write_table(folder / "results_full.csv", COLUMNS, rows)
    with finished_file(folder / "results.md") as temporary:
        temporary.write_text(markdown(rows, json.loads(table_settings(plan))), encoding="utf-8")
    count = "1 score" if len(lacking) == 1 else f"{len(lacking)} scores"
    return [f"table so far: {folder}/results.md, with {count} lacking; what could be scored is in it"]


def said_so_far(plan: Plan, failed: Sequence[Cause]) -> list[str]:
    """Return what write_so_far does; where files are not what they were, nothing: no run ends by its last words."""
    with contextlib.suppress(PlumblineError, OSError, KeyError, ValueError):
        return write_so_far(plan, failed)
    return []


def take_away(plan: Plan) -> None:
    """Remove the table of an earlier run that did not come to its end."""
    shutil.rmtree(Path(plan.layout.results) / FOLDER, ignore_errors=True)
