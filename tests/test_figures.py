"""The figures are drawn from files of the shape the stages write, and the same twice."""

import json
import re
import sys
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from workflow_scripts.common.diverged import hand_on
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_jsonl
from workflow_scripts.report import figures
from workflow_scripts.report.drawing import GREEN, GREY, RED, SKY, STYLE, inline_svg
from workflow_scripts.report.policy_figures import axis_limit, draw_forest, draw_policy_bars
from workflow_scripts.report.spreadsheets import read_csv
from workflow_scripts.report.training_figures import (
    draw_loss_curves,
    draw_reward_histograms,
    draw_spread,
    read_rewards,
)

RESULTS = """\
study,policy,parent,method,seed,seeds,benchmark,subset,metric,value,ci_low,ci_high,n,groups,higher_is_better,note
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


COMPARED = """policy,seed,benchmark,subset,metric,value,ci_low,ci_high,n,groups,higher_is_better,baseline,difference,\
difference_low,difference_high,p_value,p_adjusted
m.a,1,toy,all,loss,2,1,3,9,9,false,m,-0.2,-0.3,-0.1,0.01,0.02
m.b,1,toy,all,loss,2,1,3,9,9,false,m,0.1,0.05,0.2,0.01,0.02
m.c,1,toy,all,loss,2,1,3,9,9,false,m,0.05,-0.1,0.2,0.5,0.5
m.d,1,toy,all,loss,99,98,100,9,9,false,m,97,96,98,0.01,0.02
m,1,toy,all,loss,2,1,3,9,9,false,,,,,,
"""


@pytest.fixture
def compared(tmp_path) -> list[dict]:
    (tmp_path / "results.csv").write_text(COMPARED)
    return read_csv(tmp_path / "results.csv")


def test_a_forest_marks_gains_and_losses_by_the_metrics_direction(compared):
    with plt.rc_context(STYLE):
        figure = draw_forest(compared, ["toy/all/loss"])
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["m.a", "m.b", "m.c", "m.d"]
    dots = {line.get_ydata()[0]: line for line in panel.lines if line.get_marker() in ("o", ">", "<")}
    colours = [dots[place].get_markeredgecolor() for place in range(4)]
    assert colours == [GREEN, RED, GREY, RED]  # a loss that falls is a gain
    assert dots[3].get_marker() == ">"  # far outside: an arrow at the edge
    assert dots[3].get_xdata()[0] == panel.get_xlim()[1] / 1.12 == pytest.approx(0.3)
    assert "← better" in panel.get_xlabel()
    plt.close(figure)


def test_an_axis_of_differences_reaches_to_the_last_that_is_not_far_out():
    # the median reach is 0.3, so 1.5 is the last that may stretch the axis
    assert axis_limit([0.1, 0.2, 0.3, 1.5, 40.0]) == 1.5
    assert axis_limit([0.0, 0.0]) == 1.0


def test_a_forest_of_a_cell_without_differences_is_refused(compared):
    with pytest.raises(PlumblineError, match="toy/all/gain"):
        draw_forest(compared, ["toy/all/gain"])


def test_a_forest_is_drawn_from_the_command_line(tmp_path, monkeypatch, compared):
    settings = json.dumps({"cells": ["toy/all/loss"]})
    flags = ("--results", str(tmp_path / "results.csv"), "--settings", settings)
    draw(monkeypatch, "forest", *flags, "--output", str(tmp_path / "forest.svg"))
    assert (tmp_path / "forest.svg").stat().st_size > 1000


def test_a_value_without_an_interval_has_a_bar_without_a_whisker(tmp_path):
    (tmp_path / "results.csv").write_text(RESULTS.replace("0.6,0.5,0.7", "0.6,,"))
    rows = read_csv(tmp_path / "results.csv")
    figure = draw_policy_bars(rows, ["tutor/evaluation/accuracy"])
    assert whiskers_of(figure.axes[0]) == [[0.05, 0.2]]
    plt.close(figure)


def test_a_picture_in_a_page_follows_the_pages_colours_and_shares_no_id():
    def drawn(name: str) -> str:
        with plt.rc_context(STYLE):
            return inline_svg(draw_spread({"m": [1.0, 2.0], "n": [3.0]}, "t", "tokens"), name, "l")

    one, other = drawn("one"), drawn("other")
    assert one == drawn("one")
    assert re.search("#[0-9a-f]{6}", one) is None and "var(--ink)" in one
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one))
    assert {first or second for first, second in used} <= ids[0]


def test_names_in_a_picture_are_text_whatever_they_are():
    name = "<script>alert(1)</script> & $\\x$"
    with plt.rc_context(STYLE):
        text = inline_svg(draw_spread({name: [1.0]}, name, name), "one", f'"{name}')
    root = ElementTree.fromstring(text)  # well formed
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert root.get("aria-label") == f'"{name}'
    assert name in [element.text for element in root.iter()]


def test_a_spread_has_the_quartiles_of_its_values():
    values = [float(number) for number in range(1, 102)]  # 5th percentile 6, quartiles 26, 51, 76, 95th 96
    with plt.rc_context(STYLE):
        figure = draw_spread({"m": values}, "t", "tokens")
    panel = figure.axes[0]
    box = panel.patches[0].get_path().vertices[:, 0]
    ends = sorted({x for line in panel.lines for x in line.get_xdata()})
    assert (box.min(), box.max()) == (26, 76)
    assert (ends[0], ends[-1]) == (6, 96) and 51 in ends
    plt.close(figure)


def test_whiskers_end_where_the_interval_does_and_values_below_0_are_seen(tmp_path):
    (tmp_path / "results.csv").write_text(RESULTS.replace("0.6,0.5,0.7", "-0.4,-0.9,-0.3"))
    rows = read_csv(tmp_path / "results.csv")
    figure = draw_policy_bars(rows, ["tutor/evaluation/accuracy"])
    axes = figure.axes[0]
    assert whiskers_of(axes) == [[0.05, 0.2], [-0.9, -0.3]]
    assert axes.get_xlim()[0] < -0.9 and axes.get_xlim()[1] > 1
    plt.close(figure)


def whiskers_of(panel) -> list[list[float]]:
    """Return where each interval of a panel begins and ends."""
    return [[point[0] for point in path] for lines in panel.collections for path in lines.get_segments()]


TWO_SCALES = """policy,seed,benchmark,subset,metric,value,ci_low,ci_high,n,groups,higher_is_better,baseline,difference,\
difference_low,difference_high,difference_luck
m,1,toy,all,acc,0.4,0.3,0.5,9,9,true,,,,,
m.a,1,toy,all,acc,0.6,0.5,0.7,9,9,true,m,0.2,0.1,0.3,included
m.b,1,toy,all,acc,0.7,0.6,0.8,9,9,true,m,0.3,0.2,0.4,not included
m,1,toy,all,reward,-11,-12,-10,9,3,true,,,,,
m.a,1,toy,all,reward,-14,-15,-13,9,3,true,m,-3,-4,-2,included
m,1,toy,all,loss,2,1,3,9,9,false,,,,,
m.a,1,toy,all,loss,3,2,4,9,9,false,m,1,-1,3,included
m.b,1,toy,all,loss,900,,,9,9,false,m,898,800,999,included
"""


def test_each_cell_has_its_own_scale_and_says_which_way_is_good(tmp_path):
    (tmp_path / "results.csv").write_text(TWO_SCALES)
    cells = [f"toy/all/{name}" for name in ("acc", "reward", "loss")]
    with plt.rc_context(STYLE):
        figure = draw_policy_bars(read_csv(tmp_path / "results.csv"), cells)
    accuracy, reward, loss = figure.axes[:3]
    assert accuracy.get_title(loc="left") == "toy acc ↑ higher is better\nn = 9"
    assert reward.get_title(loc="left") == "toy reward ↑ higher is better\nn = 9 in 3 groups"
    assert loss.get_title(loc="left") == "toy loss ↓ lower is better\nn = 9"
    assert 0.8 < accuracy.get_xlim()[1] < 1 and accuracy.get_xlim()[0] == 0
    assert reward.get_xlim()[0] < -15 and reward.get_xlim()[1] == 0
    assert loss.get_xlim()[1] < 5  # 900 is an arrow at the edge, beside its number
    assert [line.get_marker() for line in loss.lines if line.get_marker() != "None"] == [">"]
    assert loss.texts[-1].get_text() == "900.0"
    plt.close(figure)


def test_bars_are_marked_as_the_tables_are_and_the_baseline_is_a_line(tmp_path):
    (tmp_path / "results.csv").write_text(TWO_SCALES)
    with plt.rc_context(STYLE):
        figure = draw_policy_bars(read_csv(tmp_path / "results.csv"), ["toy/all/acc", "toy/all/reward"])
    accuracy, reward = figure.axes[:2]
    # of m.b no interval holds the luck of its training: it is marked nowhere
    assert [to_hex(bar.get_facecolor()).upper() for bar in accuracy.patches] == [GREY, GREEN, SKY]
    assert [text.get_fontweight() for text in accuracy.texts] == ["normal", "bold", "normal"]
    assert to_hex(reward.patches[1].get_facecolor()).upper() == RED
    assert reward.texts[2].get_text() == "–"  # m.b has no such score
    lines = [panel.lines[0].get_xdata()[0] for panel in (accuracy, reward)]
    assert lines == [0.4, -11]
    plt.close(figure)


def test_a_difference_without_an_interval_is_a_dot_that_says_nothing_clear(tmp_path):
    (tmp_path / "results.csv").write_text(COMPARED.replace("-0.2,-0.3,-0.1", "-0.2,,"))
    with plt.rc_context(STYLE):
        figure = draw_forest(read_csv(tmp_path / "results.csv"), ["toy/all/loss"])
    dots = {line.get_ydata()[0]: line for line in figure.axes[0].lines if line.get_marker() == "o"}
    assert dots[0].get_markeredgecolor() == GREY
    assert figure.axes[0].texts[0].get_text() == "−0.20"
    plt.close(figure)


def test_losses_that_are_not_finite_are_left_out_of_their_curve(recwarn):
    rows = [
        {"step": 1, "train_loss": 2.0},
        {"step": 2, "train_loss": float("nan")},
        {"step": 3, "train_loss": float("inf")},
    ]
    figure = draw_loss_curves([{"policy": "m.sft", "seed": 1, "rows": rows}])
    assert list(figure.axes[0].lines[0].get_xdata()) == [1]
    figure.canvas.draw()
    assert not recwarn.list
    plt.close(figure)


def test_an_annotation_whose_reward_model_diverged_has_no_rewards_to_draw(tmp_path):
    note = {
        "step": 2,
        "learning_rate": 1e30,
        "quantity": "the loss is",
        "whose": "the reward model's training",
    }
    hand_on(note, [tmp_path / "ranked/manifest.json", tmp_path / "ranked/rows"])
    rows = [tmp_path / "ranked/rows/train.jsonl"]
    assert read_rewards(rows) == {}
    draw_reward_histograms({})
    write_jsonl(tmp_path / "other/rows/train.jsonl", [{"rewards": {"length": 0.5}}])
    assert read_rewards([*rows, tmp_path / "other/rows/train.jsonl"]) == {"length": [0.5]}


def test_a_curve_without_a_finite_loss_says_so(tmp_path, monkeypatch):
    (tmp_path / "curve.json").write_text(
        '[{"step": 5, "train_loss": NaN}, {"step": 10, "train_loss": Infinity}]'
    )
    settings = json.dumps({"curves": [{"policy": "m.sft", "seed": 1, "file": str(tmp_path / "curve.json")}]})
    monkeypatch.setitem(STYLE, "svg.fonttype", "none")
    draw(monkeypatch, "loss_curves", "--settings", settings, "--output", str(tmp_path / "curves.svg"))
    assert "no logged loss is a finite number" in (tmp_path / "curves.svg").read_text()
