"""Pictures of trainings and of what they learn from: loss curves, and how rewards and lengths are spread."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from workflow_scripts.common.diverged import divergence_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.report.drawing import BLUE, GREEN, GREY, GRID, INK, PAPER, RED, SKY, panels_of

FINAL = "final_reward"


def draw_loss_curves(curves: list[dict]) -> Figure:
    """Return a panel per policy or reward model: training loss as a line, validation loss as dots, by optimiser step.

    curves: {"policy", "seed", "rows": [{"step", "train_loss"?, "validation_loss"?, "tokens"?}]}. Losses of two
    methods are not on one scale (nats per token, DPO's log-sigmoid, IPO's square ...), so each panel has its own axis.
    """
    policies = list(dict.fromkeys(curve["policy"] for curve in curves))
    figure, panels = panels_of(len(policies), height=2.9)
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


def draw_watch(policy: str, curves: list[dict]) -> Figure:
    """Return a panel of what a policy's answers were worth at each validation, whiskers of one standard error.

    curves: as `draw_loss_curves` has them, of one policy; rows without "watch" are passed over.
    """
    figure, (panel,) = panels_of(1, height=2.9)
    for curve in curves:
        points = [row for row in curve["rows"] if "watch" in row]
        steps, values = [row["step"] for row in points], [row["watch"] for row in points]
        errors = [row.get("watch_error") or 0.0 for row in points]
        panel.errorbar(
            steps, values, yerr=errors, color=GREEN, alpha=0.55 if len(curves) > 1 else 1.0, linewidth=1.2,
            marker="o", markersize=4.5, capsize=2.5,
        )  # fmt: skip
    panel.set_title(f"{policy}  (answers while it trained)")
    panel.set_xlabel("optimiser step")
    panel.set_ylabel("what is watched")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
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


def draw_spread(values: dict[str, list[float]], title: str, label: str) -> Figure:
    """Return a box per name: median, quartiles, and whiskers from the 5th to the 95th percentile; the mean as a dot.

    values: {name: numbers}, each with at least one. label: of the horizontal axis.
    """
    figure, (panel,) = panels_of(1, height=0.75 + 0.27 * len(values), width=4.4)
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


def draw_reward_histograms(rewards: dict[str, list[float]]) -> Figure:
    """Return a histogram per reward column ({column: values}), with its mean and how many values there are."""
    figure, panels = panels_of(max(1, len(rewards)), height=2.6)
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
