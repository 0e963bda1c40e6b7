"""A study that chooses its number of seeds, run whole: the first, the choice, the rest, and the table of all."""

from pathlib import Path

import pytest
import yaml

from tests.outside_study import study_of
from tests.workflow import copy_repository, edit, snakemake, stale, table_of, verify
from workflow_scripts.common.files import read_json

STUDY = "studies/growing.yaml"
FLAGS = ("--configfile", STUDY)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model) -> tuple[Path, str]:
    """The folder of a study of two first seeds and at most three, which are needed, and what its run said."""
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
    done = snakemake(folder, *FLAGS)
    return folder, done.stdout + done.stderr


def test_as_many_are_run_as_were_chosen_and_the_table_says_why(run):
    folder, said = run
    choice = read_json(folder / "results/growing/seeds.json")
    assert choice["seeds"] == [1, 2, 3] and choice["policies"]["tiny.sft"]["values"].keys() == {"1", "2"}
    assert "seeds: 3 seeds, fixed after the first 2 by their variance" in said
    rows = [row for row in table_of(folder, "growing") if row["policy"] == "tiny.sft"]
    assert {row["seed"] for row in rows} == {"1", "2", "3", "all"}
    (row,) = [row for row in rows if row["seed"] == "all" and row["metric"] == "nll_per_token"]
    assert "± 1e-09 was asked for by seeds.until" in row["note"]
    for name in ("results.md", "report.html"):
        assert choice["words"] in (folder / "results/growing" / name).read_text()


def test_a_finished_study_is_finished_and_all_behind_it_is_what_it_was(run):
    folder, _ = run
    assert stale(folder, *FLAGS) == set()
    checked = verify(folder, "growing")
    assert checked.returncode == 0, checked.stdout


def test_a_wider_interval_takes_fewer_seeds_and_trains_none_anew(run):
    folder, _ = run
    edit(folder / STUDY, "until: 1.0e-09", "until: 1000.0")
    done = snakemake(folder, *FLAGS)
    assert "seeds: 2 seeds, fixed after the first 2" in done.stderr
    assert "Fine-tuning" not in done.stderr
    assert {row["seed"] for row in table_of(folder, "growing") if row["policy"] == "tiny.sft"} == {
        "1",
        "2",
        "all",
    }
