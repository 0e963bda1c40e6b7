"""Pictures of the report page, each as markup with words for those who cannot see it."""

from pathlib import Path

import matplotlib.pyplot as plt
from markupsafe import Markup

from workflow_scripts.common.files import read_json
from workflow_scripts.report.drawing import inline_svg
from workflow_scripts.report.policy_figures import draw_against_length, draw_forest
from workflow_scripts.report.rows import cell_name, cell_title, headline_rows
from workflow_scripts.report.scores import in_order
from workflow_scripts.report.training_figures import (
    draw_loss_curves,
    draw_reward_histograms,
    draw_spread,
    draw_watch,
    read_curves,
    read_rewards,
)


def forest_figures(rows: list[dict], cells: list[str]) -> list[Markup]:
    """Return a forest plot per headline cell that has differences; rows as text."""
    compared = {cell_name(row) for row in headline_rows(rows) if row["difference"]}
    return [
        picture(draw_forest(rows, [cell]), f"forest{number}", f"Differences to the baseline in {cell}")
        for number, cell in enumerate(cells)
        if cell in compared
    ]


def picture(figure: plt.Figure, name: str, label: str) -> Markup:
    """Return a figure as markup that the template takes as it is: our own drawing, its labels escaped."""
    return Markup(inline_svg(figure, name, label))


def length_figures(rows: list[dict]) -> list[Markup]:
    """Return a scatter per benchmark and rate that has a mean length beside it; typed rows."""
    lengths = {
        (r["policy"], r["benchmark"]): r["value"]
        for r in rows
        if r["metric"] == "length" and r["value"] != ""
    }
    rates = [row for row in rows if "win_rate" in row["metric"] and row["value"] != ""]
    figures = []
    for cell in in_order(map(cell_name, rates)):
        own = [
            row for row in rates if cell_name(row) == cell and (row["policy"], row["benchmark"]) in lengths
        ]
        points = [
            {
                "policy": row["policy"],
                "length": lengths[row["policy"], row["benchmark"]],
                "value": row["value"],
                "low": row["value"]
                if row["ci_low"] == ""
                else row["ci_low"],  # without an interval: no whisker
                "high": row["value"] if row["ci_high"] == "" else row["ci_high"],
            }
            for row in own
        ]
        if points:
            drawn = draw_against_length(points, cell_title(own[0]), own[0]["metric"].replace("_", " "))
            figures.append(
                picture(drawn, f"length{len(figures)}", f"{cell} against the length of the answers")
            )
    return figures


def curve_figures(curves: list[dict]) -> list[Markup]:
    """Return the figures of curves by their files; see figures_of_curves."""
    return figures_of_curves(read_curves(curves) if curves else [])


def figures_of_curves(loaded: list[dict]) -> list[Markup]:
    """Return a panel of losses per policy, seeds together; and one of what was watched, where something was."""
    figures: list[Markup] = []
    for number, policy in enumerate(in_order(curve["policy"] for curve in loaded)):
        own = [curve for curve in loaded if curve["policy"] == policy]
        label = f"Losses of {policy} by optimiser step"
        figures.append(picture(draw_loss_curves(own), f"curve{number}", label))
        if any("watch" in row for curve in own for row in curve["rows"]):
            label = f"What the answers of {policy} were worth by optimiser step"
            figures.append(picture(draw_watch(policy, own), f"watch{number}", label))
    return figures


def reward_figures(paths: list[str], sets: list[dict], index: list[dict]) -> list[Markup]:
    """Return the distributions of rewards: of the annotated data, of each policy's answers, and of judges' verdicts."""
    figures: list[Markup] = []
    spreads = {name: (values, "reward") for name, values in answer_rewards(index).items()}
    for found in sets:
        verdicts = {policy: values for policy, values in found["verdicts"].items() if values}
        if verdicts:
            spreads[f"{found['benchmark']} verdicts"] = (verdicts, "verdict")
    for name, (values, label) in spreads.items():
        drawn = draw_spread(values, name, label)
        figures.append(picture(drawn, f"reward{len(figures)}", f"Distribution of {name} per policy"))
    for column, values in (read_rewards([Path(path) for path in paths]) if paths else {}).items():
        drawn = draw_reward_histograms({f"data: {column}": values})
        figures.append(
            picture(drawn, f"reward{len(figures)}", f"Distribution of the reward {column} in the data")
        )
    return figures


def answer_rewards(index: list[dict]) -> dict[str, dict[str, list[float]]]:
    """Return {"benchmark column": {policy: rewards of its answers, all seeds}} of the score files that have rewards."""
    found: dict[str, dict[str, list[float]]] = {}
    for entry in index:
        for cell in read_json(entry["file"]).get("cells") or []:
            if cell["metric"] == "reward" and cell["estimator"] == "mean":
                own = found.setdefault(f"{entry['benchmark']} {cell['subset']}", {})
                own.setdefault(entry["policy"], []).extend(cell["columns"]["value"])
    return found


def answer_length_figures(sets: list[dict]) -> list[Markup]:
    """Return the distribution of answer lengths per policy, a panel per benchmark."""
    figures = []
    for found in sets:
        lengths = {policy: values for policy, values in found["lengths"].items() if values}
        if lengths:
            drawn = draw_spread(lengths, found["benchmark"], "tokens of an answer")
            label = f"Lengths of the answers to {found['benchmark']} per policy"
            figures.append(picture(drawn, f"answers{len(figures)}", label))
    return figures
