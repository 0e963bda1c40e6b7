"""The figures are drawn from files of the shape the stages write, and the same twice."""

import json
import sys

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report import figures

RESULTS = """study,policy,parent,method,seed,seeds,benchmark,subset,metric,value,ci_low,ci_high,n,groups,higher_is_better,note
toy,m,,,1,1,tutor,evaluation,accuracy,0.1,0.05,0.2,40,8,true,
toy,m.sft,m,sft,1,1,tutor,evaluation,accuracy,0.6,0.5,0.7,40,8,true,
toy,gold,,,0,1,tutor,evaluation,accuracy,1,1,1,40,8,true,
"""


def draw(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["figures", *arguments])
    figures.main()


def test_bars_are_drawn_and_the_same_twice(tmp_path, monkeypatch):
    (tmp_path / "results.csv").write_text(RESULTS)
    settings = json.dumps({"cells": ["tutor/evaluation/accuracy"]})
    pictures = []
    for name in ("one.svg", "two.svg"):
        output = str(tmp_path / name)
        draw(
            monkeypatch,
            "policy_bars",
            "--results",
            str(tmp_path / "results.csv"),
            "--settings",
            settings,
            "--output",
            output,
        )
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"<?xml")


def test_curves_of_training_and_validation_are_drawn(tmp_path, monkeypatch):
    curve = [{"step": 5, "train_loss": 2.0}, {"step": 10, "train_loss": 1.0, "validation_loss": 1.2}]
    (tmp_path / "curve.json").write_text(json.dumps(curve))
    settings = json.dumps({"curves": [{"policy": "m.sft", "seed": 1, "file": str(tmp_path / "curve.json")}]})
    draw(monkeypatch, "loss_curves", "--settings", settings, "--output", str(tmp_path / "curves.svg"))
    assert (tmp_path / "curves.svg").stat().st_size > 1000


def test_rewards_are_drawn(tmp_path, monkeypatch):
    rows = [{"id": str(n), "rewards": {"valid": 1.0, "final_reward": 1.0 + n / 10}} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = (
        "--annotations",
        str(tmp_path / "rows.jsonl"),
        "--settings",
        "{}",
        "--output",
        str(tmp_path / "r.svg"),
    )
    draw(monkeypatch, "reward_histogram", *flags)
    assert (tmp_path / "r.svg").stat().st_size > 1000


def test_a_picture_of_another_kind_is_refused(tmp_path, monkeypatch):
    (tmp_path / "results.csv").write_text(RESULTS)
    settings = json.dumps({"cells": ["tutor/evaluation/accuracy"]})
    flags = (
        "--results",
        str(tmp_path / "results.csv"),
        "--settings",
        settings,
        "--output",
        str(tmp_path / "x.gif"),
    )
    with pytest.raises(PlumblineError, match=r"\.svg or \.png"):
        draw(monkeypatch, "policy_bars", *flags)
