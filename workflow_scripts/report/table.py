"""Item scores of a whole study to its results: results.csv (tidy), policies.csv (wide) and results.md (to read).

Deterministic: numbers have six significant digits (`%.6g`; -0 and rounding dust below 1e-12 are written 0), rows
stand in the order of the index (policies, seeds, then "all"), then benchmarks, subsets and metrics by first
appearance; no time stamps, no costs, no paths.

Not covered: clean_value (without items that overlap the training data) and published_value.
"""

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, finished_file, read_json, sha256_of
from workflow_scripts.report.statistics import Cell, holm, interval, paired_difference, read_cell, seed_of

COLUMNS = (
    "study policy parent method seed seeds benchmark subset metric value ci_low ci_high n groups higher_is_better "
    "baseline difference difference_low difference_high p_value p_adjusted provenance note"
).split()
ALL = "all"


def load_scores(index: list[dict]) -> list[dict]:
    """Return one score per index entry: the entry plus provenance, refused (text or None) and cells.

    cells maps (subset, metric) to {"cell": Cell, "higher_is_better": bool, "note": str}, in file order.
    Raises PlumblineError for a malformed score file, a cell named twice, or an entry that stands twice in the index.
    """
    scores = []
    seen = set()
    for number, entry in enumerate(index):
        missing = [key for key in ("policy", "benchmark", "file") if key not in entry]
        if missing:
            raise PlumblineError(
                f"index entry {number}: {missing[0]!r} is missing; it needs policy, benchmark, file"
            )
        key = (entry["policy"], entry.get("seed"), entry["benchmark"])
        if key in seen:
            raise PlumblineError(
                f"index entry {number}: policy, seed and benchmark {key} stand in the index twice"
            )
        seen.add(key)
        scores.append(entry | load_score(entry["file"]))
    return scores


def load_score(path: Path | str) -> dict:
    """Return a score file's provenance (12 hex digits), refused (text or None) and cells by (subset, metric)."""
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise PlumblineError(f"{path}: expected an object with 'cells' or 'refused'")
    provenance = str(raw.get("provenance") or sha256_of(path))[:12]
    refused = raw.get("refused")
    if refused is None and not raw.get("cells"):
        raise PlumblineError(f"{path}: no 'cells', and no 'refused' that says why; run the scorer again")
    cells: dict[tuple[str, str], dict] = {}
    for number, cell in enumerate(raw.get("cells") or []):
        where = f"{path}: cells[{number}]"
        if not isinstance(cell, dict) or not {"metric", "higher_is_better"} <= set(cell):
            raise PlumblineError(
                f"{where}: a cell needs metric, higher_is_better, estimator, items, groups, columns"
            )
        name = (str(cell.get("subset") or ""), str(cell["metric"]))
        if name in cells:
            raise PlumblineError(f"{where}: subset {name[0]!r} metric {name[1]!r} stands twice in this file")
        cells[name] = {
            "cell": read_cell(cell, f"{where} ({'/'.join(filter(None, name))})"),
            "higher_is_better": bool(cell["higher_is_better"]),
            "note": f"fidelity: {cell['fidelity']}" if "fidelity" in cell else "",
        }
    return {"provenance": provenance, "refused": refused, "cells": cells}


def in_order(values: Iterable) -> list:
    """Return the distinct values in order of first appearance."""
    return list(dict.fromkeys(values))


def score_sets(scores: list[dict]) -> list[dict]:
    """Return the sets that rows are made of: each (policy, seed), and in a study of several seeds each policy's "all".

    A set is {"policy", "parent", "method", "kind", "seed", "benchmarks": {benchmark: [score per seed]}}.
    """
    several = len({score.get("seed") for score in scores} - {None}) > 1
    sets = []
    for policy in in_order(score["policy"] for score in scores):
        own = [score for score in scores if score["policy"] == policy]
        picks = [
            (seed, [s for s in own if s.get("seed") == seed]) for seed in in_order(s.get("seed") for s in own)
        ]
        for seed, members in picks + ([(ALL, own)] if several else []):
            benchmarks = {
                name: [s for s in members if s["benchmark"] == name] for name in _benchmarks(members)
            }
            first = own[0]
            sets.append(
                {
                    "policy": policy,
                    "parent": first.get("parent") or "",
                    "method": first.get("method") or "",
                    "kind": first.get("kind", "policy"),
                    "seed": "" if seed is None else seed,
                    "benchmarks": benchmarks,
                }
            )
    return sets


def _benchmarks(scores: list[dict]) -> list[str]:
    return in_order(score["benchmark"] for score in scores)


def cells_of(score_set: dict | None, benchmark: str, name: tuple[str, str]) -> list[Cell]:
    """Return the cell of each seed in the set that has one."""
    members = score_set["benchmarks"].get(benchmark, []) if score_set else []
    return [score["cells"][name]["cell"] for score in members if name in score["cells"]]


def baseline_set(sets: list[dict], own: dict, baseline: str | None) -> dict | None:
    """Return the set to compare with: the baseline's same seed, else all of its seeds; None where nothing compares."""
    if not baseline or own["policy"] == baseline or own["kind"] == "calibration":
        return None
    candidates = {score_set["seed"]: score_set for score_set in sets if score_set["policy"] == baseline}
    return candidates.get(own["seed"]) or candidates.get(ALL) or next(iter(candidates.values()))


def results(scores: list[dict], settings: dict) -> list[dict]:
    """Return the rows of results.csv, numbers unrounded, with keys COLUMNS; empty cells are "".

    settings: study, baseline (a policy or null), draws, seed, confidence. p_adjusted is Holm over every comparison
    of the study; rows of seed "all" and rows of single seeds, which hold the same evidence, are two families.
    """
    sets = score_sets(scores)
    policies = in_order(own["policy"] for own in sets)
    if settings.get("baseline") and settings["baseline"] not in policies:
        raise PlumblineError(
            f"baseline {settings['baseline']!r} has no scores; policies: {', '.join(policies)}"
        )
    benchmarks = _benchmarks(scores)
    names = {
        benchmark: in_order(name for s in scores if s["benchmark"] == benchmark for name in s["cells"])
        for benchmark in benchmarks
    }
    rows: dict[tuple, dict] = {}
    for benchmark in benchmarks:
        for name in names[benchmark]:  # cell by cell, because the policies of one cell share their draws
            for number, own in enumerate(sets):
                if cells_of(own, benchmark, name):
                    rows[number, benchmark, name] = _row(sets, own, benchmark, name, settings)
    ordered = []
    for number, own in enumerate(sets):
        for benchmark in own["benchmarks"]:
            refusals = [s["refused"] for s in own["benchmarks"][benchmark] if s["refused"] is not None]
            if len(refusals) == len(own["benchmarks"][benchmark]):
                ordered.append(_refusal_row(own, benchmark, refusals[0], settings))
            ordered += [
                rows[number, benchmark, n] for n in names[benchmark] if (number, benchmark, n) in rows
            ]
    for family in (True, False):
        compared = [row for row in ordered if row["p_value"] != "" and (row["seed"] == ALL) == family]
        for row, adjusted in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
            row["p_adjusted"] = adjusted
    return ordered


def _row(sets: list[dict], own: dict, benchmark: str, name: tuple[str, str], settings: dict) -> dict:
    members = [score for score in own["benchmarks"][benchmark] if name in score["cells"]]
    cells = cells_of(own, benchmark, name)
    seed = seed_of(settings["seed"], benchmark, *name)
    arguments = {"draws": settings["draws"], "seed": seed, "confidence": settings["confidence"]}
    where = f"{benchmark}/{'/'.join(filter(None, name))}"
    row = _blank(own, benchmark, members, settings)
    try:
        estimate = interval(cells, **arguments)
        row |= {
            "subset": name[0],
            "metric": name[1],
            "value": estimate.value,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "n": len(cells[0].items),
            "groups": len(set(cells[0].groups)),
            "higher_is_better": members[0]["cells"][name]["higher_is_better"],
            "note": members[0]["cells"][name]["note"],
        }
        other = baseline_set(sets, own, settings.get("baseline"))
        other_cells = cells_of(other, benchmark, name)
        if other and other_cells:
            pair = (own["policy"], other["policy"])
            difference = paired_difference(cells, other_cells, names=pair, **arguments)
            row |= {
                "baseline": other["policy"],
                "difference": difference.value,
                "difference_low": difference.low,
                "difference_high": difference.high,
                "p_value": difference.p_value,
            }
    except PlumblineError as error:
        raise PlumblineError(
            f"{where} of {own['policy']}: {error}; score both again on one prompt set"
        ) from None
    return row


def _refusal_row(own: dict, benchmark: str, reason: str, settings: dict) -> dict:
    blank = _blank(own, benchmark, own["benchmarks"][benchmark], settings)
    return blank | {"n": 0, "groups": 0, "note": " ".join(str(reason).split())}


def _blank(own: dict, benchmark: str, members: list[dict], settings: dict) -> dict:
    row = dict.fromkeys(COLUMNS, "")
    provenance = [score["provenance"] for score in members]
    return row | {
        "study": settings["study"],
        "policy": own["policy"],
        "parent": own["parent"],
        "method": own["method"],
        "seed": own["seed"],
        "seeds": len(members),
        "benchmark": benchmark,
        "provenance": provenance[0] if len(provenance) == 1 else digest(provenance)[:12],
    }


def number_text(value: float | int | bool | str) -> str:
    """Return a CSV field: floats with six significant digits, booleans as true/false, the rest as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(0.0 if abs(value) < 1e-12 else value, ".6g")
    return str(value)


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write rows as CSV with Unix line ends, atomically."""
    with finished_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([number_text(row.get(column, "")) for column in columns] for row in rows)


def headline_rows(rows: list[dict]) -> list[dict]:
    """Return one row per policy and cell: those of seed "all" where the study has several seeds."""
    averaged = [row for row in rows if row["seed"] == ALL]
    return averaged or rows


def cell_name(row: dict) -> str:
    """Return benchmark/subset/metric, without the parts that are empty."""
    return "/".join(filter(None, [row["benchmark"], row["subset"], row["metric"]]))


def wide(rows: list[dict]) -> tuple[list[str], list[dict]]:
    """Return columns and rows of policies.csv: a line per policy, a column per benchmark/subset/metric."""
    rows = headline_rows(rows)
    scored = [row for row in rows if row["value"] != ""]
    columns = in_order(cell_name(row) for row in sorted(scored, key=_benchmark_rank(rows)))
    lines: dict[str, dict] = {}
    for row in rows:
        line = lines.setdefault(row["policy"], {key: row[key] for key in ("policy", "parent", "method")})
        line["seeds"] = max(row["seeds"], line.get("seeds", 0))
        if row["value"] != "":
            line[cell_name(row)] = row["value"]
    return ["policy", "parent", "method", "seeds", *columns], list(lines.values())


def _benchmark_rank(rows: list[dict]):
    rank = {name: number for number, name in enumerate(in_order(row["benchmark"] for row in rows))}
    return lambda row: rank[row["benchmark"]]


def markdown(rows: list[dict], settings: dict) -> str:
    """Return results.md: a table per benchmark, value ± half the interval's width, clear gains over the baseline bold."""
    rows = headline_rows(rows)
    level = number_text(100.0 * settings["confidence"])
    text = [
        f"# Results of study {settings['study']}",
        "",
        f"Each number is a value ± half the width of its {level} % interval (bootstrap over groups of items, "
        f"{settings['draws']} draws). ↑ higher is better, ↓ lower is better.",
    ]
    if settings.get("baseline"):
        text.append(
            f"**Bold**: better than `{settings['baseline']}`, the {level} % interval of the paired difference "
            "lying wholly on the good side of 0 (before Holm's correction; `p_adjusted` in results.csv is after it)."
        )
    for benchmark in in_order(row["benchmark"] for row in rows):
        text += [
            "",
            f"## {benchmark}",
            "",
            *_benchmark_table([r for r in rows if r["benchmark"] == benchmark]),
        ]
    return "\n".join(text) + "\n"


def _benchmark_table(rows: list[dict]) -> list[str]:
    scored = [row for row in rows if row["value"] != ""]
    lines = []
    if scored:
        heads = {cell_name(row): row for row in scored}
        cells = {(row["policy"], cell_name(row)): _markdown_cell(row) for row in scored}
        arrow = {True: "↑", False: "↓"}
        titles = [
            f"{row['subset']} {row['metric']}".strip() + f" {arrow[row['higher_is_better']]}"
            for row in heads.values()
        ]
        counts = [
            f"{row['n']} in {row['groups']}" if row["groups"] < row["n"] else row["n"]
            for row in heads.values()
        ]
        lines += [_line(["policy", *titles]), _line(["---"] + ["---:"] * len(titles))]
        for policy in in_order(row["policy"] for row in scored):
            lines.append(_line([f"`{policy}`", *[cells.get((policy, name), "–") for name in heads]]))
        lines.append(_line(["*items (in groups)*", *counts]))
    refused: dict[str, list[str]] = {}
    for row in rows:
        if row["value"] == "":
            refused.setdefault(row["note"], []).append(f"`{row['policy']}`")
    for reason, policies in refused.items():
        lines += ["", f"Not scored ({', '.join(policies)}): {reason}"]
    return lines


def _line(cells: list) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _markdown_cell(row: dict) -> str:
    digits = 3 if abs(row["value"]) < 10 else 1
    half = (row["ci_high"] - row["ci_low"]) / 2
    text = f"{row['value'] + 0.0:.{digits}f} ± {half:.{digits}f}"
    return f"**{text}**" if clearly_better(row) else text


def clearly_better(row: dict) -> bool:
    """Return whether the interval of the paired difference lies wholly on the good side of zero (two groups or more)."""
    if row["difference"] == "" or row["groups"] < 2:
        return False
    return row["difference_low"] > 0 if row["higher_is_better"] else row["difference_high"] < 0


def main() -> None:
    """Read the index and its score files; write the three tables."""
    parser = argparse.ArgumentParser(description="Gather a study's item scores into its results tables.")
    parser.add_argument(
        "--index", required=True, type=Path, help="JSON list of score files with policy and seed"
    )
    parser.add_argument(
        "--settings", required=True, type=json.loads, help="study, baseline, draws, seed, confidence"
    )
    parser.add_argument("--output", required=True, type=Path, help="tidy table, CSV")
    parser.add_argument("--wide", required=True, type=Path, help="a line per policy, CSV")
    parser.add_argument("--markdown", required=True, type=Path, help="tables to read, Markdown")
    arguments = parser.parse_args()
    index = read_json(arguments.index)
    if not isinstance(index, list) or not index:
        raise PlumblineError(f"{arguments.index}: expected a list with at least one score file")
    rows = results(load_scores(index), arguments.settings)
    write_csv(arguments.wide, *wide(rows))
    with finished_file(arguments.markdown) as temporary:
        temporary.write_text(markdown(rows, arguments.settings), encoding="utf-8")
    write_csv(arguments.output, COLUMNS, rows)


if __name__ == "__main__":
    run(main)
