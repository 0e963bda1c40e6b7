"""The default study as a plan, with score files that cost nothing: for what reads a results folder."""

import json
from pathlib import Path

from tests.workflow import ROOT
from workflow_scripts.common.files import write_json
from workflow_scripts.plan.index import index_entries
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.report.index import entries_of
from workflow_scripts.study.checking import load_study

ITEMS = [f"i{number}" for number in range(12)]
CELLS = (
    ("tutor", "reply", "give_away", False),
    ("tutor", "action", "accuracy", True),
    ("judged", "judge", "reward", True),
)


def score(benchmark: str, value: float) -> dict:
    """A score file: the headline cells of a benchmark, else one, each a mean over twelve items."""
    named = [cell[1:] for cell in CELLS if cell[0] == benchmark] or [("overall", "score", True)]
    return {
        "cells": [
            {
                "subset": subset,
                "metric": metric,
                "higher_is_better": better,
                "estimator": "mean",
                "items": ITEMS,
                "groups": ITEMS,
                "columns": {"value": [value + 0.01 * number for number in range(12)]},
            }
            for subset, metric, better in named
        ]
    }


def scored_plan() -> Plan:
    """The plan of the default study, each of its scores written below the working folder."""
    plan = plan_of(load_study(ROOT / "config.yaml"))
    for number, entry in enumerate(entries_of(json.loads(index_entries(plan)))):
        write_json(Path(entry["file"]), score(entry["benchmark"], number))
    return plan
