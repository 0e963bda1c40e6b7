"""Pictures of policies side by side: bars, differences to the baseline, scores against the length of answers."""

import math
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report.drawing import (
    CALIBRATION,
    COLOURS,
    GREEN,
    GREY,
    GRID,
    INK,
    MARKERS,
    PAPER,
    RED,
    panels_of,
)
from workflow_scripts.report.numbers import signed
from workflow_scripts.report.rows import (
    cell_name,
    cell_title,
    clearly_better,
    clearly_worse,
    headline_rows,
    typed,
)

OFF_SCALE = 5  # a difference this many times the median one would squeeze the others into a line


def draw_policy_bars(rows: list[dict], cells: list[str]) -> Figure:
    """Return bars of each policy's value with its interval, grouped by cell; calibration rows as grey lines.

    rows: those of results.csv (text). cells: benchmark/subset/metric names. The axis goes from 0 to 1, further for
    values outside. Of a policy with several seeds the row of seed "all" is drawn. Raises PlumblineError for a
    cell that no row has, unless its benchmark was refused, and for a study without policies.
    """
    rows = headline_rows(rows)
    policies = list(dict.fromkeys(row["policy"] for row in rows if row["policy"] not in CALIBRATION))
    if not policies:
        raise PlumblineError("no policy has scores: nothing to draw")
    found = {(row["policy"], cell_name(row)): row for row in rows if row["value"]}
    known = list(dict.fromkeys(name for _, name in found))
    refused = {row["benchmark"] for row in rows if not row["value"]}
    for cell in cells:
        if cell not in known and cell.split("/")[0] not in refused:
            raise PlumblineError(f"cell {cell!r} is in no row; the rows have: {', '.join(known) or 'none'}")
    figure, axes = plt.subplots(figsize=(max(6.4, 1.5 + 0.5 * len(cells) * (len(policies) + 1)), 4.2))
    width = 0.82 / len(policies)
    for place, policy in enumerate(policies):
        offset = (place - (len(policies) - 1) / 2) * width
        colour = COLOURS[place % len(COLOURS)]
        hatch = ("", "//", "..")[place // len(COLOURS) % 3]
        for number, cell in enumerate(cells):
            if (policy, cell) in found:
                _draw_bar(axes, number + offset, width * 0.9, found[policy, cell], colour, hatch)
        axes.bar([np.nan], [np.nan], color=colour, hatch=hatch, edgecolor="white", label=policy)
    for policy, (label, dashes) in CALIBRATION.items():
        levels = {
            number: float(found[policy, cell]["value"])
            for number, cell in enumerate(cells)
            if (policy, cell) in found
        }
        for number, level in levels.items():
            axes.plot(
                [number - 0.45, number + 0.45], [level, level], color=GREY, linestyle=dashes, linewidth=1.3
            )
        if levels:
            axes.plot([], [], color=GREY, linestyle=dashes, linewidth=1.3, label=label)
    axes.set_xticks(range(len(cells)), [_cell_label(cell, rows, policies, cells) for cell in cells])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(cells) - 0.45)
    drawn = [row for (_, cell), row in found.items() if cell in cells]
    top = max([1.0, *(float(row["ci_high"] or row["value"]) for row in drawn)])
    bottom = min([0.0, *(float(row["ci_low"] or row["value"]) for row in drawn)])
    axes.set_ylim(1.08 * bottom - 0.01 * (top - bottom), 1.08 * top)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.set_ylabel("score  (higher is better)" if _all_higher(rows, cells) else "score")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=min(len(policies) + len(CALIBRATION), 4), columnspacing=1.4)
    return figure


def _draw_bar(axes: Axes, place: float, width: float, row: dict, colour: str, hatch: str) -> None:
    value = float(row["value"])
    axes.bar(place, value, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
    if row["ci_low"]:  # some values have no interval
        axes.vlines(place, float(row["ci_low"]), float(row["ci_high"]), color=INK, linewidth=1.3, zorder=3)
    axes.annotate(
        f"{value:.2f}", (place, max(0.0, value, float(row["ci_high"] or value))),
        xytext=(0, 2), textcoords="offset points", ha="center", va="bottom",
        fontsize=8, zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
    )  # fmt: skip


def _cell_label(cell: str, rows: list[dict], policies: list[str], cells: list[str]) -> str:
    own = [row for row in rows if cell_name(row) == cell and row["value"] and row["policy"] in policies]
    benchmarks = {name.split("/")[0] for name in cells}
    text = " ".join(cell.split("/")[0 if len(benchmarks) > 1 else 1 :]).replace("_", " ")
    counts = sorted({int(row["n"]) for row in own})
    groups = sorted({int(row["groups"]) for row in own})
    if not counts:
        return f"{textwrap.fill(text, 18)}\nnot scored"
    span = f"n = {'–'.join(map(str, counts))}"
    if groups != counts:
        span += f" in {'–'.join(map(str, groups))} groups"
    return f"{textwrap.fill(text, 18)}\n({span})"


def _all_higher(rows: list[dict], cells: list[str]) -> bool:
    return all(row["higher_is_better"] == "true" for row in rows if row["value"] and cell_name(row) in cells)


def draw_forest(rows: list[dict], cells: list[str]) -> Figure:
    """Return a panel per cell: each policy's difference to the baseline as a dot, its interval as a whisker.

    rows: those of results.csv (text). Filled dots are differences whose interval leaves out zero, green on the good
    side and red on the bad one. What lies far beyond the others is an arrow at the edge, so that those can be read.
    Raises PlumblineError for a cell without differences.
    """
    rows = [typed(row) for row in headline_rows(rows) if row.get("difference")]
    longest = max((sum(cell_name(row) == cell for row in rows) for cell in cells), default=0)
    figure, panels = panels_of(len(cells), height=0.75 + 0.27 * longest, width=4.4)
    for panel, cell in zip(panels, cells, strict=True):
        own = [row for row in rows if cell_name(row) == cell]
        if not own:
            raise PlumblineError(f"cell {cell!r} has no difference to a baseline in any row; nothing to draw")
        _draw_differences(panel, own)
    return figure


def axis_limit(reaches: list[float]) -> float:
    """Return how far an axis of differences goes: to the farthest that is at most OFF_SCALE times the median."""
    positive = [reach for reach in reaches if reach > 0]
    if not positive:
        return 1.0
    return max(reach for reach in positive if reach <= OFF_SCALE * float(np.median(positive)))


def _ends(row: dict) -> tuple[float, float]:
    """Return the ends of a typed row's difference; the difference itself twice where it has no interval."""
    if row["difference_low"] == "":
        return row["difference"], row["difference"]
    return row["difference_low"], row["difference_high"]


def _draw_differences(panel: Axes, rows: list[dict]) -> None:
    limit = axis_limit([max(map(abs, _ends(row))) for row in rows])
    for place, row in enumerate(rows):
        value, (low, high) = row["difference"], _ends(row)
        good, bad = clearly_better(row), clearly_worse(row)
        colour = GREEN if good else RED if bad else GREY
        decimals = min(5, max(0, 1 - math.floor(math.log10(max(limit, abs(value))))))
        if abs(value) > limit:
            edge = math.copysign(limit, value)
            panel.plot([edge], [place], marker=">" if value > 0 else "<", color=colour, markersize=7)
        else:
            panel.hlines(place, max(low, -limit), min(high, limit), color=colour, linewidth=1.6)
            panel.plot(
                [value],
                [place],
                marker="o",
                markersize=6,
                markeredgecolor=colour,
                markerfacecolor=colour if good or bad else PAPER,
            )
        known = row["difference_low"] != ""
        ends = f" [{signed(low, decimals)}, {signed(high, decimals)}]" if known else ""
        panel.annotate(
            f"{signed(value, decimals)}{ends}", (1, place),
            xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5,
        )  # fmt: skip
    panel.axvline(0, color=INK, linewidth=1, zorder=0)
    panel.set_xlim(-1.12 * limit, 1.12 * limit)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_yticks(range(len(rows)), [row["policy"] for row in rows])
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    small = limit < 1e-3  # exponents are wide: the zero line needs no number then
    panel.xaxis.set_major_locator(MaxNLocator(nbins=2 if small else 4))
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "" if small and value == 0 else f"{value:.3g}".replace("-", "−"))
    )
    panel.set_title(cell_title(rows[0]))
    better = {True: "   better →", False: "   ← better", "": ""}[rows[0]["higher_is_better"]]
    panel.set_xlabel(f"difference to {rows[0]['baseline']}{better}")


def draw_against_length(points: list[dict], title: str, label: str) -> Figure:
    """Return a scatter of a score against the mean length of the answers, a colour and marker per policy.

    points: {"policy", "length", "value", "low", "high"}; low to high is the value's interval. label: of the score.
    """
    figure, (panel,) = panels_of(1, height=3.0, width=6.4)
    place = 0
    for point in points:
        reference = point["policy"] in CALIBRATION
        colour = GREY if reference else COLOURS[place % len(COLOURS)]
        marker = "*" if reference else MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]
        place += not reference
        panel.vlines(point["length"], point["low"], point["high"], color=colour, linewidth=1.2)
        panel.plot(
            [point["length"]], [point["value"]], linestyle="", color=colour, marker=marker, markersize=7,
            markeredgecolor=INK, markeredgewidth=0.5, label=point["policy"],
        )  # fmt: skip
    panel.set_title(title)
    panel.set_xlabel("mean length of an answer")
    panel.set_ylabel(label)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(0.08)
    figure.legend(loc="outside right upper", fontsize=8.5, handletextpad=0.3)
    return figure
