"""What the rules hand to the scripts as settings is what the scripts read: every key, and no other."""

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow import ROOT, copy_repository
from workflow_scripts.common.reward_columns import Rewards
from workflow_scripts.common.settings import settings_of
from workflow_scripts.study import machine

PAIRS, OFFLINE, ONLINE = (
    ["dpo", "ipo", "kto", "simpo"],
    ["nll", "wbc", "r_gold", "r_lol", "a_lol", "a_lol_ref_free", "a_lol_seq", "a_lol_kl"],
    ["ppo", "rloo"],
)
# The scripts that are tried, and the rule that starts each.
SCRIPTS = {
    "sft.tokenise": "tokenise_dataset",
    "sft.train": "train_sft",
    "annotate.reward_pairs": "build_reward_pairs",
    "annotate.train_reward": "train_reward_model",
    "annotate.annotate": "annotate_dataset",
    "annotate.answers": "annotate_answers",
    "pairs.build": "build_pairs",
    "pairs.ranked": "rank_answers",
    "align.pair_reference": "score_reference",
    "align.rewarded_reference": "score_rewarded",
    "align.tokenise_ranked": "tokenise_ranked",
    "align.fit_value": "fit_value",
    "align.advantages": "estimate_advantages",
    "align.pro": "train_ranked",
    **{f"align.{method}": "train_aligned" for method in PAIRS},
    **{f"align.{method}": "train_offline" for method in OFFLINE},
    **{f"align.{method}": "train_online" for method in ONLINE},
}


def every_method(study: dict) -> dict:
    """Return a study with a run of every method that learns from pairs or rewarded answers."""
    shared = {"parent": "sft", "learning_rate": 1.0e-4}
    rewarded = shared | {"annotation": "judged", "split": "train"}
    runs = {method: shared | {"pairs": "mistakes"} for method in PAIRS}
    for method in OFFLINE:
        weighed = {"value": "worth"} if method.startswith("a_lol") else {}
        runs[method] = rewarded | weighed | {"validation": "validation"}
    runs |= {method: rewarded | {"batch_size": 16} for method in ONLINE}
    return study | {"runs": study["runs"] | {name: {"method": name} | run for name, run in runs.items()}}


@pytest.fixture(scope="module")
def handed(tmp_path_factory) -> dict[str, list[tuple[str, list[str]]]]:
    """{script: (rule, words of its command) of each job} of a study with every key and every method."""
    folder = copy_repository(tmp_path_factory.mktemp("copy"))
    (folder / "docs").mkdir()
    for name in machine.WORDNET:  # as good as WordNet, to the check
        (folder / "docs" / name).touch()
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    study = yaml.safe_load((ROOT / "tests/every_key.yaml").read_text(encoding="utf-8"))
    (folder / "study.json").write_text(json.dumps(every_method(study)), encoding="utf-8")
    command = [sys.executable, "-m", "tests.planned_lines", "study.json"]
    environment = os.environ | {"PYTHONPATH": str(folder), "SOME_KEY": "key"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for job in json.loads(done.stdout.splitlines()[-1])["lines"]:
        # What follows `||` is the job's own command.
        words = shlex.split(job["line"].rpartition(" || ")[2])
        for word in words:
            if word.startswith("workflow_scripts.") and word != "workflow_scripts.common.launch":
                found.setdefault(word.removeprefix("workflow_scripts."), []).append((job["rule"], words))
    return found


def given(words: list[str], flag: str) -> str:
    """Return what a command gives to a flag."""
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_reads_the_settings_that_its_rule_hands_it(handed, script):
    module = importlib.import_module(f"workflow_scripts.{script}")
    read = settings_of(module.Settings)
    assert {rule for rule, _ in handed[script]} == {SCRIPTS[script]}
    for _, words in handed[script]:
        text = given(words, "--settings")
        assert read(text) == json.loads(text)


@pytest.mark.parametrize("script", [f"align.{method}" for method in ONLINE])
def test_an_online_method_reads_the_rewards_that_its_rule_hands_it(handed, script):
    for _, words in handed[script]:
        assert settings_of(Rewards)(given(words, "--rewards"))["rewards"].keys() == {"own", "other", "words"}


def test_every_script_of_these_stages_that_takes_settings_is_tried():
    stages = ("align", "annotate", "pairs", "sft")
    files = [path for stage in stages for path in (Path(ROOT) / "workflow_scripts" / stage).glob("*.py")]
    scripts = {f"{path.parent.name}.{path.stem}" for path in files if "def main(" in path.read_text()}
    assert scripts == {*SCRIPTS}
