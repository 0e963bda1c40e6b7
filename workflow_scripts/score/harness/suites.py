"""The cells of a suite of tasks that a paper reports: a row for each task, a mean over each group, and one over all.

Covers rows of several tasks, and the row that another benchmark scores (HumanEval). Not covered: the cells of the tasks
themselves (see `cells`).
"""

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.score.harness.cells import note_of, task_cells
from workflow_scripts.score.harness.tasks import HUMAN_EVAL, Loaded
from workflow_scripts.score.items import make_cell


def suite_cells(
    suite: dict[str, dict[str, dict]],
    loaded: list[Loaded],
    results: dict,
    human_eval: dict | None,
    fidelity: str,
) -> list[dict]:
    """Return the cells of a suite: one a row (subset: its name), "mean" of each group, "mean of groups" over all.

    A row of several tasks is the mean over all their items, as the harness weighs groups by size. A group is the mean
    of its rows. An error rate (TER) counts in a mean as 1 - TER/100; with fidelity `code` as TER/100, as the published
    means have it, although a worse translation then raises them.

    human_eval: the score file of that benchmark, if there is one. Without it its group is the mean of its other rows,
    and a note says so. "mean of groups" carries each value times R/(G r), for R rows in all, G groups and r rows in its
    own: the mean over rows is then the mean over groups of the means over their rows.
    """
    rows: dict[str, dict[str, dict]] = {group: {} for group in suite}
    entries = {entry.wanted.task: entry for entry in loaded}
    for group, listed in suite.items():
        for name, row in listed.items():
            if name == HUMAN_EVAL:
                cell = human_eval_cell(human_eval, row["metric"])
            else:
                cell = row_cell(name, row["metric"], entries[name], results)
            if cell:
                rows[group][name] = cell
    cells = [cell for own in rows.values() for cell in own.values()]
    total, groups = len(cells), sum(map(bool, rows.values()))
    everything: list[dict] = []
    for group, own in rows.items():
        scored = [in_mean(name, cell, fidelity) for name, cell in own.items()]
        missing = [f"without {name}" for name in suite[group] if name not in own]
        if scored:
            cells.append(macro_cell(group, "mean", scored, *missing))
            factor = total / (groups * len(scored))
            everything += [
                part | {"columns": {"value": [factor * value for value in part["columns"]["value"]]}}
                for part in scored
            ]
    absent = [
        f"without {name}" for group, listed in suite.items() for name in listed if name not in rows[group]
    ]
    return [*cells, macro_cell("all", "mean of groups", everything, *absent)]


def row_cell(name: str, metric: str, entry: Loaded, results: dict) -> dict:
    """Return a suite's row as one cell: its only task's own, or the mean over all items of its tasks.

    A ratio of sums is first written as items whose mean it is: R + (n - R d) / mean d for numerator n, denominator d
    and their ratio R, its first-order expansion (Särndal, Swensson and Wretman 1992, §5.6), whose sampling error is the
    ratio's.
    """
    parts = []
    for task_name, task in entry.tasks.items():
        cells, left_out = task_cells(task_name, task, results, [metric])
        if len(cells) != 1 or cells[0]["estimator"] not in ("mean", "ratio"):
            raise PlumblineError(
                f"{name}: {metric} of {task_name} does not follow from its items {left_out or ''}"
            )
        parts.append(cells[0])
    if len(parts) == 1:
        return parts[0] | {"subset": name}
    items = [f"{part['subset']}/{item}" for part in parts for item in part["items"]]
    values = [value for part in parts for value in linear_values(part)]
    better = parts[0]["higher_is_better"]
    return make_cell(name, metric, items, items, {"value": values}, higher_is_better=better, **note_of(parts))


def linear_values(cell: dict) -> list[float]:
    """Return items whose mean is the cell's number, for a mean or a ratio (see row_cell)."""
    if cell["estimator"] == "mean":
        return cell["columns"]["value"]
    above, below = cell["columns"]["numerator"], cell["columns"]["denominator"]
    ratio, size = sum(above) / sum(below), sum(below) / len(below)
    return [ratio + (top - ratio * bottom) / size for top, bottom in zip(above, below, strict=True)]


def human_eval_cell(scores: dict | None, metric: str) -> dict | None:
    """Return the cell of HumanEval's score file, of the best temperature; None if there is none or it was refused."""
    cells = {cell["subset"]: cell for cell in (scores or {}).get("cells", []) if cell["metric"] == metric}
    found = cells.get("best", cells.get("all"))
    if scores and not found and "refused" not in scores:
        raise PlumblineError(f"human_eval: its score file has no {metric}; add 1 to that benchmark's k")
    return found | {"subset": HUMAN_EVAL} if found else None


def in_mean(name: str, cell: dict, fidelity: str) -> dict:
    """Return a row as it counts in a mean: items in [0, 1] for shares, an error rate turned about (see suite_cells)."""
    values = linear_values(cell)
    if cell["metric"] == "ter":
        values = [value / 100 if fidelity == "code" else 1 - value / 100 for value in values]
    items = [item if "/" in item else f"{name}/{item}" for item in cell["items"]]
    return {"subset": name, "items": items, "columns": {"value": values}, **note_of([cell])}


def macro_cell(subset: str, metric: str, parts: list[dict], *notes: str) -> dict:
    """Return the mean over rows of the rows' means as a cell; every row is a stratum."""
    items = [item for part in parts for item in part["items"]]
    columns = {
        "value": [value for part in parts for value in part["columns"]["value"]],
        "stratum": [part["subset"] for part in parts for _ in part["items"]],
    }
    return make_cell(subset, metric, items, items, columns, estimator="macro_mean", **note_of(parts, *notes))
