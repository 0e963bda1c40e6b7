"""Item scores of a whole study to its results: results.csv (tidy), policies.csv (wide) and results.md (to read).

Deterministic: numbers have six significant digits (`%.6g`; -0 and rounding dust below 1e-12 are written 0), rows
stand in the order of the index (policies, seeds, then "all" for a policy of several seeds), then benchmarks, subsets
and metrics by first appearance; no time stamps, no costs, no paths.

Not covered: clean_value (without items that overlap the training data) and published_value.
"""

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, finished_file, read_json, sha256_of
from workflow_scripts.report.statistics import (
    Cell,
    holm,
    interval,
    paired_difference,
    read_cell,
    seed_of,
    shared_items,
)

COLUMNS = (
    "study policy parent method seed seeds benchmark subset metric value ci_low ci_high n groups higher_is_better "
    "baseline difference difference_low difference_high p_value p_adjusted provenance note"
).split()
ALL = "all"
WHOLE = ("all", "overall")  # subsets that are the whole benchmark: no heading needs to say so


def load_scores(index: list[dict]) -> list[dict]:
    """Return one score per index entry: the entry plus provenance, refused (text or None) and cells.

    cells maps (subset, metric) to {"cell": Cell, "higher_is_better": bool or None, "note": str}, in file order.
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
        if cell["higher_is_better"] not in (True, False, None):
            raise PlumblineError(
                f"{where}: higher_is_better is {cell['higher_is_better']!r}; it is true, false or null"
            )
        name = (str(cell.get("subset") or ""), str(cell["metric"]))
        if name in cells:
            raise PlumblineError(f"{where}: subset {name[0]!r} metric {name[1]!r} stands twice in this file")
        cells[name] = {
            "cell": read_cell(cell, f"{where} ({'/'.join(filter(None, name))})"),
            "higher_is_better": cell["higher_is_better"],
            "note": f"fidelity: {cell['fidelity']}" if "fidelity" in cell else "",
        }
    return {"provenance": provenance, "refused": refused, "cells": cells}


def in_order(values: Iterable) -> list:
    """Return the distinct values in order of first appearance."""
    return list(dict.fromkeys(values))


def score_sets(scores: list[dict]) -> list[dict]:
    """Return the sets that rows are made of: each (policy, seed), and "all" of a policy with seeds of its own.

    A set is {"policy", "parent", "method", "kind", "seed", "headline", "benchmarks": {benchmark: [score per seed]}}.
    headline is true for the one set that stands for its policy: "all" if there is one, else its only seed.
    """
    sets = []
    for policy in in_order(score["policy"] for score in scores):
        own = [score for score in scores if score["policy"] == policy]
        seeds = in_order(score.get("seed") for score in own)
        picks = [(seed, [score for score in own if score.get("seed") == seed]) for seed in seeds]
        if len(seeds) > 1:
            picks.append((ALL, sorted(own, key=lambda score: str(score.get("seed")))))
        for seed, members in picks:
            sets.append(
                {
                    "policy": policy,
                    "parent": own[0].get("parent") or "",
                    "method": own[0].get("method") or "",
                    "kind": own[0].get("kind", "policy"),
                    "seed": "" if seed is None else seed,
                    "headline": seed == ALL or len(seeds) == 1,
                    "benchmarks": {
                        name: [score for score in members if score["benchmark"] == name]
                        for name in _benchmarks(members)
                    },
                }
            )
    return sets


def _benchmarks(scores: list[dict]) -> list[str]:
    return in_order(score["benchmark"] for score in scores)


def members_of(score_set: dict | None, benchmark: str, name: tuple[str, str]) -> list[dict]:
    """Return the scores of the set, one per seed, that have the cell."""
    members = score_set["benchmarks"].get(benchmark, []) if score_set else []
    return [score for score in members if name in score["cells"]]


def baseline_set(sets: list[dict], own: dict, baseline: str | None) -> dict | None:
    """Return the set to compare with, None where nothing compares: the baseline itself and calibration rows.

    A policy's headline is compared with the baseline's; one seed of several with the baseline's same seed, and
    with its headline where it has no such seed.
    """
    if not baseline or own["policy"] == baseline or own["kind"] == "calibration":
        return None
    candidates = [score_set for score_set in sets if score_set["policy"] == baseline]
    headline = next(score_set for score_set in candidates if score_set["headline"])
    same = [score_set for score_set in candidates if score_set["seed"] == own["seed"]]
    return headline if own["headline"] or not same else same[0]


def results(scores: list[dict], settings: dict) -> list[dict]:
    """Return the rows of results.csv, numbers unrounded, with keys COLUMNS and "headline"; empty cells are "".

    settings: study, baseline (a policy or null), draws, seed, confidence. p_adjusted is Holm over every comparison
    of the study; headlines and the single seeds behind them, which hold the same evidence, are two families.
    """
    sets = score_sets(scores)
    policies = in_order(own["policy"] for own in sets)
    if settings.get("baseline") and settings["baseline"] not in policies:
        raise PlumblineError(
            f"report.baseline: {settings['baseline']!r} has no scores; policies: {', '.join(policies)}"
        )
    names = {
        benchmark: in_order(name for s in scores if s["benchmark"] == benchmark for name in s["cells"])
        for benchmark in _benchmarks(scores)
    }
    rows: dict[tuple, dict] = {}
    for benchmark in names:
        for name in names[benchmark]:  # cell by cell, because the policies of one cell share their draws
            for number, own in enumerate(sets):
                if members_of(own, benchmark, name):
                    rows[number, benchmark, name] = _row(sets, own, benchmark, name, settings)
    ordered = []
    for number, own in enumerate(sets):
        for benchmark, members in own["benchmarks"].items():
            if all(score["refused"] is not None for score in members):
                ordered.append(_refusal_row(own, benchmark, settings))
            ordered += [
                rows[number, benchmark, n] for n in names[benchmark] if (number, benchmark, n) in rows
            ]
    for headline in (True, False):
        compared = [row for row in ordered if row["p_value"] != "" and row["headline"] == headline]
        for row, adjusted in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
            row["p_adjusted"] = adjusted
    return ordered


def _row(sets: list[dict], own: dict, benchmark: str, name: tuple[str, str], settings: dict) -> dict:
    """Return a cell's row: its estimate and, on the items both have, its difference to the baseline."""
    members = members_of(own, benchmark, name)
    other = baseline_set(sets, own, settings.get("baseline"))
    others = members_of(other, benchmark, name)
    found = [score["cells"][name] for score in members]
    cells = [part["cell"] for part in found]
    other_cells = [score["cells"][name]["cell"] for score in others]
    seed = seed_of(settings["seed"], benchmark, *name)
    arguments = {"draws": settings["draws"], "seed": seed, "confidence": settings["confidence"]}
    better = found[0]["higher_is_better"]
    row = _blank(own, benchmark, members, settings)
    row |= {"subset": name[0], "metric": name[1], "higher_is_better": "" if better is None else better}
    notes = [found[0]["note"]]
    try:
        own_items = shared_items(cells)
        shared = shared_items([*cells, *other_cells])
    except PlumblineError as error:
        where = "/".join(filter(None, [benchmark, *name]))
        raise PlumblineError(f"{where} of {own['policy']}: {error}; score all policies again") from None
    row |= {"n": len(own_items[0].items), "groups": len(set(own_items[0].groups))}
    if own_items[0].items:
        estimate = interval(own_items, **arguments)
        row |= {"value": estimate.value, "ci_low": estimate.low, "ci_high": estimate.high}
    notes.append(_items_note("averaged over the seeds", own_items, cells))
    if other_cells:
        row["baseline"] = other["policy"]
        if shared[0].items:
            first, second = shared[: len(cells)], shared[len(cells) :]
            difference = paired_difference(first, second, **arguments)
            row |= {
                "difference": difference.value,
                "difference_low": difference.low,
                "difference_high": difference.high,
                "p_value": difference.p_value,
            }
        notes.append(_items_note("compared", shared, [*cells, *other_cells]))
    return row | {"note": "; ".join(filter(None, notes))}


def _items_note(what: str, shared: list[Cell], cells: list[Cell]) -> str:
    every = len(set().union(*(cell.items for cell in cells)))
    count = len(shared[0].items)
    if count == every:
        return ""
    return f"{what} on {count} of {every} items" if count else f"not {what}: no item in common"


def _refusal_row(own: dict, benchmark: str, settings: dict) -> dict:
    members = own["benchmarks"][benchmark]
    reason = " ".join(str(members[0]["refused"]).split())
    return _blank(own, benchmark, members, settings) | {"n": 0, "groups": 0, "note": reason}


def _blank(own: dict, benchmark: str, members: list[dict], settings: dict) -> dict:
    row = dict.fromkeys(COLUMNS, "")
    provenance = [score["provenance"] for score in members]
    return row | {
        "study": settings["study"],
        "policy": own["policy"],
        "parent": own["parent"],
        "method": own["method"],
        "seed": own["seed"],
        "headline": own["headline"],
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


def cell_name(row: dict) -> str:
    """Return benchmark/subset/metric, without the parts that are empty."""
    return "/".join(filter(None, [row["benchmark"], row["subset"], row["metric"]]))


def wide(rows: list[dict]) -> tuple[list[str], list[dict]]:
    """Return columns and rows of policies.csv: a line per policy and seed, a column per benchmark/subset/metric."""
    facts = ["policy", "parent", "method", "seed", "seeds"]
    lines: dict[tuple, dict] = {}
    for row in rows:
        line = lines.setdefault((row["policy"], row["seed"]), {key: row[key] for key in facts})
        line["seeds"] = max(row["seeds"], line["seeds"])
        if row["value"] != "":
            line[cell_name(row)] = row["value"]
    benchmarks = in_order(row["benchmark"] for row in rows)
    scored = sorted(_scored(rows), key=lambda row: benchmarks.index(row["benchmark"]))
    return [*facts, *in_order(map(cell_name, scored))], list(lines.values())


def _scored(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["value"] != ""]


def headline_cells(rows: list[dict], bars: list[dict]) -> list[str]:
    """Return the cells that stand for the study: those of the bar chart, and the first of each other benchmark."""
    scored = _scored(rows)
    known = in_order(map(cell_name, scored))
    chosen = [name for name in map(cell_name, bars) if name in known]
    charted = {bar["benchmark"] for bar in bars}
    firsts = {row["benchmark"]: cell_name(row) for row in reversed(scored) if row["benchmark"] not in charted}
    return chosen + [name for name in known if name in firsts.values()]


def markdown(rows: list[dict], settings: dict) -> str:
    """Return results.md: the headline cells, then every cell by benchmark, clear gains over the baseline bold.

    settings: those of `results`, and bars [{benchmark, subset, metric}], the cells of the bar chart.
    """
    rows = [row for row in rows if row["headline"]]
    level = number_text(100.0 * settings["confidence"])
    legend = (
        f"Each number is a value ± half the width of its {level} % interval (bootstrap over groups of items, "
        f"{settings['draws']} draws). ↑ higher is better, ↓ lower is better."
    )
    if settings.get("baseline"):
        legend += (
            f" **Bold**: better than `{settings['baseline']}`, the {level} % interval of the paired difference "
            "lying wholly on the good side of 0 (before Holm's correction; `p_adjusted` in results.csv is after it)."
        )
    if any(row["policy"] == "gold" for row in rows):
        legend += (
            " `gold` and `empty` are no policies: the scorers' marks for the reference answers and for none."
        )
    text = [f"# Results of study {settings['study']}", "", legend]
    cells = headline_cells(rows, settings.get("bars") or [])
    headlines = [row for row in _scored(rows) if cell_name(row) in cells]
    if headlines:
        text += ["", "## Headlines", "", *_table(headlines, cells, with_benchmark=True)]
    for benchmark in in_order(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == benchmark]
        text += ["", f"## {benchmark}"]
        if _scored(own):
            text += ["", *_table(_scored(own), in_order(map(cell_name, _scored(own))))]
        refused: dict[str, list[str]] = {}
        for row in own:
            if row["value"] == "":
                refused.setdefault(row["note"], []).append(f"`{row['policy']}`")
        for reason, policies in refused.items():
            text += ["", f"Not scored ({', '.join(policies)}): {reason}"]
    return "\n".join(text) + "\n"


def _table(rows: list[dict], cells: list[str], with_benchmark: bool = False) -> list[str]:
    """Return the lines of a Markdown table: policies by cells, with the number of items below."""
    found = {(row["policy"], cell_name(row)): row for row in rows}
    titles, counts = [], []
    for name in cells:
        own = [row for row in rows if cell_name(row) == name]
        subset = "" if own[0]["subset"] in (*WHOLE, own[0]["benchmark"]) else own[0]["subset"]
        arrow = {True: " ↑", False: " ↓"}.get(own[0]["higher_is_better"], "")
        parts = [own[0]["benchmark"] if with_benchmark else "", subset, own[0]["metric"]]
        titles.append(" ".join(filter(None, parts)) + arrow)
        items, groups = _span(own, "n"), _span(own, "groups")
        counts.append(items if items == groups else f"{items} in {groups}")
    lines = [_line(["policy", *titles]), _line(["---"] + ["---:"] * len(titles))]
    for policy in in_order(row["policy"] for row in rows):
        seeds = max(row["seeds"] for row in rows if row["policy"] == policy)
        label = f"`{policy}`" + (f" ({seeds} seeds)" if seeds > 1 else "")
        values = [_markdown_cell(found[policy, n]) if (policy, n) in found else "–" for n in cells]
        lines.append(_line([label, *values]))
    return [*lines, _line(["*items (in groups)*", *counts])]


def _span(rows: list[dict], key: str) -> str:
    counts = [row[key] for row in rows]
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_cell(row: dict) -> str:
    digits = 3 if abs(row["value"]) < 10 else 1
    half = (row["ci_high"] - row["ci_low"]) / 2
    text = f"{row['value'] + 0.0:.{digits}f} ± {half:.{digits}f}"
    return f"**{text}**" if clearly_better(row) else text


def clearly_better(row: dict) -> bool:
    """Return whether the interval of the paired difference lies wholly on the good side of zero.

    Never where no direction is good, nor with a p-value of 1: that is one group alone, whose interval has no width.
    """
    if row["difference"] == "" or row["higher_is_better"] == "" or row["p_value"] == 1:
        return False
    return row["difference_low"] > 0 if row["higher_is_better"] else row["difference_high"] < 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--index", required=True, type=Path, help="JSON list of score files with policy and seed"
    )
    parser.add_argument(
        "--settings", required=True, type=json.loads, help="study, baseline, draws, seed, confidence, bars"
    )
    parser.add_argument("--output", required=True, type=Path, help="tidy table, CSV")
    parser.add_argument("--wide", required=True, type=Path, help="a line per policy and seed, CSV")
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
