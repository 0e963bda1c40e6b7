"""The rules and the plan: each function that a rule hands its wildcards to is there, and takes none the rule lacks."""

import inspect
import re
import subprocess
import sys

import pytest

from tests.rule_texts import RULES, SMK, function_of
from tests.workflow import ROOT


def test_this_module_sees_the_rules_as_they_are():
    assert RULES["train_offline"].wildcards == {"policy", "seed"}
    assert RULES["estimate_advantages"].wildcards == {"rewarded", "value", "policy", "seed"}
    assert RULES["score_answers"].wildcards == {"policy", "seed", "benchmark"}
    assert RULES["prepare_tasks"].wildcards == {"package"}
    assert RULES["build_table"].wildcards == frozenset()
    assert RULES["build_table"].functions.keys() >= {"tables.table_settings", "index.score_files"}
    assert RULES["render_report"].functions["tables.page_settings"] == {"files"}
    assert {"resources.judging_gpus", "judging.opponent_answers"} <= RULES["judge_answers"].functions.keys()
    assert "resources.training_parallel" in RULES["train_online"].functions
    handed = sum(len(rule.functions) for rule in RULES.values())
    assert len(RULES) > 40 and handed > 100
    in_some_rule = {name for rule in RULES.values() for name in rule.functions}
    spelled = {name for text in SMK.values() for name in re.findall(r"\b(?:by|of_table)\((\w+\.\w+)", text)}
    assert in_some_rule == spelled


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.functions])
def test_every_function_of_a_rule_is_there_and_asks_for_wildcards_that_the_rule_has(name):
    for function, fixed in RULES[name].functions.items():
        plan, *asked = inspect.signature(function_of(function)).parameters
        assert plan == "plan"
        assert fixed <= set(asked) <= RULES[name].wildcards | fixed, function


def test_every_function_that_the_rules_call_with_the_plan_takes_it_alone():
    called = {name for text in SMK.values() for name in re.findall(r"\b(\w+\.\w+)\(PLAN\)", text)}
    called |= {name for text in SMK.values() for name in re.findall(r"\bof_table\((\w+\.\w+)\)", text)}
    assert len(called) > 20
    for name in called:
        parameters = inspect.signature(function_of(name)).parameters.values()
        assert [each.name for each in parameters if each.default is each.empty] == ["plan"], name


def test_what_the_shared_store_keeps_is_known_by_params_and_inputs_and_not_by_wildcards():
    """Snakemake's store knows a result by its rule's command as written: with `--seed {wildcards.seed}` in it, the
    policies of all seeds were one."""
    kept = [name for name, rule in RULES.items() if rule.stored]
    assert {"train_sft", "train_online", "answer_prompts", "fit_value"} <= set(kept)
    for name in kept:
        told = re.sub(r"(--claim|--work) \$?\w+/\S+", "", RULES[name].shell)
        assert "{wildcards." not in told.replace("{{", "{"), name
    for name in (
        "train_sft",
        "train_aligned",
        "train_ranked",
        "train_offline",
        "train_online",
        "answer_prompts",
    ):
        assert "policies.seed_told" in RULES[name].functions, name


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
    # `make plan` and `make accept` ask Snakemake what would run.
    apart = ["workflow_scripts.plan.forecast", "workflow_scripts.plan.accept"]
    command = [sys.executable, "-c", LOADED, *apart]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {"workflow_scripts", "pydantic"} <= set(loaded)
    assert not {"snakemake", "torch", "transformers", "trl", "accelerate", "vllm"} & set(loaded)
