"""The rules and the plan: each function that a rule hands its wildcards to is there, and takes none the rule lacks."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests.workflow import ROOT

SMK = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("rules/*.smk"))}
SMK["Snakefile"] = (ROOT / "Snakefile").read_text(encoding="utf-8")
# A name in the rules that stands for an expression, on its own line.
CONSTANTS = {
    name: value
    for text in SMK.values()
    for name, value in re.findall(r"^([A-Z_]+) = (.+(?:\n[ )}].*)*)", text, re.MULTILINE)
}


class Rule(NamedTuple):
    """What the text of a rule says."""

    wildcards: frozenset[str]
    """Of its outputs, or of its log where it has none."""
    functions: dict[str, frozenset[str]]
    """Of the plan, as `module.function`, that it hands its wildcards to: {function: what it is given beside}."""


def spelled_out(text: str) -> str:
    """Return text with each constant replaced by the expression that it stands for."""
    for _ in range(4):
        text = re.sub(r"\b[A-Z][A-Z_]+\b", lambda name: CONSTANTS.get(name[0], name[0]), text)
    return text


def section(body: str, *names: str) -> str:
    found = re.findall(rf"^    (?:{'|'.join(names)}):(.*\n(?:(?:        .*|)\n)*)", body, re.MULTILINE)
    return "".join(found)


def rules_in(text: str) -> dict[str, Rule]:
    """Return the rules of a file by name."""
    found = {}
    for start in re.finditer(r"^(?:rule|checkpoint) (\w+):\n", text, re.MULTILINE):
        body = re.split(r"^\S", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        wildcards = frozenset(re.findall(r"\{([a-z]+)\}", spelled_out(section(body, "output"))))
        given = section(body, "input", "params") + spelled_out(section(body, "resources", "threads"))
        handed = re.findall(r"\bby\((\w+\.\w+)([^()]*)\)", given)
        fixed = {name: frozenset(re.findall(r"(\w+)=", rest)) for name, rest in handed}
        found[start[1]] = Rule(wildcards, fixed)
    return found


RULES = {name: rule for text in SMK.values() for name, rule in rules_in(text).items()}


def modules() -> dict[str, str]:
    """Return {what the rules call a module of the plan: its name}."""
    found = {}
    for node in ast.parse(re.sub(r"^(?!from|import).*$", "", SMK["common.smk"], flags=re.MULTILINE)).body:
        if isinstance(node, ast.ImportFrom) and node.module == "workflow_scripts.plan":
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found


def function_of(name: str):
    """Return the function of the plan that the rules call `module.function`."""
    module, function = name.split(".")
    return getattr(importlib.import_module(f"workflow_scripts.plan.{modules()[module]}"), function)


def test_this_module_sees_the_rules_as_they_are():
    assert RULES["train_offline"].wildcards == {"policy", "seed"}
    assert RULES["estimate_advantages"].wildcards == {"rewarded", "value", "policy", "seed"}
    assert RULES["score_answers"].wildcards == {"policy", "seed", "benchmark"}
    assert RULES["prepare_tasks"].wildcards == {"package"}
    assert RULES["build_table"] == (frozenset(), {"tables.table_settings": frozenset()})
    assert RULES["render_report"].functions == {"tables.page_settings": {"files"}}
    assert {"resources.judging_gpus", "judging.opponent_answers"} <= RULES["judge_answers"].functions.keys()
    assert "resources.training_gpus" in RULES["train_online"].functions
    handed = sum(len(rule.functions) for rule in RULES.values())
    assert len(RULES) > 40 and handed > 100
    in_some_rule = {name for rule in RULES.values() for name in rule.functions}
    spelled = {name for text in SMK.values() for name in re.findall(r"\bby\((\w+\.\w+)", text)}
    assert in_some_rule == spelled


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.functions])
def test_every_function_of_a_rule_is_there_and_asks_for_wildcards_that_the_rule_has(name):
    for function, fixed in RULES[name].functions.items():
        plan, *asked = inspect.signature(function_of(function)).parameters
        assert plan == "plan"
        assert fixed <= set(asked) <= RULES[name].wildcards | fixed, function


def test_every_function_that_the_rules_call_with_the_plan_takes_it_alone():
    called = {name for text in SMK.values() for name in re.findall(r"\b(\w+\.\w+)\(PLAN\)", text)}
    assert len(called) > 20
    for name in called:
        parameters = inspect.signature(function_of(name)).parameters.values()
        assert [each.name for each in parameters if each.default is each.empty] == ["plan"], name


LOADED = """
import importlib, pkgutil, sys
import workflow_scripts.plan, workflow_scripts.study
for package in (workflow_scripts.plan, workflow_scripts.study):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name not in sys.argv[1:]:
            importlib.import_module(module.name)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_neither_plan_nor_study_loads_snakemake_or_torch():
    apart = "workflow_scripts.plan.forecast"  # `make plan`, which asks Snakemake what would run
    command = [sys.executable, "-c", LOADED, apart]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {"workflow_scripts", "pydantic"} <= set(loaded)
    assert not {"snakemake", "torch", "transformers", "trl", "accelerate", "vllm"} & set(loaded)
