"""The published study cannot run here; that its plan is right is what is tested."""

import json
from collections import Counter

import pytest

from tests.dry_runs import Job, of_rule, plan_of
from tests.plans import SHIPPED, planned, study_of, told, training_told
from tests.workflow import ROOT
from workflow_scripts.plan import cleaning, overlap, policies, prompts, resources, scoring, training
from workflow_scripts.plan.index import score_files
from workflow_scripts.plan.plan import cells, scored_cells, trained_cells
from workflow_scripts.plan.report import figures
from workflow_scripts.study.checking import check_study, load_study
from workflow_scripts.study.templates import all_templates, bundled_templates

BASES = ("llama", "mistral", "zephyr")
ALIGNED = [f"{base}.sft.{method}" for base in BASES for method in ("dpo", "ipo", "kto")]
TUNED = [f"{base}.{run}" for base in BASES for run in ("sft", "sft_fastchat")]
PLAN = planned("tutorbot")


@pytest.fixture(scope="module")
def jobs(fresh) -> list[Job]:
    return plan_of(fresh, "studies/tutorbot.yaml")


@pytest.mark.parametrize("study", SHIPPED)
def test_every_study_that_ships_passes_the_check(study):
    assert load_study(ROOT / study).study


def test_the_plan_has_exactly_the_jobs_of_three_models_two_backends_and_three_alignments(jobs):
    trained = 3 * (2 + 3)  # per base model: two SFT back-ends, three alignments of the first
    policies = 3 + trained
    scored = policies + 2  # the calibration rows
    assert Counter(job.rule for job in jobs) == {
        "fetch_source": 3 + 1,
        "prepare_model": 3,
        "clean_dataset": 1,
        "clean_reply_pairs": 1,
        "tokenise_dataset": 3 * 2,
        "train_sft": 3 * 2,
        "build_prompts": 2,  # the test turns, and those that pairs are made from
        "answer_prompts": policies,
        "collect_answers": policies + 3,  # each answers the test turns, each `sft` its preference turns too
        "calibrate_answers": 2,
        "build_pairs": 3,
        "score_reference": 3,  # one for three alignments
        "train_aligned": 3 * 3,
        "score_answers": scored,
        "measure_likelihoods": scored,
        "score_measured": scored,
        "find_overlap": 2,  # of the test turns, and of the hints and solutions
        "index_scores": 1,
        "record_provenance": 1,
        "gather_costs": 1,
        "build_table": 1,
        "draw_loss_curves": 1,
        "summarise_training": 1,
        "draw_policy_bars": 1,
        "render_report": 1,
        "results": 1,
    }


def test_the_policies_carry_their_lineage_and_are_trained_and_scored_once():
    assert set(PLAN.policies) == {*BASES, *TUNED, *ALIGNED}
    assert Counter(trained_cells(PLAN)) == Counter((policy, 42) for policy in [*TUNED, *ALIGNED])
    assert Counter(cells(PLAN)) == Counter((policy, 42) for policy in PLAN.policies)
    assert len(score_files(PLAN)) == len(set(score_files(PLAN))) == (18 + 2) * 2


def test_each_policy_answers_the_test_turns_and_those_that_are_aligned_their_preference_turns_too():
    owed = {policy: prompts.owed(PLAN, policy) for policy in PLAN.policies}
    parents = {f"{base}.sft" for base in BASES}
    assert {policy for policy, sets in owed.items() if sets == ["pairs-mistakes", "tutor"]} == parents
    assert all(sets == ["tutor"] for policy, sets in owed.items() if policy not in parents)


def test_training_and_answering_ask_for_four_gpus_and_reading_for_one():
    for asked in (PLAN.study.training_resources, PLAN.study.generation_resources):
        assert resources.asked(asked)["gpu"] == 4
    assert resources.one_gpu(PLAN) == 1
    gpus = {resources.scoring_gpus(PLAN, policy) for policy in PLAN.policies}
    assert gpus == {1}
    assert {resources.scoring_gpus(PLAN, policy) for policy in ("gold", "empty")} == {0}, "no model is read"
    assert {training.threads(PLAN, policy) for policy in PLAN.trained()} == {32}
    assert resources.asked(PLAN.study.training_resources)["mem_mb"] == 400000


def test_nothing_but_training_answering_and_reading_asks_for_gpus(jobs):
    asked = {job.rule: set() for job in jobs if "gpu" in job.resources}
    for job in jobs:
        if job.rule in asked:
            asked[job.rule].add(job.resources.get("gpu"))
    four, one = {"4"}, {"1"}
    assert asked == {
        "train_sft": four,
        "train_aligned": four,
        "answer_prompts": four,
        "score_reference": one,
        "measure_likelihoods": {"0", "1"},
    }
    trained = of_rule(jobs, "train_sft", "train_aligned")
    assert {(job.threads, job.resources["mem_mb"]) for job in trained} == {(32, "400000")}


@pytest.mark.parametrize("policy", TUNED)
def test_fine_tuning_has_the_published_hyper_parameters(policy):
    published = {
        "batch_size": 16,
        "learning_rate": 2e-5,
        "epochs": 3,
        "schedule": "cosine",
        "warmup": 0.1,
        "weight_decay": 0.05,
        "precision": "bfloat16",
        "optimizer": "paged_adamw_32bit",
        "gradient_checkpointing": True,
        "pack_tokens": None,
    }
    assert training.rule_of(PLAN, policy) == "train_sft"
    assert published.items() <= training_told(PLAN, policy).items()
    assert told(training.tokens_settings(PLAN, policy))["max_tokens"] == 4096


@pytest.mark.parametrize("policy", ALIGNED)
def test_alignment_has_the_published_hyper_parameters(policy):
    method = policy.rsplit(".", 1)[1]
    assert training.rule_of(PLAN, policy) == "train_aligned"
    assert training.module_of(PLAN, policy) == f"workflow_scripts.align.{method}"
    published = {
        "batch_size": 16 if method == "kto" else 32,  # 32 rows of one reply each are 16 pairs
        "learning_rate": 1e-7,
        "epochs": 3,
        "beta": 0.1,
        "schedule": "cosine",
        "warmup": 0.1,
        "weight_decay": 0.05,
        "precision": "bfloat16",
        "gradient_checkpointing": True,
        "share_prompts": False,
    }
    assert published.items() <= training_told(PLAN, policy).items()
    reference = told(training.reference_settings(PLAN, "mistakes", policy.rsplit(".", 1)[0]))
    assert (reference["max_prompt_tokens"], reference["max_tokens"]) == (3600, 4096)


@pytest.mark.parametrize("policy", ALIGNED)
def test_alignments_of_one_policy_share_its_reference_and_its_own_pairs(policy):
    parent = policy.rsplit(".", 1)[0]
    folder = "results/tutorbot"
    assert policies.parent_manifest(PLAN, policy, 42) == f"{folder}/policies/{parent}/seed-42/manifest.json"
    reference = f"{folder}/reference/mistakes/{parent}/seed-42/manifest.json"
    assert training.material(PLAN, policy, 42) == reference
    pairs = f"{folder}/pairs/mistakes/{parent}/seed-42/manifest.json"
    assert training.pairs_manifest(PLAN, "mistakes", parent, 42) == pairs


def test_an_alignment_waits_for_its_parent_and_its_reference(jobs):
    for job in of_rule(jobs, "train_aligned"):
        policy, seed = job.wildcards["policy"], job.wildcards["seed"]
        wanted = [policies.parent_manifest(PLAN, policy, seed), training.material(PLAN, policy, seed)]
        assert job.inputs == wanted


def test_each_back_end_learns_in_its_own_format_and_all_are_asked_and_aligned_in_one():
    templates = all_templates(PLAN.study)
    asked = templates["tutorbot_asked"]
    for policy in PLAN.policies:
        assert told(prompts.answering_settings(PLAN, policy))["template"] == asked, policy
    for policy in TUNED:
        settings = told(training.tokens_settings(PLAN, policy))
        learned = templates["tutorbot_fastchat" if "fastchat" in policy else "tutorbot_sft"]
        assert (settings["template"], settings["asked_in"]) == (learned, asked), policy
    for base in BASES:
        assert told(training.reference_settings(PLAN, "mistakes", f"{base}.sft"))["template"] == asked


def test_the_published_checkpoints_are_asked_in_the_format_that_trained_ones_are_asked_in():
    published = planned("tutorbot-published")
    for policy in published.policies:
        spoken = told(prompts.answering_settings(published, policy))["template"]
        assert spoken == bundled_templates()["tutorbot_asked"]


def test_answers_are_drawn_as_published_by_vllm():
    published = {"temperature": 0.3, "max_new_tokens": 512, "min_new_tokens": 2}
    assert prompts.prompt_sets(PLAN).keys() == {"tutor", "pairs-mistakes"}
    for name in prompts.prompt_sets(PLAN):
        assert published.items() <= told(prompts.sampling(PLAN, name)).items()
    for policy in PLAN.policies:
        assert told(prompts.answering_settings(PLAN, policy))["engine"]["name"] == "vllm"
    assert "workflow_scripts.generate.vllm_engine" in scoring.engine_code(PLAN)
    assert {seed for _, seed in cells(PLAN)} == {42}


def test_answers_are_drawn_by_the_seed_of_the_policy(jobs):
    assert all(" --seed 42 " in job.command for job in of_rule(jobs, "answer_prompts"))


def test_cleaning_follows_the_source():
    settings = told(cleaning.dataset_settings(PLAN, "tutor"))
    assert settings["split"]["quotas"] == {"sft": 200, "preference": 200, "test": 150}
    assert settings["split"]["per_file"]
    assert settings["reply_format"] == "python"
    assert settings["min_messages"] == 3
    assert settings["drop_fields"] == ["Thoughts of Tutorbot"]
    assert settings["replace_na"] == {
        "Evaluation of Student Response": "g",
        "Action Based on Evaluation": "12",
        "Subproblem State": "w",
    }
    assert list(PLAN.study.datasets) == ["tutor"]
    assert cleaning.paired(PLAN) == ["pair_perplexity"]
    pairs = told(cleaning.paired_settings(PLAN, "pair_perplexity"))
    assert (pairs["system_prompt"], pairs["raw_rows"]) == (None, True)


def test_the_test_turns_are_looked_for_in_both_training_sets():
    rows = "data/clean/tutorbot/tutor/rows"
    assert overlap.compared(PLAN) == ["tutor", "pair_perplexity"]
    wanted = [f"tutor/{split}={rows}/{split}.jsonl" for split in ("preference", "sft")]
    assert overlap.training_words(PLAN) == wanted
    assert set(overlap.training_inputs(PLAN)) == {"data/clean/tutorbot/tutor/manifest.json"}
    assert told(overlap.SETTINGS)["sizes"] == [13, 8]


def test_the_system_prompt_names_every_field_and_label():
    prompt = PLAN.study.datasets["tutor"].system_prompt
    assert all(f"{letter})" in prompt for letter in "abcdefgwxyz")
    assert all(f" {number})" in prompt for number in range(1, 13))
    fields = (
        "Evaluation of Student Response",
        "Action Based on Evaluation",
        "Subproblem State",
        "Subproblem",
    )
    assert all(f"'{field}'" in prompt for field in (*fields, "Tutorbot"))
    assert "Student:" not in prompt  # the text format's own mark


def test_the_published_checkpoints_are_scored_without_training():
    published = planned("tutorbot-published")
    assert published.trained() == trained_cells(published) == overlap.compared(published) == []
    assert len(cells(published)) == len(published.study.models) == len(published.study.sources) - 1 == 9
    assert all(prompts.owed(published, policy) == ["tutor"] for policy in published.policies)
    assert prompts.prompt_sets(published).keys() == {"tutor"}
    assert len(scored_cells(published)) == 11
    assert len(set(score_files(published))) == 11 * 2
    assert scoring.scored_from(published, "answers") == ["tutor"]
    assert scoring.scored_from(published, "likelihoods") == ["pair_perplexity"]
    assert cleaning.paired(published) == ["pair_perplexity"]
    assert figures(published) == ["results/tutorbot-published/figures/policy_bars.svg"]


def test_the_published_checkpoints_answer_the_same_test_turns():
    trained, published = (study_of(name) for name in ("tutorbot", "tutorbot-published"))
    assert published.datasets == trained.datasets
    assert published.benchmarks == trained.benchmarks
    assert published.engine == trained.engine
    assert published.sources["dialogues"] == trained.sources["dialogues"]
    assert published.runs == {}
    repositories = {source.places[0].hf.repo for source in published.sources.values() if source.places[0].hf}
    assert len(repositories) == 9
    assert all(name.startswith("kangqi-ni/") for name in repositories)


@pytest.mark.parametrize("study", SHIPPED)
def test_a_study_written_out_with_its_defaults_is_the_same_study(study):
    read = study_of(study)
    again = check_study(json.loads(read.model_dump_json(by_alias=True)))
    assert again.model_dump() == read.model_dump()
