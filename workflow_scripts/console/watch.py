"""A page that grows with a run: `make watch STUDY=studies/x.yaml` serves it until Ctrl-C.

Jobs and how far they are, curves while trainings go on, what policies answered at validation steps, and the table so
far with what is missing. It reads files only, so it may run on any machine that sees the folder. Whoever can open
the page can read what it shows and do nothing else: it answers GET alone, of this machine alone unless told otherwise,
and only where the browser asks for it by the name that it is served under (no page of elsewhere can reach it).
"""

import argparse
import functools
import ipaddress
import json
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from markupsafe import Markup

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json
from workflow_scripts.common.progress import ENDING
from workflow_scripts.common.training.curve import curve_of
from workflow_scripts.console.reading import cost_of, last_lines, stand_of
from workflow_scripts.console.run import Run, journal_of, run_of
from workflow_scripts.console.so_far import Cause, about, rows_so_far, unmade, why_not
from workflow_scripts.console.status import head_lives
from workflow_scripts.console.words import counts, dollars, number, short_time, stand_words
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.plan.report import curves, table_settings
from workflow_scripts.report.drawing import STYLE
from workflow_scripts.report.grid import headline_cells
from workflow_scripts.report.page import render
from workflow_scripts.report.page_figures import picture
from workflow_scripts.report.page_tables import headline_table, plain_table, results_table
from workflow_scripts.report.rows import headline_rows, without_luck
from workflow_scripts.report.samples import watched_answers
from workflow_scripts.report.training_figures import draw_loss_curves, draw_watch
from workflow_scripts.study.checking import load_study

LOOPBACK, EVERY = "127.0.0.1", 5  # seconds between two looks of an open page
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
    for curve in curves(plan):
        growing = is_unmade(curve["file"])
        rows = [] if growing else read_json(curve["file"])
        if growing and f"{curve['policy']}-{curve['seed']}" in at_work:
            rows = growing_rows(plan, curve)
        if rows:
            found.append(curve | {"rows": rows, "growing": growing})
    return sorted(found, key=lambda curve: not curve["growing"])[:PANELS]


def curve_pictures(found: list[dict[str, Any]]) -> list[Markup]:
    """Return a picture of each policy's losses, and of what was watched where something was."""
    pictures = []
    with plt.rc_context(STYLE):
        for number_of, policy in enumerate(dict.fromkeys(curve["policy"] for curve in found)):
            own = [curve for curve in found if curve["policy"] == policy]
            label = f"Losses of {policy} by optimiser step"
            pictures.append(picture(draw_loss_curves(own), f"curve{number_of}", label))
            if any("watch" in row for curve in own for row in curve["rows"]):
                label = f"What the answers of {policy} were worth by optimiser step"
                pictures.append(picture(draw_watch(policy, own), f"watch{number_of}", label))
    return pictures


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


def is_named(host: str, names: set[str]) -> bool:
    """Tell whether a request asks for this server by a name of its own, or by an address."""
    name = host.rsplit(":", 1)[0].strip("[]") if host else ""
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Handler(BaseHTTPRequestHandler):
    """Answers GET of the page, and of the finished report; of nothing else."""

    def __init__(self, page: Callable[[], str], report: Path, *more: Any) -> None:
        self.page, self.report = page, report
        super().__init__(*more)

    def do_GET(self) -> None:
        """Send the page."""
        if not is_named(self.headers.get("Host", ""), {"localhost", socket.gethostname()}):
            self.send_error(HTTPStatus.FORBIDDEN, "asked for by a name that is not this machine's")
        elif self.path == "/":
            try:
                page = self.page()
            except (
                PlumblineError,
                OSError,
                KeyError,
                TypeError,
                ValueError,
            ) as error:  # a file that is being replaced
                print(f"this look failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "this look failed; the next one may not")
            else:
                self.send(page)
        elif self.path == "/report" and self.report.is_file():
            self.send(self.report.read_text(encoding="utf-8"))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def send(self, text: str) -> None:
        """Send a page."""
        body = text.encode()
        self.send_response(HTTPStatus.OK)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Frame-Options": "DENY",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing of each look."""


def serve(plan: Plan, host: str, port: int) -> ThreadingHTTPServer:
    """Return a server of a study's page; PlumblineError where the address cannot be had."""
    cached = Cached()

    def page() -> str:
        return render("watch.html.j2", look(plan, cached), "watch.js")

    handler = functools.partial(Handler, page, Path(plan.layout.results) / "report.html")
    try:
        return ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise PlumblineError(
            f"{host}:{port} cannot be served on: {error.strerror}; give another PORT"
        ) from None


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
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    run(main)
