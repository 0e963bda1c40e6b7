"""The index of a study's scores: what it says of each policy and benchmark, and which files and facts they rest on."""

import json

import pytest

from tests.plans import DEFAULT, EVERY_KEY, STUDIES, changed, family, planned, told
from workflow_scripts.plan import index, sources
from workflow_scripts.plan.plan import scored_cells
from workflow_scripts.report.index import entry_of

PLAN = planned(EVERY_KEY)
RESULTS, CLEANED = "results/every-key", "data/clean/every-key"
CHATS = f"{sources.source_folder(PLAN, 'chats')}/manifest.json"


@pytest.mark.parametrize("name", STUDIES)
def test_every_policy_is_scored_on_every_benchmark_with_every_seed_once(name):
    plan = planned(name)
    entries = json.loads(index.index_entries(plan))
    cells, benchmarks = entries["cells"], entries["benchmarks"]
    assert [(cell["policy"], cell["seed"]) for cell in cells] == scored_cells(plan)
    assert [part["name"] for part in benchmarks] == list(plan.study.benchmarks)
    found = [entry_of(cell, part) for cell in cells for part in benchmarks]
    assert [entry["file"] for entry in found] == index.score_files(plan)
    assert len(set(index.score_files(plan))) == len(found)
    answered = [entry["generations"] for entry in found if entry["generations"]]
    assert answered == index.answer_files(plan)


# --- policies ---------------------------------------------------------------------------------------------------


def test_a_policys_entry_tells_its_history_and_the_weights_and_data_it_comes_of():
    entry = index.cell_entry(family(), "one.fast.dpo", 5)
    folder = f"{RESULTS}/policies/one.fast.dpo/seed-5"
    assert entry.pop("facts").keys() == {"model", "template", "trust_remote_code", "trained_by"}
    assert entry == {
        "policy": "one.fast.dpo",
        "parent": "one.fast",
        "method": "dpo",
        "seed": 5,
        "kind": "policy",
        "training_sets": ["chatted/sft", "tutored/preference"],
        "folder": folder,
        "files": [
            f"{folder}/manifest.json",
            f"{CLEANED}/chatted/manifest.json",
            f"{CLEANED}/tutored/manifest.json",
        ],
    }


def test_a_base_model_rests_on_its_own_files_alone():
    entry = index.cell_entry(family(), "two", 3)
    assert (entry["parent"], entry["method"], entry["training_sets"]) == (None, None, [])
    assert entry["files"] == [f"{sources.base_model(family(), 'two')}/manifest.json"]


def test_a_calibration_row_comes_of_no_model():
    for name in ("gold", "empty"):
        assert index.cell_entry(family(), name, 0) == {
            "policy": name,
            "seed": 0,
            "folder": f"{RESULTS}/policies/{name}/seed-0",
            "parent": None,
            "method": None,
            "kind": "calibration",
            "training_sets": [],
            "files": [],
            "facts": {"model": None, "template": None, "trained_by": None},
        }


def test_policies_differ_in_the_facts_in_which_they_were_made_otherwise():
    facts = {name: index.policy_facts(family(), name) for name in family().policies}
    assert facts["one"]["model"] == facts["one.sft.dpo"]["model"] != facts["two"]["model"]
    assert facts["one"]["template"] == facts["one.sft"]["template"] != facts["one.fast"]["template"]
    assert (
        facts["one.sft"]["trained_by"]
        == facts["one.fast"]["trained_by"]
        != facts["one.sft.dpo"]["trained_by"]
    )
    assert (facts["one.sft"]["trust_remote_code"], facts["two.sft"]["trust_remote_code"]) == (False, True)


# --- benchmarks -------------------------------------------------------------------------------------------------


def test_a_benchmarks_entry_tells_which_files_each_policy_has_for_it():
    wanted = {  # answered, judged, measured
        "labels": (True, False, False),
        "likely": (False, False, True),
        "local": (False, False, False),
        "rated": (True, True, False),
        "rewarded": (True, False, False),
        "losses": (False, False, True),
    }
    entries = {name: index.benchmark_entry(PLAN, name) for name in wanted}
    keys = ("answered", "judged", "measured")
    assert {name: tuple(entry[key] for key in keys) for name, entry in entries.items()} == wanted
    assert {entry["overlap"] for entry in entries.values()} == {
        f"{RESULTS}/overlap/{name}.json" for name in wanted
    }


def test_a_score_rests_on_prompts_data_sources_judges_and_opponents():
    package = sources.package_folder(PLAN, PLAN.study.benchmarks["harness"])
    tutored = f"{CLEANED}/tutored/manifest.json"
    wanted = {
        "labels": [f"{RESULTS}/prompts/labels.json", tutored],
        "code": [f"{RESULTS}/prompts/code.json", CHATS],
        "likely": [CHATS],
        "losses": [tutored],
        "harness": [CHATS, f"{package}/manifest.json"],
        "local": [],
        "rewarded": [f"{RESULTS}/prompts/rewarded.json"],
        "bundled": [f"{RESULTS}/prompts/bundled.json", f"{RESULTS}/reward_models/rm/manifest.json"],
        "rated": [f"{RESULTS}/prompts/rated.json", tutored],
        "questions": [
            f"{RESULTS}/prompts/questions.json",
            CHATS,
            f"{RESULTS}/policies/tiny.sft/seed-1/generations/questions.json",
        ],
    }
    assert {name: index.benchmark_files(PLAN, name) for name in wanted} == wanted


def test_a_judge_that_is_not_asked_is_nothing_a_score_rests_on():
    known = index.benchmark_entry(planned(DEFAULT), "alpaca_eval")
    manifest = "results/tutor/reward_models/tutor_rm/manifest.json"
    assert manifest in known["files"] and known["facts"]["judge"]
    plan = changed(DEFAULT, {"benchmarks.alpaca_eval.evaluate": False})
    entry = index.benchmark_entry(plan, "alpaca_eval")
    assert entry["files"] == ["results/tutor/prompts/alpaca_eval.json"]
    assert (entry["judged"], entry["facts"]["judge"]) == (False, None)


def test_where_nothing_is_looked_for_an_entry_names_no_overlap():
    plan = changed(DEFAULT, {"report.decontaminate": False})
    assert {part["overlap"] for part in json.loads(index.index_entries(plan))["benchmarks"]} == {None}
    assert index.benchmark_entry(planned("tutorbot-published"), "tutor")["overlap"] is None


@pytest.mark.parametrize(
    ("key", "value", "fact"),
    [
        ("benchmarks.rated.max_new_tokens", 9, "settings"),
        ("judges.asked.version", "3", "judge"),
        ("engine.name", "vllm", "code"),
    ],
)
def test_a_benchmarks_facts_change_with_what_its_scores_depend_on(key, value, fact):
    known = index.benchmark_entry(PLAN, "rated")["facts"]
    other = index.benchmark_entry(changed(EVERY_KEY, {key: value}), "rated")["facts"]
    assert {name for name in known if known[name] != other[name]} == {fact}


# --- the study --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("judges.asked.base_url", "http://localhost:1/v1"),
        ("judges.asked.concurrency", 1),
        ("training_resources.gpu", 8),
        ("generation_resources.cpus", 7),
    ],
)
def test_how_judges_are_reached_and_what_jobs_may_take_is_no_part_of_a_studys_digest(key, value):
    assert index.study_digest(changed(EVERY_KEY, {key: value})) == index.study_digest(PLAN)


@pytest.mark.parametrize(
    ("key", "value"), [("judges.asked.model", "other"), ("seeds", [2]), ("runs.dpo.beta", 0.2)]
)
def test_all_else_is(key, value):
    assert index.study_digest(changed(EVERY_KEY, {key: value})) != index.study_digest(PLAN)


def test_provenance_is_told_the_study_and_the_lock():
    wanted = {"study": index.study_digest(PLAN), "lock": index.lock_digest()}
    assert told(index.provenance_settings(PLAN)) == {"facts": wanted}
