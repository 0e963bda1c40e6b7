"""The report's pictures: loss curves, policies with their intervals, differences to the baseline, distributions.

One command line, four subcommands, each with --settings (JSON) and --output (.svg or .png); `page` puts the same
pictures into the report with `inline_svg`. Colours are Okabe and Ito's, which colour-blind readers tell apart. The
same input gives the same bytes: no dates, a fixed salt for SVG ids.
"""

import argparse
import html
import io
import json
import math
import re
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from workflow_scripts.common.diverged import divergence_of
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, read_json, read_jsonl
from workflow_scripts.report.grid import WHOLE, cell_name, clearly_better
from workflow_scripts.report.scores import ALL
from workflow_scripts.report.spreadsheets import read_csv

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW)
GREY, INK, GRID, PAPER = "#767676", "#222222", "#E4E4E4", "#FFFFFF"
# The CSS variables that stand for the colours where a picture is part of a page, which may be dark.
VARIABLES = {
    BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", PINK: "--pink", SKY: "--sky", RED: "--red",
    YELLOW: "--yellow", GREY: "--muted", INK: "--ink", GRID: "--line", PAPER: "--paper",
}  # fmt: skip
FINAL = "final_reward"
CALIBRATION = {"gold": ("gold answers", (0, (5, 2))), "empty": ("empty answers", (0, (1, 1.5)))}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OFF_SCALE = 5  # a difference this many times the median one would squeeze the others into a line
STYLE = {
    "svg.hashsalt": "plumbline",
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def draw_loss_curves(curves: list[dict]) -> Figure:
    """Return a panel per policy or reward model: training loss as a line, validation loss as dots, by optimiser step.

    curves: {"policy", "seed", "rows": [{"step", "train_loss"?, "validation_loss"?, "tokens"?}]}. Losses of two
    methods are not on one scale (nats per token, DPO's log-sigmoid, IPO's square ...), so each panel has its own axis.
    """
    policies = list(dict.fromkeys(curve["policy"] for curve in curves))
    figure, panels = _panels(len(policies), height=2.9)
    for panel, policy in zip(panels, policies, strict=True):
        own = [curve for curve in curves if curve["policy"] == policy]
        panel.set_title(_curve_title(policy, own))
        panel.set_xlabel("optimiser step")
        panel.set_ylabel("loss")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        drawn = [_draw_curve(panel, curve["rows"], faint=len(own) > 1) for curve in own]
        if not any(drawn):
            logged = any(name in row for curve in own for row in curve["rows"] for name in LOSSES)
            text = "no logged loss is a finite number" if logged else "no loss was logged"
            panel.text(0.5, 0.5, text, ha="center", color=GREY, transform=panel.transAxes)
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.5, label="training batches"),
        Line2D([], [], color=RED, linewidth=1, marker="o", markersize=5, label="validation split"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _curve_title(policy: str, curves: list[dict]) -> str:
    rows = [row for curve in curves for row in curve["rows"]]
    steps = max((row["step"] for row in rows), default=0)
    facts = [f"{steps} steps"]
    tokens = max((row.get("tokens") or 0 for row in rows), default=0)
    if tokens:
        facts.append(f"{tokens / 1e6:.2g} M tokens" if tokens >= 1e6 else f"{tokens / 1e3:.0f} k tokens")
    if len(curves) > 1:
        facts.append(f"{len(curves)} seeds")
    return f"{policy}  ({', '.join(facts)})"


LOSSES = {
    "train_loss": {"color": BLUE, "linewidth": 1.3},
    "validation_loss": {"color": RED, "linewidth": 1, "marker": "o", "markersize": 4.5, "zorder": 3},
}


def _draw_curve(panel: Axes, rows: list[dict], faint: bool) -> bool:
    """Draw the losses that are finite numbers, and return whether there were any."""
    alpha = 0.55 if faint else 1.0
    drawn = False
    for name, style in LOSSES.items():
        points = [
            (row["step"], row[name]) for row in rows if row.get(name) is not None and math.isfinite(row[name])
        ]
        if points:
            panel.plot(*zip(*points, strict=True), alpha=alpha, **style)
            drawn = True
    return drawn


def headline_rows(rows: list[dict]) -> list[dict]:
    """Return the rows that stand for their policy: of one with several seeds those of seed "all"."""
    averaged = {row["policy"] for row in rows if row["seed"] == ALL}
    return [row for row in rows if row["policy"] not in averaged or row["seed"] == ALL]


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
        f"{value:.2f}", (place, max(0.0, value, float(row["ci_high"] or value))), xytext=(0, 2), textcoords="offset points", ha="center",
        va="bottom", fontsize=8, zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
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


NUMBERS = (
    "value ci_low ci_high n groups seeds difference difference_low difference_high p_value p_adjusted mde mcnemar_p "
    "clean_value clean_low clean_high clean_n clean8_value clean8_n published_value published_difference"
).split()


def typed(row: dict) -> dict:
    """Return a row of results.csv with its numbers as floats and its truth values as booleans; "" where it has none.

    Columns that the table does not have (it was written before they were) are "" too: the one place that minds them.
    """
    numbers = {name: float(row[name]) if row.get(name) else "" for name in NUMBERS}
    better = {"true": True, "false": False, "": ""}[row["higher_is_better"]]
    return row | numbers | {"higher_is_better": better, "interval": row.get("interval", "")}


def clearly_worse(row: dict) -> bool:
    """Return whether the interval of the paired difference lies wholly on the bad side of zero (of a typed row)."""
    if row["higher_is_better"] == "":
        return False
    return clearly_better(row | {"higher_is_better": not row["higher_is_better"]})


def cell_title(row: dict) -> str:
    """Return a cell's name for people: benchmark, subset unless it is the whole benchmark, metric."""
    subset = "" if row["subset"] in (*WHOLE, row["benchmark"]) else row["subset"]
    return " ".join(filter(None, [row["benchmark"], subset, row["metric"]]))


def signed(value: float, decimals: int) -> str:
    """Return a number with its sign and a true minus; nothing is +0, and dust is written with an exponent."""
    text = f"{value:+.1e}" if 0 < abs(value) < 1e-4 and decimals > 4 else f"{value:+.{decimals}f}"
    return (text if float(text) else text[1:]).replace("-", "−")


def draw_forest(rows: list[dict], cells: list[str]) -> Figure:
    """Return a panel per cell: each policy's difference to the baseline as a dot, its interval as a whisker.

    rows: those of results.csv (text). Filled dots are differences whose interval leaves out zero, green on the good
    side and red on the bad one. What lies far beyond the others is an arrow at the edge, so that those can be read.
    Raises PlumblineError for a cell without differences.
    """
    rows = [typed(row) for row in headline_rows(rows) if row.get("difference")]
    longest = max((sum(cell_name(row) == cell for row in rows) for cell in cells), default=0)
    figure, panels = _panels(len(cells), height=0.75 + 0.27 * longest, width=4.4)
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


def draw_spread(values: dict[str, list[float]], title: str, label: str) -> Figure:
    """Return a box per name: median, quartiles, and whiskers from the 5th to the 95th percentile; the mean as a dot.

    values: {name: numbers}, each with at least one. label: of the horizontal axis.
    """
    figure, (panel,) = _panels(1, height=0.75 + 0.27 * len(values), width=4.4)
    boxes = []
    for numbers in values.values():
        low, first, middle, third, high = np.percentile(numbers, [5, 25, 50, 75, 95])
        boxes.append(
            {"whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high, "mean": np.mean(numbers)}
        )
    panel.bxp(
        boxes, positions=range(len(boxes)), orientation="horizontal", widths=0.55, showfliers=False, showmeans=True,
        patch_artist=True, boxprops={"facecolor": SKY, "edgecolor": INK, "linewidth": 0.8},
        medianprops={"color": INK, "linewidth": 1.6}, whiskerprops={"color": INK}, capprops={"color": INK},
        meanprops={"marker": "o", "markerfacecolor": PAPER, "markeredgecolor": INK, "markersize": 4.5},
    )  # fmt: skip
    counts = {len(numbers) for numbers in values.values()}
    names = [f"{name} ({len(numbers)})" if len(counts) > 1 else name for name, numbers in values.items()]
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(boxes) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=5))
    panel.ticklabel_format(axis="x", useOffset=False)
    panel.set_title(title + (f"  (n = {counts.pop()} each)" if len(counts) == 1 else ""))
    panel.set_xlabel(label)
    return figure


def draw_against_length(points: list[dict], title: str, label: str) -> Figure:
    """Return a scatter of a score against the mean length of the answers, a colour and marker per policy.

    points: {"policy", "length", "value", "low", "high"}; low to high is the value's interval. label: of the score.
    """
    figure, (panel,) = _panels(1, height=3.0, width=6.4)
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


def draw_reward_histograms(rewards: dict[str, list[float]]) -> Figure:
    """Return a histogram per reward column ({column: values}), with its mean and how many values there are."""
    figure, panels = _panels(max(1, len(rewards)), height=2.6)
    if not rewards:
        panels[0].text(0.5, 0.5, "no rewards: the reward model diverged", ha="center", color=GREY)
        return figure
    for place, (panel, (column, values)) in enumerate(zip(panels, rewards.items(), strict=True)):
        centre = float(np.mean(values))
        constant = max(values) - min(values) < 1e-9
        bins = [values[0] - 0.5, values[0] + 0.5] if constant else min(40, max(10, math.isqrt(len(values))))
        colour = GREEN if column.endswith(FINAL) else BLUE
        panel.hist(values, bins=bins, color=colour, edgecolor="white", linewidth=0.4)
        panel.axvline(centre, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        right = constant or centre < (min(values) + max(values)) / 2
        panel.annotate(
            f"mean {centre:.3g}", (centre, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8.5,
            xytext=(4 if right else -4, -1), textcoords="offset points", ha="left" if right else "right",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )  # fmt: skip
        panel.set_title(f"{column}  (n = {len(values)})")
        panel.set_xlabel("reward")
        if place % panel.get_gridspec().ncols == 0:
            panel.set_ylabel("rows")
        panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        panel.margins(y=0.14)
    return figure


def read_rewards(paths: list[Path]) -> dict[str, list[float]]:
    """Return {column: values} of the "rewards" in annotated files, <annotation>/rows/<split>.jsonl; final_reward last.

    Of several annotations each has columns of its own, named "<annotation> <column>". Raises PlumblineError for a
    row without rewards and a reward that is not a finite number, and when there are no rows at all. An annotation whose
    reward model diverged has none, and is left out.
    """
    diverged = [path for path in paths if divergence_of(path.parent.parent / "manifest.json")]
    paths = [path for path in paths if path not in diverged]
    several = len({path.parent.parent for path in paths}) > 1
    found: dict[str, list[float]] = {}
    for path in paths:
        prefix = f"{path.parent.parent.name} " if several else ""
        for number, row in enumerate(read_jsonl(path), 1):
            rewards = row.get("rewards")
            if not isinstance(rewards, dict):
                raise PlumblineError(f"{path}:{number}: no 'rewards' object; annotate again")
            for column, value in rewards.items():
                if not isinstance(value, int | float) or not math.isfinite(value):
                    raise PlumblineError(
                        f"{path}:{number}: reward {column!r} is {value!r}, not a finite number; annotate again"
                    )
                found.setdefault(prefix + column, []).append(float(value))
    if not found and not diverged:
        raise PlumblineError(f"{', '.join(map(str, paths))}: no rows; nothing to draw")
    return dict(sorted(found.items(), key=lambda item: item[0].endswith(FINAL)))


def read_curves(curves: list[dict]) -> list[dict]:
    """Return the curves with their rows, read from each one's "file"; PlumblineError where a row has no step."""
    loaded = []
    for curve in curves:
        rows = read_json(curve["file"])
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "step" in row for row in rows):
            raise PlumblineError(f"{curve['file']}: expected a list of rows with 'step' and losses")
        loaded.append(curve | {"rows": rows})
    if not loaded:
        raise PlumblineError("no loss curves given: nothing to draw")
    return loaded


def _panels(count: int, height: float, width: float = 3.7) -> tuple[Figure, list[Axes]]:
    across = min(count, 2 if count in (2, 4) else 3)
    down = math.ceil(count / across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(max(4.4, width * across), 0.4 + height * down),
        squeeze=False,
    )
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    return figure, list(axes.flat[:count])


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the file's ending, without dates."""
    kind = path.suffix[1:]
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    if kind not in metadata:
        raise PlumblineError(f"{path}: pictures are .svg or .png")
    with finished_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata[kind])
    plt.close(figure)


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as SVG markup for a page and close it; `label` says in words what it shows.

    Text stays text, colours are the page's CSS variables, ids open with `name`, which no other picture of the page
    has. Labels are escaped by the SVG writer: the markup is safe whatever a policy or a column is called.
    """
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: var(--sans)")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour.lower(), f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    loss = kinds.add_parser("loss_curves", help="settings: curves [{policy, seed, file}]")
    bars = kinds.add_parser("policy_bars", help="settings: cells [benchmark/subset/metric]")
    bars.add_argument("--results", required=True, type=Path, help="results.csv")
    forest = kinds.add_parser("forest", help="settings: cells [benchmark/subset/metric]")
    forest.add_argument("--results", required=True, type=Path, help="results.csv")
    rewards = kinds.add_parser("reward_histogram", help="settings: none")
    rewards.add_argument(
        "--annotations", required=True, nargs="+", type=Path, help="annotated JSON Lines files"
    )
    for kind in (loss, bars, forest, rewards):
        kind.add_argument("--settings", required=True, type=json.loads)
        kind.add_argument("--output", required=True, type=Path, help=".svg or .png")
    arguments = parser.parse_args()
    with plt.rc_context(STYLE):
        if arguments.kind == "loss_curves":
            figure = draw_loss_curves(read_curves(arguments.settings["curves"]))
        elif arguments.kind == "policy_bars":
            figure = draw_policy_bars(read_csv(arguments.results), arguments.settings["cells"])
        elif arguments.kind == "forest":
            figure = draw_forest(read_csv(arguments.results), arguments.settings["cells"])
        else:
            figure = draw_reward_histograms(read_rewards(arguments.annotations))
        save(figure, arguments.output)


if __name__ == "__main__":
    run(main)
