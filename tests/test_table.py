"""The results table: what stands in a row, and that the same scores give the same bytes."""

import csv
import json
import re
import statistics
import sys
from pathlib import Path

import pytest

from tests.workflow import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest
from workflow_scripts.report import table
from workflow_scripts.report.latex import latex_text
from workflow_scripts.report.overlaps import clean_items, item_names
from workflow_scripts.report.results import COLUMNS, FEWER
from workflow_scripts.report.rows import typed
from workflow_scripts.report.statistics.cells import read_cell
from workflow_scripts.report.statistics.differences import mcnemar, paired_difference
from workflow_scripts.report.statistics.draws import seed_of
from workflow_scripts.report.statistics.intervals import interval

SETTINGS = {"study": "toy", "baseline": "m.sft", "draws": 300, "seed": 0, "confidence": 0.95}
SETTINGS |= {"bars": [], "headline": [], "published": []}
OUTPUTS = {
    "output": "results.csv",
    "full": "results_full.csv",
    "wide": "policies.csv",
    "markdown": "results.md",
    "latex": "results.tex",
    "overlap-output": "overlap.csv",
}


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


def write(
    folder: Path, policy: str, cells: list[dict], seed: int = 1, refused: str | None = None, **more
) -> dict:
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
    } | more


def build(folder: Path, index: list[dict], settings: dict = SETTINGS, *flags: str) -> list[dict]:
    (folder / "index.json").write_text(json.dumps(index))
    arguments = ["table", "--index", str(folder / "index.json"), "--settings", json.dumps(settings)]
    for flag, name in OUTPUTS.items():
        arguments += [f"--{flag}", str(folder / name)]
    before, sys.argv = sys.argv, [*arguments, *flags]
    try:
        table.main()
    finally:
        sys.argv = before
    return read(folder)


def read(folder: Path) -> list[dict]:
    with open(folder / "results_full.csv", newline="") as stream:
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


def test_the_small_table_has_the_rows_of_the_full_one_with_fewer_columns(index, tmp_path):
    full = build(tmp_path, index)
    with open(tmp_path / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == FEWER and list(full[0]) == COLUMNS
    assert set(FEWER) < set(COLUMNS) and len(FEWER) <= 24
    assert rows == [{column: row[column] for column in FEWER} for row in full]
    # what is marked needs columns that only the full table has: it stands in a column of its own
    assert [typed(row)["than_baseline"] for row in rows] == [typed(row)["than_baseline"] for row in full]


def test_every_column_is_explained():
    page = (ROOT / "docs/read-the-table.md").read_text(encoding="utf-8")
    missing = [column for column in COLUMNS if f"`{column}`" not in page]
    assert not missing


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
    build(tmp_path, index)
    first = [(tmp_path / name).read_bytes() for name in OUTPUTS.values()]
    build(tmp_path, index)
    assert [(tmp_path / name).read_bytes() for name in OUTPUTS.values()] == first


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


SEEDS = {
    "m.sft": {1: [0.1, 0.2, 0.3, 0.2] * 2, 2: [0.2, 0.3, 0.3, 0.3] * 2, 3: [0.1, 0.3, 0.2, 0.2] * 2},
    "m.sft.dpo": {1: [0.7, 0.9, 0.8, 0.8] * 2, 2: [0.8, 0.9, 0.8, 0.9] * 2, 3: [0.7, 0.8, 0.8, 0.8] * 2},
}
ONCE = "One seed: training luck is not included."


def of_seeds(folder, seeds=(1, 2, 3)) -> list[dict]:
    index = [write(folder, "m", [cell([0.1, 0.1, 0.1, 0.2] * 2)])]
    return index + [
        write(folder, policy, [cell(values[seed])], seed)
        for policy, values in SEEDS.items()
        for seed in seeds
    ]


def test_a_policy_of_several_seeds_says_how_far_these_lie_apart(tmp_path):
    build(tmp_path, of_seeds(tmp_path))
    rows = {(row["policy"], row["seed"]): row for row in read(tmp_path)}
    pooled = rows["m.sft", "all"]
    means = [statistics.mean(values) for values in SEEDS["m.sft"].values()]
    assert float(pooled["seed_sd"]) == pytest.approx(statistics.stdev(means), rel=1e-5)
    assert (pooled["seed_low"], pooled["seed_high"]) == ("0.2", "0.275")
    assert pooled["interval"] == "two_level_t"
    assert {rows["m.sft", seed]["seed_sd"] for seed in "123"} == {""}
    text = (tmp_path / "results.md").read_text()
    assert "| `m.sft` | 0.200 to 0.275, sd 0.043 |" in text and ONCE not in text


def test_marks_go_by_intervals_that_hold_the_luck_of_training(tmp_path):
    build(tmp_path, of_seeds(tmp_path))
    rows = {(row["policy"], row["seed"]): row for row in read(tmp_path)}
    assert rows["m.sft.dpo", "all"]["difference_luck"] == "included"
    assert rows["m.sft.dpo", "1"]["difference_luck"] == "not included"
    assert rows["m", "1"]["training_luck"] == "none" and rows["m", "1"]["difference_luck"] == "included"
    assert "| `m.sft.dpo` (3 seeds) | **0.808 " in (tmp_path / "results.md").read_text()


def test_a_table_of_one_seed_says_so_at_its_head_and_marks_nothing(tmp_path):
    rows = build(tmp_path, of_seeds(tmp_path, seeds=(1,)))
    assert [row["training_luck"] for row in rows] == ["none", "not included", "not included"]
    assert float(rows[2]["difference_low"]) > 0  # over items it is clear
    text = (tmp_path / "results.md").read_text()
    assert text.splitlines()[2].startswith(f"**{ONCE}")
    assert "**0." not in text and "textbf" not in (tmp_path / "results.tex").read_text()


def test_a_policy_that_lacks_a_seed_of_the_baseline_is_compared_with_the_luck_of_both(tmp_path):
    index = [entry for entry in of_seeds(tmp_path) if (entry["policy"], entry["seed"]) != ("m.sft.dpo", 3)]
    rows = {(row["policy"], row["seed"]): row for row in build(tmp_path, index)}
    said = "compared with other seeds of m.sft: the luck of both adds up"
    assert said in rows["m.sft.dpo", "all"]["note"]
    assert said not in rows["m", "1"]["note"] + rows["m.sft.dpo", "1"]["note"]


def test_a_policy_trained_once_among_others_is_named(tmp_path):
    index = [entry for entry in of_seeds(tmp_path) if (entry["policy"], entry["seed"]) not in ONCE_TRAINED]
    build(tmp_path, index)
    text = (tmp_path / "results.md").read_text()
    assert (
        "Trained once, so that no interval holds their training luck and nothing marks them: m.sft.dpo."
        in text
    )


ONCE_TRAINED = (("m.sft.dpo", 2), ("m.sft.dpo", 3))


def test_a_scorer_that_refused_leaves_a_row_with_its_reason(index, tmp_path):
    index.append(write(tmp_path, "m.sft.kto", [], refused="no sandbox works here"))
    row = build(tmp_path, index)[-2]
    rows = {row["policy"]: row for row in build(tmp_path, index)}
    row = rows["m.sft.kto"]
    assert (row["value"], row["n"], row["note"]) == ("", "0", "no sandbox works here")


def test_prompts_that_the_study_skips_are_counted_in_the_note(index, tmp_path):
    path = Path(index[1]["file"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"skipped": 2}))
    notes = {row["policy"]: row["note"] for row in build(tmp_path, index)}
    assert "2 prompts are skipped by the study" in notes["m.sft"]
    assert "skipped" not in notes["m"]


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


def test_plain_rates_have_wilson_s_interval_and_mcnemar_s_p_value(index, tmp_path):
    row = {row["policy"]: row for row in build(tmp_path, index)}["m.sft.dpo"]
    ours, theirs = (read_cell(cell(values), "x") for values in ([1, 1, 1, 1], [0, 1, 0, 1]))
    expected = interval([ours], 1, 0, bounds=(0, 1))
    assert (row["interval"], float(row["ci_low"])) == ("wilson", pytest.approx(expected.low, rel=1e-5))
    assert float(row["mcnemar_p"]) == mcnemar(ours, theirs)
    difference = paired_difference([ours], [theirs], 300, seed_of(0, "toy", "all", "accuracy"))
    assert float(row["mde"]) == pytest.approx(difference.detectable, rel=1e-4)
    assert "Wilson" in (tmp_path / "results.md").read_text()


def test_a_score_that_is_all_0_for_one_policy_alone_is_no_rate(tmp_path):
    index = [
        write(tmp_path, "m.sft", [cell([5, 7], "length", None)]),
        write(tmp_path, "m.sft.dpo", [cell([0, 0], "length", None)]),
    ]
    rows = build(tmp_path, index)
    assert [row["interval"] for row in rows] == ["bootstrap", ""]
    assert (rows[1]["ci_low"], rows[1]["note"].split("; ")[0]) == ("", "all values equal: no interval")
    assert [row["mcnemar_p"] for row in rows] == ["", ""]
    assert "Wilson" not in (tmp_path / "results.md").read_text()


def overlap_file(folder: Path, **sets: dict) -> str:
    path = folder / "overlap.json"
    found = {
        name: {
            "items": {
                item: dict(zip(("13", "8", "match"), each, strict=True)) for item, each in items.items()
            }
        }
        for name, items in sets.items()
    }
    path.write_text(json.dumps({"benchmark items": 6, "sets": found}))
    return str(path)


ITEMS = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture
def contaminated(tmp_path) -> list[dict]:
    """Four policies on items a to f: sft has seen a and b (b by 8-grams only), dpo also "all/c" and d's question."""
    path = overlap_file(
        tmp_path,
        sft={"a": (0.5, 0.7, "a long text"), "b": (0.0, 0.9, "its words")},
        pairs={"all/c": (1.0, 0.2, "c"), "d": (0.1, 0.1, "d")},
        unused={"f": (1.0, 1.0, "f")},
    )
    items = [*ITEMS[:3], "d#2", *ITEMS[4:]]
    return [
        write(tmp_path, "m", [cell([0.2, 0, 0, 0, 0, 1], items=items)], overlap=path, training_sets=[]),
        write(
            tmp_path, "m.sft", [cell([1, 1, 0, 0, 0.5, 1], items=items)], overlap=path, training_sets=["sft"]
        ),
        write(
            tmp_path,
            "m.sft.dpo",
            [cell([1, 1, 1, 0, 0.5, 1], items=items)],
            overlap=path,
            training_sets=["sft", "pairs"],
        ),
        write(tmp_path, "gold", [cell([1] * 6, items=items)], seed=0, overlap=None),
    ]


def test_a_clean_value_leaves_out_what_the_policy_s_own_lineage_was_trained_on(contaminated, tmp_path):
    rows = {row["policy"]: row for row in build(tmp_path, contaminated)}
    names = ("clean_value", "clean_n", "clean8_value", "clean8_n")
    found = {
        policy: [float(row[name]) if row[name] else "" for name in names] for policy, row in rows.items()
    }
    assert found["m"] == pytest.approx([0.2, 6, 0.2, 6])
    assert found["m.sft"] == pytest.approx([2.5 / 5, 5, 1.5 / 4, 4])
    assert found["m.sft.dpo"] == pytest.approx([2.5 / 3, 3, 2.5 / 4, 4])
    assert found["gold"] == ["", "", "", ""]
    assert rows["m"]["clean_low"] == rows["m"]["ci_low"]
    kept = read_cell(cell([1, 0.5, 1], items=["b", "e", "f"]), "x")
    expected = interval([kept], 300, seed_of(0, "toy", "all", "accuracy"))
    low, high = (float(rows["m.sft.dpo"][name]) for name in ("clean_low", "clean_high"))
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def test_an_item_that_one_seed_has_seen_is_clean_for_none(tmp_path):
    path = overlap_file(tmp_path, one={"a": (1.0, 1.0, "a")}, two={"b": (1.0, 1.0, "b")})
    index = [
        write(
            tmp_path, "m.sft", [cell([1, 0, 0.5], items=ITEMS[:3])], 1, overlap=path, training_sets=["one"]
        ),
        write(
            tmp_path, "m.sft", [cell([1, 0, 0.1], items=ITEMS[:3])], 2, overlap=path, training_sets=["two"]
        ),
    ]
    rows = build(tmp_path, index)
    assert [row["clean_n"] for row in rows] == ["2", "2", "1"]
    assert [float(row["clean_value"]) for row in rows] == pytest.approx([0.25, 0.55, 0.3])


def test_results_md_says_where_the_clean_value_is_another_and_where_nothing_is_clean(tmp_path):
    everything = {item: (1.0, 1.0, item) for item in ITEMS}
    some = {item: everything[item] for item in ITEMS[:3]}
    path = overlap_file(tmp_path, some=some, everything=everything, none={})
    values = [9, 9, 9, 0.9, 1.1, 1.0]
    index = [
        write(tmp_path, f"m.{name}", [cell(values, items=ITEMS)], overlap=path, training_sets=[name])
        for name in ("some", "everything", "none")
    ]
    rows = build(tmp_path, index, SETTINGS | {"baseline": "m.none"})
    assert [(row["clean_n"], row["clean_value"]) for row in rows] == [("3", "1"), ("0", ""), ("6", "5")]
    text = (tmp_path / "results.md").read_text()
    assert "- `m.some`: all accuracy 1.000 instead of 5.000 (3 of 6 items)\n" in text
    assert "the training data of `m.everything`." in text
    assert text.count("`m.none`") == 3  # the legend and two tables


def test_overlap_csv_lists_each_item_and_training_set_once(contaminated, tmp_path):
    build(tmp_path, contaminated)
    with open(tmp_path / "overlap.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["benchmark", "item", "training_set", "share13", "share8", "exact", "match"]
    assert sorted(rows[1:]) == sorted(
        [
            ["toy", "a", "sft", "0.5", "0.7", "", "a long text"],
            ["toy", "b", "sft", "0", "0.9", "", "its words"],
            ["toy", "all/c", "pairs", "1", "0.2", "", "c"],
            ["toy", "d", "pairs", "0.1", "0.1", "", "d"],
            ["toy", "f", "unused", "1", "1", "", "f"],
        ]
    )


def test_an_item_that_stands_exactly_in_a_training_set_is_clean_by_no_rule(tmp_path):
    path = overlap_file(
        tmp_path, sft={"a": (0.0, 0.0, "group"), "b": (0.0, 0.0, "whole"), "c": (0.0, 0.1, "")}
    )
    found = json.loads(Path(path).read_text())
    for item in found["sets"]["sft"]["items"].values():
        item["exact"], item["match"] = item["match"], "words"
    Path(path).write_text(json.dumps(found))
    index = [
        write(tmp_path, "m.sft", [cell([1, 1, 0, 0], items=ITEMS[:4])], overlap=path, training_sets=["sft"])
    ]
    row = build(tmp_path, index)[0]
    assert (row["clean_n"], row["clean_value"], row["clean8_n"]) == ("2", "0", "2")
    with open(tmp_path / "overlap.csv", newline="") as stream:
        assert [line["exact"] for line in csv.DictReader(stream)] == ["group", "whole", ""]


def test_a_training_set_that_was_not_looked_at_is_an_error(contaminated, tmp_path):
    contaminated[1]["training_sets"] = ["other"]
    with pytest.raises(PlumblineError, match=r"overlap.json: no training set 'other', which made m.sft"):
        build(tmp_path, contaminated)


def test_overlapping_items_under_names_that_no_score_has_are_noted(tmp_path):
    path = overlap_file(tmp_path, sft={"elsewhere/a": (1.0, 1.0, "a")})
    index = [write(tmp_path, "m.sft", [cell([0, 1])], overlap=path, training_sets=["sft"])]
    assert build(tmp_path, index)[0]["note"] == "none of the 1 items that overlap is scored under that name"


PUBLISHED = {
    "policy": "m.sft",
    "benchmark": "toy",
    "subset": "all",
    "metric": "accuracy",
    "value": 0.75,
    "source": "A | B 2024",
}


def test_published_values_stand_beside_ours_with_the_difference(index, tmp_path):
    rows = {row["policy"]: row for row in build(tmp_path, index, SETTINGS | {"published": [PUBLISHED]})}
    assert (rows["m.sft"]["published_value"], rows["m.sft"]["published_difference"]) == ("0.75", "-0.25")
    assert rows["m"]["published_value"] == ""
    text = (tmp_path / "results.md").read_text()
    half = (float(rows["m.sft"]["ci_high"]) - float(rows["m.sft"]["ci_low"])) / 2
    assert f"| `m.sft` | toy/all/accuracy | 0.500 ± {half:.3f} | 0.750 | -0.250 | A \\| B 2024 |" in text


@pytest.mark.parametrize(
    ("published", "message"),
    [
        (
            [PUBLISHED | {"metric": "accurasy"}],
            r"no score m.sft toy/all/accurasy; the nearest are m.sft toy/all/accuracy",
        ),
        ([PUBLISHED, PUBLISHED], "twice"),
    ],
)  # fmt: skip
def test_a_published_value_belongs_to_one_score(published, message, index, tmp_path):
    with pytest.raises(PlumblineError, match=message):
        build(tmp_path, index, SETTINGS | {"published": published})


def test_a_published_value_of_a_refused_benchmark_is_no_error(index, tmp_path):
    index.append(write(tmp_path, "m.sft.kto", [], refused="no sandbox works here"))
    published = [PUBLISHED | {"policy": "m.sft.kto"}]
    rows = build(tmp_path, index, SETTINGS | {"published": published})
    assert all(row["published_value"] == "" for row in rows)


def test_rows_carry_the_ids_of_their_provenance(tmp_path):
    index = [
        write(tmp_path, "m", [cell([0, 0])]),
        write(tmp_path, "m.sft", [cell([0, 1])], seed=1),
        write(tmp_path, "m.sft", [cell([1, 1])], seed=2),
    ]
    ids = {"m|1|toy": {"id": "0" * 12}, "m.sft|1|toy": {"id": "1" * 12}, "m.sft|2|toy": {"id": "2" * 12}}
    (tmp_path / "provenance.json").write_text(json.dumps({"study": "x", "records": ids}))
    flags = ("--provenance", str(tmp_path / "provenance.json"))
    rows = build(tmp_path, index, SETTINGS | {"baseline": "m"}, *flags)
    assert [row["provenance"] for row in rows[:3]] == ["0" * 12, "1" * 12, "2" * 12]
    assert rows[3]["provenance"] == digest(["1" * 12, "2" * 12])[:12]
    del ids["m|1|toy"]
    (tmp_path / "provenance.json").write_text(json.dumps({"study": "x", "records": ids}))
    with pytest.raises(PlumblineError, match=r"no record 'm\|1\|toy'"):
        build(tmp_path, index, SETTINGS | {"baseline": "m"}, *flags)


def refitted(point: float, replicates: list[float], items: list[str]) -> dict:
    own = cell([0.0] * len(items), "win_rate", items=items)
    return own | {"estimator": "replicates", "point": point, "replicates": replicates}


def test_replicates_are_compared_draw_by_draw_where_they_can_be(tmp_path):
    path = overlap_file(tmp_path, none={})
    more = {"overlap": path, "training_sets": ["none"]}
    index = [
        write(tmp_path, "m.sft", [refitted(50.0, [49.0, 50.0, 51.0], ITEMS)], **more),
        write(tmp_path, "m.sft.dpo", [refitted(52.0, [51.0, 52.5, 53.0], ITEMS)], **more),
        write(tmp_path, "m.sft.kto", [refitted(53.0, [52.0, 53.0, 54.0], ITEMS[:5])], **more),
    ]
    rows = build(tmp_path, index)
    assert [row["interval"] for row in rows] == ["replicates"] * 3
    assert (rows[1]["difference"], rows[1]["difference_high"]) == ("2", "2.475")
    assert (rows[2]["value"], rows[2]["difference"]) == ("53", "")
    assert rows[2]["note"].endswith("; not compared draw by draw: resampled on other items")
    assert rows[1]["note"] == "no p-value can pass Holm's correction over 1 comparisons: 3 replicates"
    assert {row["clean_value"] for row in rows} == {""}


def test_seeds_of_replicates_with_other_items_have_a_value_and_no_interval(tmp_path):
    index = [
        write(tmp_path, "m.sft", [refitted(50.0, [49.0, 51.0], ITEMS)], 1),
        write(tmp_path, "m.sft", [refitted(52.0, [51.0, 53.0], ITEMS[:4])], 2),
    ]
    pooled = build(tmp_path, index)[-1]
    assert (pooled["seed"], pooled["value"], pooled["ci_low"], pooled["interval"]) == ("all", "51", "", "")
    assert "| `m.sft` (2 seeds) | 51.0 |" in (tmp_path / "results.md").read_text()


def test_the_latex_table_is_the_headline_table_escaped(tmp_path):
    index = [
        write(
            tmp_path,
            "m.sft",
            [cell([0.1, 0.2, 0.1, 0.3] * 2, "win_rate"), cell([1, 2, 3, 4], "length", False)],
            seed=seed,
        )
        for seed in (1, 2)
    ]
    index += [
        write(tmp_path, "m.sft.a_lol", [cell([0.9, 0.8, 0.7, 0.9] * 2, "win_rate")], seed=seed)
        for seed in (1, 2)
    ]
    bars = [{"benchmark": "toy", "subset": "all", "metric": name} for name in ("win_rate", "length")]
    build(tmp_path, index, SETTINGS | {"bars": bars})
    lines = (tmp_path / "results.tex").read_text().splitlines()
    assert lines[1:5] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"policy & toy win\_rate $\uparrow$ & toy length $\downarrow$ \\",
        r"\midrule",
    ]
    assert lines[6].startswith(r"\texttt{m.sft.a\_lol} (2 seeds) & \textbf{0.825 ")
    assert lines[6].endswith(r"} & -- \\")
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    bold = (tmp_path / "results.md").read_text().split("## toy")[0].count("**0.825")
    assert bold == 1


def test_latex_text_has_no_commands():
    escaped = latex_text("50 % of $x_1$ & {y} #2 ~ ^ \\end")
    expected = r"50 \% of \$x\_1\$ \& \{y\} \#2 \textasciitilde{} \textasciicircum{} \textbackslash{}end"
    assert escaped == expected


def test_at_the_edge_of_a_scale_the_table_has_an_interval_with_both_ends_and_no_half_width(tmp_path):
    groups = [f"{letter}{number}" for letter in "abcd" for number in range(2)]
    rated = cell([10.0] * 8, "rating", items=groups) | {"bounds": [1, 10]}
    index = [write(tmp_path, "m.sft", [cell([0] * 8, items=groups), rated])]
    accuracy, rating = build(tmp_path, index)
    unseen = 1 - 0.025 ** (1 / 4)
    assert (accuracy["ci_low"], float(accuracy["ci_high"])) == ("0", pytest.approx(unseen, rel=1e-5))
    assert (float(rating["ci_low"]), rating["ci_high"]) == (pytest.approx(10 - 9 * unseen, rel=1e-5), "10")
    assert {accuracy["interval"], rating["interval"]} == {"korn_graubard"}
    for name in ("results.md", "results.tex"):
        text = (tmp_path / name).read_text()
        assert "0.000 [0.000, 0.602]" in text
        assert "0.000 ±" not in text and r"0.000 $\pm$" not in text
    assert "10.0 [4.6, 10.0]" in (tmp_path / "results.md").read_text()


def test_a_single_group_and_equal_values_have_no_interval_and_a_note(tmp_path):
    cells = [cell([1, 1], items=["a1", "a2"]), cell([7.0] * 9, "length", None)]
    index = [write(tmp_path, "m.sft", cells), write(tmp_path, "m.sft.dpo", cells)]
    rows = build(tmp_path, index)
    assert [(row["ci_low"], row["ci_high"], row["interval"]) for row in rows] == [("", "", "")] * 4
    notes = [row["note"] for row in rows]
    assert notes[:2] == ["one group: no interval", "all values equal: no interval"]
    assert notes[2] == "one group: no interval"
    assert notes[3].startswith(
        "all values equal: no interval; no item differs: no interval of the difference"
    )
    assert (rows[3]["difference"], rows[3]["difference_low"], rows[3]["p_value"], rows[3]["mde"]) == (
        "0",
        "",
        "1",
        "",
    )
    assert "± 0.000" not in (tmp_path / "results.md").read_text()


def test_a_number_that_is_not_finite_is_no_value(tmp_path, recwarn):
    likely = cell([1, 1]) | {"metric": "perplexity", "estimator": "perplexity", "higher_is_better": False}
    diverged = likely | {"columns": {"nll": [1e6, 1e6], "tokens": [1, 1]}}
    likely = likely | {"columns": {"nll": [1.0, 2.0], "tokens": [1, 1]}}
    index = [write(tmp_path, "m.sft", [likely]), write(tmp_path, "m.sft.dpo", [diverged])]
    row = build(tmp_path, index)[1]
    assert (row["value"], row["ci_low"], row["difference"]) == ("", "", "")
    assert row["note"] == "no finite value: inf"
    for name in OUTPUTS.values():
        text = (tmp_path / name).read_text().replace("no finite value: inf", "")
        assert not re.search(r"\b(nan|inf)\b", text)
    assert not recwarn.list


def many(folder: Path, count: int) -> list[dict]:
    """Return an index of a baseline and `count` policies, each clearly better on 30 items of a length."""
    values = [float(number) for number in range(30)]
    better = [value + 1 + value / 100 for value in values]
    items = [chr(65 + number) for number in range(30)]
    return [write(folder, "m", [cell(values, "length", items=items)])] + [
        write(folder, f"m.p{number}", [cell(better, "length", items=items)]) for number in range(count)
    ]


@pytest.mark.parametrize("count", [2, 60, 150])
def test_a_clear_difference_passes_holm_s_correction_however_many_comparisons_there_are(count, tmp_path):
    rows = build(tmp_path, many(tmp_path, count), SETTINGS | {"baseline": "m", "draws": 500})[1:]
    assert len(rows) == count
    assert all(float(row["p_adjusted"]) <= 0.05 for row in rows)
    assert not any(row["note"] for row in rows)


def test_where_no_p_value_can_pass_holm_s_correction_the_note_says_why(tmp_path):
    refits = [refitted(50.0 + step, [step + n / (9 + step) for n in range(40)], ITEMS) for step in (0, 9)]
    few = [cell([0.0, 1, 2, 3], "length"), cell([5.0, 6, 9, 9], "length")]
    index = [write(tmp_path, "m", [few[0], refits[0]]), write(tmp_path, "m.a", [few[1], refits[1]])]
    rows = build(tmp_path, index, SETTINGS | {"baseline": "m"})[2:]
    over = "no p-value can pass Holm's correction over 2 comparisons: "
    assert rows[0]["note"] == f"4 groups: the interval is narrower than 95 %; {over}4 groups"
    assert rows[1]["note"] == f"{over}40 replicates"


def test_a_refitted_score_whose_items_overlap_says_that_it_has_no_clean_value(tmp_path):
    path = overlap_file(tmp_path, seen={"a": (1.0, 1.0, "a")})
    values = [49.0, 50.0, 51.0]
    index = [write(tmp_path, "m.sft", [refitted(50.0, values, ITEMS)], overlap=path, training_sets=["seen"])]
    assert (
        "1 of 6 items overlap with training data; refits have no clean value"
        in build(tmp_path, index)[0]["note"]
    )


def test_items_are_known_by_the_names_that_overlap_files_have():
    names = [
        ("d#2", "d"),
        ("1:a#b#0", "1:a#b"),
        ("1:row_3/original", "1:row_3"),
        ("1:row_3/altered", "1:row_3"),
    ]
    assert all(name in item_names(item, "all") for item, name in names)
    assert clean_items(("r/original", "r/altered", "s/original"), "action1+4", {"r"}) == ("s/original",)


def test_a_mean_over_seeds_says_which_seed_it_lacks_and_why(index, tmp_path):
    index += [write(tmp_path, "m.ipo", [cell([1, 0, 1, 1])], seed=1)]
    index += [write(tmp_path, "m.ipo", [], seed=2, refused="training diverged at step 2")]
    found = {row["seed"]: row for row in build(tmp_path, index) if row["policy"] == "m.ipo"}
    assert found["all"]["value"] and "without seed 2: training diverged at step 2" in found["all"]["note"]
    assert "without" not in found["1"]["note"]
    assert (found["2"]["value"], found["2"]["note"]) == ("", "training diverged at step 2")


def test_where_the_baseline_has_no_score_a_row_says_why_it_is_not_compared(tmp_path):
    index = [write(tmp_path, "m.sft", [], refused="training diverged at step 2")]
    index.append(write(tmp_path, "m.dpo", [cell([1, 0, 1, 1])]))
    row = next(row for row in build(tmp_path, index) if row["policy"] == "m.dpo")
    assert row["value"] and row["difference"] == ""
    assert "not compared with m.sft: training diverged at step 2" in row["note"]


def test_a_subset_named_by_a_file_of_others_breaks_no_table_and_no_picture(tmp_path):
    hostile = "<b>a|b</b>\x1b[2J\x00\n\u2028c"
    named = cell([1, 0, 1]) | {"subset": hostile}
    index = [write(tmp_path, "m.sft", [named])]
    (row,) = build(tmp_path, index)
    assert row["subset"] == "<b>a|b</b> [2J c"
    text = (tmp_path / "results.md").read_text()
    assert "&lt;b>a\\|b&lt;/b> [2J c" in text
    assert "<b>" not in text and "\x1b" not in text and "\x00" not in text


def test_a_row_whose_baseline_has_no_such_score_says_that_it_is_not_compared(tmp_path):
    index = [
        write(tmp_path, "m.sft", [cell([1, 0, 1])]),
        write(tmp_path, "m.sft.dpo", [cell([1, 0, 1]), cell([1, 1, 0], metric="win_rate")]),
    ]
    rows = {(row["policy"], row["metric"]): row for row in build(tmp_path, index)}
    row = rows["m.sft.dpo", "win_rate"]
    assert row["difference"] == ""
    assert row["note"] == "not compared with m.sft: it has no such score"
