"""A study that tries learning rates and aligns the best: run whole, one of the candidates diverging."""

from pathlib import Path

import pytest
import yaml

from tests.small_study import small_study
from tests.workflow import copy_with_study, edit, snakemake, stale, table_of
from workflow_scripts.common.files import read_json

BEST, CHILD = "tiny.sft-best", "tiny.sft-best.dpo"
CANDIDATES = ["tiny.sft-lr1e-3", "tiny.sft-lr1e-2", "tiny.sft-lr1e30"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model) -> Path:
    """The folder of a small study that has been run."""
    folder = copy_with_study(tmp_path_factory.mktemp("chosen"))
    study = small_study(tiny_model, tiny_model / "config.json")
    for part in ("reward_models", "annotations", "judges"):
        study[part] = {}
    del study["sources"]["human_eval"]
    study["datasets"]["novices"]["split"]["quotas"]["validation"] = 2
    runs = study["runs"]
    runs["sft"] |= {"grid": {"learning_rate": [1e-3, 1e-2, 1e30]}, "warmup": 0.0, "validation": "validation"}
    runs["dpo"] |= {"parent": {"best_of": "sft", "by": "loss/validation"}}
    study["benchmarks"] = {name: study["benchmarks"][name] for name in ("tutor",)}
    study["report"] = {"baseline": "tiny", "draws": 200}
    (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    snakemake(folder)
    return folder


def validation_loss(folder: Path, policy: str) -> float:
    curve = read_json(folder / f"results/tutor/policies/{policy}/seed-1/curve.json")
    return [row["validation_loss"] for row in curve if "validation_loss" in row][-1]


def test_the_candidate_with_the_lowest_validation_loss_is_chosen_and_the_diverged_left_out(run):
    losses = {name: validation_loss(run, name) for name in CANDIDATES[:2]}
    manifest = read_json(run / f"results/tutor/policies/{BEST}/seed-1/manifest.json")
    assert manifest["choice"]["values"] == losses | {CANDIDATES[2]: None}
    best = min(losses, key=losses.get)
    assert manifest["choice"]["chosen"] == best
    own = read_json(run / f"results/tutor/policies/{best}/seed-1/manifest.json")
    assert manifest["files"] == own["files"]


def test_the_table_says_which_was_chosen_among_which_and_shows_its_test(run):
    rows = table_of(run, "tutor")
    chosen = read_json(run / f"results/tutor/policies/{BEST}/seed-1/manifest.json")["choice"]["chosen"]
    own = [row for row in rows if row["policy"] == BEST]
    assert own
    for row in own:
        assert f"{chosen}, chosen among 3 by loss/validation: " in row["note"]
        assert f"{CANDIDATES[2]} diverged" in row["note"]
        (same,) = [
            other
            for other in rows
            if other["policy"] == chosen
            and (other["subset"], other["metric"]) == (row["subset"], row["metric"])
        ]
        assert (row["value"], row["n"]) == (same["value"], same["n"])
    assert {row["policy"] for row in rows if row["value"]} >= {BEST, CHILD, "tiny"}
    assert {row["policy"] for row in table_of(run, "tutor", "training.csv")} == {*CANDIDATES, CHILD}


def test_what_alters_no_result_makes_nothing_stale(run):
    assert stale(run) == set()
    text = (run / "config.yaml").read_text()
    edit(run / "config.yaml", "    per_device_batch: 2\n", "    per_device_batch: 1\n")
    lines = (run / "config.yaml").read_text().replace("log_every: 1\n", "log_every: 7\n")
    (run / "config.yaml").write_text(lines.replace("checkpoint_every: 1\n", "checkpoint_every: 3\n"))
    assert stale(run) == set()
    (run / "config.yaml").write_text(text)


def test_another_value_of_the_grid_costs_itself_the_choice_and_what_descends_from_it(run):
    text = (run / "config.yaml").read_text()
    edit(run / "config.yaml", "      - 0.01\n", "      - 0.02\n")
    made = {file.split("/")[3] for file in stale(run) if "/policies/" in file}
    assert made == {"tiny.sft-lr2e-2", BEST, CHILD}
    (run / "config.yaml").write_text(text)
