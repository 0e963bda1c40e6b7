"""Trainings: what each method learns from, what prepares it, which settings reach it and which the jobs before it."""

from typing import get_args

import pytest

from tests.plans import DEFAULT, EVERY_KEY, STUDIES, changed, family, machine_told, planned, told
from workflow_scripts.common.code import module_file
from workflow_scripts.plan import index, policies, rewards, training
from workflow_scripts.study.methods import METHODS
from workflow_scripts.study.training import OF_THE_MACHINE

PLAN = planned(EVERY_KEY)
RESULTS = "results/every-key"


# --- rules and modules ------------------------------------------------------------------------------------------


def test_what_a_method_learns_from_decides_which_rule_trains_it():
    wanted = {
        "tiny.sft": "train_sft",
        "tiny.sft.dpo": "train_aligned",
        "tiny.sft.simpo": "train_aligned",
        "tiny.sft.pro": "train_ranked",
        "tiny.sft.lol": "train_offline",
        "tiny.sft.ppo": "train_online",
    }
    assert {policy: training.rule_of(PLAN, policy) for policy in wanted} == wanted


@pytest.mark.parametrize("name", STUDIES)
def test_every_policy_has_one_rule_and_the_module_of_its_method(name):
    plan = planned(name)
    by_rule = [training.policies_on(plan, material) for material in training.TRAINED_BY]
    assert sorted(policy for found in by_rule for policy in found) == sorted(plan.trained())
    for policy in plan.trained():
        method = plan.policies[policy].method
        wanted = "sft.train" if method == "sft" else f"align.{method}"
        assert training.module_of(plan, policy) == f"workflow_scripts.{wanted}"
        assert f"workflow_scripts.{wanted}" in training.code(plan, policy)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_method_there_is_has_a_rule_and_a_module(kind):
    (method,) = get_args(kind.model_fields["method"].annotation)
    assert kind.learns_from in training.TRAINED_BY
    assert method == "sft" or module_file(f"workflow_scripts.align.{method}")


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_key_of_a_run_reaches_its_training_or_a_job_before_it(name):
    plan = planned(name)
    for policy in plan.trained():
        run = plan.run(policy)
        settings = told(training.training_settings(plan, policy))
        elsewhere = {"parent", "method", "threads", "watch", "grid", *OF_THE_MACHINE}
        keys = type(run).model_fields.keys() - elsewhere
        more = {"trust_remote_code", "machine_of"} | ({"template"} if run.learns_from == "prompts" else set())
        assert settings.keys() == (keys - set(run.read_before)) | more
        assert all(
            settings[key] == value for key, value in run.model_dump().items() if key in settings.keys() - more
        )


def test_what_answers_as_it_learns_speaks_as_its_parent_does():
    settings = told(training.training_settings(PLAN, "tiny.sft.ppo"))
    assert settings["template"] == policies.template(PLAN, "tiny.sft")


def test_what_alters_no_result_makes_no_training_stale_and_reaches_it_by_the_environment():
    keys = {"per_device_batch": 2, "log_every": 1, "checkpoint_every": 3, "gradient_checkpointing": True}
    assert keys.keys() == set(OF_THE_MACHINE) - {"gpu_memory_share"}  # that is of what vLLM answers for
    before = planned(DEFAULT)
    after = changed(DEFAULT, {f"runs.sft.{key}": value for key, value in keys.items()})
    assert training.training_settings(after, "tiny.sft") == training.training_settings(before, "tiny.sft")
    assert machine_told(after, "runs.sft") == keys
    assert machine_told(before, "runs.sft")["log_every"] == 10
    own = changed(DEFAULT, {f"reward_models.tutor_rm.{key}": value for key, value in keys.items()})
    assert rewards.reward_settings(own, "tutor_rm") == rewards.reward_settings(before, "tutor_rm")
    assert machine_told(own, "reward_models.tutor_rm") == keys
    assert index.study_digest(after) == index.study_digest(before) == index.study_digest(own)


def test_what_vllm_answers_for_is_stale_by_it_and_not_by_the_memory_it_takes():
    own, ppo = {"runs.ppo.engine": "transformers"}, "tiny.sft.ppo"
    before, after = changed(EVERY_KEY, own), planned(EVERY_KEY)
    assert told(training.training_settings(before, ppo))["engine"] == "transformers"
    assert told(training.training_settings(after, ppo))["engine"] == "vllm"
    more = training.code(after, ppo).keys() - training.code(before, ppo).keys()
    assert {"workflow_scripts.align.vllm_process", "workflow_scripts.common.vllm_policy"} <= more
    assert training.pinned(after, ppo).keys() - training.pinned(before, ppo).keys() == {"vllm"}
    roomier = changed(EVERY_KEY, {"runs.ppo.gpu_memory_share": 0.5})
    assert training.training_settings(roomier, ppo) == training.training_settings(after, ppo)
    assert machine_told(roomier, "runs.ppo")["gpu_memory_share"] == 0.5
    assert index.study_digest(roomier) == index.study_digest(after) != index.study_digest(before)


def test_a_batch_that_follows_per_device_batch_is_a_setting():
    assert planned(DEFAULT).study.runs["dpo"].batch_size == 8
    values = {"runs.dpo.batch_size": "DROP", "runs.dpo.per_device_batch": 4}
    settings = training.training_settings(changed(DEFAULT, values), "tiny.sft.dpo")
    assert told(settings)["batch_size"] == 4


def test_neither_parents_nor_threads_make_a_training_stale():
    settings = training.training_settings(planned(DEFAULT), "tiny.sft")
    other = changed(DEFAULT, {"runs.sft.threads": 7, "runs.sft.parent": ["tiny"]})
    assert training.training_settings(other, "tiny.sft") == settings
    assert training.threads(other, "tiny.sft") == 7
    faster = changed(DEFAULT, {"runs.sft.learning_rate": 1e-3})
    assert training.training_settings(faster, "tiny.sft") != settings


# --- tokens -----------------------------------------------------------------------------------------------------


def test_a_datasets_tokens_are_a_policys_own_whatever_its_seed():
    plan = family()
    assert training.tokens_dataset(plan, "one.fast") == "data/clean/every-key/chatted/manifest.json"
    assert training.tokens_splits(plan, "one.fast") == [
        "train=$CLEAN/chatted/rows/sft.jsonl",
        "validation=$CLEAN/chatted/rows/validation.jsonl",
    ]
    manifests = {training.material(plan, "one.fast", seed) for seed in plan.study.seeds}
    assert manifests == {f"{RESULTS}/tokens/one.fast/manifest.json"}


def test_tokens_are_made_in_the_template_the_policy_is_to_speak():
    plan = changed(EVERY_KEY, {"datasets.chatted.history_turns": 1, "runs.chat.objective": "im"})
    assert told(training.tokens_settings(plan, "tiny.chat")) == {
        "max_tokens": 1024,
        "overflow": "cut",
        "objective": "im",
        "im_mask": "paper",
        "it_mask": "reply",
        "lm_text": "plain",
        "lm_rows": None,
        "template": policies.template(plan, "tiny.chat"),
        "history_turns": 1,
    }


# --- pairs and ranked answers -----------------------------------------------------------------------------------


def test_pairs_of_own_mistakes_are_each_parents_and_ranked_ones_are_everybodys():
    plan = family()
    assert training.ranked_pairs(plan) == ["order", "came"]
    own = f"{RESULTS}/pairs/mistakes/one.sft/seed-5/manifest.json"
    assert training.pairs_manifest(plan, "mistakes", "one.sft", 5) == own
    for policy in ("one", "two"):
        assert training.pairs_manifest(plan, "order", policy, 5) == f"{RESULTS}/pairs/order/manifest.json"


def test_a_training_learns_from_its_parent_of_the_same_seed_or_the_one_base_model():
    wanted = {
        ("one.sft.dpo", 5): "reference/mistakes/one.sft/seed-5",
        ("one.fast.dpo", 3): "reference/mistakes/one.fast/seed-3",
        ("two.pro", 3): "ranked/order/two/seed-3",
        ("two.pro", 5): "ranked/order/two/seed-3",  # a base model has no seed of its own
    }
    for cell, folder in wanted.items():
        assert training.material(family(), *cell) == f"{RESULTS}/{folder}/manifest.json"


def test_what_answers_as_it_learns_counts_its_prompts_itself():
    assert (
        training.material(PLAN, "tiny.sft.ppo", 1) == f"{RESULTS}/policies/tiny.sft.ppo/seed-1/manifest.json"
    )
    assert training.online_manifest(PLAN, "tiny.sft.ppo") == f"{RESULTS}/prompts/runs-ppo.json"
    assert training.online_rows(PLAN, "tiny.sft.ppo") == "$RESULTS/prompts/runs-ppo.jsonl"


def test_own_pairs_compare_replies_as_their_dataset_writes_them():
    plan = changed(EVERY_KEY, {"seeds": [3, 5], "datasets.tutored.reply_format": "python"})
    wanted = {"reply_format": "python", "which": "mistakes", "fidelity": "paper"}
    wanted |= {"validation_share": 0.1, "seed": 3}
    assert told(training.own_pairs_settings(plan, "mistakes")) == wanted
    own = {"fidelity": "code", "pairs.mistakes.which": "all"}
    assert told(training.own_pairs_settings(changed(EVERY_KEY, own), "mistakes"))["fidelity"] == "code"
    own |= {"pairs.mistakes.fidelity": "paper"}
    handed = told(training.own_pairs_settings(changed(EVERY_KEY, own), "mistakes"))
    assert (handed["which"], handed["fidelity"]) == ("all", "paper")


def test_ranked_pairs_come_from_the_rows_of_their_annotation():
    assert training.ranking_input(PLAN, "order") == f"{RESULTS}/annotations/brought/manifest.json"
    assert told(training.ranking_settings(PLAN, "order")) == {"by": "rank", "annotated": True}
    rows = "$RESULTS/annotations/brought/rows"
    wanted = [f"train={rows}/train.jsonl", f"validation={rows}/validation.jsonl"]
    assert training.ranking_rows(PLAN, "order") == wanted


def test_pairs_are_read_by_a_parent_as_it_speaks_and_as_long_as_they_say():
    lengths = {"pairs.mistakes.max_prompt_tokens": 300, "pairs.mistakes.max_tokens": 400}
    plan = changed(EVERY_KEY, lengths | {"engine.precision": "float32"})
    assert told(training.reference_settings(plan, "mistakes", "tiny.sft")) == {
        "max_prompt_tokens": 300,
        "max_tokens": 400,
        "batch_size": 16,
        "template": policies.template(plan, "tiny.sft"),
        "precision": "float32",
        "trust_remote_code": False,
    }
    assert told(training.ranked_settings(family(), "order", "two")) == {
        "max_prompt_tokens": 768,
        "max_tokens": 1024,
        "template": policies.template(family(), "two"),
    }
    assert told(training.reference_settings(family(), "mistakes", "two.sft"))["trust_remote_code"] is True


# --- rewarded answers, value heads, advantages ------------------------------------------------------------------


def offline(**more: object) -> dict:
    known = {"method": "r_lol", "parent": "sft", "annotation": "judged", "split": "train"}
    return known | {"validation": "validation", "learning_rate": 1e-4} | more


def test_runs_that_read_the_same_rewarded_rows_share_them_whatever_their_method_or_value():
    runs = {"same": offline(), "longer": offline(max_tokens=2048), "alone": offline(validation=None)}
    plan = changed(EVERY_KEY, {f"runs.{name}": run for name, run in runs.items()})
    folder = {name: training.material(plan, f"tiny.sft.{name}", 1) for name in (*runs, "lol")}
    assert folder["same"] == folder["lol"]
    assert len({folder[name] for name in ("lol", "longer", "alone")}) == 3
    for name in ("lol", "longer", "alone"):
        key = training.rewarded_key(plan.run(f"tiny.sft.{name}"))
        assert folder[name] == f"{RESULTS}/rewarded/{key}/tiny.sft/seed-1/manifest.json"
        assert training.rewarded_input(plan, key) == f"{RESULTS}/annotations/judged/manifest.json"
    assert len(training.rewarded_sets(plan)) == 3


def test_rewarded_rows_are_read_by_a_parent_as_it_speaks_and_as_long_as_the_run_says():
    plan = changed(EVERY_KEY, {"runs.lol.max_tokens": 900, "datasets.ranked.history_turns": 1})
    (key,) = training.rewarded_sets(plan)
    assert told(training.rewarded_settings(plan, key, "tiny.sft")) == {
        "max_prompt_tokens": 768,
        "max_tokens": 900,
        "batch_size": 16,
        "history_turns": 1,
        "template": policies.template(plan, "tiny.sft"),
        "precision": "auto",
        "trust_remote_code": False,
    }
    rows = "$RESULTS/annotations/judged/rows"
    wanted = [f"train={rows}/train.jsonl", f"validation={rows}/validation.jsonl"]
    assert training.rewarded_rows(plan, key) == wanted


def test_a_value_head_is_fitted_on_the_parents_rewarded_answers():
    rewards = f"{RESULTS}/policies/tiny.sft/seed-1/rewards/values-worth"
    assert training.value_input(PLAN, "worth", "tiny.sft", 1) == f"{rewards}.json"
    assert (
        training.value_rows(PLAN, "worth", "tiny.sft", 1)
        == "$RESULTS/policies/tiny.sft/seed-1/rewards/values-worth.jsonl"
    )


def test_a_value_head_on_dataset_targets_is_fitted_on_the_annotated_rows():
    for seed in (3, 5):
        manifest = training.value_input(family(), "worth", "one.sft", seed)
        assert manifest == f"{RESULTS}/annotations/judged/manifest.json"
        rows = training.value_rows(family(), "worth", "one.sft", seed)
        assert rows == "$RESULTS/annotations/judged/rows/train.jsonl"


def test_a_value_head_has_its_own_seed_and_is_told_how_its_policy_speaks():
    plan = changed(EVERY_KEY, {"seeds": [3], "values.worth.seed": 8, "values.worth.fit_batch": 4})
    assert training.value_seed(plan, "worth") == 8
    assert told(training.value_settings(plan, "worth", "tiny.sft")) == {
        "max_value": 3.0,
        "heads": 8,
        "dropout": 0.1,
        "learning_rate": 1e-5,
        "epochs": 10,
        "held_out": 0.2,
        "max_prompt_tokens": 768,
        "batch_size": 4,
        "history_turns": None,
        "template": policies.template(plan, "tiny.sft"),
        "precision": "auto",
        "trust_remote_code": False,
    }
    assert told(training.advantage_settings(plan, "tiny.sft")) == {
        "batch_size": 16,
        "precision": "auto",
        "trust_remote_code": False,
    }


def test_what_weighs_by_advantage_is_handed_those_of_its_parent_and_all_else_none():
    (key,) = training.rewarded_sets(family())
    folder = f"advantages/{key}/worth/one.sft/seed-5"
    assert training.advantages_manifest(family(), "one.sft.lol", 5) == [f"{RESULTS}/{folder}/manifest.json"]
    assert training.advantages_flags(family(), "one.sft.lol", 5) == [
        *("--advantages", f"$RESULTS/{folder}/advantages.jsonl"),
        *("--advantages-manifest", f"$RESULTS/{folder}/manifest.json"),
    ]
    plan = changed(EVERY_KEY, {"runs.nll": offline(method="nll")})
    assert training.advantages_manifest(plan, "tiny.sft.nll", 1) == []
    assert training.advantages_flags(plan, "tiny.sft.nll", 1) == []


# --- the jobs before --------------------------------------------------------------------------------------------


def test_the_jobs_that_prepare_a_training_are_the_parents():
    (key,) = training.rewarded_sets(family())
    wanted = {
        ("one.sft", 5): [],
        ("one.sft.dpo", 5): [("score_reference", "mistakes", "one.sft", 5)],
        ("two.pro", 5): [],
        ("two.sft.lol", 3): [
            ("score_rewarded", key, "two.sft", 3),
            ("fit_value", "worth", "two.sft", 3),
            ("estimate_advantages", f"{key}-worth", "two.sft", 3),
        ],
    }
    assert {cell: training.preparing_jobs(family(), *cell) for cell in wanted} == wanted
    assert training.preparing_jobs(PLAN, "tiny.sft.ppo", 1) == []
