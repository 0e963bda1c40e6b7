"""Pictures of policies side by side: bars, differences to the baseline, scores against the length of answers."""

import math
import textwrap
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
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
    SKY,
    panels_of,
)
from workflow_scripts.report.grid import items_and_groups
from workflow_scripts.report.numbers import estimate, signed
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
    """Return a panel per cell: each policy's value as a bar with its interval, on the cell's own scale.

    rows: those of results.csv (text). cells: benchmark/subset/metric names. The title says which way is good. The
    baseline's value is a line through the panel, calibration rows are grey ones; a bar is green where its policy is
    better than the baseline and red where it is worse, as everywhere (see rows.than_baseline), and the number of a
    better one is bold. Of a policy with several seeds the row of seed "all" is drawn. What is far beyond the others is
    cut at an arrow. Raises PlumblineError for a cell that no row has, unless its benchmark was refused, and for a study
    without policies.
    """
    rows = [typed(row) for row in headline_rows(rows)]
    policies = list(dict.fromkeys(row["policy"] for row in rows if row["policy"] not in CALIBRATION))
    if not policies:
        raise PlumblineError("no policy has scores: nothing to draw")
    found = {(row["policy"], cell_name(row)): row for row in rows if row["value"] != ""}
    known = list(dict.fromkeys(name for _, name in found))
    refused = {row["benchmark"] for row in rows if row["value"] == ""}
    for cell in cells:
        if cell not in known and cell.split("/")[0] not in refused:
            raise PlumblineError(f"cell {cell!r} is in no row; the rows have: {', '.join(known) or 'none'}")
    baseline = next((row["baseline"] for row in rows if row.get("baseline")), "")
    figure, panels = panels_of(len(cells), height=0.8 + 0.29 * len(policies), width=_width(policies))
    for panel, cell in zip(panels, cells, strict=True):
        own = {policy: row for (policy, name), row in found.items() if name == cell}
        _draw_cell(panel, cell, own, policies, baseline)
    shown = {policy for policy, name in found if name in cells}
    handles = [Line2D([], [], color=INK, linewidth=1.2, label=baseline)] if baseline in shown else []
    handles += [
        Line2D([], [], color=GREY, linestyle=dashes, linewidth=1.3, label=label)
        for policy, (label, dashes) in CALIBRATION.items()
        if policy in shown
    ]
    if baseline in shown:
        handles += [Patch(color=GREEN, label="better than it"), Patch(color=RED, label="worse than it")]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.4)
    return figure


def _width(policies: Iterable[str]) -> float:
    """Return the width of a panel, inches, that has these names at its left and numbers at its right."""
    return max(4.6, 3.6 + 0.075 * max(map(len, policies), default=0))


def _draw_cell(panel: Axes, cell: str, own: dict[str, dict], policies: list[str], baseline: str) -> None:
    """Draw one cell: `own` are its typed rows by policy, calibration rows among them."""
    panel.set_title(_cell_title(cell, [own[policy] for policy in policies if policy in own]))
    low, high = _scale(list(own.values()))
    for place, policy in enumerate(policies):
        if policy in own:
            _draw_bar(panel, place, own[policy], (low, high), policy == baseline)
        else:
            _annotate(panel, place, "–", False)
    for policy, (_, dashes) in CALIBRATION.items():
        if policy in own and low <= own[policy]["value"] <= high:
            panel.axvline(own[policy]["value"], color=GREY, linestyle=dashes, linewidth=1.3, zorder=1)
    if baseline in own and low <= own[baseline]["value"] <= high:
        panel.axvline(own[baseline]["value"], color=INK, linewidth=1.2, zorder=2)
    margin = 0.04 * (high - low)
    panel.set_xlim(low - (margin if low < 0 else 0), high + (margin if high > 0 else 0))
    panel.set_ylim(len(policies) - 0.4, -0.6)
    first = panel.get_subplotspec().is_first_col()
    panel.set_yticks(range(len(policies)), policies if first else [""] * len(policies))
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=5))
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def _scale(rows: list[dict]) -> tuple[float, float]:
    """Return from where to where an axis goes that has 0 on it, and all values but those far beyond the others.

    Values between -1 and 1 are all on it: a rate is not far out for being twenty times a small one.
    """
    reaches = [max(map(abs, (row["value"], *_interval(row)))) for row in rows]
    limit = max(1.0, axis_limit(reaches)) if reaches else 1.0
    ends = [end for row in rows for end in (row["value"], *_interval(row))]
    inside = [end for end in ends if abs(end) <= limit]
    low, high = min([0.0, *inside]), max([0.0, *inside])
    return (low, high) if high > low else (0.0, 1.0)


def _interval(row: dict) -> tuple[float, float]:
    """Return the ends of a typed row's value; the value itself twice where it has no interval."""
    return (row["value"], row["value"]) if row["ci_low"] == "" else (row["ci_low"], row["ci_high"])


def _draw_bar(panel: Axes, place: int, row: dict, ends: tuple[float, float], is_baseline: bool) -> None:
    low, high = ends
    value = row["value"]
    good, bad = clearly_better(row), clearly_worse(row)
    colour = GREEN if good else RED if bad else GREY if is_baseline else SKY
    panel.barh(place, min(max(value, low), high), 0.66, color=colour, zorder=1.5)
    if not low <= value <= high:
        panel.plot(
            [high if value > high else low], [place], marker=">" if value > high else "<",
            color=colour, markersize=7, zorder=3, clip_on=False,
        )  # fmt: skip
    elif row["ci_low"] != "":  # some values have no interval
        panel.hlines(
            place, max(row["ci_low"], low), min(row["ci_high"], high), color=INK, linewidth=1.3, zorder=3
        )
    text = estimate(value, row["ci_low"], row["ci_high"]).replace("-", "−")
    _annotate(panel, place, text, good)


def _annotate(panel: Axes, place: int, text: str, bold: bool) -> None:
    panel.annotate(
        text, (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
        va="center", fontsize=8.5, fontweight="bold" if bold else "normal",
    )  # fmt: skip


def _cell_title(cell: str, rows: list[dict]) -> str:
    """Return a cell's name with the good direction, and on how many items it is."""
    if not rows:
        return f"{textwrap.fill(' '.join(cell.split('/')), 40)}\nnot scored"
    count = items_and_groups(rows)
    count += " groups" if " in " in count else ""
    way = {True: " ↑ higher is better", False: " ↓ lower is better", "": ""}[rows[0]["higher_is_better"]]
    return f"{textwrap.fill(cell_title(rows[0]), 40)}{way}\nn = {count}"


def draw_forest(rows: list[dict], cells: list[str]) -> Figure:
    """Return a panel per cell: each policy's difference to the baseline as a dot, its interval as a whisker.

    rows: those of results.csv (text). Filled dots are differences whose interval leaves out zero, green on the good
    side and red on the bad one. What lies far beyond the others is an arrow at the edge, so that those can be read.
    Raises PlumblineError for a cell without differences.
    """
    rows = [typed(row) for row in headline_rows(rows) if row.get("difference")]
    longest = max((sum(cell_name(row) == cell for row in rows) for cell in cells), default=0)
    width = _width(row["policy"] for row in rows)
    figure, panels = panels_of(len(cells), height=0.75 + 0.27 * longest, width=width)
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
