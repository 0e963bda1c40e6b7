"""What the plan hands to a script of score/ or generate/ is just the settings that it takes: each key, and no other."""

import importlib
from pathlib import Path

import pytest

from workflow_scripts.common.settings import settings_of
from workflow_scripts.plan import judging, prompts, scoring
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.score.judging.settings import KINDS, judge_of
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.study import Study

ROOT = Path(__file__).resolve().parents[1]
STUDIES = [ROOT / "tests/every_key.yaml", ROOT / "config.yaml"]


def taken(module, settings):
    settings_of(importlib.import_module(module).Settings)(settings)


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.stem)
def test_a_script_is_handed_every_setting_that_it_takes_and_no_other(file):
    plan = plan_of(Study.model_validate(read_yaml(file)))
    policies = [*plan.policies, "gold", "empty"]
    for name, part in plan.study.benchmarks.items():
        settings = scoring.harness_settings if part.scores == "model" else scoring.scorer_settings
        taken(scoring.scorer(plan, name), settings(plan, name))
        if part.measured_by:
            for policy in policies:
                taken(scoring.measuring_module(plan, name), scoring.measuring_settings(plan, name, policy))
        if part.asks is not None:
            settings_of(KINDS[part.kind])(judging.asking_settings(plan, name))
            judge_of(judging.judge_settings(plan, name), judging.access(plan))
    for name in prompts.prompt_sets(plan):
        settings_of(importlib.import_module("workflow_scripts.generate.prompts").Sampling)(
            prompts.sampling(plan, name)
        )
    for policy in plan.policies:
        taken("workflow_scripts.generate.answer", prompts.answering_settings(plan, policy))
    assert file.stem == "config" or {part.kind for part in plan.study.benchmarks.values()} >= {"loss", *KINDS}
