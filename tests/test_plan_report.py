"""The tables, figures and page: which trainings, curves, rewards and data they are made of."""

import pytest

from tests.plans import DEFAULT, EVERY_KEY, STUDIES, changed, family, planned, told
from tests.workflow import ROOT
from workflow_scripts.plan import policies, report, training
from workflow_scripts.plan.plan import trained_cells

RESULTS = "results/every-key"
# The published checkpoints, whose answers a reward model is to reward: nothing trains but what rewards.
REWARDED = {
    "reward_models.rm": {"parent": "", "dataset": "tutor", "split": "test", "learning_rate": 1e-4},
    "annotations.own": {
        "dataset": "tutor",
        "splits": ["test"],
        "fit_split": "test",
        "rewards": {"rm": {"model": "rm"}},
    },
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_training_is_told_of_once_with_its_curve_its_manifest_and_what_it_learned_from(name):
    plan = planned(name)
    found = report.trainings(plan)
    assert [(run["policy"], run["seed"]) for run in found] == trained_cells(plan)
    for run in found:
        folder = plan.layout.policy(run["policy"], run["seed"])
        assert (run["curve"], run["manifest"]) == (f"{folder}/curve.json", f"{folder}/manifest.json")
        assert run["learned_from"] == training.material(plan, run["policy"], run["seed"])
        assert run["method"] == plan.policies[run["policy"]].method
        part = getattr(plan.run(run["policy"]), "pairs", None)
        cell = policies.parent_cell(plan, run["policy"], run["seed"])
        wanted = training.pairs_manifest(plan, part, *cell) if part else None
        assert run.get("pairs") == wanted
    keys = ("curve", "manifest", "learned_from", "pairs")
    files = {run[key] for run in found for key in keys if key in run}
    assert set(report.training_files(plan)) == files


def test_the_curves_drawn_are_those_of_policies_and_of_reward_models_that_judge():
    reward = {"policy": "rm", "seed": 1, "file": f"{RESULTS}/reward_models/rm/curve.json"}
    curves = report.curves(family())
    assert [(curve["policy"], curve["seed"]) for curve in curves[:-1]] == trained_cells(family())
    assert curves[-1] == reward
    assert report.curve_files(family()) == [curve["file"] for curve in curves]
    of_rules = {f"benchmarks.{name}.judge": "ruled" for name in ("bundled", "preferred")}
    plan = changed(EVERY_KEY, of_rules | {"judges.trained": "DROP"})
    assert reward not in report.curves(plan)


def test_a_figure_is_due_where_there_is_something_to_draw():
    figures = "results/tutor/figures"
    wanted = [f"{figures}/{name}.svg" for name in ("loss_curves", "policy_bars", "rewards")]
    assert report.figures(planned(DEFAULT)) == wanted
    assert report.figures(changed(DEFAULT, {"report.bars": [], "annotations": {}})) == wanted[:1]


def test_without_a_training_no_loss_curves_are_due_though_a_reward_model_rewards():
    published = planned("tutorbot-published")
    assert report.curves(published) == report.trainings(published) == []
    model = next(iter(published.study.models))
    plan = changed("tutorbot-published", REWARDED | {"reward_models.rm.parent": model})
    assert report.curves(plan) == []
    folder = "results/tutorbot-published/figures"
    assert report.figures(plan) == [f"{folder}/policy_bars.svg", f"{folder}/rewards.svg"]


def test_rewards_are_drawn_of_every_annotated_split():
    plan = planned(EVERY_KEY)
    splits = {"judged": ("train", "validation"), "critical": ("train",), "brought": ("train", "validation")}
    folders = {name: f"{RESULTS}/annotations/{name}" for name in splits}
    rows = [f"{folders[name]}/rows/{split}.jsonl" for name in splits for split in splits[name]]
    assert report.reward_rows(plan) == rows
    assert report.reward_manifests(plan) == [f"{folder}/manifest.json" for folder in folders.values()]


def test_the_data_shown_is_what_policies_learned_from():
    cleaned = "data/clean/every-key"
    wanted = {name: f"{cleaned}/{name}/manifest.json" for name in ("chatted", "ranked", "tutored")}
    assert report.data_manifests(planned(EVERY_KEY)) == wanted
    assert report.data_manifests(planned("tutorbot-published")) == {}


def test_the_table_is_told_what_to_compare_with_how_often_to_draw_and_whose_numbers_stand_beside():
    settings = told(report.table_settings(changed(EVERY_KEY, {"seeds": [4, 5], "report.draws": 77})))
    assert (settings["study"], settings["seed"], settings["draws"]) == ("every-key", 4, 77)
    assert (settings["baseline"], settings["confidence"]) == ("tiny.sft", 0.95)
    assert [entry["source"] for entry in settings["published"]] == ["a paper", "a table"]
    assert settings["bars"] == [{"benchmark": "labels", "subset": "action", "metric": "accuracy"}]
    assert told(report.bars_settings(planned(EVERY_KEY))) == {"cells": ["labels/action/accuracy"]}


def test_the_page_shows_every_answered_benchmark_and_names_the_studys_files():
    plan = planned(EVERY_KEY)
    settings = told(report.page_settings(plan, ["a.yaml", "b.yaml"]))
    assert settings["file"] == "a.yaml, b.yaml"
    assert settings["prompts"]["labels"] == f"{RESULTS}/prompts/labels.json"
    assert not {"local", "losses", "pairs-mistakes"} & settings["prompts"].keys()
    assert settings["curves"] == report.curves(plan)
    assert settings["data"] == report.data_manifests(plan)
    assert settings["sample_count"] == plan.study.report.samples


def test_the_page_is_made_of_files_that_there_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert {"report/page.css", "report/page.html.j2"} <= set(report.page_files())
