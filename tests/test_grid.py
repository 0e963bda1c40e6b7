"""A run with a grid is a run for every combination of its values, and a parent that is chosen a run that chooses."""

import itertools
import json
import re

import pytest

from tests.plans import DEFAULT, config_of, planned
from tests.studies import many, put
from tests.workflow import copy_with_study, snakemake
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan import choosing, costs, index, policies, prompts, training
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.study.basics import NAME
from workflow_scripts.study.checking import check_study, examine
from workflow_scripts.study.grid import number_name, short_keys, value_name
from workflow_scripts.study.lineage import policies_of

BETAS = {"beta": [0.1, 0.05]}
RATES = {"learning_rate": [1e-4, 5e-4]}


def grid_of(grid: object, run: str = "dpo", **more: object) -> dict:
    """Return the default study with a grid on one of its runs."""
    return many(put(config_of(DEFAULT), f"runs.{run}.grid", grid), report__baseline="tiny", **more)


def mistakes_in(config: dict) -> list[str]:
    with pytest.raises(PlumblineError) as caught:
        check_study(config)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (5e-4, "5e-4"),
        (0.05, "5e-2"),
        (3, "3"),
        (3.0, "3"),
        (12.5, "125e-1"),
        (100, "100"),
        (1e6, "1e6"),
        (0, "0"),
        (0.0001234, "1234e-7"),
        (-2.5, "-25e-1"),
    ],
)
def test_a_number_is_named_by_its_digits_and_a_power_of_ten(number, name):
    assert number_name(number) == name
    assert float(name) == number


def test_no_two_numbers_have_one_name():
    numbers = {float(f"{digits}e{power}") for digits, power in itertools.product(range(1, 200), range(-9, 9))}
    assert len({number_name(number) for number in numbers}) == len(numbers)


def test_a_key_is_named_by_the_first_letters_of_its_words_unless_two_have_the_same():
    assert short_keys(["learning_rate", "beta"]) == {"learning_rate": "lr", "beta": "beta"}
    assert short_keys(["max_steps", "may_stop"]) == {"max_steps": "max_steps", "may_stop": "may_stop"}


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("kl", None, "no_kl"),
        ("share_prompts", True, "with_share_prompts"),
        ("share_prompts", False, "no_share_prompts"),
        ("dataset", "lima", "lima"),
        ("lora", {"rank": 8, "alpha": 16.0}, "alpha16-rank8"),
        ("lora", {"alpha": 16.0, "rank": 8}, "alpha16-rank8"),
        ("dataset", "not a name", None),
        ("stop", ["a"], None),
        ("beta", float("inf"), None),
    ],
)
def test_other_values_are_named_by_what_they_say_or_not_at_all(key, value, name):
    assert value_name(key, key, value) == name


# --- members ----------------------------------------------------------------------------------------------------------


def test_a_grid_makes_a_run_for_every_combination():
    study = check_study(grid_of(RATES | BETAS))
    names = [name for name in study.runs if name.startswith("dpo")]
    assert names == [
        "dpo-lr1e-4-beta1e-1",
        "dpo-lr1e-4-beta5e-2",
        "dpo-lr5e-4-beta1e-1",
        "dpo-lr5e-4-beta5e-2",
    ]
    assert all(re.match(NAME, name) for name in study.runs)
    values = [(study.runs[name].learning_rate, study.runs[name].beta) for name in names]
    assert values == list(itertools.product(*RATES.values(), *BETAS.values()))
    assert {study.runs[name].grid for name in names} == {None}
    alone = check_study(put(put(config_of(DEFAULT), "runs.dpo.beta", 0.05), "runs.dpo.learning_rate", 1e-4))
    assert study.runs["dpo-lr1e-4-beta5e-2"].model_dump() == alone.runs["dpo"].model_dump()


def test_names_and_order_of_a_grid_do_not_depend_on_how_it_is_written():
    assert list(check_study(grid_of(BETAS | RATES)).runs) == list(check_study(grid_of(RATES | BETAS)).runs)


def test_a_key_of_the_grid_can_be_left_out_of_the_run_which_would_need_it():
    config = put(grid_of(RATES, "sft"), "runs.sft.learning_rate", "DROP")
    assert [run.learning_rate for run in check_study(config).runs.values()][:2] == [1e-4, 5e-4]


def test_what_follows_from_a_key_follows_in_each_member():
    config = put(grid_of({"per_device_batch": [2, 4]}), "runs.dpo.batch_size", "DROP")
    study = check_study(config)
    assert [study.runs[f"dpo-pdb{size}"].batch_size for size in (2, 4)] == [2, 4]


def test_who_names_a_run_with_a_grid_gets_all_that_it_makes():
    study = check_study(grid_of(RATES, "sft"))
    assert study.runs["dpo"].parent == ["sft-lr1e-4", "sft-lr5e-4"]
    names = list(policies_of(study))
    assert {"tiny.sft-lr1e-4.dpo", "tiny.sft-lr5e-4.dpo"} <= set(names)
    one = check_study(put(grid_of(RATES, "sft"), "runs.dpo.parent", "sft-lr5e-4"))
    assert "tiny.sft-lr5e-4.dpo" in policies_of(one) and "tiny.sft-lr1e-4.dpo" not in policies_of(one)


def test_a_baseline_may_be_a_member_and_not_the_whole_grid():
    study = check_study(many(grid_of(RATES, "sft"), report__baseline="tiny.sft-lr5e-4"))
    assert study.report.baseline == "tiny.sft-lr5e-4"
    (line,) = mistakes_in(many(grid_of(RATES, "sft"), report__baseline="tiny.sft"))
    assert line.startswith("report.baseline: no policy is called 'tiny.sft'; did you mean 'tiny.sft-lr")


@pytest.mark.parametrize(
    ("grid", "line"),
    [
        ({"beta": [0.1, 0]}, "runs.dpo.grid.beta[1]: must be greater than 0, not 0"),
        ({"beta": ["x", 0.1]}, "runs.dpo.grid.beta[0]: must be a number > 0, not 'x'"),
        ({"beta": [0.1, "0.2"]}, "runs.dpo.grid.beta[1]: must be a number > 0, not '0.2' (a number, in quotes"),
        ({"lora": [{"rank": 8, "alpha": 8.0, "alfa": 1}]}, "runs.dpo.grid.lora[0].alfa: unknown key; did you mean"),
        ({"bta": [1]}, "runs.dpo.grid.bta: no key to try values of: Dpo has none of this name"),
        ({"parent": ["sft", "tiny"]}, "runs.dpo.grid.parent: no key to try values of"),
        ({"method": ["dpo", "ipo"]}, "runs.dpo.grid.method: no key to try values of"),
        ({"beta": 0.1}, "runs.dpo.grid.beta: must be a list of values, not 0.1"),
        ({"beta": []}, "runs.dpo.grid.beta: must be a list of values, not []"),
        ({"beta": [0.1, 0.1]}, "runs.dpo.grid.beta[1]: 0.1 stands there twice, or another value has its name"),
        ({"lora": [{"rank": 8, "alpha": 8.0, "targets": ["q_proj"]}]}, "has no short name: write a run of its own"),
        ({"beta": [n / 100 for n in range(1, 102)]}, "runs.dpo.grid: makes 101 runs, one for every combination"),
        (
            {"loss": ["sigmoid", "hinge"], "label_smoothing": [0.0, 0.1]},
            "runs.dpo.grid: loss 'hinge', label_smoothing 0.1: label_smoothing goes with loss: sigmoid",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_a_grid_is_named_with_its_path(grid, line):
    found = mistakes_in(grid_of(grid))
    assert any(line in each for each in found), found


def test_a_mistake_beside_a_grid_is_named_where_it_is():
    assert mistakes_in(grid_of(BETAS, runs__dpo__epochs=-1))[0].startswith("runs.dpo.epochs: ")


def test_what_holds_of_all_members_is_said_once_of_the_run_in_the_file():
    found = examine(grid_of(BETAS, runs__dpo__keep="best"))
    assert [line for line in found.wrong if "keep" in line] == [
        "runs.dpo.keep: best needs a validation split or a watch, and neither it nor its pairs have one"
    ]


def test_a_member_is_never_called_as_something_else_is():
    ipo = {"method": "ipo", "parent": "sft", "pairs": "mistakes", "learning_rate": 1e-5}
    taken = many(grid_of(BETAS), **{"runs__dpo-beta1e-1": ipo})
    assert "runs.dpo.grid: makes a run 'dpo-beta1e-1', and there is one of this name" in mistakes_in(taken)
    config = grid_of(BETAS)
    config["runs"]["d" * 95] = config["runs"].pop("dpo")
    assert any("a name of 104 characters; at most 100" in line for line in mistakes_in(config))


def test_only_what_a_member_has_of_its_own_makes_its_jobs():
    plan = plan_of(check_study(grid_of(BETAS)))
    one, two = (
        json.loads(training.training_settings(plan, f"tiny.sft.dpo-beta{beta}")) for beta in ("1e-1", "5e-2")
    )
    assert {key for key in one if one[key] != two[key]} == {"beta", "machine_of"}
    assert "grid" not in one


# --- the best of a grid -----------------------------------------------------------------------------------------------


def chosen(by: str = "loss/validation", **more: object) -> dict:
    parent = {"best_of": "sft", "by": by}
    return grid_of(RATES, "sft", runs__dpo__parent=parent, runs__ipo="DROP", runs__kto="DROP", **more)


def test_a_chosen_parent_is_a_policy_of_its_own_from_which_one_child_descends():
    study = check_study(chosen())
    made = list(policies_of(study))
    assert made == ["tiny", "tiny.sft-lr1e-4", "tiny.sft-lr5e-4", "tiny.sft-best", "tiny.sft-best.dpo"]
    assert check_study(many(chosen(), runs__dpo__grid=BETAS)).runs["dpo-beta1e-1"].parent == "sft-best"
    several = check_study(many(chosen(), seeds=[1, 2], models__other=config_of(DEFAULT)["models"]["tiny"],
                               runs__sft__parent=["tiny", "other"]))  # fmt: skip
    assert {"tiny.sft-best", "other.sft-best", "other.sft-best.dpo"} <= policies_of(several).keys()


def test_all_that_goes_on_from_a_choice_is_planned():
    plan = plan_of(check_study(many(chosen(), seeds=[1, 2])))
    folder = "results/tutor/policies"
    assert choosing.candidate_manifests(plan, "tiny.sft-best", 1) == [
        f"{folder}/tiny.sft-{rate}/seed-{seed}/manifest.json"
        for rate in ("lr1e-4", "lr5e-4")
        for seed in (1, 2)
    ]
    assert json.loads(choosing.choosing_settings(plan, "tiny.sft-best", 2)) == {
        "by": "loss/validation",
        "best": "min",
        "names": ["tiny.sft-lr1e-4", "tiny.sft-lr5e-4"],
        "seeds": [1, 2],
        "seed": 2,
    }
    assert (
        policies.parent_manifest(plan, "tiny.sft-best.dpo", 2)
        == f"{folder}/tiny.sft-best/seed-2/manifest.json"
    )
    assert policies.training_sets(plan, "tiny.sft-best.dpo") == ["tutor/sft", "tutor/preference"]
    assert policies.template(plan, "tiny.sft-best.dpo") == policies.template(plan, "tiny")
    assert prompts.owed(plan, "tiny.sft-best")[0] == "pairs-mistakes"
    assert "pairs-mistakes" not in prompts.owed(plan, "tiny.sft-lr1e-4")
    assert plan.chosen() == ["tiny.sft-best"] and "tiny.sft-best" not in plan.trained()
    places = [entry["file"] for entry in json.loads(costs.cost_settings(plan))["files"]]
    assert not any("train_sft/tiny.sft-best" in place for place in places)
    cells = {entry["policy"]: entry for entry in json.loads(index.index_entries(plan))["cells"]}
    assert cells["tiny.sft-best"]["chosen"] == f"{folder}/tiny.sft-best/seed-2/manifest.json"


def test_the_workflow_plans_a_choice(tmp_path):
    folder = copy_with_study(tmp_path)
    (folder / "studies/mine.yaml").write_text(
        "extends: config.yaml\nstudy: mine\nruns:\n  sft: {grid: {learning_rate: [1e-4, 5e-4]}}\n"
        "  dpo: {parent: {best_of: sft, by: loss/validation}}\n  ipo: null\n  kto: null\nreport: {baseline: tiny}\n"
    )
    flags = ("--configfile", "studies/mine.yaml", "--dry-run", "--printshellcmds")
    shown = snakemake(folder, *flags).stdout
    assert shown.count("workflow_scripts.align.best_of") == 1
    assert '--parent "$(dirname results/mine/policies/tiny.sft-best/seed-1/manifest.json)/model"' in shown


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"runs__sft__validation": "test"}, "runs.sft.validation: benchmarks.tutor asks tutor/test: a policy that is"),
        ({"runs__sft__validation": "sft"}, "runs.sft.validation: 'sft' is what the run learns from: a policy chosen"),
        ({"runs__sft__validation": None}, "runs.dpo.parent.best_of: loss/validation needs a validation split"),
        ({"runs__dpo__parent": {"best_of": "sft", "by": "loss/test"}}, "runs.dpo.parent.by: must be 'loss/validation'"),
        ({"runs__dpo__parent": {"best_of": "sft", "by": "watch/validation"}}, "needs a watch of every candidate"),
        ({"runs__dpo__parent": {"best_of": "sftt"}}, "runs.dpo.parent.best_of: no run that trains is called 'sftt'"),
        ({"runs__dpo__parent": {"best_of": "dpo"}}, "runs.dpo.parent.best_of: there is nothing to choose among"),
        ({"runs__dpo__parent": {"best": "sft"}}, "runs.dpo.parent.best_of: is required"),
        ({"runs__sft__grid": {"learning_rate": [1e-4]}}, "runs.dpo.parent.best_of: there is nothing to choose among"),
        ({"runs__sft__grid": {"objective": ["it", "im"]}}, "differ in objective, so that their validation losses"),
        ({"runs__sft__grid": {"template": ["tutor", "alpaca"]}}, "differ in template, so that their children"),
        ({"runs__sft-best": {"method": "best_of", "of": ["sft", "x"]}}, "makes a run 'sft-best', and there is another"),
        ({"runs__best": {"method": "best_of", "of": ["sft", "dpo"]}}, "sft-lr1e-4, sft-lr5e-4, dpo do not descend"),
        ({"runs__best": {"method": "best_of", "of": "best"}}, "runs.best.of: no run that trains is called 'best'"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_made_is_refused(values, line):
    found = mistakes_in(many(chosen(), **values))
    assert any(line in each for each in found), found


def test_watches_of_one_kind_may_choose_whatever_the_loss_is():
    watch = {"dataset": "tutor", "split": "validation", "metric": "exact_labels", "max_new_tokens": 16}
    by = {"best_of": "sft", "by": "watch/validation"}
    study = check_study(
        many(
            chosen(),
            runs__dpo__parent=by,
            runs__sft__watch=watch,
            runs__sft__grid={"objective": ["it", "im"]},
        )
    )
    assert "tiny.sft-best-watch.dpo" in policies_of(study)
    plan = plan_of(study)
    assert json.loads(choosing.choosing_settings(plan, "tiny.sft-best-watch", 1))["best"] == "max"
    tested = many(chosen(), runs__dpo__parent=by, runs__sft__watch=watch | {"split": "test"})
    assert any(line.startswith("runs.sft.watch.split: benchmarks.tutor asks") for line in mistakes_in(tested))


def test_the_default_study_chooses_nothing():
    assert planned(DEFAULT).chosen() == []
