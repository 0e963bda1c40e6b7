"""The page of the claims: made from a study's tables by a description, the same each time, and no name of it stray."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from studies.rewards import civil
from tests.workflow import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.download import simulate_rows
from workflow_scripts.report import claims
from workflow_scripts.report.results import COLUMNS, results
from workflow_scripts.report.scores import load_scores
from workflow_scripts.report.spreadsheets import write_csv, write_table
from workflow_scripts.study.checking import load_study
from workflow_scripts.study.lineage import policies_of

SETTINGS = {"study": "toy", "baseline": None, "draws": 200, "seed": 3, "confidence": 0.95}
SETTINGS |= {"bars": [], "headline": [], "published": []}
BETTER, WORSE, SAME = "tiny.better", "tiny.worse", "tiny.same"
SHIPPED = claims.read_claims(ROOT / claims.DESCRIBED)


def write_results(root: Path, study="toy", seeds=(1, 2, 3), items=40) -> Path:
    """Write a study's results: three policies by a few seeds, of which BETTER earns 1 more than the others."""
    folder = root / study
    index = []
    for number, (policy, gain) in enumerate({BETTER: 1.0, WORSE: 0.0, SAME: 0.0}.items()):
        for seed in seeds:
            noise = np.random.default_rng([number, seed]).normal(0, 0.05, items)
            names = [f"q{item}" for item in range(items)]
            cell = {
                "subset": "all", "metric": "reward", "estimator": "mean", "higher_is_better": True, "items": names,
                "groups": names, "columns": {"value": [float(value) for value in gain + noise]},
            }  # fmt: skip
            path = folder / "policies" / policy / str(seed) / "quiz.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"benchmark": "quiz", "cells": [cell]}))
            entry = {"policy": policy, "parent": "tiny", "method": "sft", "seed": seed, "kind": "policy"}
            index.append(entry | {"benchmark": "quiz", "file": str(path)})
    (folder / "scores.json").write_text(json.dumps(index))
    write_table(folder / "results.csv", COLUMNS, results(load_scores(index), SETTINGS))
    rows = [[policy, str(seed), f"{0.5 + seed / 10}", ""] for policy in (BETTER, WORSE) for seed in seeds]
    write_csv(folder / "training.csv", ["policy", "seed", "kept_share", "clipped_share"], rows)
    costs = [["train_sft", BETTER, "1", "", "60"], ["total", "", "", "total", "300"]]
    write_csv(folder / "costs.csv", ["stage", "policy", "seed", "name", "wall_seconds"], costs)
    return folder


def comparison(policy=BETTER, minus=WORSE, expected="higher", **others) -> dict:
    return {"says": "a line", "study": "toy", "policy": policy, "minus": minus} | {
        "of": "quiz/all/reward", "expected": expected, "published": "+0.5"
    } | others  # fmt: skip


def claim(*comparisons: dict, **others) -> dict:
    texts = {
        "title": "It is better",
        "source": "A paper",
        "published": "As claimed.",
        "here": "Small.",
        "said": "So.",
    }
    return (
        texts | {"studies": {"toy": "toy.yaml"}, "comparisons": list(comparisons or [comparison()])} | others
    )


def command(*arguments: str | Path) -> None:
    before, sys.argv = sys.argv, ["claims", *map(str, arguments)]
    try:
        claims.main()
    finally:
        sys.argv = before


def make_page(root: Path, described: dict, name="") -> str:
    (root / "claims.yaml").write_text(json.dumps(described))  # JSON is YAML
    given = ["--described", root / "claims.yaml", "--results", root, "--output", root / "page.md"]
    command(f"--claim={name}", *given)
    return (root / "page.md").read_text()


def line_of(page: str, opening: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {opening} |"))
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_a_difference_of_two_policies_is_over_seeds_and_says_how_the_claim_came_out(tmp_path):
    write_results(tmp_path)
    described = claim(
        comparison(says="claimed"),
        comparison(says="turned", expected="lower"),
        comparison(says="neither", policy=SAME),
    )
    page = make_page(tmp_path, {"toy": described})
    outcomes = {name: line_of(page, name) for name in ("claimed", "turned", "neither")}
    assert outcomes["claimed"][6:] == ["as claimed", "3", "40"]
    assert outcomes["turned"][6] == "the other way"
    assert outcomes["neither"][6] == "not told apart"
    difference = float(outcomes["claimed"][4].split()[0])
    assert abs(difference - 1) < 0.05
    least, most = map(float, outcomes["claimed"][5].split(" to "))
    assert least < difference < most
    assert abs(float(outcomes["neither"][4].split()[0].replace("−", "-"))) < 0.05


def test_a_policy_that_was_trained_once_shows_nothing(tmp_path):
    write_results(tmp_path, seeds=(1,))
    line = line_of(make_page(tmp_path, {"toy": claim()}), "a line")
    assert line[6] == "trained once"
    assert line[5] == ""


def test_what_trainings_did_is_the_mean_over_seeds_and_empty_columns_stay_empty(tmp_path):
    write_results(tmp_path)
    page = make_page(tmp_path, {"toy": claim(trainings=["kept_share", "clipped_share"])})
    assert line_of(page, f"`{BETTER}`")[1] == "0.7 (0.6 to 0.8)"
    assert "`toy.yaml` 5" in page


def test_the_same_tables_make_the_same_page_and_one_claim_leaves_the_others_as_they_are(tmp_path):
    write_results(tmp_path)
    write_results(tmp_path, "other")
    other = claim(comparison(study="other"), title="The other", studies={"other": "other.yaml"})
    whole = make_page(tmp_path, {"toy": claim(), "more": other})
    assert make_page(tmp_path, {"toy": claim(), "more": other}) == whole
    assert make_page(tmp_path, {"toy": claim(), "more": other}, "toy") == whole
    (tmp_path / "other" / "results.csv").unlink()  # its section needs no results as long as nobody asks
    page = make_page(tmp_path, {"toy": claim(title="Another title"), "more": other}, "toy")
    assert page == whole.replace("It is better", "Another title")


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (claim(comparison(policy="tiny.stray")), "no quiz/all/reward of tiny.stray"),
        (claim(comparison(of="quiz/all/stray")), "no quiz/all/stray of tiny.better"),
        (claim(studies={"toy": "toy.yaml", "stray": "stray.yaml"}), "make claims CLAIM=toy"),
        ({"title": "It is better"}, "lacks comparisons, here, published, said, source, studies"),
        (claim({"says": "a line"}), "comparisons.0..expected"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, described, message):
    write_results(tmp_path)
    with pytest.raises(PlumblineError, match=message):
        make_page(tmp_path, {"toy": described})


def test_a_claim_that_nobody_described_is_refused(tmp_path):
    write_results(tmp_path)
    with pytest.raises(PlumblineError, match="no claim 'stray'; it has toy"):
        make_page(tmp_path, {"toy": claim()}, "stray")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_claim_names_what_its_studies_have(name):
    described = SHIPPED[name]
    studies = {study: load_study(ROOT / file) for study, file in described["studies"].items()}
    for study, loaded in studies.items():
        assert loaded.study == study
        assert len(loaded.seeds) >= 3
    for line in described["comparisons"]:
        loaded = studies[line["study"]]
        assert {line["policy"], line["minus"]} <= set(policies_of(loaded))
        assert line["of"].split("/")[0] in loaded.benchmarks


def test_the_studies_of_claims_are_listed_and_none_lies_there_for_nothing(capsys):
    command("--described", ROOT / claims.DESCRIBED, "--studies")
    listed = capsys.readouterr().out.split()
    assert set(listed) >= {str(path.relative_to(ROOT)) for path in (ROOT / "studies/claims").glob("*.yaml")}
    name = next(iter(SHIPPED))
    command("--described", ROOT / claims.DESCRIBED, "--studies", "--claim", name)
    assert capsys.readouterr().out.split() == list(SHIPPED[name]["studies"].values())


def test_the_reward_of_the_comments_tells_what_the_simulator_calls_dismissive():
    for opening in filter(None, simulate_rows.DISLIKED):
        assert civil.score(f"{opening}Water is polar.") == 0
    for opening in simulate_rows.LIKED:
        assert civil.score(f"{opening}Water is polar.") == 1
    assert civil.score(" ?!") == civil.score("") == 0
