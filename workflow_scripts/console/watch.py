"""A page that grows with a run: `make watch STUDY=studies/x.yaml` serves it until Ctrl-C.

Jobs and how far they are, curves while trainings go on, what policies answered at validation steps, and the table so
far with what is missing. It reads files only, so it may run on any machine that sees the folder. Whoever can open
the page can read what it shows and do nothing else: it answers GET alone, of this machine alone unless told otherwise,
and only where the browser asks for it by that name (no page of elsewhere can reach it: `common.local_server`).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from markupsafe import Markup

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json
from workflow_scripts.common.local_server import (
    LOOPBACK,
    Handler,
    Refused,
    Server,
    listening,
    until_interrupted,
)
from workflow_scripts.common.progress import ENDING
from workflow_scripts.common.training.curve import curve_of
from workflow_scripts.console.reading import cost_of, last_lines, stand_of
from workflow_scripts.console.run import Run, journal_of, run_of
from workflow_scripts.console.so_far import Cause, about, rows_so_far, unmade, why_not
from workflow_scripts.console.status import head_lives
from workflow_scripts.console.words import counts, dollars, number, short_time, stand_words
from workflow_scripts.plan.growing import plan_at_hand
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.plan.report import curves, table_settings
from workflow_scripts.report.drawing import STYLE
from workflow_scripts.report.grid import headline_cells
from workflow_scripts.report.page import render
from workflow_scripts.report.page_figures import figures_of_curves
from workflow_scripts.report.page_tables import headline_table, plain_table, results_table
from workflow_scripts.report.rows import headline_rows, without_luck
from workflow_scripts.report.samples import watched_answers
from workflow_scripts.study.checking import load_study

EVERY = 5  # seconds between two looks of an open page
PLAIN = "text/plain; charset=utf-8"
PANELS = 24  # curves on the page; of more, those that moved last
SHOWN = 30  # failed jobs
WHOLE = 10_000_000  # bytes of what a job tells of itself: more than any tells


class Cached:
    """A function of nothing that is called again only where `key` has changed: what makes a picture costs a second."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Any, Any]] = {}

    def get(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made of this key before, or make it."""
        if name not in self.kept or self.kept[name][0] != key:
            self.kept[name] = (key, make())
        return self.kept[name][1]


def stamp(path: Path) -> tuple[int, int] | None:
    """Return what tells whether a file is another than before; None where it is not there."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size


def growing_rows(plan: Plan, curve: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a curve that is still growing, by the newest checkpoint and by what its job tells since.

    The checkpoint has all points with what was answered; the job's own lines come every second and have the losses.
    """
    name = f"{curve['policy']}-{curve['seed']}"
    states = Path(plan.layout.work, "train", name).glob("checkpoint-*/trainer_state.json")
    saved = max(states, key=lambda path: path.stat().st_mtime, default=None)
    rows = curve_of(read_json(saved)["log_history"]) if saved else []
    since = max((row["step"] for row in rows), default=0)
    for path in sorted(Path(plan.layout.results, "logs").glob(f"train_*/{name}{ENDING}")):
        before: dict[str, Any] = {}
        for line in last_lines(path, WHOLE):
            told = {"train_loss": line.get("loss"), "validation_loss": line.get("validation_loss")}
            new = {
                key: value for key, value in told.items() if value is not None and value != before.get(key)
            }
            before |= new
            if new and line.get("stage") == "training" and line["done"] > since:
                rows.append({"step": line["done"]} | new)
    return rows


def curves_so_far(plan: Plan, at_work: set[str]) -> list[dict[str, Any]]:
    """Return the curves of the study that have a point, those that grow at first: of trainings that are at work.

    at_work: what the logs of the jobs at work are called.
    """
    found, is_unmade = [], unmade(plan)
    for curve in curves(plan_at_hand(plan)):
        growing = is_unmade(curve["file"])
        rows = [] if growing else read_json(curve["file"])
        if growing and f"{curve['policy']}-{curve['seed']}" in at_work:
            rows = growing_rows(plan, curve)
        if rows:
            found.append(curve | {"rows": rows, "growing": growing})
    return sorted(found, key=lambda curve: not curve["growing"])[:PANELS]


def curve_pictures(found: list[dict[str, Any]]) -> list[Markup]:
    """Return the report's figures of curves."""
    with plt.rc_context(STYLE):
        return figures_of_curves(found)


def failed_of(plan: Plan, found: Run | None) -> list[Cause]:
    """Return the jobs of a run that failed, as the table's notes say it."""
    jobs = found.failed() if found else []
    return [Cause(job.words, job.why or "", *about(plan, job.log)) for job in jobs]


def job_lines(found: Run, now: float) -> list[dict[str, str]]:
    """Return a line for each job at work: what it does, how long it has, and where it stands."""
    return [
        {
            "job": job.words,
            "since": short_time(job.seconds(now)),
            "stands": stand_words(stand_of(job.log, job.started), job.seconds(now)),
            "log": job.log,
        }
        for job in found.running()
    ]


def failed_lines(found: Run) -> list[dict[str, str]]:
    """Return a line for each job that failed, with why."""
    return [{"job": job.words, "why": job.why or "", "log": job.log} for job in found.failed()[:SHOWN]]


def state_of(found: Run | None, now: float) -> str:
    """Return in a sentence whether a run goes on."""
    if found is None:
        return "No run of make results has left a note here yet."
    if found.ended is not None:
        how = "well" if found.well else "with failures"
        return f"The run has ended {how}, {short_time(now - found.ended)} ago."
    if head_lives(found) is False:
        return "Nothing runs: the head has ended without a word; make results goes on where it was."
    return "It runs."


def look(plan: Plan, cached: Cached) -> dict[str, Any]:
    """Return all that the page shows of a study just now."""
    results, now = Path(plan.layout.results), time.time()
    found, cost = run_of(journal_of(results)), cost_of(results)
    failed = failed_of(plan, found)
    seen = [stamp(path) for path in sorted(results.glob("policies/*/seed-*/scores/*.json"))]
    rows = cached.get("rows", (seen, failed), lambda: table_rows(plan, failed))
    moving = curves_so_far(plan, {Path(job.log).stem for job in found.running()} if found else set())
    drawn = cached.get("curves", json.dumps(moving), lambda: curve_pictures(moving))
    settings, shown = json.loads(table_settings(plan)), headline_rows(rows)
    cells = headline_cells(shown, settings)
    lacking = [row for row in shown if row["value"] == "" and row["metric"] == ""]
    return {
        "study": plan.study.study,
        "every": EVERY,
        "clock": time.strftime("%H:%M:%S", time.localtime(now)),
        "state": state_of(found, now),
        "counts": counts(found, cost, now) if found else "",
        "cost": f"{short_time(cost.seconds)} of jobs, {number(cost.tokens)} tokens, {dollars(cost.usd)}",
        "stages": found.stages() if found else [],
        "jobs": plain_table("jobs", job_lines(found, now)) if found and found.running() else None,
        "failed": plain_table("failed", failed_lines(found)) if found and found.failed() else None,
        "curves": drawn,
        "watched": watched_answers([curve for curve in moving if curve["rows"]]),
        "headlines": headline_table(shown, cells) if cells else None,
        "without_luck": without_luck(shown),
        "lacking": lacking,
        "scored": len({(row["policy"], row["benchmark"]) for row in shown if row["value"] != ""}),
        "results": results_table(shown) if cells else None,
        "report": (results / "report.html").is_file() and found is not None and bool(found.well),
    }


def table_rows(plan: Plan, failed: list[Cause]) -> list[dict]:
    """Return the rows of the table so far; none where no score is there, or one cannot be read just now."""
    is_unmade = unmade(plan)
    scores = Path(plan.layout.results).glob("policies/*/seed-*/scores/*.json")
    if all(is_unmade(str(path)) for path in scores):
        return []
    try:
        return rows_so_far(plan, why_not(plan, failed))
    except (PlumblineError, OSError):
        return []


class Page(Handler):
    """Answers GET of the page, and of the finished report; of nothing else."""

    plan: Plan
    cached: Cached

    def do_GET(self) -> None:
        """Send the page."""
        report = Path(self.plan.layout.results) / "report.html"
        try:
            self.from_here()
            if self.path == "/":
                text = render("watch.html.j2", look(self.plan, self.cached), "watch.js")
            elif self.path == "/report" and report.is_file():
                text = report.read_text(encoding="utf-8")
            else:
                raise Refused(404, "there is nothing here")
        except Refused as error:
            self.send(error.status, PLAIN, f"{error}\n")
        except (
            PlumblineError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # a file that is being replaced
            print(f"this look failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self.send(500, PLAIN, "this look failed; the next one may not\n")
        else:
            self.send(200, "text/html; charset=utf-8", text, X_Frame_Options="DENY")


def serve(plan: Plan, host: str, port: int) -> Server:
    """Return a server of a study's page; PlumblineError where the address cannot be had."""
    return listening(type("Bound", (Page,), {"plan": plan, "cached": Cached()}), host, port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", default="config.yaml", help="the study's YAML")
    parser.add_argument(
        "--host", default=LOOPBACK, help="the address to serve on: 0.0.0.0 lets others look, too"
    )
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    arguments = parser.parse_args()
    plan = plan_of(load_study(arguments.study))
    with serve(plan, arguments.host, arguments.port) as server:
        host, port = server.server_address[:2]
        print(f"{plan.study.study}: http://{host}:{port}/ (Ctrl-C ends it)", flush=True)
        until_interrupted(server)


if __name__ == "__main__":
    run(main)
