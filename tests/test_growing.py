"""A study that chooses its number of seeds as it runs: what its keys may be, and what is asked first and then."""

import json

import pytest
import yaml

from tests.plans import DEFAULT, changed, config_of, planned, told
from tests.studies import put
from tests.workflow import copy_repository, finish, snakemake, stale
from workflow_scripts.common.files import write_json
from workflow_scripts.plan import choosing, growing, index, judging
from workflow_scripts.plan import report as tables
from workflow_scripts.plan.plan import cells
from workflow_scripts.study.check import describe
from workflow_scripts.study.checking import examine
from workflow_scripts.study.reading import as_read, read_yaml

ASKED = {"until": 0.02, "at_most": 5, "on": "tutor/evaluation/accuracy"}


def grown(**values: object):
    return changed(DEFAULT, {"seeds": ASKED, **values})


def mistakes_of(**keys: object) -> list[str]:
    return examine(put(config_of(DEFAULT), "seeds", ASKED | keys)).wrong


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_study_says_how_few_and_how_many_seeds_it_may_have():
    (first, *_) = describe(grown().study)
    assert "3 to 5 seeds" in first
    trained, base = len(grown().made()), len(grown().study.models)
    benchmarks = len(grown().study.benchmarks)
    assert f"{(base + 3 * trained) * benchmarks} to {(base + 5 * trained) * benchmarks} cells" in first
    assert ", 1 seed," in describe(planned(DEFAULT).study)[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"until": 0.0}, "seeds.until: must be greater than 0"),
        (
            {"until": "0.02"},
            "seeds.until: must be a number > 0, not '0.02' (a number, in quotes: leave them out)",
        ),
        ({"at_most": 2}, "seeds.at_most: must be at least the 3 that are first, not 2"),
        ({"first": 1}, "seeds.first: must be greater than or equal to 2"),
        (
            {"on": "tutr/evaluation/accuracy"},
            "seeds.on: no benchmark is called 'tutr'; did you mean 'tutor'?",
        ),
        ({"on": "tutor/evaluation/acuracy"}, "seeds.on: no metric of 'tutor' is called 'acuracy'"),
        ({"on": "tutor/evaluatoin/accuracy"}, "seeds.on: no subset of 'tutor' is called 'evaluatoin'"),
        ({"on": "tutor"}, "seeds.on: must be benchmark/subset/metric, not 'tutor'"),
        ({"policy": "tiny"}, "seeds.policy: no policy with seeds is called 'tiny'"),
        ({"untill": 1.0}, "seeds.untill: unknown key; did you mean 'until'?"),
    ],
)
def test_a_wrong_key_is_refused_with_its_path(keys, message):
    (found,) = mistakes_of(**keys)
    assert found.startswith(message)


def test_a_study_that_trains_nothing_has_no_seeds_to_add():
    config = put(config_of(DEFAULT), "seeds", ASKED) | {"runs": {}}
    assert any(
        line.startswith("seeds: no run makes a policy that has seeds") for line in examine(config).wrong
    )


def test_what_is_missing_is_named_and_a_list_stays_a_list():
    assert examine(put(config_of(DEFAULT), "seeds", {"until": 0.1})).wrong == [
        "seeds.at_most: is required",
        "seeds.on: is required",
    ]
    assert examine(put(config_of(DEFAULT), "seeds", 3)).wrong[0].startswith("seeds: must be a list, not 3")
    assert (
        examine(put(config_of(DEFAULT), "seeds", [1, "2"])).wrong[0].startswith("seeds[1]: must be a whole")
    )


def test_a_key_called_on_is_text_to_us_and_from_snakemake(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("seeds: {until: 0.02, on: a/b, at_most: 4}\n")
    read = read_yaml(file)
    assert read == {"seeds": {"until": 0.02, "on": "a/b", "at_most": 4}}
    assert as_read(yaml.safe_load(file.read_text()), read) == read


def test_a_child_may_change_one_of_the_keys_or_name_the_seeds(tmp_path):
    assert grown(**{"seeds.until": 0.5}).study.seeds.until == 0.5
    assert grown(seeds=[4, 2]).study.all_seeds() == [4, 2]


def test_a_limit_leaves_the_first_seeds_alone():
    plan = grown(limit=3)
    assert plan.study.seeds == [1, 2, 3] and not growing.grows(plan)


def test_an_adopted_policy_has_a_folder_for_every_seed_there_may_be():
    config = put(put(config_of(DEFAULT), "seeds", ASKED), "adopt", {"tiny.sft": {"1": "docs", "2": "docs"}})
    assert any("has no folder for seed 3, 4, 5" in line for line in examine(config).wrong)


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_first_seeds_of_every_trained_policy_decide_or_those_of_one():
    plan = grown()
    assert growing.deciding_scores(plan) == [
        plan.layout.scores(policy, seed, "tutor") for policy in plan.made() for seed in (1, 2, 3)
    ]
    assert told(growing.choice_settings(plan))["policies"] == plan.made()
    one = grown(**{"seeds.policy": "tiny.sft", "seeds.first": 2})
    assert growing.deciding_scores(one) == [one.layout.scores("tiny.sft", seed, "tutor") for seed in (1, 2)]
    assert told(growing.choice_settings(one))["seeds"] == [1, 2]


def test_what_gathers_has_the_seeds_that_were_chosen(tmp_path):
    plan, file = grown(), tmp_path / "seeds.json"
    write_json(file, {"seeds": [1, 2, 3, 4]})
    chosen = growing.chosen_plan(plan, file)
    assert {seed for policy, seed in cells(chosen) if policy in plan.made()} == {1, 2, 3, 4}
    listed = changed(DEFAULT, {"seeds": [1, 2, 3, 4]})
    assert index.index_entries(chosen) == index.index_entries(listed)
    assert tables.trainings_settings(chosen) == tables.trainings_settings(listed)
    assert tables.table_settings(chosen) == tables.table_settings(listed)
    assert set(index.certain_scores(plan)) == set(index.score_files(changed(DEFAULT, {"seeds": [1, 2, 3]})))


def test_the_digest_of_a_study_goes_by_the_seeds_it_has_and_not_by_those_it_may_have(tmp_path):
    write_json(tmp_path / "seeds.json", {"seeds": [1, 2, 3, 4]})
    digests = {
        index.study_digest(growing.chosen_plan(grown(**{"seeds.at_most": most}), tmp_path / "seeds.json"))
        for most in (5, 9)
    }
    assert len(digests) == 1


def test_judging_is_counted_for_the_seeds_at_hand(tmp_path, monkeypatch):
    plan = grown()
    monkeypatch.chdir(tmp_path)
    seeds = {cell[1] for cell in cells(growing.plan_at_hand(plan))}
    assert seeds == {1, 2, 3}
    write_json(tmp_path / plan.layout.chosen_seeds, {"seeds": [1, 2, 3, 4]})
    assert {cell[1] for cell in cells(growing.plan_at_hand(plan))} == {1, 2, 3, 4}


def test_a_study_that_names_its_seeds_has_one_plan_and_no_choice():
    plan = planned(DEFAULT)
    assert growing.first_plan(plan) is plan is growing.plan_at_hand(plan)
    assert index.certain_scores(plan) == growing.seeds_file(plan) == []


def test_the_best_of_several_is_chosen_by_the_first_seeds_whatever_comes_after():
    plan = grown(
        **{
            "runs.slow": config_of(DEFAULT)["runs"]["sft"] | {"learning_rate": 1e-5},
            "runs.best": {"method": "best_of", "of": ["sft", "slow"]},
        }
    )
    assert told(choosing.choosing_settings(plan, "tiny.best", 5))["seeds"] == [1, 2, 3]
    folders = [plan.layout.policy(name, seed) for name in ("tiny.sft", "tiny.slow") for seed in (1, 2, 3, 5)]
    assert choosing.candidate_manifests(plan, "tiny.best", 5) == [f"{each}/manifest.json" for each in folders]
    assert len(choosing.candidate_manifests(plan, "tiny.best", 2)) == 6
    assert judging.learned_from(plan, "tiny.best", 5) == frozenset()


# --- what Snakemake makes of it ---------------------------------------------------------------------------------------

FLAGS = ("--configfile", "studies/grow.yaml")
CHOICE = {"seeds": [1, 2, 3, 4], "words": "4 seeds, as a test says"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A repository with a study of one trained policy and two benchmarks, which has not run."""
    folder = copy_repository(tmp_path_factory.mktemp("growing") / "repository")
    config = config_of(DEFAULT)
    kept = ("tutor", "pair_perplexity")
    study = config | {
        "study": "grow",
        "seeds": ASKED,
        "runs": {"sft": config["runs"]["sft"]},
        "benchmarks": {name: config["benchmarks"][name] for name in kept},
        "report": {"baseline": "tiny", "decontaminate": False},
    }
    (folder / "studies/grow.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return folder


def test_the_first_are_run_then_as_many_as_were_chosen_and_a_finished_study_is_finished(folder):
    fresh = snakemake(folder, "--dry-run", *FLAGS).stdout
    assert "Choosing the number of seeds of grow" in fresh
    assert "seed-3/scores/pair_perplexity.json" in fresh, "what is certain is planned from the start"
    assert "seed-4" not in fresh

    finish(folder, *FLAGS, given={"results/grow/seeds.json": json.dumps(CHOICE)})
    for name in ("results.csv", "scores.json", "training.csv", "costs.csv"):  # the first stage alone is done
        (folder / "results/grow" / name).unlink()
    again = stale(folder, *FLAGS)
    made = {path for path in again if "/policies/" in path}
    assert {path.split("/")[4] for path in made} == {"seed-4"}, "and no other seed"
    assert {
        f"results/grow/policies/tiny.sft/seed-4/{name}" for name in ("manifest.json", "scores/tutor.json")
    } <= made
    assert "results/grow/seeds.json" not in again, "the choice stands"
    assert {"results/grow/results.csv", "results/grow/scores.json"} <= again

    finish(folder, *FLAGS, given={"results/grow/seeds.json": json.dumps(CHOICE)})
    done = snakemake(folder, "--dry-run", *FLAGS)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert "seeds: 4 seeds, as a test says" in done.stderr
    (folder / "results/grow/policies/tiny.sft/seed-2/scores/tutor.json").write_text("another")
    again = stale(folder, *FLAGS)
    assert "results/grow/seeds.json" in again and not any("/policies/" in path for path in again)
