"""Plans of studies, made in this process: of those that ship, of the tests' own, and of these with changes."""

import copy
import functools
import json
from typing import Any

from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.plan import resources, training
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.study.checking import check_study, load_study
from workflow_scripts.study.reading import extended, read_yaml
from workflow_scripts.study.study import Study

DEFAULT = (
    "tests/tutoring.yaml"  # stands still: a change of the default study is no change of what tests expect
)
OFFLINE = "tests/tutoring_offline_rl.yaml"
EVERY_KEY = "tests/every_key.yaml"
SHIPPED = ["config.yaml", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("studies/*.yaml"))]
STUDIES = [DEFAULT, *SHIPPED, EVERY_KEY]
# What tests/every_key.yaml has that no run makes: a test that is about such puts its own there.
ELSEWHERE = ("policies", "adopt", "again")


def path_of(name: str) -> str:
    """Return a study's file: of a bare name the one under studies/."""
    return name if name.endswith(".yaml") else f"studies/{name}.yaml"


@functools.cache
def study_of(name: str) -> Study:
    """Return a checked study; no test changes it."""
    path = ROOT / path_of(name)
    return check_study(config_of(name), folder=path.parent) if name == EVERY_KEY else load_study(path)


@functools.cache
def planned(name: str) -> Plan:
    """Return the plan of a study that is in the repository."""
    return plan_of(study_of(name))


@functools.cache
def _read(name: str) -> dict:
    config = extended(read_yaml(ROOT / path_of(name)))
    return {key: value for key, value in config.items() if name != EVERY_KEY or key not in ELSEWHERE}


def config_of(name: str) -> dict:
    """Return a study as it stands in its file and in those it extends; a test may change it."""
    return copy.deepcopy(_read(name))


def changed(name: str, values: dict[str, Any]) -> Plan:
    """Return the plan of a study with values at dotted paths; "DROP" takes a key out."""
    config = config_of(name)
    for path, value in values.items():
        config = put(config, path, value)
    return plan_of(check_study(config, folder=(ROOT / path_of(name)).parent))


def told(settings: str) -> Any:
    """Return what a script is told as JSON."""
    return json.loads(settings)


@functools.cache
def family() -> Plan:
    """Return the plan of a study of two models and two seeds, its runs from several parents, its templates by lineage.

    one, two; sft of both, and fast (FastChat's) of `one` alone; dpo of sft and fast; again, which names a template, of
    dpo's policies; lol, whose value head is fitted on the dataset, of sft; pro, of ranked answers, of `two`.
    """
    return changed(
        EVERY_KEY,
        {
            "seeds": [3, 5],
            "keep_weights": "all",
            "models": {
                "one": {"source": "weights", "format": "llama2c", "weights": "w.bin", "tokenizer": "t.bin"}
                | {"template": "own", "context": 4096},
                "two": {"source": "whole", "template": "hh", "context": 8192, "trust_remote_code": True},
            },
            "reward_models.rm.parent": "one",
            "datasets.commented.token_limits.model": "one",
            "values.worth.targets": "dataset",
            "runs": {
                "sft": {
                    "method": "sft",
                    "parent": ["one", "two"],
                    "dataset": "tutored",
                    "learning_rate": 1e-4,
                },
                "fast": {"method": "sft", "parent": "one", "dataset": "chatted", "backend": "fastchat"}
                | {"learning_rate": 1e-4},
                "dpo": {
                    "method": "dpo",
                    "parent": ["sft", "fast"],
                    "pairs": "mistakes",
                    "learning_rate": 1e-4,
                },
                "again": {"method": "sft", "parent": "dpo", "dataset": "chatted", "template": "alpaca"}
                | {"learning_rate": 1e-4},
                "lol": {"method": "a_lol", "parent": "sft", "annotation": "judged", "split": "train"}
                | {"value": "worth", "learning_rate": 1e-4},
                "pro": {"method": "pro", "parent": "two", "pairs": "order", "learning_rate": 1e-4},
            },
            "benchmarks.questions.opponent": "one.sft",
            "benchmarks.preferred.opponent": "two",
            "report": {"baseline": "one.sft"},
        },
    )


def machine_told(plan: Plan, name: str) -> dict:
    """Return what the environment of jobs says of a training, runs.sft say."""
    (found,) = [keys for keys, names in told(resources.machine_keys(plan)) if name in names]
    return found


def training_told(plan: Plan, policy: str) -> dict:
    """Return all that a policy's training is told: by its settings, and by its environment."""
    settings = told(training.training_settings(plan, policy))
    return settings | machine_told(plan, settings.pop("machine_of"))
