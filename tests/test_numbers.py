"""How an estimate is written: ± only where it is true of what is shown."""

import numpy as np
import pytest

from workflow_scripts.report.numbers import estimate, markdown_line, shown, value_and_spread


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.849, 0.812, 0.886, "0.849 ± 0.037"),
        (0.0, 0.0, 0.0229, "0.000 [0.000, 0.023]"),
        (1.0, 0.868, 1.0, "1.000 [0.868, 1.000]"),
        (24195.7, 3.2, 55448.6, "24195.7 [3.2, 55448.6]"),
        (6893.6, 6233.6, 7553.6, "6893.6 ± 660.0"),
        (0.5, 0.5, 0.5, "0.500 [0.500, 0.500]"),
        (0.5, "", "", "0.500"),
        (12.0, "", "", "12.0"),
        (1.83, 1.82996, 1.83004, "1.83000 ± 0.00004"),
        (-0.00001, -0.5, 0.5, "0.000 ± 0.500"),
        (-2.5, -3.0, -1.0, "-2.500 [-3.000, -1.000]"),
    ],
)
def test_a_half_width_is_written_only_where_it_gives_both_ends(value, low, high, text):
    assert estimate(value, low, high) == text


def test_what_is_written_with_a_half_width_never_leaves_the_interval_by_a_digit():
    rng = np.random.default_rng(1)
    kinds = set()
    for _ in range(2000):
        value = float(rng.random() * 10.0 ** rng.integers(-3, 5))
        low, high = value * (1 - rng.random()), value + float(rng.random()) * value
        if rng.random() < 0.5:
            high = 2 * value - low
        text, spread = value_and_spread(value, low, high)
        kinds.add(spread[0])
        decimals = len(text.partition(".")[2])
        if spread[0] == "±":
            half = float(spread[2:])
            assert shown(float(text) - half, decimals) == shown(low, decimals)
            assert shown(float(text) + half, decimals) == shown(high, decimals)
            assert half > 0
    assert kinds == {"±", "["}


def test_a_name_opens_no_tag_and_no_cell_of_a_markdown_table():
    hostile = ["<script>x</script>", "a | b", "a \\| b", "two\nlines\u2028more"]
    line = markdown_line(hostile)
    assert "<" not in line
    assert len(line.splitlines()) == 1
    assert line.replace("\\\\", "").replace("\\|", "").count("|") == len(hostile) + 1
    assert markdown_line(["`tiny.sft`", "**0.5 ± 0.1**"]) == "| `tiny.sft` | **0.5 ± 0.1** |"
