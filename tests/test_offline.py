"""Offline training: which rows are drawn, what is stored of the parent, and that a run does what it says."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from scipy.stats import chisquare

from tests.command import call
from tests.offline import TOKENS, annotated, rows_of, write_rewarded
from tests.resuming import (
    RESUMED,
    hold_resumed_to_unbroken,
    kill_once_checkpointed,
    leave_a_half_written_checkpoint,
)
from tests.tiny import distance, own_settings, settings_of, training_flags, weights_of
from workflow_scripts.align import (
    a_lol,
    a_lol_kl,
    a_lol_ref_free,
    a_lol_seq,
    nll,
    offline,
    r_gold,
    r_lol,
    wbc,
)
from workflow_scripts.align.offline import OfflineLoss, draw, draws_of, token_log_ratio
from workflow_scripts.align.rewarded_reference import batches_of, tokenise_answers
from workflow_scripts.common.cuts import cut_counts
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_json, write_jsonl, write_manifest
from workflow_scripts.common.logprobs import flat_logps
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.training.loading import load_trainable

METHODS = {
    "nll": nll,
    "wbc": wbc,
    "r_gold": r_gold,
    "r_lol": r_lol,
    "a_lol": a_lol,
    "a_lol_ref_free": a_lol_ref_free,
    "a_lol_seq": a_lol_seq,
    "a_lol_kl": a_lol_kl,
}
NEED_ADVANTAGES = [name for name in METHODS if name.startswith("a_lol")]


def write_advantages(folder: Path, value: float = 0.5, name: str = "advantages") -> None:
    """Write advantages over one value for all prompts, as align.advantages would."""
    rows = [
        {"id": row["id"], "reward": row["reward"], "value": value, "advantage": row["reward"] - value}
        for row in rows_of(folder)
    ]
    write_jsonl(folder / f"{name}.jsonl", rows)
    write_manifest(folder / f"{name}.json", [folder / f"{name}.jsonl"])


def offline_settings(**changed) -> dict:
    own = {"sampling": "none", "clip": 0.9, "beta": 0.1, "floor": 0.1, "clamp": True, "padding_free": True}
    return settings_of(**(own | changed))


def flags_of(
    method: str, model: Path, stored: Path, settings: dict, folder: Path, advantages=None
) -> list[str]:
    """Return the command line of align.<method>; advantages are given to those methods that need them."""
    flags = training_flags(model, own_settings(METHODS[method].Settings, settings), folder)
    flags += [
        "--rewarded",
        str(stored / "rows.parquet"),
        "--rewarded-manifest",
        str(stored / "manifest.json"),
    ]
    if method in NEED_ADVANTAGES if advantages is None else advantages:
        flags += ["--advantages", str(stored / "advantages.jsonl")]
        flags += ["--advantages-manifest", str(stored / "advantages.json")]
    return flags


def run_offline(method: str, model: Path, stored: Path, folder: Path, advantages=None, **settings) -> Path:
    """Run align.<method> in this process; return the trained model's folder."""
    flags = flags_of(method, model, stored, offline_settings(**settings), folder, advantages)
    call(METHODS[method].main, *flags)
    return folder / "model"


@pytest.fixture(scope="module")
def stored(tiny_model, tmp_path_factory) -> Path:
    """Return rewarded rows with advantages: 8 prompts of two answers, 3 more for validation."""
    folder = tmp_path_factory.mktemp("rewarded")
    write_rewarded(tiny_model, folder, annotated(8), annotated(3, first=8))
    write_advantages(folder)
    return folder


# --- which rows are drawn -----------------------------------------------------------------------------------------


def candidates(advantages: list[float], ranks: list[int] | None = None) -> list[dict]:
    ranks = ranks or [0] * len(advantages)
    return [
        {"rank": rank, "reward": 0.5 - advantage, "advantage": advantage}
        for rank, advantage in zip(ranks, advantages, strict=True)
    ]


MIXED = candidates([0.4, -0.2, 0.1, 0.3, 0.0, 0.2, 0.6, -0.1], [0, 0, 0, 0, 0, 1, 1, 1])


def test_without_sampling_each_preferred_answer_comes_once_an_epoch_in_another_order():
    found = draw(MIXED, "none", 3, seed=1)
    epochs = [found[start : start + 5] for start in (0, 5, 10)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_good_random_takes_each_preferred_answer_of_positive_advantage_once_an_epoch():
    found = draw(MIXED, "good_random", 2, seed=1)
    assert sorted(found[:3]) == sorted(found[3:]) == [0, 2, 3]


@pytest.mark.parametrize(
    ("sampling", "by", "wanted"),
    [
        ("good_priority", "advantage", [0.4, 0, 0.1, 0.3, 0, 0, 0, 0]),
        ("good_priority", "reward", [0.1, 0.7, 0.4, 0.2, 0.5, 0, 0, 0]),
        ("all_priority", "advantage", [0.4, 0, 0.1, 0.3, 0, 0.2, 0.6, 0]),
    ],
)
def test_priority_draws_in_proportion_to_the_positive_part(sampling, by, wanted):
    found = draw(MIXED, sampling, 2000, seed=3, by=by)
    positive = [index for index, each in enumerate(wanted) if each > 0]
    assert len(found) == 2000 * len(positive)  # an epoch is as many draws as rows that can be drawn
    counts = Counter(found)
    assert set(counts) == set(positive)
    observed = [counts[index] for index in positive]
    expected = np.array([wanted[index] for index in positive]) / sum(wanted) * len(found)
    assert chisquare(observed, expected).pvalue > 0.001
    assert chisquare(observed).pvalue < 1e-6  # and so not uniform


def test_a_draw_depends_on_its_seed_alone_and_more_epochs_only_append():
    np.random.seed(0)
    for sampling in ("none", "good_priority", "good_random", "all_priority"):
        once = draw(MIXED, sampling, 4, seed=5)
        np.random.random(7)
        assert draw(MIXED, sampling, 4, seed=5) == once
        assert draw(MIXED, sampling, 9, seed=5)[: len(once)] == once
        assert draw(MIXED, sampling, 4, seed=6) != once


@pytest.mark.parametrize("sampling", ["good_priority", "good_random", "all_priority"])
def test_no_positive_advantage_is_an_error_that_says_so(sampling):
    with pytest.raises(PlumblineError, match=r"none of 2 rows to learn from.*positive advantage"):
        draw(candidates([-0.1, 0.0]), sampling, 1, seed=1)


def test_sampling_by_advantage_without_advantages_is_an_error():
    rows = [{"rank": 0, "reward": 1.0}]
    for sampling in ("good_random", "all_priority"):
        with pytest.raises(PlumblineError, match="needs advantages"):
            draw(rows, sampling, 1, seed=1, by="reward")
    assert draw(rows, "good_priority", 1, seed=1, by="reward") == [0]


def test_steps_shrink_with_the_kept_share_unless_max_steps_says_how_many():
    settings = {"sampling": "good_random", "epochs": 2, "max_steps": None}
    assert len(draws_of(MIXED, settings, 4, 1, "advantage")) == 2 * 3
    assert len(draws_of(MIXED, settings | {"epochs": 0.5}, 4, 1, "advantage")) == 2
    assert len(draws_of(MIXED, settings | {"max_steps": 5}, 4, 1, "advantage")) == 5 * 4


# --- what is stored of the parent ---------------------------------------------------------------------------------


def test_the_stored_reference_is_what_the_live_model_says(tiny_model, stored):
    model = load_policy(tiny_model)
    assert len(rows_of(stored)) == 22
    for row in rows_of(stored):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["prompt"] + row["completion"]])).logits[0]
        said = logits[len(row["prompt"]) - 1 : -1].log_softmax(-1)
        live = said[torch.arange(len(row["completion"])), row["completion"]]
        torch.testing.assert_close(torch.tensor(row["reference"]), live, rtol=0, atol=2e-5)


def test_rewarded_rows_keep_order_reward_rank_and_split(stored):
    given = annotated(11)
    rows = rows_of(stored)
    assert [row["id"] for row in rows] == [each["id"] for each in given]
    assert [row["reward"] for row in rows] == [each["rewards"]["final_reward"] for each in given]
    assert [row["rank"] for row in rows] == [0, 1] * 11
    assert [row["split"] for row in rows] == ["train"] * 16 + ["validation"] * 6


def test_answers_of_one_prompt_share_its_encoding_and_a_batch_keeps_to_its_size():
    prompts = [[1, 1], [2], [1, 1], [3, 3, 3], [2], [2], [3, 3, 3], [3, 3, 3], [3, 3, 3], [4]]
    batches = batches_of([{"prompt": prompt, "at": at} for at, prompt in enumerate(prompts)], 3)
    found = [[[row["at"] for row in group] for group in batch] for batch in batches]
    assert found == [[[1, 4, 5]], [[9], [0, 2]], [[3, 6, 7, 8]]]


def test_the_stored_reference_does_not_depend_on_the_batch_or_on_how_many_answers_a_prompt_has(
    tiny_model, stored, tmp_path
):
    rows = annotated(8)
    del rows[3], rows[8]
    whole = {row["id"]: row["reference"] for row in rows_of(stored)}
    for row in rows_of(write_rewarded(tiny_model, tmp_path, rows, batch_size=7)):
        assert row["reference"] == pytest.approx(whole[row["id"]], abs=2e-5)


def test_unusable_answers_are_rejected_with_reasons_and_counted(tiny_model, tmp_path):
    rows = annotated(7, candidates=1)
    rows[0]["reference"] = "Well</s> then"
    rows[1]["reference"] = " \n"
    rows[2]["rewards"]["final_reward"] = math.nan
    del rows[3]["rewards"]["final_reward"]
    rows[4]["rewards"] = {"final_reward": None}
    folder = write_rewarded(tiny_model, tmp_path, rows)
    reasons = {row["id"]: row["reason"] for row in read_jsonl(folder / "rejected.jsonl")}
    missing = "no finite final_reward"
    assert reasons == {
        "c0#0": "special token in content",
        "c1#0": "empty completion",
        "c2#0": missing,
        "c3#0": missing,
        "c4#0": missing,
    }
    counts = read_json(folder / "manifest.json")["counts"]
    assert (counts["read"], counts["kept"], counts["rejected"]) == (7, 2, 5)
    assert counts["tokens"] == sum(len(row["prompt"]) + len(row["completion"]) for row in rows_of(folder))


def test_what_fits_is_whole_what_does_not_is_cut_and_both_kinds_are_counted(tiny_model):
    tokenizer, rows = load_tokenizer(tiny_model), annotated(6, candidates=1)
    whole, _ = tokenise_answers(rows, "train", tokenizer, TOKENS)
    assert not any(cut_counts(whole).values())
    prompts, replies = (sorted(len(row[name]) for row in whole) for name in ("prompt", "completion"))
    limits = {"max_prompt_tokens": prompts[1], "max_tokens": prompts[1] + replies[2]}
    found, rejected = tokenise_answers(rows, "train", tokenizer, TOKENS | limits)
    assert not rejected
    for row, other in zip(found, whole, strict=True):
        assert len(row["prompt"]) + len(row["completion"]) <= limits["max_tokens"]
        if len(other["prompt"]) + len(other["completion"]) <= limits["max_tokens"]:
            assert row == other
        else:
            assert len(row["prompt"]) <= max(prompts[1], 0)
            assert row["completion"] == other["completion"][: limits["max_tokens"] - len(row["prompt"])]
    counts = cut_counts(found)
    assert counts["prompts_cut"] > 0 and counts["completions_cut"] == counts["ends_lost"] > 0
    assert counts["cut"] < len(rows)


def test_an_id_that_comes_twice_is_refused(tiny_model, tmp_path):
    with pytest.raises(PlumblineError, match="row c0#0: this id comes twice"):
        write_rewarded(tiny_model, tmp_path, annotated(2), annotated(1))


# --- training -----------------------------------------------------------------------------------------------------


def test_every_ratio_is_1_at_step_0_whatever_dropout_the_policy_has(tiny_model, stored, tmp_path):
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_json(tmp_path / "config.json", read_json(tiny_model / "config.json") | {"attention_dropout": 0.5})
    lora = {"rank": 2, "alpha": 4, "dropout": 0.5, "targets": "all-linear", "merge": True}
    settings, rows = offline_settings(lora=lora), rows_of(stored)

    def ratios(model) -> torch.Tensor:
        with torch.no_grad():
            return token_log_ratio(OfflineLoss(nll.weights, settings, flat_logps).answers(model, rows)).exp()

    assert (ratios(load_trainable(tmp_path, settings, 1).train()) - 1).abs().max() > 0.01
    quiet = ratios(load_trainable(tmp_path, settings, 1, drops_nothing=True).train())
    torch.testing.assert_close(quiet, torch.ones_like(quiet), rtol=0, atol=1e-4)


def first_loss(folder: Path) -> float:
    return read_json(folder / "curve.json")[0]["train_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_of_a_run_is_its_formula_on_the_stored_reference(tiny_model, stored, tmp_path, method):
    # At step 0 policy = reference and every ratio is 1, so Σ_t w_t·nll_t needs the stored file alone.
    run_offline(method, tiny_model, stored, tmp_path, per_device_batch=8, max_steps=1, warmup=0.0)
    total = 0.0
    for row in rows_of(stored):
        if row["rank"] == 0 and row["split"] == "train":
            likelihood = [-logp for logp in row["reference"]]
            reward, advantage = row["reward"], max(row["reward"] - 0.5, 0)
            if method == "r_gold":
                total += reward * sum(max(math.exp(-each), 0.1) * each for each in likelihood)
            else:
                by = {"nll": 1.0, "wbc": reward, "r_lol": reward}.get(method, advantage)
                total += by * sum(likelihood)  # the divergence of a_lol_kl is 0 here
    assert first_loss(tmp_path) == pytest.approx(total / 8, rel=1e-4)


@pytest.mark.parametrize("method", ["r_lol", "a_lol", "a_lol_seq", "a_lol_kl"])
def test_batch_8_trains_the_same_in_one_pass_and_in_eight(tiny_model, stored, tmp_path, monkeypatch, method):
    # Plain gradient steps: Adam would hide a wrong scale and blow up the rounding of gradients near zero.
    usual = offline.training_arguments
    monkeypatch.setattr(
        offline, "training_arguments", lambda *given, **named: usual(*given, **named) | {"optim": "sgd"}
    )
    options = {
        "max_steps": 4,
        "max_grad_norm": 0.0,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "warmup": 0,
    }
    whole = run_offline(method, tiny_model, stored, tmp_path / "whole", per_device_batch=8, **options)
    parts = {"batch_size": 8, "per_device_batch": 1} | options
    parts = run_offline(method, tiny_model, stored, tmp_path / "parts", **parts)
    assert distance(weights_of(whole), weights_of(tiny_model)) > 1e-3
    assert distance(weights_of(whole), weights_of(parts)) < 1e-5


def test_sharing_prompts_and_gradient_checkpointing_train_the_same_weights(tiny_model, stored, tmp_path):
    options = {"max_steps": 3}
    plain = run_offline("a_lol", tiny_model, stored, tmp_path / "plain", **options)
    shared = run_offline("a_lol", tiny_model, stored, tmp_path / "shared", padding_free=False, **options)
    again = {"gradient_checkpointing": True} | options
    again = run_offline("a_lol", tiny_model, stored, tmp_path / "again", **again)
    assert distance(weights_of(plain), weights_of(tiny_model)) > 1e-3
    assert distance(weights_of(plain), weights_of(shared)) < 1e-5
    assert distance(weights_of(plain), weights_of(again)) < 1e-5


def test_a_run_says_what_it_kept_clipped_and_learned_from(tiny_model, stored, tmp_path):
    options = {"sampling": "none", "epochs": 3, "learning_rate": 1e-2, "clip": 0.01, "evaluate_every": 2}
    run_offline("a_lol", tiny_model, stored, tmp_path, **options)
    manifest = read_json(tmp_path / "manifest.json")
    rewards = [row["reward"] for row in rows_of(stored) if row["rank"] == 0 and row["split"] == "train"]
    above = [reward for reward in rewards if reward > 0.5]
    assert manifest["kept_share"] == len(above) / len(rewards)
    assert (manifest["rows"], manifest["steps"]) == (24, 6)
    assert manifest["effective_steps"] == pytest.approx(6 * len(above) / len(rewards))
    assert manifest["reward"]["mean"] == pytest.approx(np.mean(rewards), abs=1e-6)
    assert manifest["reward"]["percentile_10"] == pytest.approx(np.percentile(rewards, 10), abs=1e-6)
    assert manifest["advantage"]["median"] == pytest.approx(np.median(rewards) - 0.5, abs=1e-6)
    curve = read_json(tmp_path / "curve.json")
    shares = [row["clipped_share"] for row in curve if "clipped_share" in row]
    assert shares[0] == 0.0  # all ratios are 1
    assert max(shares) > 0.5  # and with so narrow a clip soon are not
    assert manifest["clipped_share"] == pytest.approx(sum(shares) / len(shares), abs=1e-5)
    assert [row["step"] for row in curve if "validation_loss" in row] == [2, 4, 6]


def test_validation_is_the_same_weighted_loss_over_the_preferred_held_out_answers(
    tiny_model, stored, tmp_path
):
    run_offline(
        "wbc", tiny_model, stored, tmp_path, max_steps=1, warmup=0.0, evaluate_every=1, learning_rate=0.0
    )
    (found,) = [
        row["validation_loss"] for row in read_json(tmp_path / "curve.json") if "validation_loss" in row
    ]
    held = [row for row in rows_of(stored) if row["split"] == "validation" and row["rank"] == 0]
    assert len(held) == 3
    wanted = sum(row["reward"] * -sum(row["reference"]) for row in held) / 3
    assert found == pytest.approx(wanted, rel=1e-4)


def test_good_random_gives_the_likelihood_baseline_the_filter_of_a_lol(tiny_model, stored, tmp_path):
    options = {"sampling": "good_random", "advantages": True, "warmup": 0.0}
    run_offline("nll", tiny_model, stored, tmp_path, **options)
    manifest = read_json(tmp_path / "manifest.json")
    above = [row for row in rows_of(stored) if row["reward"] > 0.5 and row["rank"] == 0]
    kept = len([row for row in above if row["split"] == "train"])
    assert (manifest["rows"], manifest["kept_share"]) == (kept, kept / 8)


def test_a_lol_killed_and_run_again_ends_with_the_bytes_of_an_unbroken_run(
    tiny_model, stored, tmp_path, capsys
):
    options = RESUMED | {"sampling": "good_priority", "clip": 0.1}
    unbroken = run_offline("a_lol_seq", tiny_model, stored, tmp_path / "unbroken", **options)
    assert "resuming" not in capsys.readouterr().out
    flags = flags_of("a_lol_seq", tiny_model, stored, offline_settings(**options), tmp_path / "resumed")
    kill_once_checkpointed("workflow_scripts.align.a_lol_seq", flags, tmp_path / "resumed/work")
    assert not (tmp_path / "resumed/model").exists()
    half = leave_a_half_written_checkpoint(tmp_path / "resumed/work")
    call(a_lol_seq.main, *flags)
    assert not half.exists()
    resumed = tmp_path / "resumed/model"
    hold_resumed_to_unbroken(resumed, unbroken, tmp_path / "resumed/work", capsys.readouterr().out)
    assert 0 < read_json(tmp_path / "resumed/manifest.json")["clipped_share"] < 1


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NEED_ADVANTAGES)
def test_a_method_that_needs_advantages_says_so(tiny_model, stored, tmp_path, method):
    with pytest.raises(PlumblineError, match=f"{method}: needs advantages"):
        run_offline(method, tiny_model, stored, tmp_path, advantages=False)


@pytest.mark.parametrize(
    ("column", "bad"), [("reward", math.nan), ("reward", math.inf), ("advantage", math.nan)]
)
def test_a_reward_or_advantage_that_is_no_number_names_its_row(tiny_model, stored, tmp_path, column, bad):
    rows, advantages = rows_of(stored), read_jsonl(stored / "advantages.jsonl")
    changed = rows if column == "reward" else advantages
    changed[2][column] = bad
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    write_manifest(tmp_path / "manifest.json", [tmp_path / "rows.parquet"])
    write_jsonl(tmp_path / "advantages.jsonl", advantages)
    write_manifest(tmp_path / "advantages.json", [tmp_path / "advantages.jsonl"])
    with pytest.raises(PlumblineError, match=f"row c1#0: its {column} is"):
        run_offline("wbc", tiny_model, tmp_path, tmp_path / "run", advantages=column == "advantage")


def test_advantages_of_other_rewards_or_rows_are_refused(tiny_model, stored, tmp_path):
    for file in ("rows.parquet", "manifest.json", "advantages.json"):
        (tmp_path / file).write_bytes((stored / file).read_bytes())
    advantages = read_jsonl(stored / "advantages.jsonl")
    for broken in ([*advantages[:1], advantages[1] | {"reward": 9.0}, *advantages[2:]], advantages[:1]):
        write_jsonl(tmp_path / "advantages.jsonl", broken)
        with pytest.raises(PlumblineError, match="row c0#1: no advantage of its reward"):
            run_offline("a_lol", tiny_model, tmp_path, tmp_path / "run")
