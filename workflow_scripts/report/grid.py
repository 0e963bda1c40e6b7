"""What a table to read is made of, whatever writes it: policies by cells, and which cells are headlines."""

from workflow_scripts.report.rows import WHOLE, cell_name, is_noise, scored_rows
from workflow_scripts.report.scores import in_order


def headline_cells(rows: list[dict], settings: dict) -> list[str]:
    """Return the cells that stand for the study: those it names as its headline (settings: headline, bars).

    Where it names none, those of the bar chart, and the first of each other benchmark.
    """
    scored = scored_rows(rows)
    known = in_order(map(cell_name, scored))
    if settings["headline"]:
        return [name for name in map(cell_name, settings["headline"]) if name in known]
    bars = settings["bars"]
    chosen = [name for name in map(cell_name, bars) if name in known]
    charted = {bar["benchmark"] for bar in bars}
    firsts = {row["benchmark"]: cell_name(row) for row in reversed(scored) if row["benchmark"] not in charted}
    return chosen + [name for name in known if name in firsts.values()]


def headline_grid(rows: list[dict], settings: dict) -> dict:
    """Return the grid of the headline cells, {} where nothing is scored; rows and settings as for `markdown`."""
    rows = [row for row in rows if row["headline"] and not is_noise(row)]
    cells = headline_cells(rows, settings)
    own = [row for row in scored_rows(rows) if cell_name(row) in cells]
    return grid_of(own, cells, with_benchmark=True) if own else {}


def grid_of(rows: list[dict], cells: list[str], with_benchmark: bool = False) -> dict:
    """Return what a table to read is made of, for each language to write: policies by cells.

    {"columns": [(title, True if higher is better, False or "")], "lines": [(policy, seeds, [row or None])],
    "counts": [items, and groups where these are fewer]}.
    """
    found = {(row["policy"], cell_name(row)): row for row in rows}
    columns, counts = [], []
    for name in cells:
        own = [row for row in rows if cell_name(row) == name]
        subset = "" if own[0]["subset"] in (*WHOLE, own[0]["benchmark"]) else own[0]["subset"]
        parts = [own[0]["benchmark"] if with_benchmark else "", subset, own[0]["metric"]]
        columns.append((" ".join(filter(None, parts)), own[0]["higher_is_better"]))
        counts.append(items_and_groups(own))
    lines = []
    for policy in in_order(row["policy"] for row in rows):
        seeds = max(row["seeds"] for row in rows if row["policy"] == policy)
        lines.append((policy, seeds, [found.get((policy, name)) for name in cells]))
    return {"columns": columns, "lines": lines, "counts": counts}


def items_and_groups(rows: list[dict]) -> str:
    """Return how many items the rows of a cell have, and in how many groups where these are fewer: 48 in 18."""
    items, groups = _span(rows, "n"), _span(rows, "groups")
    return items if items == groups else f"{items} in {groups}"


def _span(rows: list[dict], key: str) -> str:
    counts = [int(row[key]) for row in rows]
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"
