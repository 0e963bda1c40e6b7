"""The published studies beside Tutorbot's cannot run here; that they say what was published, and plan right, is tested.

The numbers written out here are the papers' and the source repositories', not read from the studies.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable

import pytest
import yaml

from tests.dry_runs import Job, of_rule, plan_of
from tests.plans import planned, study_of, told, training_told
from tests.workflow import ROOT
from workflow_scripts.plan import judging, overlap, policies, prompts, scoring, training
from workflow_scripts.plan.index import score_files
from workflow_scripts.plan.plan import cells, scored_cells, trained_cells
from workflow_scripts.study.datasets import Dataset, schemas_of
from workflow_scripts.study.judges import OpenAIJudge
from workflow_scripts.study.lineage import policies_of
from workflow_scripts.study.rewards import GivenReward
from workflow_scripts.study.study import Study
from workflow_scripts.study.templates import bundled_templates

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
PLANNED = (*NAMES, "smollm2")  # which runs anywhere


@pytest.fixture(scope="module")
def jobs_of(fresh) -> Callable[[str], list[Job]]:
    """Return a function that returns the jobs of a study's dry run, which is made once."""
    return functools.cache(lambda name: plan_of(fresh, f"studies/{name}.yaml"))


def settings_of(name: str, policy: str) -> dict:
    """Return what a policy's training is told."""
    return training_told(planned(name), policy)


def references(name: str) -> dict[tuple[str, str, int], dict]:
    """Return {(pairs or rewarded rows, policy, seed): how the policy reads them} of all whose log-probs are taken."""
    plan = planned(name)
    told_by = {"score_reference": training.reference_settings, "score_rewarded": training.rewarded_settings}
    return {
        (what, parent, seed): told(told_by[rule](plan, what, parent))
        for cell in trained_cells(plan)
        for rule, what, parent, seed in training.preparing_jobs(plan, *cell)
        if rule in told_by
    }


# --- what holds for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNED)
def test_every_policy_is_trained_once_and_scored_on_every_benchmark(name):
    plan = planned(name)
    (seed,) = plan.study.seeds
    trained = {(policy, seed) for policy, facts in plan.policies.items() if facts.parent}
    assert Counter(trained_cells(plan)) == Counter(trained)
    scored = {*((policy, seed) for policy in plan.policies), ("gold", 0), ("empty", 0)}
    assert Counter(scored_cells(plan)) == Counter(scored)
    files = [plan.layout.scores(*cell, benchmark) for cell in scored for benchmark in plan.study.benchmarks]
    assert Counter(score_files(plan)) == Counter(files)
    by_scorer = [scoring.scored_from(plan, of) for of in ("answers", "likelihoods", "rewards", "model")]
    assert Counter(key for keys in by_scorer for key in keys) == Counter(list(plan.study.benchmarks))


@pytest.mark.parametrize("name", PLANNED)
def test_each_policy_is_trained_by_the_module_of_its_method(name):
    plan = planned(name)
    for policy in plan.trained():
        method = plan.policies[policy].method
        module = "sft.train" if method == "sft" else f"align.{method}"
        assert training.module_of(plan, policy) == f"workflow_scripts.{module}"
        assert (training.rule_of(plan, policy) == "train_sft") == (method == "sft")


@pytest.mark.parametrize("name", PLANNED)
def test_all_the_methods_from_one_parent_learn_from_one_reference_and_one_value_head(name):
    plan = planned(name)
    parents = {
        (facts.parent, plan.run(policy).annotation)
        for policy, facts in plan.policies.items()
        if facts.method in EIGHT
    }
    heads = {run.value for run in plan.study.runs.values() if run.method in BY_ADVANTAGE}
    prepared = {job for cell in trained_cells(plan) for job in training.preparing_jobs(plan, *cell)}
    found = Counter(rule for rule, *_ in prepared)
    assert found["score_rewarded"] == len(parents)
    assert found["fit_value"] == found["estimate_advantages"] == len(heads)
    learned = {
        training.material(plan, *cell)
        for cell in trained_cells(plan)
        if plan.policies[cell[0]].method in EIGHT
    }
    assert len(learned) == len(parents)
    weights = {folder for cell in trained_cells(plan) if (folder := training.advantages_folder(plan, *cell))}
    assert len(weights) == len(heads)


@pytest.mark.parametrize("name", NAMES)
def test_files_from_the_web_are_pinned_by_a_commit(name):
    for source in study_of(name).sources.values():
        for place in source.places:
            for url in place.https.files.values() if place.https else ():
                assert url.startswith("https://raw.githubusercontent.com/")
                assert len(url.split("/")[5]) == 40, url


def test_the_study_that_runs_anywhere_pins_every_file_by_its_sha256():
    for source in study_of("smollm2").sources.values():
        assert source.files
        assert all(len(sha256 or "") == 64 for sha256 in source.files.values())


@pytest.mark.parametrize("name", PLANNED)
def test_every_answer_to_a_judged_benchmark_goes_before_its_judge_once(name):
    plan = planned(name)
    judged = [key for key, part in plan.study.benchmarks.items() if part.asks is not None]
    assert judging.judged(plan) == list(judging.judgeable(plan)) == judged
    verdicts = [
        verdict
        for cell in scored_cells(plan)
        for key in judged
        for verdict in judging.verdicts(plan, key, *cell)
    ]
    assert len(set(verdicts)) == len(verdicts) == len(scored_cells(plan)) * len(judged)


@pytest.mark.parametrize("name", NAMES)
def test_a_judge_is_asked_by_one_job_at_a_time(jobs_of, name):
    plan, asked = planned(name), of_rule(jobs_of(name), "judge_answers")
    found = Counter((job.wildcards["policy"], job.wildcards["benchmark"]) for job in asked)
    assert found == Counter((policy, key) for policy, _ in scored_cells(plan) for key in judging.judged(plan))
    assert all(job.resources["judge"] == "1" for job in asked)


@pytest.mark.parametrize("name", PLANNED)
def test_a_judge_that_is_paid_has_a_budget_and_stands_in_no_settings(name):
    plan = planned(name)
    for key, judge in plan.study.judges.items():
        if isinstance(judge, OpenAIJudge) and judge.base_url is None:
            assert judge.budget_usd, key
    for benchmark in judging.judged(plan):
        words = judging.judge_settings(plan, benchmark) + judging.asking_settings(plan, benchmark)
        assert not re.search(r"api_key|base_url|usd", words)


@pytest.mark.parametrize("name", ["instruction_modelling", "leftover_lunch_hh", "follow_instructions"])
def test_a_judge_s_key_address_and_price_stand_in_no_command(jobs_of, name):
    asked = of_rule(jobs_of(name), "judge_answers")
    assert asked
    assert not [job for job in asked if re.search(r"api_key|base_url|usd", job.command)]


@pytest.mark.parametrize("name", PLANNED)
def test_every_benchmark_is_looked_for_in_all_that_is_trained_on(name):
    plan = planned(name)
    assert overlap.compared(plan) == list(plan.study.benchmarks)
    sets = [word.split("=")[0] for word in overlap.training_words(plan)]
    assert len(set(sets)) == len(sets)
    learned = {part.dataset for part in plan.study.runs.values() if part.method == "sft"}
    assert {f"{rows}/train" for rows in learned} <= set(sets)


@pytest.mark.parametrize(
    ("name", "benchmarks"),
    [
        ("leftover_lunch_comet", ("test", "words")),
        ("leftover_lunch_reddit", ("test_pos", "test_neg", "words")),
        ("leftover_lunch_wow", ("test", "words")),
        ("follow_instructions", ("score_llama3", "score_gpt4", "test_answers")),
        ("smollm2", ("alpaca_eval", "alpaca_eval_length")),
    ],
)
def test_benchmarks_that_ask_the_same_differ_in_the_names_of_their_prompt_sets_alone(name, benchmarks):
    plan = planned(name)
    asked = {
        (
            prompts.prompts_kind(plan, key),
            prompts.prompts_input(plan, key).replace("/neg/", "/pos/"),
            prompts.prompts_file(plan, key).replace("/neg/", "/pos/"),
            prompts.sampling(plan, key),
            tuple(prompts.prompts_flags(plan, key)),
        )
        for key in benchmarks
    }
    assert len(asked) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_small_study_runs_every_rule_of_the_published_one(jobs_of, name):
    small = jobs_of(f"{name}-small")
    assert {job.rule for job in jobs_of(name)} <= {job.rule for job in small}


@pytest.mark.parametrize("name", NAMES)
def test_the_small_study_has_the_same_kinds_of_parts_as_the_published_one(name):
    published, small = (kinds_of(study_of(study)) for study in (name, f"{name}-small"))
    for part, kinds in published.items():
        assert kinds <= small[part], part
    assert published["methods"] == small["methods"]


def files_in(study: Study) -> list[Dataset]:
    """Return the datasets that are made of files."""
    return [part for part in study.datasets.values() if isinstance(part, Dataset)]


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
        "schemas": {schema for name in study.datasets for schema in schemas_of(study, name)} - {"tutorbot"},
        "splits": {bool(part.split.by_file) for part in files_in(study)} & {True},
        "rewards": {type(reward).__name__ for reward in rewards},
        "rules": {getattr(reward, "rule", None) for reward in rewards} & {"tfidf_diversity"},
        "texts": {getattr(reward, "text", "dialogue") for reward in rewards} - {"dialogue"},
        "templates": {model.template for model in study.models.values()} - {"llama2"},
        "benchmarks": {part.kind for part in study.benchmarks.values()},
        "temperatures": {
            type(part.temperatures)
            for part in study.benchmarks.values()
            if getattr(part, "temperatures", None)
        },
        "measures": {
            measure
            for part in study.benchmarks.values()
            if part.kind == "text_overlap"
            for measure in part.metrics
        },
        "length_controlled": {
            getattr(part, "length_controlled", False) for part in study.benchmarks.values()
        },
        "opponents": {bool(part.opponent) for part in study.benchmarks.values() if part.kind == "preference"},
        "report": {key for key in ("agreement", "published") if getattr(study.report, key)},
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
    grid = {f"{base}.{how}-{rows}" for base in BASES for rows in SETS for how in ("it", "im", "neftune")}
    on_7b = {f"llama2_7b.im_neftune-{rows}" for rows in SETS}
    on_7b |= {f"llama2_7b.lima_kl_{weight}" for weight in ("0_01", "0_1", "1")} | {"llama2_7b.dolly_9k_kl_1"}
    assert set(policies) == {*BASES, "llama2_7b_chat", *grid, *on_7b}


def test_instruction_modelling_trains_with_the_published_hyper_parameters():
    plan = planned("instruction_modelling")
    published = {
        "batch_size": 128,
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
    tuned = training.policies_on(plan, "tokens")
    assert tuned == plan.trained()
    settings = {policy: settings_of("instruction_modelling", policy) for policy in tuned}
    for policy, found in settings.items():
        assert published.items() <= found.items()
        assert found["neftune_alpha"] == (5.0 if "neftune" in policy else None)
    weights = {"lima_kl_0_01": 0.01, "lima_kl_0_1": 0.1, "lima_kl_1": 1.0, "dolly_9k_kl_1": 1.0}
    held = {policy.split(".")[1]: found["kl"] for policy, found in settings.items() if found["kl"]}
    assert held == {run: {"weight": weight, "form": "gold"} for run, weight in weights.items()}


def test_instruction_modelling_tokenises_for_each_objective_in_the_tulu_format():
    plan = planned("instruction_modelling")
    for policy in plan.trained():
        settings = told(training.tokens_settings(plan, policy))
        how = policy.split(".")[1]
        assert settings["objective"] == ("im" if how.startswith("im") else "it")
        assert settings["im_mask"] == ("code" if settings["objective"] == "im" else "paper")
        assert (settings["max_tokens"], settings["overflow"]) == (2048, "cut")
        assert settings["template"] == bundled_templates()["tulu"]


def test_instruction_modelling_trains_on_every_row_the_paper_counts():
    datasets = study_of("instruction_modelling").datasets
    assert {name: part.split.quotas for name, part in datasets.items() if name != "held_out"} == {
        name: {"train": rows} for name, rows in SETS.items()
    }
    assert not any(part.subset for part in datasets.values())
    # As the published code does: of 5 305 and 2 996 rows four have an empty reply, and one stands there twice.
    kept = {(part.duplicates, part.empty_replies) for name, part in datasets.items() if name != "held_out"}
    assert kept == {("keep", "keep")}


def test_the_ablations_are_the_studys_own_runs_but_for_what_they_vary():
    name = "instruction_modelling-ablations"
    study, own = planned(name).study, study_of("instruction_modelling")
    runs = {key: run for key, run in study.runs.items() if key not in own.runs}
    assert {key: study.runs[key] for key in own.runs} == own.runs
    varied = {"dataset", "parent", "epochs", "objective", "im_mask", "lm_text", "neftune_alpha", "kl"}
    base = {key: value for key, value in own.runs["it-lima"].model_dump().items() if key not in varied}
    for key, run in runs.items():
        found = run.model_dump()
        assert {each: found[each] for each in base} == base, key
        assert run.parent == "llama2_7b" and run.im_mask == ("code" if run.objective == "im" else "paper")
    assert {(run.dataset, run.epochs, run.objective) for run in runs.values() if run.dataset in SETS} == {
        *(("lima", epochs, objective) for epochs in (3, 10) for objective in ("it", "im")),
        *((rows, 2, "lm") for rows in ("lima", "dolly_3k", "dolly_9k", "alpaca_5k")),
        ("dolly_9k", 2, "it"),
    }
    assert {run.lm_text for run in runs.values() if run.objective == "lm"} == {"template"}
    penalties = {run.kl.weight for run in runs.values() if run.kl}
    assert penalties == {0.01, 0.1} and {run.neftune_alpha for run in runs.values()} == {None, 5.0}
    of_tulu = {run.dataset for run in runs.values() if run.dataset not in SETS}
    subsets = {name: study.datasets[name].subset for name in of_tulu}
    shares = {(each.share, each.by) for each in subsets.values() if each and each.share}
    ratios = {(each.rows, each.by) for each in subsets.values() if each and each.rows}
    assert shares == {(0.1, "source"), (0.2, "source"), (0.5, "source")} and subsets["tulu"] is None
    assert ratios == {(3000, "length_ratio")} and len(of_tulu) == 7
    for rows in of_tulu:
        assert {run.objective for run in runs.values() if run.dataset == rows} == {"it", "im"}


def test_instruction_modelling_asks_the_papers_tasks_with_its_numbers_of_examples():
    benchmarks = study_of("instruction_modelling").benchmarks
    (suite,) = [part for part in benchmarks.values() if part.kind == "lm_eval"]
    assert (suite.suite, suite.tasks, suite.num_fewshot, suite.limit) == (
        "instruction_modelling",
        [],
        None,
        None,
    )
    suites = yaml.safe_load((ROOT / "workflow_scripts/score/harness/suites.yaml").read_text())
    groups = suites["instruction_modelling"]
    assert {task: row["num_fewshot"] for rows in groups.values() for task, row in rows.items()} == {
        "mmlu": 5,
        "piqa": 10,
        "openbookqa": 0,
        "hellaswag": 10,
        "lambada": 0,
        "lambada_multilingual": 0,
        "gpt3_translation_benchmarks": 0,
        "wsc273": 0,
        "winogrande": 5,
        "ai2_arc": 25,
        "coqa": 0,
        "gsm8k_cot": 8,
        "human_eval": 0,
        "bbh_cot_fewshot": None,  # three, written in its prompts
        "truthfulqa_mc2": 0,  # six, written in its prompts
        "toxigen": 0,
        "hendrycks_ethics": 0,
    }
    assert len(groups) == 6
    kinds = Counter(part.kind for part in benchmarks.values())
    assert (kinds["mt_bench"], kinds["alpaca_eval"], kinds["loss"], kinds["text_overlap"]) == (1, 2, 4, 7)


def test_instruction_modelling_counts_each_policys_own_humaneval_into_its_suite():
    (programs,) = [
        part for part in study_of("instruction_modelling").benchmarks.values() if part.kind == "humaneval"
    ]
    assert programs.temperatures == [0.1, 0.7]
    assert (programs.samples, programs.top_p, programs.max_new_tokens) == (20, 0.95, 512)
    plan = planned("instruction_modelling")
    (suite,) = scoring.scored_from(plan, "model")
    for policy, seed in scored_cells(plan):
        own = f"results/instruction_modelling/policies/{policy}/seed-{seed}/scores/humaneval.json"
        assert scoring.counted_flags(plan, suite, policy, seed) == ["--human-eval", own]
        assert scoring.counted_programs(plan, suite, policy, seed) == [own]


def test_instruction_modellings_judges_ask_as_fastchat_and_alpaca_eval_do():
    study = study_of("instruction_modelling")
    talk, first, second = (study.benchmarks[key] for key in ("mt_bench", "alpaca_eval_1", "alpaca_eval_2"))
    assert talk.temperatures == {
        "writing": 0.7,
        "roleplay": 0.7,
        "extraction": 0.0,
        "math": 0.0,
        "coding": 0.0,
        "reasoning": 0.0,
        "stem": 0.1,
        "humanities": 0.1,
    }
    assert (talk.mode, talk.references, talk.judge_prompts) == (
        "single",
        "reference.jsonl",
        "judge_prompts.jsonl",
    )
    assert (first.annotator, first.references) == ("alpaca_eval_gpt4", "judgements.json")
    assert (second.annotator, second.prompts) == ("weighted_alpaca_eval_gpt4_turbo", "gpt4_1106_preview.json")
    models = {
        key: study.judges[part.judge].model for key, part in study.benchmarks.items() if part.asks is not None
    }
    assert models == {
        "mt_bench": "gpt-4-0613",
        "alpaca_eval_1": "gpt-4-0613",
        "alpaca_eval_2": "gpt-4-1106-preview",
    }
    plan = planned("instruction_modelling")
    for benchmark in judging.judged(plan):
        flags = judging.judging_flags(plan, benchmark, "llama2_7b", plan.study.seeds[0])
        assert ("--templates" in flags) == (benchmark == "mt_bench")
    asked = {key: told(judging.asking_settings(plan, key)) for key in judging.judged(plan)}
    assert asked == {
        "mt_bench": {"mode": "single"},
        "alpaca_eval_1": {"annotator": "alpaca_eval_gpt4"},
        "alpaca_eval_2": {"annotator": "weighted_alpaca_eval_gpt4_turbo"},
    }


def test_instruction_modelling_shows_the_papers_numbers_beside_every_7b_policy_they_are_of():
    given = study_of("instruction_modelling").report.published
    found = {(entry.policy, entry.benchmark): entry.value for entry in given}
    assert len(found) == len(given)
    main = ("nlp", "mt_bench", "alpaca_eval_1", "alpaca_eval_2")
    policies = ["llama2_7b", "llama2_7b_chat"]
    policies += [f"llama2_7b.{how}-{rows}" for rows in SETS for how in ("it", "neftune", "im")]
    both = {f"llama2_7b.im_neftune-{rows}" for rows in SETS}
    held = {f"llama2_7b.{name}" for name in ("lima_kl_0_01", "lima_kl_0_1", "lima_kl_1", "dolly_9k_kl_1")}
    assert {key for key in found if key[1] in main} == {
        *((policy, key) for policy in policies for key in main),
        *((policy, key) for policy in both for key in ("nlp", "alpaca_eval_1")),
        *((policy, key) for policy in held for key in ("nlp", "alpaca_eval_2")),
    }
    recalled = {(f"llama2_7b.{how}-{rows}", f"recall_{rows}") for rows in SETS for how in ("it", "im")}
    losses = {
        (f"llama2_7b.{how}-{rows}", f"loss_{rows}")
        for rows in ("lima", "dolly_3k", "mmlu_chat")
        for how in ("it", "im")
    }
    assert {key for key in found if key[1] not in main} == recalled | losses
    table = {  # Table 1, per cent but for MT-Bench
        "llama2_7b": (49.32, 1.16, 0.01, 0.01),
        "llama2_7b_chat": (49.15, 6.63, 79.04, 6.48),
        "llama2_7b.it-lima": (48.79, 4.77, 33.06, 2.58),
        "llama2_7b.im-lima": (49.60, 4.83, 32.94, 2.47),
    }
    for policy, row in table.items():
        shares = [found[policy, key] * (1 if key == "mt_bench" else 100) for key in main]
        assert shares == pytest.approx(row)
    assert all(0 <= value <= 1 for (_, key), value in found.items() if key in ("nlp", *main[2:]))


# --- leftover lunch: the assistant ----------------------------------------------------------------------------------


def test_the_assistant_is_made_by_eight_objectives_and_four_baselines_from_one_reference():
    policies = policies_of(study_of("leftover_lunch_hh"))
    others = ("dpo", "dpo_ref_free", "pro", "ppo")
    assert set(policies) == {
        "llama",
        "llama.ref",
        *(f"llama.ref.{run}" for run in (*EIGHT, *others)),
    }


def test_the_assistant_is_trained_with_the_published_hyper_parameters():
    plan = planned("leftover_lunch_hh")
    published = {
        "batch_size": 16,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "optimizer": "paged_adamw_32bit",
        "dropout": 0.0,  # a number: the adapters' own acts
        "quantise": "nf4",
        "quantise_double": False,
        "lora": {"rank": 64, "alpha": 16.0, "dropout": 0.05, "targets": "all-linear", "merge": True},
    }
    for policy in training.policies_on(plan, "pairs", "ranked", "rewarded", "prompts"):
        settings, rule = settings_of("leftover_lunch_hh", policy), training.rule_of(plan, policy)
        assert published.items() <= settings.items()
        assert settings["per_device_batch"] == (4 if rule in ("train_offline", "train_online") else 2)
        assert settings["learning_rate"] == (2e-5 if rule == "train_online" else 2e-4)
        assert settings["max_grad_norm"] == (1e9 if rule == "train_online" else 0.3)
        assert settings["adam_epsilon"] == (1e-8 if rule == "train_online" else 1e-6)
        if rule != "train_online":
            assert (settings["epochs"], settings["max_steps"]) == (1, None)


def test_the_assistants_objectives_clip_and_sample_as_published():
    settings = {run: settings_of("leftover_lunch_hh", f"llama.ref.{run}") for run in EIGHT}
    assert {settings[run]["clip"] for run in ("r_lol", "a_lol", "a_lol_seq")} == {0.9}
    assert {settings[run]["sampling"] for run in EIGHT if run != "nll"} == {"good_priority"}
    assert settings["nll"]["sampling"] == "none"
    assert (settings["r_gold"]["floor"], settings["a_lol_kl"]["beta"]) == (0.1, 0.2)
    dpo, free = (settings_of("leftover_lunch_hh", f"llama.ref.{run}") for run in ("dpo", "dpo_ref_free"))
    assert (dpo["beta"], dpo["logp_reduction"], dpo["reference_free"]) == (0.1, "sum", False)
    assert free == dpo | {"reference_free": True}
    assert settings_of("leftover_lunch_hh", "llama.ref.pro")["sft_weight"] == 0.05
    assert settings_of("leftover_lunch_hh", "llama.ref.pro")["gaps"] == "signed"
    ppo = settings_of("leftover_lunch_hh", "llama.ref.ppo")
    published = {
        "max_steps": 6000,
        "rollout_batch": 16,
        "ppo_epochs": 4,
        "target_kl": None,
        "top_p": 0.95,
        "max_new_tokens": 128,
        "score_scaling": True,
        "score_norm": True,
    }
    assert published.items() <= ppo.items()


def test_the_assistants_prompts_keep_640_tokens_and_answers_128():
    plan, found = planned("leftover_lunch_hh"), references("leftover_lunch_hh")
    # The reference learns from the model's log-probs, and all others from the reference's.
    (rewarded,) = training.rewarded_sets(plan)
    assert found.keys() == {
        (rewarded, "llama", 901),
        (rewarded, "llama.ref", 901),
        ("pairs", "llama.ref", 901),
    }
    for settings in found.values():
        assert (settings["max_prompt_tokens"], settings["max_tokens"]) == (640, 640 + 128)
        assert settings["template"] == bundled_templates()["hh"]
    ranked = told(training.ranked_settings(plan, plan.run("llama.ref.pro").pairs, "llama.ref"))
    assert (ranked["max_prompt_tokens"], ranked["max_tokens"]) == (640, 640 + 128)


def test_the_assistants_value_is_fitted_on_the_references_answers_to_the_dev_prompts():
    plan = planned("leftover_lunch_hh")
    settings = told(training.value_settings(plan, "expected", "llama.ref"))
    published = {"max_value": 1.0, "heads": 8, "dropout": 0.1, "learning_rate": 1e-5, "epochs": 10}
    assert (published | {"batch_size": 16}).items() <= settings.items()
    fitted = {
        (value, policy)
        for cell in trained_cells(plan)
        for rule, value, policy, _ in training.preparing_jobs(plan, *cell)
        if rule == "fit_value"
    }
    assert fitted == {("expected", "llama.ref")}
    assert prompts.prompts_file(plan, "values-expected").endswith("/hh_test/rows/dev.jsonl")
    owing = [policy for policy in plan.policies if "values-expected" in prompts.owed(plan, policy)]
    assert owing == ["llama.ref"]


def test_the_assistant_learns_from_the_logits_in_the_file_and_is_tested_by_the_model_that_gave_them():
    study = study_of("leftover_lunch_hh")
    given, asked = (study.annotations[name].rewards["rm"] for name in ("given", "asked_test"))
    assert isinstance(given, GivenReward)
    assert (given.squash, asked.squash) == ("sigmoid", "sigmoid")
    assert (asked.text, asked.max_tokens) == ("oasst", 1024)
    assert {run.annotation for run in study.runs.values() if run.method in EIGHT} == {"given"}
    rewarded = [part for part in study.benchmarks.values() if part.kind == "rewards"]
    assert {part.annotation for part in rewarded} == {"asked_test"}
    subsets = {"harmless_base", "helpful_base", "helpful_online", "helpful_rejection"}
    assert {part.split for part in rewarded} == subsets


def test_the_assistants_answers_are_compared_with_the_references_on_a_hundred_prompts_of_two_subsets():
    study = study_of("leftover_lunch_hh")
    compared = [part for part in study.benchmarks.values() if part.kind == "preference"]
    assert Counter(part.split for part in compared) == {"harmless_base": 1, "helpful_base": 1}
    assert {(part.dataset, part.opponent, part.limit) for part in compared} == {("hh_test", "llama.ref", 100)}
    assert {study.judges[part.judge].model for part in compared} == {"gpt-4-0613"}
    plan = planned("leftover_lunch_hh")
    for benchmark in judging.judged(plan):
        answers = f"policies/llama.ref/seed-{study.seeds[0]}/generations/{benchmark}.json"
        for cell in scored_cells(plan):
            manifest = f"results/leftover_lunch_hh/{answers}"
            assert judging.opponent_answers(plan, benchmark, *cell) == [manifest]
            flags = judging.judging_flags(plan, benchmark, *cell)
            assert flags[flags.index("--opponent") + 1] == f"{manifest}l"
            assert flags[flags.index("--skip-file") + 1].endswith("/files/bad_test_indices.json")


def test_of_the_assistants_rows_only_training_pairs_with_a_colon_at_the_end_are_left_out():
    datasets = study_of("leftover_lunch_hh").datasets
    assert (datasets["hh"].reject_colon, datasets["hh_test"].reject_colon) == (True, False)


# --- leftover lunch: the small tasks --------------------------------------------------------------------------------

SMALL_TASKS = {
    "comet": {"sets": ("",), "max_value": 1.0, "epochs": 1, "batch": (16, 16), "reply": 30},
    "reddit": {"sets": ("_pos", "_neg"), "max_value": 5.0, "epochs": 3, "batch": (16, 8), "reply": 128},
    "wow": {
        "sets": ("_wow", "_faithdial", "_faithdial_wow"),
        "max_value": 4.0,
        "epochs": 3,
        "batch": (16, 8),
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
def test_a_small_task_is_trained_with_the_published_hyper_parameters(task):
    name, facts = f"leftover_lunch_{task}", SMALL_TASKS[task]
    plan = planned(name)
    published = {
        "learning_rate": 2e-5,
        "schedule": "linear",
        "warmup": 0.0,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "lora": None,
    }
    for policy in training.policies_on(plan, "rewarded"):
        settings = settings_of(name, policy)
        assert published.items() <= settings.items()
        assert (settings["batch_size"], settings["per_device_batch"]) == facts["batch"]
        reference = policy.rsplit(".", 1)[1].startswith("ref_")
        assert settings["epochs"] == (6 if reference else facts["epochs"])
        method = plan.policies[policy].method
        assert settings["sampling"] == ("none" if method == "nll" else "good_priority")
        if method in ("r_lol", "a_lol", "a_lol_seq"):
            assert settings["clip"] == 0.9
    assert references(name)
    for settings in references(name).values():
        assert settings["max_prompt_tokens"] == 512
        assert settings["max_tokens"] == 512 + facts["reply"]


@pytest.mark.parametrize("task", SMALL_TASKS)
def test_a_small_tasks_value_head_is_published_and_each_set_has_its_own(task):
    plan, facts = planned(f"leftover_lunch_{task}"), SMALL_TASKS[task]
    fitted = {
        (value, policy)
        for cell in trained_cells(plan)
        for rule, value, policy, _ in training.preparing_jobs(plan, *cell)
        if rule == "fit_value"
    }
    assert len(fitted) == len({value for value, _ in fitted}) == len(facts["sets"])
    published = {"max_value": facts["max_value"], "heads": 8, "learning_rate": 2e-5, "epochs": 5}
    for value, policy in fitted:
        assert published.items() <= told(training.value_settings(plan, value, policy)).items()


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


def test_the_books_fine_tuning_has_its_hyper_parameters():
    plan = planned("follow_instructions")
    published = {
        "learning_rate": 5e-5,
        "weight_decay": 0.1,
        "epochs": 2,
        "schedule": "constant",
        "warmup": 0.0,
        "loss_norm": "token",
    }
    tuned = training.policies_on(plan, "tokens")
    assert len(tuned) == 5
    for policy in tuned:
        settings = settings_of("follow_instructions", policy)
        assert published.items() <= settings.items()
        large = policy == "gpt2.alpaca_52k"
        assert settings["batch_size"] == (4 if large else 8)
        limit = told(training.tokens_settings(plan, policy))["max_tokens"]
        assert limit == (512 if large else 1024)
    assert {seed for _, seed in cells(plan)} == {123}
    lora = settings_of("follow_instructions", "gpt2.lora")["lora"]
    assert lora["rank"] == 16
    assert lora["alpha"] / lora["rank"] == 16  # the book scales by α itself


def test_the_book_trains_with_its_seed(jobs_of):
    trained = of_rule(jobs_of("follow_instructions"), "train_sft", "train_aligned")
    assert len(trained) == 6
    assert all(" --seed 123 " in job.command for job in trained)


def test_the_book_learns_prompts_too_unless_they_are_masked_and_phi3_speaks_its_own_format():
    plan = planned("follow_instructions")
    for policy in training.policies_on(plan, "tokens"):
        settings = told(training.tokens_settings(plan, policy))
        objective = (settings["objective"], settings["im_mask"])
        assert objective == (("it", "code") if policy == "gpt2.masked" else ("im", "code"))
        wanted = bundled_templates()["phi3_text" if policy == "gpt2.phi3" else "alpaca"]
        assert settings["template"] == policies.template(plan, policy) == wanted


def test_the_books_dpo_averages_log_probs():
    assert training.policies_on(planned("follow_instructions"), "pairs") == ["gpt2.full.polite"]
    published = {
        "batch_size": 8,
        "beta": 0.1,
        "logp_reduction": "mean",
        "learning_rate": 5e-6,
        "weight_decay": 0.01,
        "epochs": 1,
    }
    assert published.items() <= settings_of("follow_instructions", "gpt2.full.polite").items()


def test_the_books_rows_are_split_in_the_order_of_the_file():
    datasets = study_of("follow_instructions").datasets
    for name in ("instructions", "preferences"):
        assert datasets[name].split.order == "file"
        assert datasets[name].split.quotas == {"train": 935, "test": 110, "validation": 55}
    assert list(datasets["instructions"].split.quotas) == ["train", "test", "validation"]
    assert sum(datasets["alpaca_52k"].split.quotas.values()) == 52002


def test_the_books_judges_are_asked_in_its_own_words_and_compared_with_each_other():
    study = study_of("follow_instructions")
    scored = {key: part for key, part in study.benchmarks.items() if part.kind == "judge_score"}
    assert study.report.agreement == [list(scored)]
    assert {key: study.judges[part.judge].model for key, part in scored.items()} == {
        "score_llama3": "llama3",
        "score_gpt4": "gpt-4-turbo",
    }
    asked = (
        "Given the input `Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{prompt}` and correct output `{reference}`, score the model "
        "response `{answer}` on a scale from 0 to 100, where 100 is the best score. Respond with the integer number "
        "only."
    )
    assert {part.prompt for part in scored.values()} == {asked}
    llama = study.judges["llama3"]
    assert (llama.base_url, llama.seed, llama.temperature) == ("http://localhost:11434/v1", 123, 0.0)
    assert {
        (part.dataset, part.split, part.max_new_tokens, part.temperature) for part in scored.values()
    } == {("instructions", "test", 256, 0.0)}


def test_the_books_own_scores_stand_beside_ours():
    given = study_of("follow_instructions").report.published
    assert {(entry.benchmark, entry.subset, entry.metric) for entry in given} == {
        ("score_llama3", "overall", "score")
    }
    found = {entry.policy.removeprefix("gpt2."): entry.value for entry in given}
    assert {"masked": 47.73, "phi3": 48.87, "lora": 50.23}.items() <= found.items()
    assert set(found) == {"full", "masked", "phi3", "lora", "alpaca_52k"}
