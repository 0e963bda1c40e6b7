"""Plans of studies, made in this process: of those that ship, of tests/every_key.yaml, of either with values changed."""

import copy
import functools
import json
from typing import Any

from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.study.checking import check_study, load_study
from workflow_scripts.study.reading import extended, read_yaml
from workflow_scripts.study.study import Study

DEFAULT = "config.yaml"
EVERY_KEY = "tests/every_key.yaml"
SHIPPED = [DEFAULT, *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("studies/*.yaml"))]
STUDIES = [*SHIPPED, EVERY_KEY]


def path_of(name: str) -> str:
    """Return a study's file: of a bare name the one under studies/."""
    return name if name.endswith(".yaml") else f"studies/{name}.yaml"


@functools.cache
def study_of(name: str) -> Study:
    """Return a checked study; no test changes it."""
    return load_study(ROOT / path_of(name))


@functools.cache
def planned(name: str) -> Plan:
    """Return the plan of a study that is in the repository."""
    return plan_of(study_of(name))


@functools.cache
def config_of(name: str) -> dict:
    return extended(read_yaml(ROOT / path_of(name)))


def changed(name: str, values: dict[str, Any]) -> Plan:
    """Return the plan of a study with values at dotted paths; "DROP" takes a key out."""
    config = copy.deepcopy(config_of(name))
    for path, value in values.items():
        config = put(config, path, value)
    return plan_of(check_study(config))


def told(settings: str) -> Any:
    """Return what a script is told as JSON."""
    return json.loads(settings)
