"""Policies: which there are with which seeds, where their weights are, what they learned from and how they speak."""

import pytest

from tests.plans import DEFAULT, EVERY_KEY, STUDIES, changed, family, planned, told
from workflow_scripts.plan import policies, prompts, training
from workflow_scripts.plan.plan import cells, scored_cells, trained_cells
from workflow_scripts.plan.sources import base_model
from workflow_scripts.study.datasets import made_of
from workflow_scripts.study.templates import bundled_templates

BASES = {"one", "two"}
FAMILY = {
    *BASES,
    *("one.sft", "two.sft", "one.fast"),
    *("one.sft.dpo", "two.sft.dpo", "one.fast.dpo"),
    *("one.sft.dpo.again", "two.sft.dpo.again", "one.fast.dpo.again"),
    *("one.sft.lol", "two.sft.lol"),
    "two.pro",
}


# --- cells ----------------------------------------------------------------------------------------------------------


def test_a_run_makes_a_policy_of_each_of_its_parents_and_their_policies():
    assert set(family().policies) == FAMILY
    assert set(family().trained()) == FAMILY - BASES


def test_a_base_model_is_one_thing_and_what_is_trained_exists_for_every_seed():
    trained = {(policy, seed) for policy in FAMILY - BASES for seed in (3, 5)}
    assert set(trained_cells(family())) == trained
    assert set(cells(family())) == trained | {("one", 3), ("two", 3)}
    assert len(cells(family())) == len(trained) + 2


@pytest.mark.parametrize("name", STUDIES)
def test_the_calibration_rows_are_scored_last_and_are_no_policies(name):
    plan = planned(name)
    assert scored_cells(plan) == [*cells(plan), ("gold", 0), ("empty", 0)]
    assert not {"gold", "empty"} & plan.policies.keys()


def test_a_study_without_runs_trains_nothing_and_has_all_its_models_scored():
    plan = planned("tutorbot-published")
    assert plan.trained() == trained_cells(plan) == policies.all_training_sets(plan) == []
    assert {policy for policy, _ in cells(plan)} == set(plan.study.models)


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_weights_are_a_base_models_or_the_policys_own(name):
    plan = planned(name)
    for policy, seed in cells(plan):
        own = f"results/{plan.study.study}/policies/{policy}/seed-{seed}/manifest.json"
        base = f"{base_model(plan, plan.policies[policy].model)}/manifest.json"
        wanted = own if policy in plan.made() else base
        assert policies.weights_manifest(plan, policy, seed) == wanted
        assert policies.scored_manifest(plan, policy, seed) == wanted
        assert policies.base_manifest(plan, policy) == base


def test_a_policy_starts_from_its_parent_of_the_same_seed():
    assert policies.parent_cell(family(), "one.sft.dpo", 5) == ("one.sft", 5)
    assert policies.parent_cell(family(), "one.sft.dpo", "5") == ("one.sft", "5")
    wanted = "results/every-key/policies/one.sft/seed-5/manifest.json"
    assert policies.parent_manifest(family(), "one.sft.dpo", "5") == wanted


def test_whatever_its_seed_a_policy_starts_from_the_one_base_model_there_is():
    for seed in (3, 5):
        assert policies.parent_cell(family(), "two.pro", seed) == ("two", 3)
        wanted = f"{base_model(family(), 'two')}/manifest.json"
        assert policies.parent_manifest(family(), "two.pro", seed) == wanted


def test_the_calibration_rows_are_measured_with_the_first_base_model():
    for name in ("gold", "empty"):
        assert policies.scored_weights(family(), name, 0) == base_model(family(), "one")


def test_a_lineage_goes_back_to_the_base_model():
    assert policies.lineage(family(), "one.fast.dpo.again") == [
        "one.fast.dpo.again",
        "one.fast.dpo",
        "one.fast",
        "one",
    ]
    assert policies.lineage(family(), "two") == ["two"]


def test_only_what_descends_from_a_model_that_needs_it_runs_that_models_own_code():
    trusted = {name for name in family().policies if policies.remote_code(family(), name)}
    assert trusted == {name for name in FAMILY if name.startswith("two")}


# --- how they speak -------------------------------------------------------------------------------------------------


def test_a_policy_speaks_as_the_last_fine_tuning_of_its_lineage_taught_it():
    templates = bundled_templates()
    own = family().study.templates["own"].model_dump(exclude_unset=True)
    wanted = {
        "one": own,
        "one.sft": own,
        "one.sft.dpo": own,
        "one.sft.lol": own,
        "two": templates["hh"],
        "two.sft.dpo": templates["hh"],
        "two.pro": templates["hh"],
        "one.fast": templates["fastchat"],  # the back-end's own
        "one.fast.dpo": templates["fastchat"],
        "one.sft.dpo.again": templates["alpaca"],
        "one.fast.dpo.again": templates["alpaca"],
    }
    assert {name: policies.template(family(), name) for name in wanted} == wanted


def test_a_policy_can_be_asked_in_another_template_than_it_learns_in_and_its_children_are_too():
    changes = {"runs.sft.template": "alpaca", "runs.sft.asked_in": "tulu"}
    plan = changed(
        EVERY_KEY,
        {
            "runs.again": {"method": "sft", "parent": "sft", "dataset": "chatted", "learning_rate": 1e-4},
            **changes,
        },
    )
    templates = bundled_templates()
    learned = {"tiny.sft": "alpaca", "tiny.sft.dpo": "tulu", "tiny.sft.again": "tulu"}
    assert {name: policies.learned_template(plan, name) for name in learned} == {
        name: templates[template] for name, template in learned.items()
    }
    for policy in ("tiny.sft", "tiny.sft.dpo", "tiny.sft.pro", "tiny.sft.again"):
        assert policies.template(plan, policy) == templates["tulu"]
        assert told(prompts.answering_settings(plan, policy))["template"] == templates["tulu"]
    tokens = told(training.tokens_settings(plan, "tiny.sft"))
    assert (tokens["template"], tokens["asked_in"]) == (templates["alpaca"], templates["tulu"])
    assert "asked_in" not in told(training.tokens_settings(plan, "tiny.sft.again"))
    for settings in (
        training.reference_settings(plan, "mistakes", "tiny.sft"),
        training.ranked_settings(plan, "order", "tiny.sft"),
        training.value_settings(plan, "worth", "tiny.sft"),
        training.training_settings(plan, "tiny.sft.ppo"),
    ):
        assert told(settings)["template"] == templates["tulu"]
    assert "asked_in" not in told(training.training_settings(plan, "tiny.sft"))


def test_a_studys_template_goes_before_one_of_the_same_name_that_comes_with_plumbline():
    other = bundled_templates()["tutor"] | {"start": "another"}
    plan = changed(DEFAULT, {"templates": {"tutor": other}})
    assert policies.template(planned(DEFAULT), "tiny.sft") == bundled_templates()["tutor"]
    assert policies.template(plan, "tiny.sft") == other


def test_the_calibration_rows_are_spoken_to_as_the_first_base_model_and_run_no_code_of_anyones():
    plan = changed(EVERY_KEY, {"models.tiny.trust_remote_code": True})
    policy = policies.spoken_to(plan, "tiny")
    assert policy["trust_remote_code"]
    assert policies.spoken_to(plan, "gold") == policy | {"trust_remote_code": False}


# --- what they learned from -----------------------------------------------------------------------------------------


def test_a_policys_training_sets_are_those_of_all_its_lineage_in_order_and_each_once():
    wanted = {
        "one": [],
        "one.sft": ["tutored/sft"],
        "one.sft.dpo": ["tutored/sft", "tutored/preference"],
        "one.fast.dpo": ["chatted/sft", "tutored/preference"],
        "one.fast.dpo.again": ["chatted/sft", "tutored/preference"],
        "one.sft.lol": ["tutored/sft", "ranked/train"],  # by its annotation
        "two.pro": ["ranked/train"],  # by the annotation of its pairs
        "gold": [],
    }
    assert {name: policies.training_sets(family(), name) for name in wanted} == wanted


@pytest.mark.parametrize("name", STUDIES)
def test_all_training_sets_are_those_of_some_policy_and_of_datasets_that_there_are(name):
    plan = planned(name)
    found = policies.all_training_sets(plan)
    assert found == sorted(set(found))
    assert set(found) == {rows for policy in plan.policies for rows in policies.training_sets(plan, policy)}
    learned = {rows.split("/")[0] for rows in found}
    mixed = {part for name in learned for part in made_of(plan.study, name)}
    assert learned | mixed == set(policies.learned_datasets(plan)) <= set(plan.study.datasets)


def test_what_is_only_validated_on_is_no_training_set():
    plan = planned(DEFAULT)
    assert plan.run("tiny.sft").validation == "validation"
    assert policies.all_training_sets(plan) == ["tutor/preference", "tutor/sft"]
