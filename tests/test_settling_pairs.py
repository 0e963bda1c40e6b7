"""Pairs in their short forms: which kind they are, what ranks them, rounds written out; and what the check says."""

from typing import Any

import pytest

from tests.plans import EVERY_KEY, changed, config_of, told
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.plan import index, policies, prompts, rewards, training
from workflow_scripts.plan import report as tables
from workflow_scripts.plan.plan import Plan
from workflow_scripts.study.checking import Examined, examine
from workflow_scripts.study.pairs import GivenPairs, Pairs

SCORE = "studies/rewards/example.py:score"
BEST = {"dataset": "chatted", "from": "samples", "split": "sft", "rank": SCORE}


def pairs(value: Any, **further: Any) -> Plan:
    """Return the plan of a study with a set of pairs called own."""
    return changed(
        EVERY_KEY, {"pairs.own": value} | {path.replace("__", "."): to for path, to in further.items()}
    )


def looked_at(config: dict) -> Examined:
    """Return what the check says of a study that is where the study of every key is."""
    return examine(config, folder=ROOT / "tests")


def wrong(value: Any, **further: Any) -> str:
    """Return what the check says of a study with a set of pairs called own, or with other changes."""
    config = put(config_of(EVERY_KEY), "pairs.own", value)
    for path, to in further.items():
        config = put(config, path.replace("__", "."), to)
    return "\n".join(looked_at(config).wrong)


# Kinds.


def test_rows_that_came_ranked_are_pairs_as_they_came_and_structured_replies_are_mistakes():
    for value in ({"dataset": "ranked"}, {"dataset": "ranked", "split": "train"}):
        found = pairs(value).study.pairs["own"]
        assert isinstance(found, GivenPairs)
        assert (found.from_, found.split, found.validation) == ("given", "train", None)
    found = pairs({"dataset": "tutored", "split": "preference"}).study.pairs["own"]
    assert isinstance(found, Pairs)
    assert found.from_ == "mistakes"


def test_pairs_as_they_came_are_made_from_clean_rows_and_are_the_same_for_every_policy():
    plan = pairs({"dataset": "ranked", "validation": "validation", "max_tokens": 900})
    assert "own" in training.ranked_pairs(plan)
    assert training.ranking_input(plan, "own") == "data/clean/every-key/ranked/manifest.json"
    assert told(training.ranking_settings(plan, "own")) == {"by": "reward", "annotated": False}
    rows = "$CLEAN/ranked/rows"
    wanted = [f"train={rows}/train.jsonl", f"validation={rows}/validation.jsonl"]
    assert training.ranking_rows(plan, "own") == wanted
    assert "pairs-own" not in prompts.prompt_sets(plan)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"dataset": "chatted", "split": "sft"},
            "for pairs of such rows write from: samples, and with rank:",
        ),
        ({"dataset": "chatted"}, "pairs.own.dataset: rows of schema messages bring one answer to a prompt"),
        ({"dataset": "tutored"}, "pairs.own: the replies of 'tutored' are structured"),
        ({"dataset": "tutored", "from": "given", "split": "sft"}, "of these write from: mistakes"),
        ({"dataset": "chatted", "from": "given", "split": "sft"}, "of these write from: samples"),
        ({"dataset": "ranked", "from": "mistakes", "split": "train"}, "from: given takes them as they came"),
        ({"dataset": "ranked", "split": "train", "samples": 4}, "which do not read samples"),
        (
            {"dataset": "ranked", "from": "taken", "split": "train"},
            "own.from: must be 'given', 'mistakes' or 'samples'",
        ),
        ({"dataset": "ranked", "validation": "dev"}, "pairs.own.validation: no split of dataset 'ranked'"),
        ({"dataset": "ranked", "from": "given", "which": "all"}, "pairs.own.which: unknown key"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused_with_what_to_write(value, said):
    assert said in wrong(value)


# Who ranks samples.


def test_a_function_that_ranks_becomes_an_annotation_of_no_split():
    plan = pairs(BEST)
    assert plan.study.pairs["own"].rank == "rank-own"
    part = plan.study.annotations["rank-own"]
    assert (part.dataset, part.fit_split, part.splits) == ("chatted", "sft", [])
    assert "rank-own" not in rewards.annotated(plan)
    assert not any("rank-own" in path for path in tables.reward_manifests(plan))
    (reward,) = told(rewards.answer_settings(plan, "pairs-own"))["rewards"].values()
    assert reward["function"] == SCORE
    assert set(reward["code"]) == {"example.py"}


@pytest.mark.parametrize(
    ("rank", "wanted"),
    [
        ("rm", {"model": "rm", "squash": "none"}),
        ("trained", {"model": "rm", "squash": "none"}),
        ("exact_match", {"rule": "exact_match"}),
    ],
)
def test_a_reward_model_a_judge_that_is_one_and_a_rule_rank_by_their_own_number(rank, wanted):
    plan = pairs(BEST | {"rank": rank})
    (reward,) = told(rewards.answer_settings(plan, "pairs-own"))["rewards"].values()
    assert wanted.items() <= reward.items()
    assert ("rm/manifest.json" in "".join(rewards.answer_classifiers(plan, "pairs-own"))) == (
        "model" in wanted
    )


def test_an_annotation_ranks_by_its_sum_whatever_dataset_it_is_of():
    plan = pairs(BEST | {"rank": "judged"})
    assert rewards.annotation_of(plan, "pairs-own") == "judged"
    assert prompts.prompts_input(plan, "pairs-own") == "data/clean/every-key/chatted/manifest.json"
    assert rewards.answer_dataset(plan, "pairs-own") == "data/clean/every-key/ranked/manifest.json"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rank": "nobody"},
            "pairs.own.rank: no reward model, annotation, judge or function FILE.py:NAME is called 'nobody'",
        ),
        ({"rank": "brought"}, "new answers have no given rewards, and 'brought' has came"),
        ({"rank": SCORE, "prompt": "{answer}"}, "pairs.own.prompt: is for a judge of kind openai"),
        ({"rank": "ruled", "prompt": "{answer}"}, "pairs.own.prompt: is for a judge of kind openai"),
        ({"rank": "trained", "prompt": "{answer}"}, "pairs.own.prompt: is for a judge of kind openai"),
        (
            {"rank": "asked", "prompt": "{answers} {answer}"},
            "pairs.own.prompt: has {answers}; there are {prompt}, {reference}",
        ),
        (
            {"rank": "asked", "prompt": "{prompt}"},
            "has no {answer}, so the judge would not see what it judges",
        ),
        ({"rank": "studies/rewards/none.py:score"}, "pairs.own.rank: no such file 'studies/rewards/none.py'"),
        ({"rank": "studies/rewards/example.py:scores"}, "did you mean 'score'?"),
        ({"rank": "studies/rewards/example.py"}, "must be FILE.py:NAME"),
        ({"samples": 1}, "pairs.own.samples: must be greater than or equal to 2"),
        ({"temperature": 0.0}, "pairs.own.temperature: must be greater than 0"),
        ({"margin": -1.0}, "pairs.own.margin: must be greater than or equal to 0"),
        ({"take": "worst"}, "pairs.own.take: must be 'best_worst', 'best_random' or 'all'"),
        ({"split": "nowhere"}, "pairs.own.split: no split of dataset 'chatted'"),
        ({"dataset": "nowhere"}, "pairs.own.dataset: no dataset is called 'nowhere'"),
    ],
)
def test_what_cannot_rank_samples_is_refused_once_with_the_path(changes, said):
    found = wrong(BEST | changes)
    assert said in found and "\n" not in found


def test_nobody_is_blamed_for_a_rank_whose_own_entry_is_wrong():
    said = wrong(BEST | {"rank": "hosted", "prompt": "{answer}"}, judges__hosted={"kind": "openai"})
    assert said == "judges.hosted.model: is required"


def test_a_rank_that_two_things_are_called_is_refused():
    model = {"parent": "tiny", "dataset": "tutored", "split": "preference", "learning_rate": 1e-4}
    words = {"dataset": "chatted", "fit_split": "sft", "rewards": {"words": {"rule": "length"}}}
    said = wrong(BEST | {"rank": "twice"}, reward_models__twice=model, annotations__twice=words)
    assert "pairs.own.rank: 'twice' is the name of annotation and of reward model" in said


def test_a_function_that_is_not_there_is_refused_wherever_it_is_a_reward():
    said = wrong(BEST, annotations__judged__rewards__mine={"function": "studies/rewards/none.py:score"})
    assert "annotations.judged.rewards.mine.function: no such file" in said


# What follows from them.


def test_samples_are_answered_rewarded_and_ranked_for_each_parent_that_needs_them():
    run = {"method": "dpo", "parent": ["sft", "chat"], "pairs": "own", "learning_rate": 1e-4}
    plan = pairs(BEST | {"samples": 5, "take": "all", "margin": 0.5}, runs__own=run)
    assert told(prompts.sampling(plan, "pairs-own"))["samples"] == 5
    assert told(prompts.sampling(plan, "pairs-own"))["temperature"] == 1.0
    assert "pairs-own" in prompts.owed(plan, "tiny.sft")
    assert "pairs-own" in prompts.owed(plan, "tiny.chat")
    assert "pairs-own" in prompts.rewarded_sets(plan)
    wanted = {"take": "all", "margin": 0.5, "validation_share": 0.0, "seed": 1}
    assert told(training.sampled_pairs_settings(plan, "own")) == wanted
    folder = "results/every-key/pairs/own/tiny.chat/seed-1"
    assert training.pairs_manifest(plan, "own", "tiny.chat", 1) == f"{folder}/manifest.json"
    assert policies.training_sets(plan, "tiny.sft.own")[-1] == "chatted/sft"


def test_an_edited_function_changes_what_its_jobs_are_told_and_nothing_else(tmp_path):
    file = tmp_path / "mine.py"
    value = BEST | {"rank": f"{file}:score"}

    def handed() -> dict[str, str]:
        plan = pairs(
            value,
            annotations__own__rewards__mine={"function": f"{file}:score"},
            runs__ppo__annotation="own",
            runs__ppo__split="sft",
            runs__dpo__watch={"annotation": "own", "split": "validation", "metric": "mine"},
        )
        return {
            "pairs": rewards.answer_settings(plan, "pairs-own"),
            "ppo": training.online_rewards(plan, "tiny.sft.ppo"),
            "watch": training.watching_settings(plan, "tiny.sft.dpo"),
            "dpo": training.training_settings(plan, "tiny.sft.dpo"),
            "others": rewards.rewarding_settings(plan, "judged"),
            "ranking": training.sampled_pairs_settings(plan, "own"),
            "entries": index.index_entries(plan),
        }

    file.write_text("def score(reply): return 1.0")
    before = handed()
    file.write_text("def score(reply): return 2.0")
    after = handed()
    assert {name for name in before if before[name] != after[name]} == {"pairs", "ppo", "watch"}


# Fine-tuning on chosen answers.


def test_a_fine_tuning_on_pairs_learns_the_chosen_answers_of_its_own_parent():
    plan = changed(EVERY_KEY, {"seeds": [3, 5]})
    assert training.on_chosen(plan) == ["tiny.sft.best"]
    assert "tiny.sft.best" not in training.on_datasets(plan)
    assert training.chosen_manifest(plan, "tiny.sft.best", 5).endswith(
        "pairs/best/tiny.sft/seed-5/manifest.json"
    )
    found = training.material(plan, "tiny.sft.best", 5)
    assert found == "results/every-key/tokens/tiny.sft.best/seed-5/manifest.json"
    assert policies.training_sets(plan, "tiny.sft.best") == ["tutored/sft", "chatted/sft"]
    assert "pairs-best" in prompts.owed(plan, "tiny.sft")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "tutored"}, "learns from either a dataset or pairs"),
        ({"pairs": None}, "learns from either a dataset or pairs"),
        ({"pairs": "none"}, "runs.best.pairs: no set of pairs is called 'none'"),
        ({"split": "preference"}, "split: of a dataset, and pairs say themselves"),
        ({"objective": "lm"}, "objective: lm takes whole conversations"),
        ({"overflow": "split"}, "overflow: split takes whole conversations"),
    ],
)
def test_what_a_fine_tuning_on_pairs_cannot_have_is_refused(changes, said):
    config = config_of(EVERY_KEY)
    config["runs"]["best"] |= changes
    assert said in "\n".join(looked_at(config).wrong)


# Rounds.

ROUNDS = {"method": "dpo", "parent": "sft", "pairs": "best", "rounds": 3, "learning_rate": 1e-4}


def rounds(**further: Any) -> Plan:
    values = {"runs.again": ROUNDS} | {path.replace("__", "."): to for path, to in further.items()}
    return changed(EVERY_KEY, values)


def test_rounds_are_runs_each_the_child_of_the_one_before_whose_answers_it_learns_from():
    plan = rounds()
    last = "tiny.sft.again-1.again-2.again-3"
    assert last in plan.policies
    assert "again" not in plan.study.runs
    for name, parent in {last: "tiny.sft.again-1.again-2", "tiny.sft.again-1": "tiny.sft"}.items():
        assert plan.policies[name].parent == parent
        assert "pairs-best" in prompts.owed(plan, parent)
        assert (
            training.material(plan, name, 1)
            == f"results/every-key/reference/best/{parent}/seed-1/manifest.json"
        )
    settings = [told(training.training_settings(plan, name)) for name in plan.policies if ".again-" in name]
    assert [one.pop("machine_of") for one in settings] == [f"runs.again-{number}" for number in (1, 2, 3)]
    assert settings[0] == settings[1] == settings[2]
    assert "rounds" not in settings[0]


def test_whoever_names_a_run_of_rounds_gets_its_last():
    plan = rounds(
        runs__after={"method": "kto", "parent": ["again", "sft"], "pairs": "mistakes", "learning_rate": 1e-4},
        report__baseline="tiny.sft.again",
        benchmarks__preferred__opponent="tiny.sft.again",
    )
    last = "tiny.sft.again-1.again-2.again-3"
    assert plan.study.runs["after"].parent == ["again-3", "sft"]
    assert plan.study.report.baseline == plan.study.benchmarks["preferred"].opponent == last
    assert {f"{last}.after", "tiny.sft.after"} <= plan.policies.keys()


def test_rounds_of_rejection_sampling_and_of_several_parents():
    plan = rounds(runs__best__rounds=2, runs__again__parent=["sft", "chat"])
    assert training.chosen_manifest(plan, "tiny.sft.best-1.best-2", 1).endswith(
        "/best/tiny.sft.best-1/seed-1/manifest.json"
    )
    assert {"tiny.sft.again-1.again-2.again-3", "tiny.chat.again-1.again-2.again-3"} <= plan.policies.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairs": "came"}, "runs.again.rounds: 'came' has the same pairs in each round"),
        ({"pairs": "order"}, "'order' has the same pairs in each round"),
        ({"rounds": 1}, "runs.again.rounds: must be greater than or equal to 2"),
        ({"parent": "again"}, "runs.again.parent: a cycle of parents"),
        ({"pairs": "none"}, "pairs: no set of pairs is called 'none'"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(changes, said):
    config = put(config_of(EVERY_KEY), "runs.again", ROUNDS | changes)
    assert said in "\n".join(looked_at(config).wrong)


def test_rounds_whose_names_are_taken_are_refused():
    config = put(put(config_of(EVERY_KEY), "runs.again", ROUNDS), "runs.again-2", ROUNDS | {"rounds": None})
    assert "'again-2' is there already" in "\n".join(looked_at(config).wrong)


def test_the_check_says_what_rounds_make():
    config = put(config_of(EVERY_KEY), "runs.again", ROUNDS)
    assert "makes the runs again-1, again-2, again-3" in "\n".join(looked_at(config).said)
