"""What a study cost: costs.csv, a row per job that wrote a cost file, then the totals of each stage and of the study.

Kept apart from results.csv, which stays the same to the byte however long the machine took. A total adds up what was
recorded; of the peak memory it is the largest. A cost file that is not there is a row with a note: its job took
nothing that is known (verdicts that were served from the store, or a file that was deleted).

Not covered: jobs that measure nothing (cleaning, tokenising, scoring on a CPU), electricity, what a cluster charges.
"""

import argparse
import math
from pathlib import Path

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json
from workflow_scripts.report.settings import read_settings
from workflow_scripts.report.spreadsheets import write_csv


class Job(TypedDict):
    """A job that writes what it cost to `file`; policy and seed are "" where it is about none."""

    stage: str
    policy: str
    seed: int | str
    name: str
    file: str


class Settings(TypedDict):
    """The jobs of a study that write what they cost."""

    files: list[Job]


SUMMED = ("wall_seconds", "gpu_seconds", "tokens", "hand_overs")
JUDGED = ("judge_calls", "judge_stored", "judge_retries", "prompt_tokens", "completion_tokens", "usd")
MEASURES = (*SUMMED, "peak_memory_mb", "processes", "threads", *JUDGED)
COLUMNS = ("stage", "policy", "seed", "name", *MEASURES, "note")
TOTAL = "total"


def cost_row(entry: Job) -> dict:
    """Return the row of one cost file: {"stage", "policy", "seed", "name"} with what the file measured, and a note."""
    row = {key: entry[key] for key in ("stage", "policy", "seed", "name")}
    if not Path(entry["file"]).exists():
        return row | {"note": f"not recorded: {entry['file']} does not exist"}
    return row | measured(entry["file"])


def measured(file: Path | str) -> dict:
    """Return what a cost file measured, with a note of what there is no column for.

    wall_seconds and gpu_seconds in seconds, peak_memory_mb in MiB, usd in US dollars; a measure that the job does not
    take is left out. Raises PlumblineError for a file that is no object of numbers.
    """
    found = read_json(file)
    if not isinstance(found, dict):
        raise PlumblineError(f"{file}: expected an object of numbers; delete it and run its job again")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise PlumblineError(
                f"{file}: {name} is {value!r}, not a number of at least 0; delete it and run its job again"
            )
    unknown = sorted(set(found) - set(MEASURES))
    row = {name: found[name] for name in MEASURES if name in found}
    return row | ({"note": f"no column for {', '.join(unknown)}"} if unknown else {})


def total_row(rows: list[dict], stage: str) -> dict:
    """Return the total of some rows: sums, the largest peak memory, and how many of the rows had no cost file."""
    total: dict = {"stage": stage, "name": TOTAL}
    for name in (*SUMMED, *JUDGED):
        values = [row[name] for row in rows if name in row]
        if values:
            total[name] = (
                sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)
            )
    peaks = [row["peak_memory_mb"] for row in rows if "peak_memory_mb" in row]
    if peaks:
        total["peak_memory_mb"] = max(peaks)
    unrecorded = sum(row.get("note", "").startswith("not recorded") for row in rows)
    return total | ({"note": f"{unrecorded} of {len(rows)} not recorded"} if unrecorded else {})


def costs(entries: list[Job]) -> list[dict]:
    """Return the rows of costs.csv: one per entry in the order given, a total per stage, and the study's total.

    Totals have the name "total" and no policy; the study's has the stage "total" as well.
    """
    rows = [cost_row(entry) for entry in entries]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    totals = [total_row([row for row in rows if row["stage"] == stage], stage) for stage in stages]
    return [*rows, *totals, total_row(rows, TOTAL)]


def written(value: object) -> str:
    """Return a CSV field: integers whole, other numbers with ten significant digits, nothing for None."""
    return format(value, ".10g") if isinstance(value, float) else "" if value is None else str(value)


def write_costs(path: Path, rows: list[dict]) -> None:
    """Write the rows as CSV, atomically."""
    write_csv(path, COLUMNS, ([written(row.get(name)) for name in COLUMNS] for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--settings",
        type=read_settings(Settings),
        required=True,
        help='{"files": [{"stage", "policy", "seed", "name", "file"}]}, or - to read it from standard input',
    )
    parser.add_argument("--output", type=Path, required=True, help="costs.csv")
    arguments = parser.parse_args()
    write_costs(arguments.output, costs(arguments.settings["files"]))


if __name__ == "__main__":
    run(main)
