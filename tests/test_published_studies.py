"""The published studies beside Tutorbot's cannot run here; that they say what was published, and plan right, is tested.

The numbers written out here are the papers' and the source repositories', not read from the studies.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.test_tutorbot_plan import Job, of_policy, of_rule, plan_of
from tests.workflow import ROOT, copy_repository
from workflow_scripts.common.schema import GivenReward, Study
from workflow_scripts.common.study import bundled_templates, load_study, policies_of

EIGHT = ("nll", "wbc", "r_gold", "r_lol", "a_lol", "a_lol_seq", "a_lol_ref_free", "a_lol_kl")
BY_ADVANTAGE = EIGHT[4:]
NAMES = (
    "instruction_modelling",
    "leftover_lunch_hh",
    "leftover_lunch_comet",
    "leftover_lunch_reddit",
    "leftover_lunch_wow",
    "follow_instructions",
)


def study_of(name: str) -> Study:
    return load_study(ROOT / f"studies/{name}.yaml")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """A copy of the repository in which dry-runs show each job's details (see test_tutorbot_plan)."""
    folder = copy_repository(tmp_path_factory.mktemp("fresh"))
    for path in folder.glob("rules/*.smk"):
        path.write_text(re.sub(r"^    message:\n.*\n", "", path.read_text(), flags=re.MULTILINE))
    return folder


@pytest.fixture(scope="module")
def plans(fresh) -> dict[str, list[Job]]:
    return {name: plan_of(fresh, f"studies/{name}.yaml") for name in NAMES}


def batch_of(job: Job, processes: int = 1) -> int:
    return job.settings["per_device_batch"] * job.settings["accumulate"] * processes


def module_of(job: Job) -> str:
    return job.command.split("workflow_scripts.")[1].split()[0]


# --- what holds for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_is_trained_once_and_scored_on_every_benchmark(plans, name):
    study, jobs = study_of(name), plans[name]
    policies = policies_of(study)
    trained = of_rule(jobs, "train_sft", "train_aligned", "train_ranked", "train_offline", "train_online")
    assert Counter(job.wildcards["policy"] for job in trained) == Counter(
        policy for policy, facts in policies.items() if facts.parent
    )
    scores = [job for job in jobs if job.rule.startswith("score_") and "benchmark" in job.wildcards]
    wanted = {(policy, name) for policy in [*policies, "gold", "empty"] for name in study.benchmarks}
    assert Counter((job.wildcards["policy"], job.wildcards["benchmark"]) for job in scores) == Counter(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_each_policy_is_trained_by_the_module_of_its_method(plans, name):
    policies = policies_of(study_of(name))
    for job in of_rule(plans[name], "train_aligned", "train_ranked", "train_offline", "train_online"):
        assert module_of(job) == f"align.{policies[job.wildcards['policy']].method}"
    for job in of_rule(plans[name], "train_sft"):
        assert module_of(job) == "sft.train"


@pytest.mark.parametrize("name", NAMES)
def test_all_the_methods_from_one_parent_learn_from_one_reference_and_one_value_head(plans, name):
    study, jobs = study_of(name), plans[name]
    policies = policies_of(study)
    learners = [study.runs[facts.run] for facts in policies.values() if facts.parent]
    parents = {
        (facts.parent, study.runs[facts.run].annotation)
        for facts in policies.values()
        if facts.method in EIGHT
    }
    assert len(of_rule(jobs, "score_rewarded")) == len(parents)
    heads = {run.value for run in learners if run.method in BY_ADVANTAGE}
    assert len(of_rule(jobs, "fit_value")) == len(of_rule(jobs, "estimate_advantages")) == len(heads)


@pytest.mark.parametrize("name", NAMES)
def test_files_from_the_web_are_pinned_by_a_commit(name):
    for source in study_of(name).sources.values():
        for place in source.places:
            for url in place.https.files.values() if place.https else ():
                assert url.startswith("https://raw.githubusercontent.com/")
                assert len(url.split("/")[5]) == 40, url


@pytest.mark.parametrize("name", NAMES)
def test_the_small_study_runs_every_rule_of_the_published_one(fresh, plans, name):
    small = plan_of(fresh, f"studies/{name}-small.yaml")
    assert {job.rule for job in plans[name]} <= {job.rule for job in small}


@pytest.mark.parametrize("name", NAMES)
def test_the_small_study_has_the_same_kinds_of_parts_as_the_published_one(name):
    published, small = (kinds_of(study_of(study)) for study in (name, f"{name}-small"))
    for part, kinds in published.items():
        assert kinds <= small[part], part
    assert published["methods"] == small["methods"]


def kinds_of(study: Study) -> dict[str, set]:
    """Return what a study is made of: the choices that lead to other code, each part's as a set."""
    runs = list(study.runs.values())
    rewards = [reward for part in study.annotations.values() for reward in part.rewards.values()]
    objectives = [run for run in runs if run.method == "sft"]
    return {
        "methods": {run.method for run in runs},
        "objectives": {
            (run.objective, run.loss_norm, bool(run.neftune_alpha), bool(run.kl)) for run in objectives
        },
        "adapters": {run.lora is not None for run in runs},
        "sampling": {getattr(run, "sampling", None) for run in runs},
        "reductions": {getattr(run, "logp_reduction", None) for run in runs},
        "reference_free": {getattr(run, "reference_free", None) for run in runs},
        "schemas": {part.data_schema for part in study.datasets.values()} - {"tutorbot"},
        "splits": {bool(part.split.by_file) for part in study.datasets.values()} & {True},
        "rewards": {type(reward).__name__ for reward in rewards},
        "rules": {getattr(reward, "rule", None) for reward in rewards} & {"tfidf_diversity"},
        "texts": {getattr(reward, "text", "dialogue") for reward in rewards} - {"dialogue"},
        "templates": {model.template for model in study.models.values()} - {"llama2_chat"},
        "benchmarks": {part.kind for part in study.benchmarks.values()},
    }


# --- instruction modelling ------------------------------------------------------------------------------------------

SETS = {  # Table 5
    "lima": 1030,
    "dolly_3k": 2996,
    "dolly_9k": 9229,
    "alpaca_5k": 5305,
    "tydiqa": 13533,
    "mmlu_chat": 13533,
    "bbh_icl": 13533,
}
BASES = ("llama2_7b", "llama2_13b", "opt_6_7b")


def test_instruction_modelling_is_seven_sets_by_three_objectives_by_three_models_and_more_on_one():
    policies = policies_of(study_of("instruction_modelling"))
    grid = {f"{base}.{rows}_{how}" for base in BASES for rows in SETS for how in ("it", "im", "neftune")}
    on_7b = {f"llama2_7b.{rows}_im_neftune" for rows in SETS}
    on_7b |= {f"llama2_7b.lima_kl_{weight}" for weight in ("0_01", "0_1", "1")} | {"llama2_7b.dolly_9k_kl_1"}
    assert set(policies) == {*BASES, "llama2_7b_chat", *grid, *on_7b}


def test_instruction_modelling_trains_with_the_published_hyper_parameters(plans):
    jobs = of_rule(plans["instruction_modelling"], "train_sft")
    published = {
        "learning_rate": 2e-5,
        "epochs": 2,
        "schedule": "linear",
        "warmup": 0.03,
        "weight_decay": 0.0,
        "precision": "bfloat16",
        "loss_norm": "example",
        "pack_tokens": None,
        "lora": None,
    }
    for job in jobs:
        assert batch_of(job, processes=4) == 128
        assert job.settings["per_device_batch"] == 1
        assert published.items() <= job.settings.items()
        wanted = 5.0 if "neftune" in job.wildcards["policy"] else None
        assert job.settings["neftune_alpha"] == wanted
    weights = {"lima_kl_0_01": 0.01, "lima_kl_0_1": 0.1, "lima_kl_1": 1.0, "dolly_9k_kl_1": 1.0}
    found = {job.wildcards["policy"].split(".")[1]: job.settings["kl"] for job in jobs if job.settings["kl"]}
    assert found == {run: {"weight": weight, "form": "gold"} for run, weight in weights.items()}


def test_instruction_modelling_tokenises_for_each_objective_in_the_tulu_format(plans):
    for job in of_rule(plans["instruction_modelling"], "tokenise_dataset"):
        how = job.wildcards["policy"].split(".")[1]
        assert job.settings["objective"] == ("im" if how.endswith(("_im", "_im_neftune")) else "it")
        assert job.settings["im_mask"] == ("code" if job.settings["objective"] == "im" else "paper")
        assert (job.settings["max_tokens"], job.settings["overflow"]) == (2048, "cut")
        assert job.settings["template"] == bundled_templates()["tulu"]


def test_instruction_modelling_trains_on_every_row_the_paper_counts():
    datasets = study_of("instruction_modelling").datasets
    assert {name: part.split.quotas for name, part in datasets.items() if name != "held_out"} == {
        name: {"train": rows} for name, rows in SETS.items()
    }
    assert not any(part.subset for part in datasets.values())


def test_instruction_modelling_asks_the_papers_tasks_with_its_numbers_of_examples():
    benchmarks = study_of("instruction_modelling").benchmarks
    asked = {
        task: part.num_fewshot
        for part in benchmarks.values()
        if part.kind == "lm_eval"
        for task in part.tasks
    }
    assert asked == {
        "mmlu": 5,
        "piqa": 10,
        "openbookqa": 0,
        "hellaswag": 10,
        "lambada": 0,
        "lambada_multilingual": 0,
        "wsc273": 0,
        "winogrande": 5,
        "ai2_arc": 25,
        "coqa": 0,
        "gsm8k_cot": None,
        "bbh_cot_fewshot": None,
        "truthfulqa_mc2": None,
        "toxigen": 0,
        "hendrycks_ethics": 0,
    }
    programs = [part for part in benchmarks.values() if part.kind == "humaneval"]
    assert {part.temperature for part in programs} == {0.1, 0.7}
    assert {(part.samples, part.top_p, part.max_new_tokens) for part in programs} == {(20, 0.95, 512)}
    kinds = Counter(part.kind for part in benchmarks.values())
    assert (kinds["mt_bench"], kinds["alpaca_eval"], kinds["loss"]) == (1, 2, 4)


# --- leftover lunch: the assistant ----------------------------------------------------------------------------------


def test_the_assistant_is_made_by_eight_objectives_and_four_baselines_from_one_reference():
    policies = policies_of(study_of("leftover_lunch_hh"))
    others = ("dpo", "dpo_ref_free", "pro", "ppo")
    assert set(policies) == {
        "llama",
        "llama.ref",
        *(f"llama.ref.{run}" for run in (*EIGHT, *others)),
    }


def test_the_assistant_is_trained_with_the_published_hyper_parameters(plans):
    jobs = plans["leftover_lunch_hh"]
    trained = of_rule(jobs, "train_aligned", "train_ranked", "train_offline", "train_online")
    published = {
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 0.3,
        "optimizer": "paged_adamw_32bit",
        "quantise": "nf4",
        "lora": {"rank": 64, "alpha": 16.0, "dropout": 0.05, "targets": "all-linear"},
    }
    for job in trained:
        assert published.items() <= job.settings.items()
        assert batch_of(job) == 16
        shape = (4, 4) if job.rule in ("train_offline", "train_online") else (2, 8)
        assert (job.settings["per_device_batch"], job.settings["accumulate"]) == shape
        assert job.settings["learning_rate"] == (2e-5 if job.rule == "train_online" else 2e-4)
        if job.rule != "train_online":
            assert (job.settings["epochs"], job.settings["max_steps"]) == (1, None)


def test_the_assistants_objectives_clip_and_sample_as_published(plans):
    jobs = plans["leftover_lunch_hh"]
    settings = {run: of_policy(jobs, "train_offline", f"llama.ref.{run}").settings for run in EIGHT}
    assert {settings[run]["clip"] for run in ("r_lol", "a_lol", "a_lol_seq")} == {0.9}
    assert {settings[run]["sampling"] for run in EIGHT if run != "nll"} == {"good_priority"}
    assert settings["nll"]["sampling"] == "none"
    assert (settings["r_gold"]["floor"], settings["a_lol_kl"]["beta"]) == (0.1, 0.2)
    dpo, free = (
        of_policy(jobs, "train_aligned", f"llama.ref.{run}").settings for run in ("dpo", "dpo_ref_free")
    )
    assert (dpo["beta"], dpo["logp_reduction"], dpo["reference_free"]) == (0.1, "sum", False)
    assert free == dpo | {"reference_free": True}
    assert of_policy(jobs, "train_ranked", "llama.ref.pro").settings["sft_weight"] == 0.05
    ppo = of_policy(jobs, "train_online", "llama.ref.ppo").settings
    published = {
        "max_steps": 6000,
        "rollout_batch": 16,
        "ppo_epochs": 4,
        "target_kl": 0.1,
        "top_p": 0.95,
        "max_new_tokens": 128,
        "score_scaling": True,
        "score_norm": True,
    }
    assert published.items() <= ppo.items()


def test_the_assistants_prompts_keep_640_tokens_and_answers_128(plans):
    jobs = plans["leftover_lunch_hh"]
    for job in of_rule(jobs, "score_rewarded", "score_reference"):
        assert (job.settings["max_prompt_tokens"], job.settings["max_tokens"]) == (640, 640 + 128)
        assert job.settings["template"] == bundled_templates()["hh"]
    (ranked,) = of_rule(jobs, "tokenise_ranked")
    assert (ranked.settings["max_prompt_tokens"], ranked.settings["max_tokens"]) == (512, 1024)


def test_the_assistants_value_is_fitted_on_the_references_answers_to_the_dev_prompts(plans):
    (job,) = of_rule(plans["leftover_lunch_hh"], "fit_value")
    published = {"max_value": 1.0, "heads": 8, "dropout": 0.1, "learning_rate": 1e-5, "epochs": 10}
    assert (published | {"batch_size": 16}).items() <= job.settings.items()
    assert job.wildcards["policy"] == "llama.ref"
    (prompts,) = [
        job
        for job in of_rule(plans["leftover_lunch_hh"], "build_prompts")
        if job.wildcards["prompts"] == "values-expected"
    ]
    assert "/hh_test/rows/dev.jsonl" in prompts.command


def test_the_assistant_learns_from_the_logits_in_the_file_and_is_tested_by_the_model_that_gave_them():
    study = study_of("leftover_lunch_hh")
    given, asked = (study.annotations[name].rewards["rm"] for name in ("given", "asked_test"))
    assert isinstance(given, GivenReward)
    assert (given.squash, asked.squash) == ("sigmoid", "sigmoid")
    assert (asked.text, asked.max_tokens) == ("oasst", 1024)
    assert {run.annotation for run in study.runs.values() if run.method in EIGHT} == {"given"}
    assert {part.annotation for part in study.benchmarks.values()} == {"asked_test"}
    subsets = {"harmless_base", "helpful_base", "helpful_online", "helpful_rejection"}
    assert {part.split for part in study.benchmarks.values()} == subsets


def test_of_the_assistants_rows_only_training_pairs_with_a_colon_at_the_end_are_left_out():
    datasets = study_of("leftover_lunch_hh").datasets
    assert (datasets["hh"].reject_colon, datasets["hh_test"].reject_colon) == (True, False)


# --- leftover lunch: the small tasks --------------------------------------------------------------------------------

SMALL_TASKS = {
    "comet": {"sets": ("",), "max_value": 1.0, "epochs": 1, "batch": (16, 1), "reply": 30},
    "reddit": {"sets": ("_pos", "_neg"), "max_value": 5.0, "epochs": 3, "batch": (8, 2), "reply": 128},
    "wow": {
        "sets": ("_wow", "_faithdial", "_faithdial_wow"),
        "max_value": 4.0,
        "epochs": 3,
        "batch": (8, 2),
        "reply": 128,
    },
}


@pytest.mark.parametrize("task", SMALL_TASKS)
def test_a_small_task_has_eight_objectives_on_each_set_from_the_sets_own_reference(task):
    policies = set(policies_of(study_of(f"leftover_lunch_{task}")))
    if task == "comet":  # starts from a model that was trained on the task
        assert policies == {"comet", *(f"comet.{run}" for run in EIGHT)}
        return
    sets = SMALL_TASKS[task]["sets"]
    assert policies == {
        "dialogpt",
        *(f"dialogpt.ref{rows}" for rows in sets),
        *(f"dialogpt.ref{rows}.{run}{rows}" for rows in sets for run in EIGHT),
    }


@pytest.mark.parametrize("task", SMALL_TASKS)
def test_a_small_task_is_trained_with_the_published_hyper_parameters(plans, task):
    facts = SMALL_TASKS[task]
    published = {
        "learning_rate": 2e-5,
        "schedule": "linear",
        "warmup": 0.0,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "lora": None,
    }
    for job in of_rule(plans[f"leftover_lunch_{task}"], "train_offline"):
        assert published.items() <= job.settings.items()
        assert (job.settings["per_device_batch"], job.settings["accumulate"]) == facts["batch"]
        reference = job.wildcards["policy"].rsplit(".", 1)[1].startswith("ref_")
        assert job.settings["epochs"] == (6 if reference else facts["epochs"])
        method = module_of(job).removeprefix("align.")
        assert job.settings["sampling"] == ("none" if method == "nll" else "good_priority")
        if method in ("r_lol", "a_lol", "a_lol_seq"):
            assert job.settings["clip"] == 0.9
    for job in of_rule(plans[f"leftover_lunch_{task}"], "score_rewarded"):
        assert job.settings["max_prompt_tokens"] == 512
        assert job.settings["max_tokens"] == 512 + facts["reply"]


@pytest.mark.parametrize("task", SMALL_TASKS)
def test_a_small_tasks_value_head_is_published_and_each_set_has_its_own(plans, task):
    facts = SMALL_TASKS[task]
    jobs = of_rule(plans[f"leftover_lunch_{task}"], "fit_value")
    assert len(jobs) == len(facts["sets"])
    published = {"max_value": facts["max_value"], "heads": 8, "learning_rate": 2e-5, "epochs": 5}
    for job in jobs:
        assert published.items() <= job.settings.items()


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("comet", {"p_valid": ("critic", "event", None)}),
        (
            "reddit",
            {
                "fluency": ("sequence", "reply", 1),
                "depth": ("sequence", "context", None),
                "updown": ("sequence", "context", None),
                "safe": ("offensive", "context", 0),
                "tfidf": "tfidf_diversity",
            },
        ),
        (
            "wow",
            {
                "fluency": ("sequence", "reply", 1),
                "faithdial": ("sequence", "knowledge", 0),
                "depth": ("sequence", "context", None),
                "tfidf": "tfidf_diversity",
            },
        ),
    ],
)
def test_a_small_tasks_reward_is_the_plain_sum_of_the_published_attributes(task, columns):
    study = study_of(f"leftover_lunch_{task}")
    for annotation in study.annotations.values():
        found = {
            name: part.rule if hasattr(part, "rule") else (part.head, part.text, part.label)
            for name, part in annotation.rewards.items()
        }
        assert found == columns
        assert {part.weight for part in annotation.rewards.values()} == {1.0}
        assert all(getattr(part, "squash", "sigmoid") == "sigmoid" for part in annotation.rewards.values())
    assert {value.max_value for value in study.values.values()} == {float(len(columns))}


def test_reddit_rows_are_cleaned_as_published():
    for dataset in study_of("leftover_lunch_reddit").datasets.values():
        assert (dataset.max_words, dataset.url_token) == (100, "<URL>")


# --- the book -------------------------------------------------------------------------------------------------------


def test_the_books_policies_are_its_baseline_its_four_exercises_and_dpo():
    assert set(policies_of(study_of("follow_instructions"))) == {
        "gpt2",
        "gpt2.full",
        "gpt2.masked",
        "gpt2.phi3",
        "gpt2.lora",
        "gpt2.alpaca_52k",
        "gpt2.full.polite",
    }


def test_the_books_fine_tuning_has_its_hyper_parameters(plans):
    jobs = plans["follow_instructions"]
    for job in of_rule(jobs, "train_sft"):
        published = {
            "learning_rate": 5e-5,
            "weight_decay": 0.1,
            "epochs": 2,
            "schedule": "constant",
            "warmup": 0.0,
            "loss_norm": "token",
        }
        assert published.items() <= job.settings.items()
        large = job.wildcards["policy"] == "gpt2.alpaca_52k"
        assert batch_of(job) == (4 if large else 8)
        assert " --seed 123 " in job.command
        limit = of_policy(jobs, "tokenise_dataset", job.wildcards["policy"]).settings["max_tokens"]
        assert limit == (512 if large else 1024)
    lora = of_policy(jobs, "train_sft", "gpt2.lora").settings["lora"]
    assert lora["rank"] == 16
    assert lora["alpha"] / lora["rank"] == 16  # the book scales by α itself


def test_the_book_learns_prompts_too_unless_they_are_masked_and_phi3_speaks_its_own_format(plans):
    jobs = plans["follow_instructions"]
    for job in of_rule(jobs, "tokenise_dataset"):
        policy = job.wildcards["policy"]
        objective = (job.settings["objective"], job.settings["im_mask"])
        assert objective == (("it", "code") if policy == "gpt2.masked" else ("im", "code"))
        wanted = "phi3" if policy == "gpt2.phi3" else "alpaca"
        assert job.settings["template"] == bundled_templates()[wanted]


def test_the_books_dpo_averages_log_probs(plans):
    job = of_policy(plans["follow_instructions"], "train_aligned", "gpt2.full.polite")
    published = {
        "beta": 0.1,
        "logp_reduction": "mean",
        "learning_rate": 5e-6,
        "weight_decay": 0.01,
        "epochs": 1,
    }
    assert published.items() <= job.settings.items()
    assert batch_of(job) == 8


def test_the_books_rows_are_split_in_the_order_of_the_file():
    datasets = study_of("follow_instructions").datasets
    for name in ("instructions", "preferences"):
        assert datasets[name].split.order == "file"
        assert datasets[name].split.quotas == {"train": 935, "test": 110, "validation": 55}
    assert list(datasets["instructions"].split.quotas) == ["train", "test", "validation"]
    assert sum(datasets["alpaca_52k"].split.quotas.values()) == 52002
