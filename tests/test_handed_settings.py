"""Every rule hands a script of score/ or generate/ just the settings that it takes: each key, and no other."""

import importlib
import json
import shlex

import pytest
import yaml

from tests.test_shell_lines import ROOT, planned
from tests.workflow import copy_repository
from workflow_scripts.common.settings import settings_of
from workflow_scripts.score.judging.settings import KINDS, judge_of
from workflow_scripts.study import machine


def call_of(line: str) -> tuple[str, dict[str, str]]:
    """Return the stage module that a shell line runs, and its flags' first values."""
    words = shlex.split(line)
    modules = [place for place, word in enumerate(words) if word.startswith("workflow_scripts.")]
    rest = words[modules[-1] + 1 :]
    flags = {word: rest[place + 1] for place, word in enumerate(rest[:-1]) if word.startswith("--")}
    return words[modules[-1]], flags


@pytest.mark.parametrize("study", ["config.yaml", "tests/every_key.yaml"])
def test_a_rule_hands_over_every_setting_that_its_script_takes_and_no_other(study, tmp_path):
    folder = copy_repository(tmp_path / "copy")
    (folder / "docs").mkdir()
    for name in machine.WORDNET:  # as good as WordNet, to the check
        (folder / "docs" / name).touch()
    plan = planned(folder, yaml.safe_load((ROOT / study).read_text(encoding="utf-8")))
    checked = set()
    for job in plan["lines"]:
        name, flags = call_of(job["line"])
        if name == "workflow_scripts.score.judging.answers":
            settings_of(KINDS[flags["--kind"]])(flags["--settings"])
            judge_of(flags["--judge"], plan["judges"])
        elif name == "workflow_scripts.generate.prompts":
            settings_of(importlib.import_module(name).Sampling)(flags["--sampling"])
        elif name.startswith(("workflow_scripts.score.", "workflow_scripts.generate.")):
            if "--settings" not in flags:
                continue
            settings_of(importlib.import_module(name).Settings)(flags["--settings"])
        else:
            continue
        checked.add(name)
    assert {"workflow_scripts.generate.answer", "workflow_scripts.generate.prompts"} < checked
    assert json.loads(plan["judges"]) != {} or study == "config.yaml"
