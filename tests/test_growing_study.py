"""A study that chooses its number of seeds, from the scores of the first to the table of all, its policies made up."""

import json
from pathlib import Path

import pytest
import yaml

from tests.outside_study import study_of
from tests.workflow import copy_repository, edit, finish, snakemake, table_of
from workflow_scripts.common.files import read_json

STUDY = "studies/growing.yaml"
FLAGS = ("--configfile", STUDY)
RESULTS = "results/growing"
TABLE = f"{RESULTS}/results.csv"


def scores(policy: str, seed: int) -> str:
    """Return the text of a score file: losses of five items, by seed a little lower."""
    names = [f"q{number}" for number in range(5)]
    shift = 0.0 if policy == "tiny" else -1.0 - 0.1 * seed
    columns = {"numerator": [20.0 + 5 * shift + number for number in range(5)], "denominator": [5.0] * 5}
    cell = {"subset": "reply", "metric": "nll_per_token", "higher_is_better": False, "estimator": "ratio"}
    return json.dumps({"cells": [cell | {"items": names, "groups": names, "columns": columns}]})


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model) -> tuple[Path, str]:
    """The folder of a study of two first seeds and at most three, of which all are needed, and what its run said."""
    folder = copy_repository(tmp_path_factory.mktemp("growing"))
    study = study_of(tiny_model, tmp_path_factory.mktemp("files"), "http://127.0.0.1:9")
    study |= {
        "study": "growing",
        "policies": {},
        "judges": {},
        "report": {"draws": 50, "decontaminate": False},
    }
    study["benchmarks"] = {"read": study["benchmarks"]["read"]}
    study["seeds"] = {"until": 1e-9, "first": 2, "at_most": 3, "on": "read/reply/nll_per_token"}
    (folder / STUDY).write_text(yaml.safe_dump(study, sort_keys=False))
    cells = [("tiny", 1), ("gold", 0), ("empty", 0), *(("tiny.sft", seed) for seed in (1, 2, 3))]
    given = {
        f"{RESULTS}/policies/{name}/seed-{seed}/scores/read.json": scores(name, seed) for name, seed in cells
    }
    given[f"{RESULTS}/seeds.json"] = json.dumps({"seeds": [1, 2, 3], "words": "made up"})
    for _ in range(2):  # the first ones, then what these make of the plan
        finish(folder, *FLAGS, given=given)
    for name in ("seeds.json", "scores.json", "provenance.json", "results.csv"):
        (folder / RESULTS / name).unlink()
    done = snakemake(folder, TABLE, *FLAGS)
    return folder, done.stdout + done.stderr


def test_the_choice_is_made_and_the_table_has_as_many_seeds_and_says_why(run):
    folder, said = run
    choice = read_json(folder / RESULTS / "seeds.json")
    assert choice["seeds"] == [1, 2, 3] and choice["policies"]["tiny.sft"]["values"].keys() == {"1", "2"}
    assert "seeds: 3 seeds, fixed after the first 2 by their variance" in said
    rows = [row for row in table_of(folder, "growing") if row["policy"] == "tiny.sft"]
    assert {row["seed"] for row in rows} == {"1", "2", "3", "all"}
    (row,) = [row for row in rows if row["seed"] == "all"]
    assert "± 1e-09 was asked for by seeds.until" in row["note"]
    assert choice["words"] in (folder / RESULTS / "results.md").read_text()
    assert "seeds.json" in read_json(folder / RESULTS / "tables.json"), "make verify looks at it"


def test_a_wider_interval_takes_fewer_seeds_and_makes_no_policy_anew(run):
    folder, _ = run
    edit(folder / STUDY, "until: 1.0e-09", "until: 1000.0")
    done = snakemake(folder, TABLE, *FLAGS)
    assert "seeds: 2 seeds, fixed after the first 2" in done.stderr
    assert "Fine-tuning" not in done.stderr + done.stdout
    assert {row["seed"] for row in table_of(folder, "growing") if row["policy"] == "tiny.sft"} == {
        "1",
        "2",
        "all",
    }
