"""The published study cannot run here; that its dry-run plan is right is what is tested."""

import json
import shlex
from collections import Counter

import pytest

from tests.dry_runs import Job, of_policy, of_rule, plan_of
from tests.workflow import ROOT
from workflow_scripts.study.checking import check_study, load_study
from workflow_scripts.study.lineage import policies_of
from workflow_scripts.study.templates import bundled_templates

BASES = ("llama", "mistral", "zephyr")
TRAINING = {"train_sft", "train_aligned", "train_reward_model"}
STUDIES = ["config.yaml", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("studies/*.yaml"))]


@pytest.fixture(scope="module")
def plan(fresh) -> list[Job]:
    return plan_of(fresh, "studies/tutorbot.yaml")


@pytest.fixture(scope="module")
def published(fresh) -> list[Job]:
    return plan_of(fresh, "studies/tutorbot-published.yaml")


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_that_ships_passes_the_check(study):
    assert load_study(ROOT / study).study


def test_the_plan_has_exactly_the_jobs_of_three_models_two_backends_and_three_alignments(plan):
    trained = 3 * (2 + 3)  # per base model: two SFT back-ends, three alignments of the first
    policies = 3 + trained
    scored = policies + 2  # the calibration rows
    assert Counter(job.rule for job in plan) == {
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
        "score_tutor": scored,
        "measure_likelihoods": scored,
        "score_pair_perplexity": scored,
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


def test_the_policies_carry_their_lineage():
    policies = policies_of(load_study(ROOT / "studies/tutorbot.yaml"))
    assert set(policies) == {
        *BASES,
        *(f"{base}.{run}" for base in BASES for run in ("sft", "sft_fastchat")),
        *(f"{base}.sft.{method}" for base in BASES for method in ("dpo", "ipo", "kto")),
    }


def test_training_and_answering_ask_for_four_gpus_and_reading_for_one(plan):
    heavy = of_rule(plan, *TRAINING, "answer_prompts")
    assert {job.resources["gpu"] for job in heavy} == {"4"}
    reading = of_rule(plan, "score_reference", "measure_likelihoods")
    assert {job.resources["gpu"] for job in reading} == {"0", "1"}, (
        "0: no model is read for the calibration rows"
    )
    assert {job.threads for job in of_rule(plan, *TRAINING)} == {32}
    assert {job.resources["mem_mb"] for job in of_rule(plan, *TRAINING)} == {"400000"}
    others = [job for job in plan if job not in heavy + reading]
    assert not any("gpu" in job.resources for job in others)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("run", ["sft", "sft_fastchat"])
def test_fine_tuning_has_the_published_hyper_parameters(plan, base, run):
    settings = of_policy(plan, "train_sft", f"{base}.{run}").settings
    assert settings["batch_size"] == 16
    published = {
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
    assert published.items() <= settings.items()
    assert of_policy(plan, "tokenise_dataset", f"{base}.{run}").settings["max_tokens"] == 4096


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_alignment_has_the_published_hyper_parameters(plan, base, method):
    job = of_policy(plan, "train_aligned", f"{base}.sft.{method}")
    assert f"workflow_scripts.align.{method} " in job.command
    assert job.settings["batch_size"] == 32
    published = {
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
    assert published.items() <= job.settings.items()
    reference = of_policy(plan, "score_reference", f"{base}.sft").settings
    assert (reference["max_prompt_tokens"], reference["max_tokens"]) == (3600, 4096)


def test_alignments_of_one_policy_share_its_reference_and_its_own_pairs(plan):
    for job in of_rule(plan, "train_aligned"):
        parent = job.wildcards["policy"].rsplit(".", 1)[0]
        assert job.inputs == [
            f"results/tutorbot/policies/{parent}/seed-42/manifest.json",
            f"results/tutorbot/reference/mistakes/{parent}/seed-42/manifest.json",
        ]


def test_all_speak_the_tutor_format_but_those_of_fastchat_which_speak_vicuna(plan):
    templates = bundled_templates()
    for job in of_rule(plan, "answer_prompts", "tokenise_dataset"):
        wanted = "vicuna" if "fastchat" in job.wildcards["policy"] else "tutor"
        assert job.settings["template"] == templates[wanted], job.wildcards


def test_answers_are_drawn_as_published_by_vllm(plan):
    for job in of_rule(plan, "build_prompts"):
        sampling = json.loads(shlex.split(job.command)[shlex.split(job.command).index("--sampling") + 1])
        assert (sampling["temperature"], sampling["max_new_tokens"], sampling["min_new_tokens"]) == (
            0.3,
            512,
            2,
        )
    for job in of_rule(plan, "answer_prompts"):
        assert job.settings["engine"]["name"] == "vllm"
        assert " --seed 42 " in job.command


def test_cleaning_follows_the_source(plan):
    (job,) = of_rule(plan, "clean_dataset")
    assert job.settings["split"]["quotas"] == {"sft": 200, "preference": 200, "test": 150}
    assert job.settings["split"]["per_file"]
    assert job.settings["reply_format"] == "python"
    assert job.settings["min_messages"] == 3
    assert job.settings["drop_fields"] == ["Thoughts of Tutorbot"]
    assert job.settings["replace_na"] == {
        "Evaluation of Student Response": "g",
        "Action Based on Evaluation": "12",
        "Subproblem State": "w",
    }
    (pairs,) = of_rule(plan, "clean_reply_pairs")
    assert (pairs.settings["system_prompt"], pairs.settings["reply_format"]) == (None, "raw")


def test_the_test_turns_are_looked_for_in_both_training_sets(plan):
    rows = "data/clean/tutorbot/tutor/rows"
    for job in of_rule(plan, "find_overlap"):
        words = shlex.split(job.command)
        training = words[words.index("--training") + 1 : words.index("--settings")]
        assert training == [f"tutor/{split}={rows}/{split}.jsonl" for split in ("preference", "sft")]
        assert job.settings["sizes"] == [13, 8]


def test_the_system_prompt_names_every_field_and_label():
    prompt = load_study(ROOT / "studies/tutorbot.yaml").datasets["tutor"].system_prompt
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


def test_the_published_checkpoints_are_scored_without_training(published):
    assert Counter(job.rule for job in published) == {
        "fetch_source": 9 + 1,
        "prepare_model": 9,
        "clean_dataset": 1,
        "clean_reply_pairs": 1,
        "build_prompts": 1,
        "answer_prompts": 9,
        "collect_answers": 9,
        "calibrate_answers": 2,
        "score_tutor": 11,
        "measure_likelihoods": 11,
        "score_pair_perplexity": 11,
        "index_scores": 1,
        "record_provenance": 1,
        "gather_costs": 1,
        "build_table": 1,
        "draw_policy_bars": 1,
        "render_report": 1,
        "results": 1,
    }


def test_the_published_checkpoints_answer_the_same_test_turns():
    trained, published = (
        load_study(ROOT / f"studies/{name}.yaml") for name in ("tutorbot", "tutorbot-published")
    )
    assert published.datasets == trained.datasets
    assert published.benchmarks == trained.benchmarks
    assert published.engine == trained.engine
    assert published.sources["dialogues"] == trained.sources["dialogues"]
    assert published.runs == {}
    repositories = {source.places[0].hf.repo for source in published.sources.values() if source.places[0].hf}
    assert len(repositories) == 9
    assert all(name.startswith("kangqi-ni/") for name in repositories)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_written_out_with_its_defaults_is_the_same_study(study):
    read = load_study(ROOT / study)
    assert check_study(json.loads(read.model_dump_json(by_alias=True))) == read
