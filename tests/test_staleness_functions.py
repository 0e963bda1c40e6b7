"""What an edit of a user's reward function costs: a dry run of a finished study in which some pairs rest on one."""

import re
import shutil
from pathlib import Path

import pytest

from tests.workflow import copy_with_study, edit, finish, stale

STUDY = ("--configfile", "studies/best_of_samples-small.yaml")
EXAMPLE = "studies/rewards/example.py"


@pytest.fixture(scope="module")
def finished_samples(tmp_path_factory) -> Path:
    folder = copy_with_study(tmp_path_factory.mktemp("study"))
    finish(folder, *STUDY)
    return folder


@pytest.fixture
def study(finished_samples, tmp_path) -> Path:
    folder = tmp_path / "study"
    shutil.copytree(finished_samples, folder, symlinks=True)
    return folder


def test_an_edited_reward_function_makes_stale_what_it_rewarded_and_what_follows(study):
    edit(study / EXAMPLE, "0.001", "0.002")
    files = stale(study, *STUDY)
    trained = {
        found[1] for file in files if (found := re.search(r"/policies/([^/]+)/seed-1/manifest\.json$", file))
    }
    assert trained == {"tiny.sft.dpo-1", "tiny.sft.dpo-1.dpo-2", "tiny.sft.simpo", "tiny.sft.best"}
    rewarded = {Path(file).stem for file in files if "/rewards/" in file}
    assert rewarded == {
        "answers",
        "pairs-mine",
        "pairs-summed",
    }  # and not pairs-model, which a reward model ranks
    others = (
        "tiny.sft/seed-1/generations/",
        "tiny.sft.pro/seed-1/generations/",
        "reward_models/",
        "/pairs/given/",
    )
    assert not [file for file in files if any(other in file for other in others)]


def test_another_file_beside_it_makes_nothing_stale(study):
    (study / "studies/rewards/another.py").write_text("def score(reply): return 1.0\n")
    assert stale(study, *STUDY) == set()
