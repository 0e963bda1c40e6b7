"""Two results tables side by side: every row is listed, and items that both have are compared in pairs."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report import compare
from workflow_scripts.report.results import COLUMNS, results
from workflow_scripts.report.scores import load_scores
from workflow_scripts.report.spreadsheets import write_table

SETTINGS = {"study": "toy", "baseline": None, "draws": 200, "seed": 3, "confidence": 0.95}
SETTINGS |= {"bars": [], "headline": [], "published": []}


def study(
    root: Path, scores: dict[str, list[float]], name="toy", metric="accuracy", items=None, better=True
) -> Path:
    """Write results/<name> as a study does: score files of benchmark quiz by policy, their index and results.csv."""
    folder = root / "results" / name
    index = []
    for policy, values in scores.items():
        cell = {
            "subset": "all", "metric": metric, "estimator": "mean", "higher_is_better": better,
            "items": items or [f"q{n}" for n in range(len(values))],
            "groups": items or [f"q{n}" for n in range(len(values))], "columns": {"value": values},
        }  # fmt: skip
        path = folder / "policies" / policy / "quiz.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"benchmark": "quiz", "cells": [cell]}))
        index.append({"policy": policy, "parent": None, "method": None, "seed": 1, "kind": "policy"})
        index[-1] |= {"benchmark": "quiz", "file": str(path.relative_to(root))}
    (folder / "scores.json").write_text(json.dumps(index))
    entries = [entry | {"file": str(root / entry["file"])} for entry in index]
    write_table(folder / "results.csv", COLUMNS, results(load_scores(entries), SETTINGS))
    return folder


def run(*arguments: str | Path) -> None:
    before, sys.argv = sys.argv, ["compare", *map(str, arguments)]
    try:
        compare.main()
    finally:
        sys.argv = before


def compared(folder: Path, *arguments: str | Path) -> list[dict]:
    run(*arguments, "--output", folder / "compared.csv", "--draws", "500")
    with open(folder / "compared.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def values_of(seed: int, count: int = 60) -> list[float]:
    return np.random.default_rng(seed).normal(size=count).round(6).tolist()


def test_items_that_both_have_are_compared_in_pairs(tmp_path):
    first, noise = np.array(values_of(1)), np.array(values_of(2))
    second = first + 0.25 + 0.02 * noise
    a = study(tmp_path / "a", {"m": first.tolist()})
    b = study(tmp_path / "b", {"m": second.tolist()})
    (row,) = compared(tmp_path, a, b)
    difference = (second - first).mean()
    assert float(row["difference"]) == pytest.approx(difference, rel=1e-4)
    assert float(row["paired_difference"]) == pytest.approx(difference, rel=1e-4)
    # by the central limit theorem; the values' own intervals are fifty times as wide and overlap
    reach = 1.96 * (second - first).std() / len(first) ** 0.5
    assert float(row["paired_low"]) == pytest.approx(difference - reach, abs=reach / 3)
    assert float(row["paired_high"]) == pytest.approx(difference + reach, abs=reach / 3)
    assert (row["intervals"], row["paired_items"], row["note"]) == ("overlap", "60", "")


@pytest.mark.parametrize(("noise", "marked"), [("0.1", "better"), ("0.4", "")])
def test_a_difference_no_larger_than_the_noise_of_a_side_is_not_marked(tmp_path, noise, marked):
    first = np.array(values_of(1))
    a = study(tmp_path / "a", {"m": first.tolist()})
    b = study(tmp_path / "b", {"m": (first + 0.25 + 0.02 * np.array(values_of(2))).tolist()})
    with open(b / "results.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    full = row | {"noise": noise, "training_luck": "included"}
    with open(b / "results_full.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, full)
        writer.writeheader()
        writer.writerow(full)
    (found,) = compared(tmp_path, a, b)
    assert found["noise"] == noise
    numbers = {
        name: float(found[name]) for name in ("paired_difference", "paired_low", "paired_high", "noise")
    }
    typed = found | numbers | {"higher_is_better": found["higher_is_better"] == "true"}
    assert compare.clear_change(typed | {"training_luck": "included"}) == marked


def test_intervals_that_do_not_meet_are_apart(tmp_path):
    a = study(tmp_path / "a", {"m": values_of(1)})
    b = study(tmp_path / "b", {"m": [value + 9 for value in values_of(2)]})
    (row,) = compared(tmp_path, a, b)
    assert row["intervals"] == "apart"
    assert 8 < float(row["paired_low"]) < float(row["paired_difference"]) < float(row["paired_high"]) < 10


def test_a_difference_that_is_the_same_on_every_item_has_no_interval(tmp_path):
    a = study(tmp_path / "a", {"m": values_of(1)})
    b = study(tmp_path / "b", {"m": [value + 9 for value in values_of(1)]})
    (row,) = compared(tmp_path, a, b)
    assert float(row["paired_difference"]) == pytest.approx(9)
    assert (row["paired_low"], row["paired_high"]) == ("", "")
    assert row["note"] == "all differences equal: no interval of them"


def test_a_row_of_one_side_alone_is_listed(tmp_path):
    a = study(tmp_path / "a", {"m": values_of(1), "m.old": values_of(2)})
    b = study(tmp_path / "b", {"m": values_of(1), "m.new": values_of(3)})
    rows = {row["policy"]: row for row in compared(tmp_path, a, b / "results.csv")}
    assert list(rows) == ["m", "m.old", "m.new"]
    assert rows["m.old"]["note"] == "only in A" and rows["m.old"]["value_a"] and not rows["m.old"]["value_b"]
    assert (
        rows["m.new"]["note"] == "only in B" and rows["m.new"]["value_b"] and not rows["m.new"]["difference"]
    )
    assert rows["m"]["paired_difference"] == "0"


def test_a_policy_of_another_name_is_matched_by_map(tmp_path):
    a = study(tmp_path / "a", {"m.dpo": values_of(1)})
    b = study(tmp_path / "b", {"other.dpo": values_of(2)})
    assert len(compared(tmp_path, a, b)) == 2
    (row,) = compared(tmp_path, a, b, "--map", "m.dpo=other.dpo")
    assert (row["policy"], row["policy_b"]) == ("m.dpo", "other.dpo")
    means = [np.mean(values_of(seed)) for seed in (1, 2)]
    assert float(row["paired_difference"]) == pytest.approx(means[1] - means[0], rel=1e-4)
    for wrong in ("m.dpo=nobody", "nobody=other.dpo"):
        with pytest.raises(PlumblineError, match="nobody"):
            run(a, b, "--map", wrong)


def test_two_policies_never_share_a_name(tmp_path):
    a = study(tmp_path / "a", {"m": values_of(1)})
    b = study(tmp_path / "b", {"m": values_of(1), "n": values_of(2)})
    with pytest.raises(PlumblineError, match="'m' beside 'n'"):
        run(a, b, "--map", "m=n")
    swapped = study(tmp_path / "c", {"m": values_of(1), "n": values_of(2)})
    rows = compared(tmp_path, swapped, b, "--map", "m=n", "--map", "n=m")
    assert [(row["policy"], row["policy_b"]) for row in rows] == [("m", "n"), ("n", "m")]
    assert all(float(row["paired_difference"]) for row in rows)


def test_shared_items_alone_are_paired_and_the_note_counts_them(tmp_path):
    a = study(tmp_path / "a", {"m": values_of(1, 40)})
    b = study(tmp_path / "b", {"m": values_of(1, 60)[:50]})
    one, other = np.array(values_of(1, 40)), np.array(values_of(1, 60)[:40])
    (row,) = compared(tmp_path, a, b)
    assert row["note"] == "paired on 40 of 50 items" and row["paired_items"] == "40"
    assert float(row["paired_difference"]) == pytest.approx((other - one).mean(), abs=1e-6)
    c = study(tmp_path / "c", {"m": values_of(1, 3)}, items=["x", "y", "z"])
    (row,) = compared(tmp_path, a, c)
    assert (
        row["note"] == "not paired: no item in common" and row["difference"] and not row["paired_difference"]
    )


def test_items_by_one_name_with_two_prompts_are_not_paired(tmp_path):
    folders = [study(tmp_path / side, {"m": values_of(1)}) for side in "ab"]
    for number, folder in enumerate(folders):
        (folder / "prompts").mkdir()
        rows = [{"id": "q0", "text": "the same"}, {"id": f"only{number}", "text": "own"}]
        (folder / "prompts" / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compared(tmp_path, *folders)[0]["paired_items"] == "60"
    (folders[1] / "prompts" / "quiz.jsonl").write_text(json.dumps({"id": "q0", "text": "another"}) + "\n")
    (row,) = compared(tmp_path, *folders)
    assert row["note"] == "not paired: the prompts differ" and not row["paired_difference"]


def test_a_results_folder_is_read_where_it_lies(tmp_path, monkeypatch):
    a = study(tmp_path / "a", {"m": values_of(1)})
    b = study(tmp_path / "b", {"m": values_of(2)})
    moved = tmp_path / "elsewhere" / "kept"
    shutil.copytree(b, moved)
    monkeypatch.chdir(tmp_path / "a")  # here the paths in B's index name A's files
    (row,) = compared(tmp_path, a, moved)
    means = [np.mean(values_of(seed)) for seed in (1, 2)]
    assert float(row["paired_difference"]) == pytest.approx(means[1] - means[0], rel=1e-4)


def test_tables_alone_are_compared_without_pairs(tmp_path):
    a = study(tmp_path / "a", {"m": values_of(1)})
    b = study(tmp_path / "b", {"m": values_of(2)})
    (b / "scores.json").unlink()
    (row,) = compared(tmp_path, a, b)
    assert row["difference"] and not row["paired_difference"]


def test_what_was_refused_on_a_side_says_so(tmp_path, capsys):
    a = study(tmp_path / "a", {"m": values_of(1), "n": values_of(1)})
    b = study(tmp_path / "b", {"m": values_of(1)})
    refused = {"policy": "n", "seed": "1", "benchmark": "quiz", "note": "no sandbox"}
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, restval="", lineterminator="\n").writerow(refused)
    (b / "results.csv").write_text((b / "results.csv").read_text() + line.getvalue())
    rows = compared(tmp_path, a, b)
    assert [(row["policy"], row["subset"], row["note"]) for row in rows] == [
        ("m", "all", ""),
        ("n", "all", "B not scored: no sandbox"),
        ("n", "", "only in B; B not scored: no sandbox"),
    ]
    run(a, b)
    assert (
        "1 values in both, 0 rows only in A, 1 only in B, 1 without a value on a side"
        in capsys.readouterr().out
    )


def test_the_terminal_gets_markdown_that_marks_what_is_clear(tmp_path, capsys):
    a = study(tmp_path / "a", {"m": values_of(1), "m|x": values_of(2)}, metric="loss", better=False)
    shifted = {
        name: [value + 1 + number % 2 / 1000 for number, value in enumerate(values)]
        for name, values in {"m": values_of(1), "m|x": values_of(2)}.items()
    }
    b = study(tmp_path / "b", shifted, metric="loss", better=False)
    run(a, b)
    text = capsys.readouterr().out
    assert f"A: {a}\nB: {b}\n" in text
    assert (
        "2 values in both, 0 rows only in A, 0 only in B. Paired, B is clearly better in 0 and clearly worse in 2."
        in text
    )
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert "| +1.000 [+1.000, +1.001] worse |" in lines[2]  # bold is for what is better
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}


def test_the_page_is_one_file_that_sorts_and_escapes(tmp_path):
    name = "<script>alert(1)<.script>"
    a = study(tmp_path / "a", {name: values_of(1)})
    b = study(tmp_path / "b", {name: values_of(2)})
    pages = []
    for output in (tmp_path / "one.html", tmp_path / "two.html"):
        run(a, b, "--output", output)
        pages.append(output.read_text())
    assert pages[0] == pages[1]
    assert name not in pages[0] and "&lt;script&gt;alert(1)&lt;.script&gt;" in pages[0]
    assert (
        pages[0].count("<script>") == 1
        and "default-src 'none'" in pages[0]
        and 'id="table-results"' in pages[0]
    )


def test_an_output_of_another_kind_is_refused(tmp_path):
    a = study(tmp_path / "a", {"m": values_of(1)})
    with pytest.raises(PlumblineError, match=r"\.md, \.csv or \.html"):
        run(a, a, "--output", tmp_path / "x.pdf")
