"""What the plan hands to scripts as JSON is what their own flags read: each key, and no other, of every study."""

import argparse
import ast
import functools
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, NoReturn, get_type_hints
from unittest import mock

import pytest

from tests.plans import ELSEWHERE, EVERY_KEY, STUDIES, changed, machine_told, planned
from tests.rule_texts import JSON_FLAGS, RULES, function_of
from tests.workflow import ROOT
from workflow_scripts.common.asking.settings import Endpoint, endpoint_of
from workflow_scripts.common.code import code_of, module_file
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.training.machine import VARIABLE
from workflow_scripts.plan import (
    adopting,
    choosing,
    cleaning,
    costs,
    growing,
    index,
    judging,
    outside,
    overlap,
    prompts,
    resources,
    retrieval,
    rewards,
    scoring,
    sources,
    synthesis,
)
from workflow_scripts.plan import report as tables
from workflow_scripts.plan.plan import Plan, trained_cells
from workflow_scripts.plan.training import (
    advantage_settings,
    mistaken_pairs,
    module_of,
    on_chosen,
    on_datasets,
    online_rewards,
    own_pairs_settings,
    policies_on,
    preparing_jobs,
    ranked_pairs,
    ranked_settings,
    ranking_settings,
    reference_settings,
    rewarded_settings,
    sampled_pairs,
    sampled_pairs_settings,
    tokens_settings,
    training_settings,
    value_settings,
    watching_settings,
)
from workflow_scripts.score.judging.settings import JUDGES, KINDS, judge_of
from workflow_scripts.study.judges import Judge
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.methods import METHODS
from workflow_scripts.study.mistakes import models_in, tag_of
from workflow_scripts.study.reading import read_yaml

Jobs = Callable[[Plan], list[dict[str, Any]]]  # the wildcards of each of a rule's jobs

EVERY_METHOD = "every method"
JUDGING = (
    "score.judging.answers"  # its command line reads text, which its main reads by the kind that it is given
)
WRITING = "synthesise.write"
ASKING = "generate.ask"
BY_HAND = {("report.figures forest", "settings")}  # no rule draws it


# --- the jobs of a rule in a study ------------------------------------------------------------------------------------


def once(plan: Plan) -> list[dict[str, Any]]:
    return [{}]


def each(wildcard: str, names: Callable[[Plan], Iterable[str]]) -> Jobs:
    return lambda plan: [{wildcard: name} for name in names(plan)]


def learning_from(material: str) -> Jobs:
    return each("policy", lambda plan: policies_on(plan, material))


def scored_from(material: str) -> Jobs:
    return each("benchmark", lambda plan: scoring.scored_from(plan, material))


def chosen(plan: Plan) -> list[dict[str, Any]]:
    return [{"policy": policy, "seed": seed} for policy in plan.chosen() for seed in plan.study.all_seeds()]


def prepared_by(rule: str, wildcard: str) -> Jobs:
    """Return the jobs of a rule with a model that prepares what policies learn from: a parent reads `wildcard`."""
    return lambda plan: [
        {wildcard: name, "policy": parent}
        for policy, seed in trained_cells(plan)
        for at, name, parent, _ in preparing_jobs(plan, policy, seed)
        if at == rule
    ]


def ranked(plan: Plan) -> list[dict[str, Any]]:
    names = policies_on(plan, "ranked")
    return [{"pairs": plan.run(name).pairs, "policy": plan.policies[name].parent} for name in names]


def measured(plan: Plan) -> list[dict[str, Any]]:
    speakers = [*plan.policies, *CALIBRATION]
    names = scoring.scored_from(plan, "likelihoods")
    return [{"benchmark": name, "policy": policy} for name in names for policy in speakers]


def waited(plan: Plan) -> list[dict[str, Any]]:
    return [{"waiting": synthesis.used(plan)}, {"waiting": []}]


def grown(plan: Plan) -> list[dict[str, Any]]:
    """Return the one job of a study that chooses its number of seeds."""
    return [{}] if growing.grows(plan) else []


def rendered(plan: Plan) -> list[dict[str, Any]]:
    return [{"files": ["config.yaml"]}]


# --- what rules hand to scripts ---------------------------------------------------------------------------------------


class Handed(NamedTuple):
    """One flag of one rule."""

    rule: str
    script: str | Callable
    """Below workflow_scripts, with its subcommand; or what the plan says it by."""
    json: str | Callable
    jobs: Jobs
    flag: str = "settings"


HANDED = [
    Handed("fetch_source", "download.fetch", sources.source_settings, each("source", sources.fetched)),
    Handed(
        "simulate_source", sources.simulator, sources.simulation_settings, each("source", sources.simulated)
    ),
    Handed("write_rows", WRITING, synthesis.writing_settings, each("written", synthesis.all_written)),
    Handed("write_rows", WRITING, synthesis.writer_settings, each("written", synthesis.all_written), "judge"),
    Handed("plan_writing", WRITING, synthesis.writing_settings, each("written", synthesis.all_written)),
    Handed(
        "plan_writing", WRITING, synthesis.writer_settings, each("written", synthesis.all_written), "judge"
    ),
    Handed(
        "plan_writing", WRITING, synthesis.writings_before, each("written", synthesis.all_written), "before"
    ),
    Handed(
        "clean_written", "clean.written", synthesis.written_settings, each("written", synthesis.all_written)
    ),
    Handed(
        "convert_source",
        "download.convert_critic",
        sources.conversion_settings,
        each("source", sources.converted),
    ),
    Handed("prepare_model", "download.prepare_model", sources.model_settings, each("model", sources.models)),
    Handed(
        "clean_dataset",
        "clean.clean",
        cleaning.dataset_settings,
        each("dataset", cleaning.folders),
    ),
    Handed(
        "retrieve_passages",
        "retrieve.retrieve",
        retrieval.retrieval_settings,
        each("dataset", retrieval.retrieving),
    ),
    Handed(
        "keep_apart", "clean.keep_apart", cleaning.apart_settings, each("dataset", cleaning.apart_folders)
    ),
    Handed("mix_datasets", "clean.mix", cleaning.mixture_settings, each("dataset", cleaning.mixed)),
    Handed(
        "clean_reply_pairs", "clean.reply_pairs", cleaning.paired_settings, each("benchmark", cleaning.paired)
    ),
    Handed(
        "build_reward_pairs",
        "annotate.reward_pairs",
        rewards.reward_pairs_settings,
        each("reward", rewards.used_reward_models),
    ),
    Handed(
        "train_reward_model",
        "annotate.train_reward",
        rewards.reward_settings,
        each("reward", rewards.used_reward_models),
    ),
    Handed(
        "annotate_dataset",
        "annotate.annotate",
        rewards.rewarding_settings,
        each("annotation", lambda plan: plan.study.annotations),
    ),
    Handed(
        "annotate_answers",
        "annotate.answers",
        rewards.answer_settings,
        each("prompts", prompts.rewarded_sets),
    ),
    Handed("tokenise_dataset", "sft.tokenise", tokens_settings, each("policy", on_datasets)),
    Handed("tokenise_chosen", "sft.tokenise", tokens_settings, each("policy", on_chosen)),
    Handed("build_pairs", "pairs.build", own_pairs_settings, each("pairs", mistaken_pairs)),
    Handed("rank_samples", "pairs.samples", sampled_pairs_settings, each("pairs", sampled_pairs)),
    Handed("rank_answers", "pairs.ranked", ranking_settings, each("pairs", ranked_pairs)),
    Handed(
        "score_reference",
        "align.pair_reference",
        reference_settings,
        prepared_by("score_reference", "pairs"),
    ),
    Handed("tokenise_ranked", "align.tokenise_ranked", ranked_settings, ranked),
    Handed(
        "score_rewarded",
        "align.rewarded_reference",
        rewarded_settings,
        prepared_by("score_rewarded", "rewarded"),
    ),
    Handed("fit_value", "align.fit_value", value_settings, prepared_by("fit_value", "value")),
    Handed(
        "estimate_advantages",
        "align.advantages",
        advantage_settings,
        prepared_by("estimate_advantages", "value"),
    ),
    Handed("train_sft", "sft.train", training_settings, learning_from("tokens")),
    Handed("choose_policy", "align.best_of", choosing.choosing_settings, chosen),
    Handed("train_aligned", module_of, training_settings, learning_from("pairs")),
    Handed("train_ranked", module_of, training_settings, learning_from("ranked")),
    Handed("train_offline", module_of, training_settings, learning_from("rewarded")),
    Handed("train_online", module_of, training_settings, learning_from("prompts")),
    Handed("train_online", module_of, online_rewards, learning_from("prompts"), "rewards"),
    Handed("train_sft", "sft.train", watching_settings, learning_from("tokens"), "watch"),
    Handed("train_aligned", module_of, watching_settings, learning_from("pairs"), "watch"),
    Handed("train_ranked", module_of, watching_settings, learning_from("ranked"), "watch"),
    Handed("train_offline", module_of, watching_settings, learning_from("rewarded"), "watch"),
    Handed("train_online", module_of, watching_settings, learning_from("prompts"), "watch"),
    Handed(
        "build_prompts",
        "generate.prompts",
        prompts.sampling,
        each("prompts", prompts.prompt_sets),
        "sampling",
    ),
    Handed(
        "answer_prompts",
        "generate.answer",
        prompts.answering_settings,
        each("policy", lambda plan: plan.policies),
    ),
    Handed(
        "answer_otherwise",
        "generate.answer",
        prompts.answering_settings,
        each("policy", lambda plan: prompts.answered_by(plan, vllm=plan.study.engine.name != "vllm")),
    ),
    Handed("ask_policy", "generate.ask", outside.answerer_settings, each("policy", outside.asked), "judge"),
    Handed("plan_asking", "generate.ask", outside.answerer_settings, each("policy", outside.asked), "judge"),
    Handed("adopt_policy", "download.adopt", adopting.adopting_settings, each("policy", adopting.adopted)),
    Handed("score_answers", scoring.scorer, scoring.scorer_settings, scored_from("answers")),
    Handed("measure_likelihoods", scoring.measuring_module, scoring.measuring_settings, measured),
    Handed(
        "score_measured",
        scoring.scorer,
        scoring.scorer_settings,
        each("benchmark", lambda plan: scoring.scored_from(plan, "likelihoods", "rewards")),
    ),
    Handed("score_lm_eval", "score.harness.run", scoring.harness_settings, scored_from("model")),
    Handed("score_lm_eval", "score.harness.run", scoring.harness_backend, scored_from("model"), "backend"),
    Handed("list_items", "score.harness.run", scoring.harness_settings, scored_from("model")),
    Handed("judge_answers", JUDGING, judging.asking_settings, each("benchmark", judging.judgeable)),
    Handed("judge_answers", JUDGING, judging.judge_settings, each("benchmark", judging.judgeable), "judge"),
    Handed("plan_judging", JUDGING, judging.asking_settings, each("benchmark", judging.judgeable)),
    Handed("plan_judging", JUDGING, judging.judge_settings, each("benchmark", judging.judgeable), "judge"),
    Handed("find_overlap", "clean.overlap", overlap.SETTINGS, once),
    Handed("choose_seeds", "report.choose_seeds", growing.choice_settings, grown),
    Handed("record_provenance", "report.provenance", index.provenance_settings, once),
    Handed("build_table", "report.table", tables.table_settings, once),
    Handed("judge_plan", "report.judging", judging.judging_plans_settings, waited),
    Handed("gather_costs", "report.costs", costs.cost_settings, once),
    Handed("compare_judges", "report.agreement", judging.agreement_settings, once),
    Handed("summarise_training", "report.training", tables.trainings_settings, once),
    Handed("draw_loss_curves", "report.figures loss_curves", tables.curves_settings, once),
    Handed("draw_policy_bars", "report.figures policy_bars", tables.bars_settings, once),
    Handed("draw_rewards", "report.figures reward_histogram", "{}", once),
    Handed("render_report", "report.page", tables.page_settings, rendered),
]


def said(plan: Plan, by: str | Callable, job: dict[str, Any]) -> str:
    """Return what the plan says of a job: of its wildcards a function takes those that it asks for."""
    if isinstance(by, str):
        return by
    given = inspect.signature(by).parameters.values()
    asked = [
        one.name for one in given if one.name in job or (one.name != "plan" and one.default is one.empty)
    ]
    return by(plan, **{name: job[name] for name in asked})


def handed_in(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yield (script, flag, JSON) of each flag of each job of a study."""
    for row in HANDED:
        for job in row.jobs(plan):
            script = said(plan, row.script, job).removeprefix("workflow_scripts.")
            script = f"download.{script}" if row.script is sources.simulator else script
            yield script, row.flag, said(plan, row.json, job)


# --- studies ----------------------------------------------------------------------------------------------------------


def run_of(kind: type) -> dict[str, Any]:
    """Return a run of a method in tests/every_key.yaml, by what it learns from."""
    material = {
        "tokens": {"dataset": "tutored", "split": "sft", "parent": "tiny"},
        "pairs": {"pairs": "mistakes"},
        "ranked": {"pairs": "order"},
        "rewarded": {"annotation": "judged", "split": "train", "validation": "validation"},
        "prompts": {"annotation": "judged", "split": "train", "batch_size": 16},
    }
    value = {"value": "worth"} if "value" in kind.model_fields else {}
    return (
        {"method": tag_of(kind), "parent": "sft", "learning_rate": 1e-4} | material[kind.learns_from] | value
    )


@functools.cache
def plan_called(name: str) -> Plan:
    if name != EVERY_METHOD:
        return planned(name)
    runs = {f"runs.{tag_of(kind)}": run_of(kind) for kind in METHODS if tag_of(kind) != "sft"}
    elsewhere = {key: read_yaml(EVERY_KEY)[key] for key in ELSEWHERE}
    seeds = {"until": 0.02, "first": 2, "at_most": 3, "on": "labels/evaluation/accuracy"}
    elsewhere["adopt"] = {"tiny.chat": "tests/bare/model"}  # for every seed
    return changed(EVERY_KEY, runs | elsewhere | {"seeds": seeds})


# --- command lines ----------------------------------------------------------------------------------------------------


class Parsing(BaseException):
    """A script has come to reading its flags, by this parser."""


def stop(parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
    raise Parsing(parser)


def flags_of(parser: argparse.ArgumentParser, script: str) -> dict[tuple[str, str], Callable | None]:
    """Return {(script with its subcommand, flag): what reads the flag} of the flags that take JSON."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, part in action.choices.items():
                found |= flags_of(part, f"{script} {name}")
        for option in action.option_strings:
            if option.removeprefix("--") in (*JSON_FLAGS, "access"):
                found[script, option.removeprefix("--")] = action.type
    return found


def scripts() -> list[str]:
    """Return the modules of the stages that are run by themselves."""
    package = ROOT / "workflow_scripts"
    files = [path.relative_to(package) for path in sorted(package.rglob("*.py"))]
    in_stages = [path for path in files if path.parts[0] not in ("common", "plan", "study")]
    started = [path for path in in_stages if "\ndef main(" in (package / path).read_text(encoding="utf-8")]
    return [".".join(path.with_suffix("").parts) for path in started]


@functools.cache
def command_lines() -> dict[tuple[str, str], Callable | None]:
    """Return {(script, flag): what reads it} of all scripts, as the parsers say that their mains make."""
    found = {}
    for script in scripts():
        main = importlib.import_module(f"workflow_scripts.{script}").main
        if any(flag.default is flag.empty for flag in inspect.signature(main).parameters.values()):
            continue  # it is called with what it needs, by no command line
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
            pytest.raises(Parsing) as stopped,
        ):
            main()
        found |= flags_of(stopped.value.args[0], script)
    return found


def read_in(module: str) -> set[str]:
    """Return the keys that a module, or one of ours that it imports, looks up by their names."""
    keys = set()
    for name in code_of(module):
        for node in ast.walk(ast.parse(module_file(name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                keys.add(node.slice.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "get" and node.args:
                keys.add(getattr(node.args[0], "value", None))
    return keys


# --- the promises -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STUDIES, EVERY_METHOD])
def test_a_script_reads_all_that_its_rule_hands_it_and_nothing_is_missing(monkeypatch, name):
    plan = plan_called(name)
    monkeypatch.setenv(VARIABLE, resources.machine_keys(plan))
    for script, flag, text in handed_in(plan):
        if script != JUDGING and flag != "judge":
            given = json.loads(text)
            if isinstance(given, dict) and "machine_of" in given:
                given |= machine_told(plan, given.pop("machine_of"))
            assert command_lines()[script, flag](text) == given


@pytest.mark.parametrize("method", [tag_of(kind) for kind in METHODS])
def test_a_training_looks_at_every_setting_that_makes_it_stale(method):
    """A key that nothing looks at would be accepted, documented, and train anew for nothing."""
    module = f"workflow_scripts.{'sft.train' if method == 'sft' else f'align.{method}'}"
    assert set(get_type_hints(importlib.import_module(module).Settings)) - read_in(module) == set()


@pytest.mark.parametrize("name", STUDIES)
def test_a_judging_job_reads_the_judge_how_it_is_reached_and_what_it_is_asked(name):
    plan = plan_called(name)
    for benchmark in judging.judgeable(plan):
        asked = judging.asking_settings(plan, benchmark)
        assert settings_of(KINDS[judging.asking_kind(plan, benchmark)])(asked) == json.loads(asked)
        judge = judge_of(judging.judge_settings(plan, benchmark), judging.access(plan))
        keys = get_type_hints(JUDGES[judge["kind"]]).keys()
        assert judge.keys() == (keys if judging.draws_of(plan, benchmark) > 1 else keys - {"draws"})


@pytest.mark.parametrize("name", STUDIES)
def test_a_writing_job_reads_the_model_that_writes_and_how_it_is_reached(name):
    plan = plan_called(name)
    for written in synthesis.all_written(plan):
        judge = endpoint_of(synthesis.writer_settings(plan, written), judging.access(plan))
        assert judge.keys() == Endpoint.__annotations__.keys()


def test_every_script_that_takes_json_is_handed_some():
    """A new script with --settings fails here until HANDED has the rule that starts it, and a study that needs it."""
    handed = {
        (script, flag)
        for name in (EVERY_KEY, EVERY_METHOD)
        for script, flag, _ in handed_in(plan_called(name))
    }
    assert handed | BY_HAND | {(name, "access") for name in (JUDGING, WRITING, ASKING)} == {*command_lines()}
    assert [row.rule for row in HANDED if not row.jobs(plan_called(EVERY_METHOD))] == []


def test_every_rule_that_hands_json_to_a_script_is_here_with_what_it_hands_over():
    found = {}
    for rule, said_of in RULES.items():
        for flag, expression in said_of.told.items():
            name = re.sub(r"^(by|of_table)\(", "", expression).partition(",")[0].rstrip(")")
            constant = name.startswith('"')
            found[rule, flag] = ast.literal_eval(name) if constant else function_of(name)
    assert {(row.rule, row.flag): row.json for row in HANDED} == found
    assert len(found) == len(HANDED)


@pytest.mark.parametrize("row", HANDED, ids=lambda row: f"{row.rule}-{row.flag}")
def test_a_rule_starts_the_script_that_is_said_here(row):
    rule = RULES[row.rule]
    if isinstance(row.script, str):
        assert re.search(rf"workflow_scripts\.{re.escape(row.script)}(?![.\w])", rule.shell)
    else:
        assert row.script in [function_of(name) for name in rule.functions]


def test_the_studies_here_have_every_method_every_judge_and_every_kind_that_is_judged():
    plan, methods = plan_called(EVERY_KEY), plan_called(EVERY_METHOD)
    assert {run.method for run in methods.study.trainings().values()} == {tag_of(kind) for kind in METHODS}
    assert {judge.kind for judge in plan.study.judges.values()} == {tag_of(kind) for kind in models_in(Judge)}
    assert {part.kind for part in plan.study.benchmarks.values()} >= {"loss", *KINDS}


def test_an_online_method_is_handed_each_reward_of_its_annotation():
    plan = plan_called(EVERY_METHOD)
    names = policies_on(plan, "prompts")
    assert len(names) > 1
    for name in names:
        assert json.loads(online_rewards(plan, name))["rewards"].keys() == {"own", "other", "words"}
