"""The results table: what stands in a row, and that the same scores give the same bytes."""

import csv
import json
import sys
from pathlib import Path

import pytest

from workflow_scripts.report import table
from workflow_scripts.report.statistics import paired_difference, read_cell, seed_of

SETTINGS = {"study": "toy", "baseline": "m.sft", "draws": 300, "seed": 0, "confidence": 0.95, "bars": []}


def cell(values, metric="accuracy", better=True, items=None) -> dict:
    items = items or [str(number) for number in range(len(values))]
    return {
        "subset": "all",
        "metric": metric,
        "estimator": "mean",
        "higher_is_better": better,
        "items": items,
        "groups": [item[:1] for item in items],
        "columns": {"value": values},
    }


def write(folder: Path, policy: str, cells: list[dict], seed: int = 1, refused: str | None = None) -> dict:
    path = folder / f"{policy}-{seed}.json"
    path.write_text(
        json.dumps({"benchmark": "toy", "cells": cells} | ({"refused": refused} if refused else {}))
    )
    parent, _, method = policy.rpartition(".")
    kind = "calibration" if policy in ("gold", "empty") else "policy"
    return {
        "policy": policy,
        "parent": parent or None,
        "method": method if parent else None,
        "seed": seed,
        "benchmark": "toy",
        "file": str(path),
        "kind": kind,
    }


def build(folder: Path, index: list[dict], settings: dict = SETTINGS) -> list[dict]:
    (folder / "index.json").write_text(json.dumps(index))
    arguments = ["table", "--index", str(folder / "index.json"), "--settings", json.dumps(settings)]
    for flag, name in (("output", "results.csv"), ("wide", "policies.csv"), ("markdown", "results.md")):
        arguments += [f"--{flag}", str(folder / name)]
    before, sys.argv = sys.argv, arguments
    try:
        table.main()
    finally:
        sys.argv = before
    with open(folder / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def index(tmp_path) -> list[dict]:
    return [
        write(tmp_path, "m", [cell([0, 0, 0, 1])]),
        write(tmp_path, "m.sft", [cell([0, 1, 0, 1])]),
        write(tmp_path, "m.sft.dpo", [cell([1, 1, 1, 1])]),
        write(tmp_path, "gold", [cell([1, 1, 1, 1])], seed=0),
    ]


def test_a_row_says_whose_number_it_is_and_on_how_many_items(index, tmp_path):
    rows = {row["policy"]: row for row in build(tmp_path, index)}
    row = rows["m.sft.dpo"]
    assert (row["parent"], row["method"], row["seed"], row["seeds"]) == ("m.sft", "dpo", "1", "1")
    assert (row["value"], row["n"], row["groups"], row["higher_is_better"]) == ("1", "4", "4", "true")
    assert (row["baseline"], row["difference"]) == ("m.sft", "0.5")


def test_the_difference_is_the_paired_bootstrap_s(index, tmp_path):
    row = {row["policy"]: row for row in build(tmp_path, index)}["m.sft.dpo"]
    first, second = (read_cell(cell(values), "x") for values in ([1, 1, 1, 1], [0, 1, 0, 1]))
    expected = paired_difference([first], [second], 300, seed_of(0, "toy", "all", "accuracy"))
    assert float(row["difference_low"]) == pytest.approx(expected.low, rel=1e-5)
    assert float(row["p_value"]) == pytest.approx(expected.p_value, rel=1e-5)


def test_the_baseline_and_calibration_rows_are_compared_with_nothing(index, tmp_path):
    rows = {row["policy"]: row for row in build(tmp_path, index)}
    for policy in ("m.sft", "gold"):
        assert not rows[policy]["difference"]
        assert not rows[policy]["p_adjusted"]
    assert rows["gold"]["seeds"] == "1"
    assert len(rows) == 4


def test_p_values_are_adjusted_over_the_study(index, tmp_path):
    rows = [row for row in build(tmp_path, index) if row["p_value"]]
    assert len(rows) == 2
    assert all(float(row["p_adjusted"]) >= float(row["p_value"]) for row in rows)


def test_the_same_scores_give_the_same_bytes(index, tmp_path):
    names = ("results.csv", "policies.csv", "results.md")
    build(tmp_path, index)
    first = [(tmp_path / name).read_bytes() for name in names]
    build(tmp_path, index)
    assert [(tmp_path / name).read_bytes() for name in names] == first


def test_only_a_policy_of_several_seeds_gets_a_pooled_row(tmp_path):
    index = [
        write(tmp_path, "m", [cell([0, 0])]),
        write(tmp_path, "m.sft", [cell([0, 1])], seed=1),
        write(tmp_path, "m.sft", [cell([1, 1])], seed=2),
    ]
    rows = build(tmp_path, index, SETTINGS | {"baseline": "m"})
    assert [(row["policy"], row["seed"], row["seeds"], row["value"]) for row in rows] == [
        ("m", "1", "1", "0"),
        ("m.sft", "1", "1", "0.5"),
        ("m.sft", "2", "1", "1"),
        ("m.sft", "all", "2", "0.75"),
    ]


def test_a_scorer_that_refused_leaves_a_row_with_its_reason(index, tmp_path):
    index.append(write(tmp_path, "m.sft.kto", [], refused="no sandbox works here"))
    row = build(tmp_path, index)[-2]
    rows = {row["policy"]: row for row in build(tmp_path, index)}
    row = rows["m.sft.kto"]
    assert (row["value"], row["n"], row["note"]) == ("", "0", "no sandbox works here")


def test_a_metric_without_a_good_direction_has_none_in_the_table(tmp_path):
    index = [
        write(tmp_path, "m.sft", [cell([1, 2], "length", None)]),
        write(tmp_path, "m.sft.dpo", [cell([5, 6], "length", None)]),
    ]
    rows = build(tmp_path, index)
    assert [row["higher_is_better"] for row in rows] == ["", ""]
    assert rows[1]["difference"] == "4"
    assert "**" not in (tmp_path / "results.md").read_text().split("length")[-1]


def test_policies_with_different_items_are_compared_on_those_they_share(tmp_path):
    index = [
        write(tmp_path, "m.sft", [cell([1, 0, 1], items=["a", "b", "c"])]),
        write(tmp_path, "m.sft.dpo", [cell([1, 1], items=["a", "b"])]),
    ]
    row = build(tmp_path, index)[1]
    assert (row["n"], row["difference"]) == ("2", "0.5")
    assert "2 of 3 items" in row["note"]
