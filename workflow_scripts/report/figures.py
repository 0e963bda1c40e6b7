"""The report's pictures: loss curves, policies with their intervals, differences to the baseline, distributions.

One command line, four subcommands, each with --settings (JSON) and --output (.svg or .png); `page` puts the same
pictures into the report with `inline_svg`. Colours are Okabe and Ito's, which colour-blind readers tell apart. The
same input gives the same bytes: no dates, a fixed salt for SVG ids.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from typing_extensions import TypedDict

from workflow_scripts.common.errors import run
from workflow_scripts.common.settings import settings_of
from workflow_scripts.report.drawing import STYLE, save
from workflow_scripts.report.policy_figures import draw_forest, draw_policy_bars
from workflow_scripts.report.settings import Curve
from workflow_scripts.report.spreadsheets import read_csv
from workflow_scripts.report.training_figures import (
    draw_loss_curves,
    draw_reward_histograms,
    read_curves,
    read_rewards,
)


class Curves(TypedDict):
    """Whose losses are drawn."""

    curves: list[Curve]


class Cells(TypedDict):
    """Which cells of results.csv are drawn, each as benchmark/subset/metric."""

    cells: list[str]


class Nothing(TypedDict):
    """Rewards are drawn from the files alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    loss = kinds.add_parser("loss_curves", help="settings: curves [{policy, seed, file}]")
    bars = kinds.add_parser("policy_bars", help="settings: cells [benchmark/subset/metric]")
    bars.add_argument("--results", required=True, type=Path, help="results.csv")
    forest = kinds.add_parser("forest", help="settings: cells [benchmark/subset/metric]")
    forest.add_argument("--results", required=True, type=Path, help="results.csv or results_full.csv")
    rewards = kinds.add_parser("reward_histogram", help="settings: none")
    rewards.add_argument(
        "--annotations", required=True, nargs="+", type=Path, help="annotated JSON Lines files"
    )
    for kind, settings in ((loss, Curves), (bars, Cells), (forest, Cells), (rewards, Nothing)):
        kind.add_argument("--settings", required=True, type=settings_of(settings))
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
