"""All studies under results/ in one page, side by side: headline tables, dates, seeds, baselines, links to each report.

    python -m workflow_scripts.report.gallery                 results/ to results/gallery.html
    python -m workflow_scripts.report.gallery elsewhere --output page.html

One HTML file that fetches nothing; its links are relative, so that the folder can be moved whole. It is made of the
tables and the copies of the studies that lie there (results.csv, study.yaml): nothing is run or computed anew.
A study whose table cannot be read, or that has none yet, is named as that. Not covered: differences between studies
(`report.compare` sets two side by side, paired).
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import yaml

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file
from workflow_scripts.report.drawing import CALIBRATION
from workflow_scripts.report.grid import headline_cells
from workflow_scripts.report.page import render
from workflow_scripts.report.page_tables import field, headline_table, table
from workflow_scripts.report.rows import headline_rows, typed, without_luck
from workflow_scripts.report.scores import in_order
from workflow_scripts.report.spreadsheets import read_csv

TABLE, COPY, REPORT = "results.csv", "study.yaml", "report.html"
WRONG = (PlumblineError, OSError, KeyError, ValueError, TypeError, AttributeError, yaml.YAMLError)


def shown_cells(folder: Path) -> dict:
    """Return {"headline", "bars"} of a study's report as its copy in the folder has them; of none, empty lists."""
    path = folder / COPY
    copy = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: copy.get("report", {}).get(key, []) for key in ("headline", "bars")}


def study_view(folder: Path, number: int) -> dict:
    """Return what the page shows of a study with a table; an error of WRONG where its files are not what they were."""
    rows = [typed(row) for row in headline_rows(read_csv(folder / TABLE))]
    if not rows:
        raise PlumblineError(f"{folder / TABLE}: has no rows")
    cells = headline_cells(rows, shown_cells(folder))
    policies = [policy for policy in in_order(row["policy"] for row in rows) if policy not in CALIBRATION]
    made = datetime.fromtimestamp((folder / TABLE).stat().st_mtime, UTC)
    return {
        "name": folder.name,
        "id": f"study-{number}",
        "date": made.strftime("%Y-%m-%d %H:%M"),
        "seeds": int(max(row["seeds"] for row in rows)),
        "baseline": next((row["baseline"] for row in rows if row["baseline"]), ""),
        "policies": len(policies),
        "benchmarks": len(in_order(row["benchmark"] for row in rows)),
        "refused": len(in_order(row["benchmark"] for row in rows if row["value"] == "")),
        "without_luck": without_luck(rows),
        "report": f"{quote(folder.name)}/{REPORT}" if (folder / REPORT).is_file() else "",
        "headlines": headline_table(rows, cells) | {"name": f"headlines-{number}"} if cells else None,
    }


def studies_in(results: Path) -> tuple[list[dict], list[tuple[str, str]]]:
    """Return the studies of a folder that have a table, by name, and (name, reason) of those that are not shown."""
    shown, others = [], []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        if not (folder / TABLE).is_file():
            others.append((folder.name, "has no table yet"))
            continue
        try:
            shown.append(study_view(folder, len(shown)))
        except WRONG as error:
            others.append((folder.name, f"cannot be read: {error}"))
    return shown, others


def overview(studies: list[dict]) -> dict:
    """Return a line per study: what it is made of, and when."""
    counts = ("seeds", "policies", "benchmarks")
    lines = [
        {
            "study": field(study["name"], code=True),
            "date": field(study["date"]),
            "baseline": field(study["baseline"], code=True),
        }
        | {key: field(str(study[key]), study[key]) for key in counts}
        for study in studies
    ]
    labels = {"study": "study", "date": "table made (UTC)", "seeds": "seeds", "policies": "policies"}
    labels |= {"benchmarks": "benchmarks", "baseline": "baseline"}
    return table("overview", lines, labels, set(counts))


def gallery(results: Path) -> str:
    """Return the page; PlumblineError where the folder has no study with a table."""
    if not results.is_dir():
        raise PlumblineError(f"{results}: no such folder; run a study first (make results)")
    studies, others = studies_in(results)
    if not studies:
        told = "; ".join(f"{name} {reason}" for name, reason in others) or "it is empty"
        raise PlumblineError(f"{results}: no study has a table here ({told}); run one first (make results)")
    values = {"studies": studies, "others": others, "overview": overview(studies)}
    return render("gallery.html.j2", values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="the folder of studies"
    )
    parser.add_argument(
        "--output", type=Path, help="the page, HTML; gallery.html in that folder if not given"
    )
    arguments = parser.parse_args()
    output = arguments.output or arguments.results / "gallery.html"
    text = gallery(arguments.results)
    with finished_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"gallery: {output}")


if __name__ == "__main__":
    run(main)
