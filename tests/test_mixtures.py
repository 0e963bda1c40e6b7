"""Mixtures: several datasets as one, by weight, drawn by seed, no group in two splits, every row counted."""

import json
from collections import Counter

import pytest

from tests.plans import EVERY_KEY, changed, told
from tests.studies import put
from workflow_scripts.clean.mix import mix, shares_of
from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.plan import cleaning, index, overlap, training
from workflow_scripts.study.checking import examine
from workflow_scripts.study.reading import read_yaml


def row(name, group=None):
    said = [{"role": "system", "content": "Be."}, {"role": "user", "content": name}]
    said.append({"role": "assistant", "content": "So."})
    return {"id": f"1:{name}", "group": group or name, "messages": said, "meta": {"file": "f", "index": 0}}


def mixed(tmp_path, splits, **settings):
    """Return {split: rows} of the mixture of {split: {dataset: rows}}, and its manifest."""
    files = {}
    for split, datasets in splits.items():
        for name, rows in datasets.items():
            path = tmp_path / name / f"{split}.jsonl"
            write_jsonl(path, rows)
            files.setdefault(split, {})[name] = str(path)
    names = list(dict.fromkeys(name for datasets in splits.values() for name in datasets))
    whole = {"mixture": dict.fromkeys(names, 1.0), "rows": None, "by": "random", "seed": 1, "own_groups": []}
    mix(files, whole | settings, str(tmp_path / "rows"), str(tmp_path / "manifest.json"))
    manifest = read_json(tmp_path / "manifest.json")
    for count in manifest["counts"].values():
        for unit in ("rows", "turns"):
            assert count[unit]["kept"] + count[unit]["rejected"] == count[unit]["read"]
    rejected = read_jsonl(tmp_path / "rows/rejected.jsonl")
    assert len(rejected) == sum(count["rows"]["rejected"] for count in manifest["counts"].values())
    found = {split: read_jsonl(tmp_path / f"rows/{split}.jsonl") for split in splits}
    for rows in found.values():
        assert len({each["id"] for each in rows}) == len(rows)
    return found, manifest


def origins(rows):
    return Counter(each["id"].split("/")[0] for each in rows)


def many(prefix, count):
    return [row(f"{prefix}{n}") for n in range(count)]


@pytest.mark.parametrize(
    ("weights", "rows", "sizes", "wanted"),
    [
        ({"a": 0.5, "b": 0.5}, 100, {"a": 90, "b": 80}, {"a": 50, "b": 50}),
        ({"a": 3.0, "b": 1.0}, 100, {"a": 90, "b": 80}, {"a": 75, "b": 25}),
        ({"a": 0.5, "b": 0.5}, 100, {"a": 30, "b": 80}, {"a": 30, "b": 30}),  # the weights hold
        ({"a": 2.0, "b": 1.0}, 100, {"a": 31, "b": 80}, {"a": 31, "b": 15}),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 10, {"a": 9, "b": 9, "c": 9}, {"a": 4, "b": 3, "c": 3}),
        (
            {"a": 0.1, "b": 0.29},
            None,
            {"a": 30, "b": 100},
            {"a": 3, "b": 29},
        ),  # 0.29 × 100 is 28.999 in floats
        ({"a": 1.0, "b": 2.5}, None, {"a": 7, "b": 4}, {"a": 7, "b": 10}),
        ({"a": 1.0, "b": 1.0}, 10, {"a": 0, "b": 4}, {"a": 0, "b": 0}),
    ],
)
def test_rows_are_shared_out_by_weight(weights, rows, sizes, wanted):
    found = shares_of(sizes, {"mixture": weights, "rows": rows, "by": "first", "seed": 1, "own_groups": []})
    assert found == wanted


def test_a_split_is_made_of_the_same_split_of_each_dataset_by_weight(tmp_path):
    splits = {
        "train": {"qa": many("q", 40), "chats": many("c", 60)},
        "test": {"qa": many("t", 4), "chats": many("u", 9)},
    }
    found, manifest = mixed(tmp_path, splits, mixture={"qa": 0.5, "chats": 0.5}, rows=20)
    assert origins(found["train"]) == {"qa": 10, "chats": 10}
    assert origins(found["test"]) == {"qa": 4, "chats": 4}  # at most 20, and in proportion
    own = {each["id"]: each for name in ("qa", "chats") for each in splits["train"][name]}
    for each in found["train"]:
        assert each["messages"] == own[each["id"].partition("/")[2]]["messages"]
    assert manifest["counts"]["qa/train"]["rows"] == {"read": 40, "kept": 10, "rejected": 30}
    assert manifest["counts"]["chats/test"]["turns"] == {"read": 18, "kept": 8, "rejected": 10}
    assert manifest["splits"]["train"] == {"conversations": 20, "groups": 20, "turns": 40}
    assert manifest["rejected"] == {"row: outside the mixture": {"entries": 85, "turns": 170}}
    assert set(manifest["made_of"]) == {"qa/train", "chats/train", "qa/test", "chats/test"}


def test_the_seed_draws_other_rows_in_another_order_and_first_draws_none(tmp_path):
    splits = {"train": {"qa": many("q", 40), "chats": many("c", 60)}}
    (one, same, other) = (mixed(tmp_path, splits, rows=20, seed=seed)[0]["train"] for seed in (1, 1, 2))
    assert one == same
    assert {each["id"] for each in one} != {each["id"] for each in other}
    assert [each["id"].split("/")[0] for each in one] != ["qa"] * 10 + ["chats"] * 10
    first, _ = mixed(tmp_path, splits, rows=4, by="first")
    assert [each["id"] for each in first["train"]] == ["qa/1:q0", "qa/1:q1", "chats/1:c0", "chats/1:c1"]


def test_a_weight_above_one_takes_rows_again_each_under_a_name_of_its_own(tmp_path):
    splits = {"train": {"hard": many("h", 2), "qa": many("q", 3)}}
    for by in ("first", "random"):
        found, manifest = mixed(tmp_path, splits, mixture={"hard": 2.5, "qa": 1.0}, by=by)
        texts = Counter(each["messages"][1]["content"] for each in found["train"])
        assert sorted(texts[name] for name in ("h0", "h1")) == [2, 3]
        assert manifest["notes"] == {"rows taken again": 3}
        assert manifest["counts"]["hard/train"]["rows"] == {"read": 5, "kept": 5, "rejected": 0}


def test_a_group_of_two_datasets_is_in_one_split_alone(tmp_path):
    splits = {
        "train": {"qa": [row("a"), row("b")], "chats": [row("c")]},
        "test": {"qa": [row("c2", group="c"), row("d")], "chats": [row("a2", group="a"), row("e")]},
    }
    found, manifest = mixed(tmp_path, splits)
    assert sorted(each["id"] for each in found["test"]) == ["chats/1:e", "qa/1:d"]
    assert manifest["rejected"] == {"row: group is in another split": {"entries": 2, "turns": 4}}
    found, _ = mixed(
        tmp_path, splits, own_groups=["chats"]
    )  # a chat's group is its number, and so is another's
    assert sorted(each["id"] for each in found["test"]) == ["chats/1:a2", "chats/1:e", "qa/1:c2", "qa/1:d"]
    assert {each["group"] for each in found["test"]} == {"chats/a", "chats/e", "c", "d"}


def test_too_few_rows_are_told_and_none_stop_it(tmp_path, capsys):
    splits = {"train": {"qa": many("q", 3), "chats": many("c", 60)}}
    mixed(tmp_path, splits, rows=20)
    said = capsys.readouterr().err
    assert "train: 6 rows, 3 of the 3 of qa, 3 of the 60 of chats" in said
    assert "train: not 20 rows, as qa has no more for its share" in said
    with pytest.raises(
        PlumblineError, match="split 'train' of the mixture stays empty, made of 3 rows of qa"
    ):
        mixed(tmp_path, splits, mixture={"qa": 0.1, "chats": 0.01})


BLEND = {"mixture": {"tutored": 0.5, "chatted": 2.0}, "rows": 9, "by": "first", "seed": 1}


# --- in a study -------------------------------------------------------------------------------------------------------


def test_a_run_learns_from_a_mixture_as_from_any_dataset():
    plan = changed(EVERY_KEY, {"datasets.blend": BLEND, "runs.chat.dataset": "blend"})
    policy = "tiny.chat"
    assert cleaning.mixed(plan) == ["blend"] and "blend" not in cleaning.cleaned(plan)
    made_of = ["data/clean/every-key/tutored/manifest.json", "data/clean/every-key/chatted/manifest.json"]
    assert cleaning.mixed_datasets(plan, "blend") == made_of
    assert cleaning.mixed_rows(plan, "blend") == [
        f"{name}/{split}=$CLEAN/{name}/rows/{split}.jsonl"
        for split in ("sft", "validation")
        for name in ("tutored", "chatted")
    ]
    settings = told(cleaning.mixture_settings(plan, "blend"))
    assert settings == {
        "mixture": {"tutored": 0.5, "chatted": 2.0},
        "rows": 9,
        "by": "first",
        "seed": 1,
        "own_groups": ["chatted"],
    }
    mixture = "data/clean/every-key/blend/manifest.json"
    assert training.tokens_dataset(plan, policy) == mixture
    assert told(training.tokens_settings(plan, policy))["history_turns"] is None
    assert "train=$CLEAN/blend/rows/sft.jsonl" in training.tokens_splits(plan, policy)
    assert mixture in overlap.training_inputs(plan)
    (cell,) = [
        cell
        for cell in json.loads(index.index_entries(plan))["cells"]
        if (cell["policy"], cell["seed"]) == (policy, 1)
    ]
    assert cell["training_sets"] == ["blend/sft"] and mixture in cell["files"]


def refused(**values):
    config = put(read_yaml(EVERY_KEY), "datasets.blend", BLEND)
    for path, value in values.items():
        section, name = path.split("__")
        config[section][name] = value
    found = examine(config, folder=ROOT / "tests")
    return found.wrong, found.doubts


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            {"tutored": 1.0, "nobody": 1.0},
            "datasets.bad.mixture: no dataset made of files is called 'nobody'",
        ),
        ({"tutored": 1.0, "blend": 1.0}, "datasets.bad.mixture: no dataset made of files is called 'blend'"),
        (
            {"tutored": 1.0, "ranked": 1.0},
            "its datasets differ in ranked answers (tutored: False, ranked: True)",
        ),
        (
            {"chatted": 1.0, "worded": 1.0},
            "datasets.bad.mixture: chatted, worded have no split that is called alike",
        ),
        ({"chatted": 0.0}, "datasets.bad.mixture.chatted"),
        ({}, "datasets.bad.mixture: must have at least 1"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(mixture, message):
    wrong, _ = refused(datasets__bad={"mixture": mixture})
    assert any(message in line for line in wrong), wrong


def test_a_split_that_a_mixture_has_not_and_a_method_that_cannot_read_its_rows_are_refused():
    run = {"method": "sft", "parent": "tiny", "dataset": "blend", "learning_rate": 1e-4}
    wrong, _ = refused(runs__new=run | {"split": "test"})
    assert any("runs.new.split" in line and "split of dataset 'blend'" in line for line in wrong), wrong
    wrong, _ = refused(
        datasets__all={"mixture": {"ranked": 1.0}}, runs__new=run | {"dataset": "all", "split": "train"}
    )
    assert any("runs.new.dataset: rows of schema alpaca_preferences" in line for line in wrong), wrong
    wrong, _ = refused(benchmarks__labels={"kind": "tutor", "dataset": "blend", "split": "sft"})
    assert any("'blend' has rows of schema messages" in line for line in wrong), wrong


@pytest.mark.parametrize(
    ("learned", "asked"), [("blend", "chatted"), ("chatted", "blend"), ("blend", "blend")]
)
def test_a_benchmark_on_rows_that_were_learned_in_a_mixture_or_are_asked_in_one_is_in_doubt(learned, asked):
    run = {"method": "sft", "parent": "tiny", "dataset": learned, "learning_rate": 1e-4}
    benchmark = {"kind": "judge_score", "prompt": "{prompt} {answer}", "judge": "asked"}
    benchmark |= {"dataset": asked, "split": "sft"}
    _, doubts = refused(runs__chat=run, benchmarks__rated=benchmark)
    assert any("benchmarks.rated.split: runs.chat learns from chatted/sft" in line for line in doubts), doubts


def test_a_mixture_has_at_most_its_rows_or_the_shares_of_its_datasets():
    study = changed(EVERY_KEY, {"datasets.blend": BLEND}).study
    assert study.datasets["blend"].most_rows("sft", study) == 9
    study = changed(EVERY_KEY, {"datasets.blend": {"mixture": {"tutored": 0.5}}}).study
    assert study.datasets["blend"].most_rows("sft", study) == 5  # half of 9, at most
    study = changed(EVERY_KEY, {"datasets.blend": {"mixture": {"tutored": 0.5, "chatted": 1.0}}}).study
    assert study.datasets["blend"].most_rows("sft", study) is None


def test_a_study_cut_short_cuts_what_a_mixture_is_made_of():
    study = changed(EVERY_KEY, {"limit": 3}).study
    assert study.datasets["tutored"].split.limit == 3 and study.datasets["blend"].size == 9


def test_turns_that_are_rows_of_their_own_are_not_split():
    wrong, _ = refused(
        runs__chat={"method": "sft", "parent": "tiny", "dataset": "chatted", "learning_rate": 1e-4}
    )
    assert not any("overflow" in line for line in wrong), wrong
    config = put(read_yaml(EVERY_KEY), "datasets.chatted.history_turns", 1)
    found = examine(put(config, "runs.chat.overflow", "split"), folder=ROOT / "tests")
    assert any(line.startswith("runs.chat.overflow: split cuts whole conversations") for line in found.wrong)
