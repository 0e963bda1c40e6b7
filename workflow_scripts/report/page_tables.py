"""Tables of the report page: fields, a plain table, the headline scores and all results."""

from workflow_scripts.report.drawing import CALIBRATION
from workflow_scripts.report.grid import items_and_groups
from workflow_scripts.report.numbers import decimals_of, shown, signed, value_and_spread
from workflow_scripts.report.rows import (
    cell_name,
    cell_title,
    clearly_better,
    clearly_moved,
    is_noise,
    seeds_apart,
)
from workflow_scripts.report.scores import ALL, in_order

ARROWS = {True: "↑", False: "↓", "": ""}


def show(value: float) -> str:
    """Return a number as all tables write it, with a true minus."""
    return shown(value, decimals_of(value)).replace("-", "−")


def show_p(value: float) -> str:
    """Return a p-value with three decimals, or that it is smaller."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_time(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def field(text: str = "", sort: float | None = None, **extra) -> dict:
    """Return one cell of a table: its text, the number it sorts by, and what else the template knows.

    extra: spread (small, after it), note (small, below), title (on hover), mark ("better", "worse"), strong, code,
    copied (with a button), share (of a bar, 0 to 1), facts ([(name, value)], folded), counted (what these are called).
    """
    blank = {
        "note": "",
        "title": "",
        "spread": "",
        "mark": "",
        "strong": False,
        "code": False,
        "copied": False,
        "counted": "facts and files",
    }
    return blank | {"share": None, "facts": [], "text": text, "sort": sort} | extra


def table(
    name: str,
    rows: list[dict[str, dict]],
    labels: dict[str, str],
    numbers: set[str],
    over: dict[str, str] | None = None,
    foot: dict[str, dict] | None = None,
) -> dict:
    """Return a table for the template: columns that some row fills, in the order of `labels` {key: heading}.

    rows: {key: field}; a key that starts with "_" is a fact about the row, for filters. numbers: keys of columns that
    stand to the right. over: a small line above some headings. foot: a last row, which stays there however the others
    are sorted.
    """
    over = over or {}
    used = [key for key in labels if any(row[key]["text"] or row[key]["facts"] for row in rows if key in row)]
    columns = [
        {"key": key, "label": labels[key], "number": key in numbers, "over": over.get(key, "")}
        for key in used
    ]
    lines = [
        {
            "cells": [row.get(key, field()) for key in used],
            "about": {k[1:]: v for k, v in row.items() if k[0] == "_"},
        }
        for row in rows
    ]
    last = [foot.get(key, field()) for key in used] if foot else []
    return {"name": name, "columns": columns, "rows": lines, "foot": last}


def plain_table(name: str, rows: list[dict[str, str]]) -> dict:
    """Return the rows of a CSV file as a table: a column per column, numbers to the right."""
    columns = in_order(key for row in rows for key in row)
    numbers = {key for key in columns if all(number_of(row[key]) is not None for row in rows if row[key])}
    fields = [{key: field(text, number_of(text)) for key, text in row.items()} for row in rows]
    return table(name, fields, {key: key.replace("_", " ") for key in columns}, numbers)


def number_of(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def value_field(row: dict) -> dict:
    """Return the field of a typed row's value and interval, marked by what it is to the baseline, bold if better."""
    if row["value"] == "":
        return field("–", title=row["note"])
    mark = row["than_baseline"]
    words = f"{row['value']:g}"
    text, spread = value_and_spread(row["value"], row["ci_low"], row["ci_high"])
    text, spread = text.replace("-", "−"), spread.replace("-", "−").replace("± ", "±")
    if row["ci_low"] != "":
        words += f", interval {row['ci_low']:g} to {row['ci_high']:g}"
        if row["interval"]:
            words += f" ({row['interval']})"
    if mark:
        words += f"; clearly {mark} than {row['baseline']}"
    return field(text, row["value"], spread=spread, title=words, mark=mark, strong=clearly_better(row))


def heading(text: str, higher_is_better: bool | str) -> str:
    """Return a metric's name with its arrow, which stays on the line of the last word."""
    return f"{text}\N{NO-BREAK SPACE}{ARROWS[higher_is_better]}".strip()


def headline_table(rows: list[dict], cells: list[str]) -> dict:
    """Return the policies by the headline cells."""
    found = {(row["policy"], cell_name(row)): row for row in rows}
    firsts = {cell: next(row for row in rows if cell_name(row) == cell) for cell in cells}
    over = {cell: first["benchmark"] for cell, first in firsts.items()}
    titles = {
        cell: heading(cell_title(first | {"benchmark": ""}), first["higher_is_better"])
        for cell, first in firsts.items()
    }
    lines = []
    for policy in in_order(row["policy"] for row in rows):
        seeds = max((row["seeds"] for row in rows if row["policy"] == policy), default=1)
        line = {"policy": field(policy, code=True, note=f"{seeds:.0f} seeds" if seeds > 1 else "")}
        line |= {
            cell: value_field(found[policy, cell]) if (policy, cell) in found else field("–")
            for cell in cells
        }
        lines.append(line | {"_calibration": "yes" if policy in CALIBRATION else ""})
    scored = {cell: [row for row in rows if cell_name(row) == cell and row["value"] != ""] for cell in cells}
    foot = {"policy": field("items (in groups)")}
    foot |= {cell: field(items_and_groups(own)) for cell, own in scored.items()}
    return table("headlines", lines, {"policy": "policy"} | titles, set(cells), over, foot)


def seeds_table(rows: list[dict], cells: list[str]) -> dict:
    """Return each seed of the policies that have several by the headline cells, of typed rows; none: no rows."""
    several = {row["policy"] for row in rows if row["seed"] == ALL}
    own = [row for row in rows if row["policy"] in several and row["seed"] != ALL and not is_noise(row)]
    titles = {}
    for cell in cells:
        first = next((row for row in own if cell_name(row) == cell), None)
        if first:
            titles[cell] = heading(cell_title(first), first["higher_is_better"])
    lines: dict[tuple[str, str], dict] = {}
    for row in own:
        line = lines.setdefault(
            (row["policy"], row["seed"]),
            {"policy": field(row["policy"], code=True), "seed": field(row["seed"], number_of(row["seed"]))},
        )
        if cell_name(row) in titles:
            line[cell_name(row)] = value_field(row)
    labels = {"policy": "policy", "seed": "seed"} | titles
    return table("seeds", list(lines.values()), labels, {"seed", *titles})


LABELS = {
    "policy": "policy",
    "benchmark": "benchmark",
    "subset": "subset",
    "metric": "metric",
    "value": "value, interval",
    "seeds": "seeds",
    "n": "n (groups)",
    "difference": "difference to baseline",
    "noise": "noise",
    "p": "p adjusted",
    "mde": "detectable",
    "clean": "clean items",
    "published": "published",
    "note": "note, provenance",
}


def results_table(rows: list[dict]) -> dict:
    """Return every headline row of results_full.csv."""
    lines = [result_line(row) for row in rows]
    labels = {key: label for key, label in LABELS.items() if key != "clean" or any(map(has_overlap, rows))}
    return table(
        "results",
        lines,
        labels,
        {"value", "seeds", "n", "difference", "noise", "p", "mde", "clean", "published"},
    )


def noise_table(rows: list[dict]) -> dict:
    """Return what policies that answered again say of noise: typed rows, each compared with its own policy's."""
    lines = []
    for row in rows:
        line = {"policy": field(row["policy"], code=True), "cell": field(cell_name(row))}
        line |= {"value": value_field(row), "note": field(row["note"])}
        if row["difference"] != "":
            line["difference"] = field(signed(row["difference"], 4), row["difference"])
        lines.append(line)
    labels = {
        "policy": "again",
        "cell": "score",
        "value": "value, interval",
        "difference": "difference",
        "note": "what was otherwise",
    }
    return table("noise", lines, labels, {"value", "difference"})


def has_overlap(row: dict) -> bool:
    """Return whether some item of a row overlaps with what the policy was trained on."""
    return row["clean_n"] != "" and row["clean_n"] < row["n"]


def result_line(row: dict) -> dict:
    """Return the fields of one typed row."""
    line = {
        "policy": field(row["policy"], code=True),
        "benchmark": field(row["benchmark"]),
        "subset": field(row["subset"]),
        "metric": field(heading(row["metric"], row["higher_is_better"])),
        "value": value_field(row),
        "note": field(row["note"], note=row["provenance"]),
    }
    line |= {f"_{key}": row[key] for key in ("policy", "benchmark", "metric")}
    if row["published_value"] != "":
        ours = f"ours {signed(row['published_difference'], 3)}" if row["published_difference"] != "" else ""
        line["published"] = field(show(row["published_value"]), row["published_value"], note=ours)
    if row["value"] == "":
        return line
    groups = "" if row["groups"] == row["n"] else f" ({row['groups']:.0f})"
    if row["seed_sd"] != "":
        line["seeds"] = field(f"{row['seeds']:.0f}", row["seed_sd"], note=seeds_apart(row).replace("-", "−"))
    line["n"] = field(f"{row['n']:.0f}{groups}", row["n"])
    if row["difference"] != "":
        line |= difference_fields(row)
    if row["noise"] != "":
        line["noise"] = field(show(row["noise"]), row["noise"])
    if row["mde"] != "":
        line["mde"] = field(show(row["mde"]), row["mde"])
    if row["clean_n"] != "":
        line["clean"] = clean_field(row)
    return line


def difference_fields(row: dict) -> dict:
    """Return the fields of a typed row's difference to the baseline and of its p-value."""
    decimals = 3 if abs(row["difference"]) < 10 else 1
    ends = [row[f"difference_{end}"] for end in ("low", "high")]
    note = "" if "" in ends else " to ".join(signed(end, decimals) for end in ends)
    raw = f"uncorrected {row['p_value']:g}"
    if row["mcnemar_p"] != "":
        raw += f", McNemar {row['mcnemar_p']:g}"
    return {
        "difference": field(signed(row["difference"], decimals), row["difference"], note=note),
        "p": field(show_p(row["p_adjusted"]), row["p_adjusted"], title=raw),
    }


def clean_field(row: dict) -> dict:
    """Return the field of a typed row's value on the items that overlap with no training set."""
    if row["clean_value"] == "":
        return field("–", note="no clean item")
    note = f"n = {row['clean_n']:.0f}" if has_overlap(row) else ""
    if note and clearly_moved(row):
        note += ", moved"
    by_8 = (
        f"by 8-grams {row['clean8_value']:g} (n = {row['clean8_n']:.0f})" if row["clean8_value"] != "" else ""
    )
    return field(show(row["clean_value"]), row["clean_value"], note=note, title=by_8)
