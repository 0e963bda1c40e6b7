"""The value function: what padding and dropout may not do to it, how it is fitted, and the advantages it gives."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command import call
from tests.offline import annotated, rows_of, write_rewarded
from tests.tiny import TEMPLATE
from workflow_scripts.align import advantages, fit_value
from workflow_scripts.align.fit_value import fit, hold_out
from workflow_scripts.align.parent import states_by_prompt
from workflow_scripts.align.value_head import (
    ValueHead,
    batched,
    load_head,
    read_values,
    save_head,
)
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.templates import tokenise_prompt

SETTINGS = {
    "max_value": 1.0,
    "heads": 4,
    "dropout": 0.1,
    "learning_rate": 1e-3,
    "epochs": 3,
    "batch_size": 4,
    "held_out": 0.25,
    "max_prompt_tokens": 160,
    "template": TEMPLATE,
    "history_turns": None,
    "precision": "float32",
    "trust_remote_code": False,
}


def head_of(width: int = 8, heads: int = 2, max_value: float = 1.0, seed: int = 0) -> ValueHead:
    torch.manual_seed(seed)
    return ValueHead(width, heads, 0.5, max_value).double()


def random_states(lengths: list[int], width: int = 8, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator, dtype=torch.float64) for length in lengths]


# --- the head -----------------------------------------------------------------------------------------------------


def test_a_value_is_the_formula_of_one_query_attending_over_the_prompt():
    # a = Σ_h softmax(q_h·K_h/√d) V_h with q, K, V projected; v = max_value · σ(w·(W_o a + b_o) + b)
    head, (states,) = head_of(max_value=3.0).eval(), random_states([5])
    attention, heads, size = head.attention, 2, 4
    query, key, value = (
        part @ matrix.T + bias
        for part, matrix, bias in zip(
            (head.query[None], states, states),
            attention.in_proj_weight.chunk(3),
            attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    pieces = []
    for each in range(heads):
        own = slice(each * size, (each + 1) * size)
        scores = (query[:, own] @ key[:, own].T / math.sqrt(size)).softmax(-1)
        pieces.append(scores @ value[:, own])
    attended = torch.cat(pieces, 1) @ attention.out_proj.weight.T + attention.out_proj.bias
    wanted = 3.0 / (1 + math.exp(-(attended @ head.out.weight.T + head.out.bias).item()))
    assert read_values(head, [states], 1).item() == pytest.approx(wanted, rel=1e-10)


def test_a_value_does_not_depend_on_the_padding_beside_it():
    head, states = head_of(), random_states([3, 9, 1, 5])
    together = read_values(head, states, 4)
    alone = torch.cat([read_values(head, [row], 1) for row in states])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)
    padded, real = batched(states)
    loud = torch.where(real[..., None], padded, 1e6)
    torch.testing.assert_close(head(loud, real), alone, rtol=1e-12, atol=0)


def test_values_are_read_without_dropout_even_from_a_head_in_training():
    head, states = head_of(), random_states([3, 9, 5])
    head.train()
    first = read_values(head, states, 2)
    assert torch.equal(read_values(head, states, 2), first)
    head.train()
    assert not torch.equal(head(*batched(states)), first)  # in training there is dropout


def test_values_keep_within_zero_and_max_value():
    head, states = head_of(max_value=4.0), random_states([6] * 50)
    with torch.no_grad():
        head.out.weight *= 100
    values = read_values(head, states, 10)
    assert (values >= 0).all()
    assert (values <= 4).all()
    assert values.max() > 1


def test_a_saved_head_reads_the_same_values(tmp_path):
    head, states = head_of().float(), [row.float() for row in random_states([3, 9])]
    save_head(head, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "head.safetensors"]
    loaded = load_head(tmp_path)
    assert not loaded.training
    assert torch.equal(read_values(loaded, states, 2), read_values(head, states, 2))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(PlumblineError, match="3 heads do not divide the model's width 8"):
        ValueHead(8, 3, 0.1, 1.0)


def test_the_states_of_a_prompt_are_those_of_each_prompt_alone_and_come_once(tiny_model):
    model, tokenizer = load_policy(tiny_model), load_tokenizer(tiny_model)
    prompts = [tokenise_prompt(row["messages"], TEMPLATE, tokenizer) for row in annotated(5, 1)]
    found = list(states_by_prompt(model, [*prompts, prompts[0]], 3, "float32"))
    assert sorted(prompt for prompt, _ in found) == sorted(map(tuple, prompts))
    for prompt, states in found:
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(states, alone, rtol=0, atol=1e-4)


# --- fitting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_either_fitted_on_or_held_out(seed):
    groups = [f"g{number % 7}" for number in range(30)]
    fitted, held = hold_out(groups, 0.3, seed)
    assert sorted(fitted + held) == list(range(30))
    assert not {groups[index] for index in fitted} & {groups[index] for index in held}
    assert 9 <= len(held) <= 13  # 0.3 × 30, up to one group more
    assert hold_out(groups, 0.3, seed) == (fitted, held)


def test_some_group_is_held_out_and_some_fitted_on_whatever_the_share():
    for share in (0.001, 0.999):
        fitted, held = hold_out(["a", "a", "b"], share, 0)
        assert fitted
        assert held
    with pytest.raises(PlumblineError, match="cannot be split"):
        hold_out(["a", "a"], 0.5, 0)


def learnable(count: int = 60) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return states whose first coordinate says what the reward is."""
    states = [row.float() for row in random_states([4] * count)]
    rewards = torch.tensor([0.1 if index % 2 else 0.9 for index in range(count)])
    for row, reward in zip(states, rewards, strict=True):
        row[:, 0] = 6 * (reward - 0.5)
    return states, rewards


def test_fitting_learns_what_the_prompts_tell_and_beats_guessing_the_mean():
    states, rewards = learnable()
    settings = SETTINGS | {"epochs": 60, "heads": 2, "learning_rate": 1e-2}
    head, curve, epoch = fit(states, rewards, list(range(40)), list(range(40, 60)), settings, 1)
    held = rewards[40:]
    error = (read_values(head, states[40:], 8) - held).square().mean().item()
    assert error < 0.1 * (held - rewards[:40].mean()).square().mean().item()
    assert not head.training
    assert error == pytest.approx(min(row["validation_loss"] for row in curve), abs=1e-6)
    assert curve[epoch]["validation_loss"] == min(row["validation_loss"] for row in curve)


def test_where_no_epoch_beats_the_mean_on_held_out_prompts_the_values_are_the_mean():
    # held-out rewards are the opposite of what the fitted prompts teach
    states, rewards = learnable()
    rewards[40:] = 1 - rewards[40:]
    settings = SETTINGS | {"epochs": 5, "heads": 2, "learning_rate": 1e-2, "max_value": 2.0}
    head, curve, epoch = fit(states, rewards, list(range(40)), list(range(40, 60)), settings, 1)
    assert epoch == 0
    assert read_values(head, states, 8).tolist() == pytest.approx([rewards[:40].mean().item()] * 60, rel=1e-5)
    assert [row["step"] for row in curve] == [0, 1, 2, 3, 4, 5]
    assert curve[5]["validation_loss"] > curve[0]["validation_loss"]


@pytest.mark.parametrize(("value", "wanted"), [(0.0, 0.004), (1.0, 1.0), (4.0, 3.996)])
def test_a_head_can_start_at_any_value_even_at_the_ends(value, wanted):
    head, states = head_of(max_value=4.0), random_states([3, 5])
    head.start_at(value)
    assert read_values(head, states, 2).tolist() == pytest.approx([wanted] * 2)


def run_fit(model: Path, folder: Path, rows: list[dict], seed: int = 1, **changed) -> Path:
    """Run align.fit_value; return the folder with head, manifest.json and curve.json."""
    write_jsonl(folder / "annotated.jsonl", rows)
    flags = ["--parent", model, "--annotated", folder / "annotated.jsonl", "--seed", seed]
    flags += ["--settings", json.dumps(SETTINGS | changed), "--output", folder / "head"]
    call(fit_value.main, *flags, "--manifest", folder / "manifest.json", "--curve", folder / "curve.json")
    return folder


def test_a_fit_reports_its_held_out_error_beside_that_of_guessing_the_mean(tiny_model, tmp_path):
    rows = annotated(12, 2)
    manifest = read_json(run_fit(tiny_model, tmp_path, rows) / "manifest.json")
    counts = manifest["counts"]
    assert (counts["read"], counts["kept"], counts["rejected"], counts["prompts"]) == (24, 24, 0, 12)
    fitted, held = hold_out([row["group"] for row in rows], 0.25, 1)
    assert (counts["fitted"], counts["held_out"]) == (len(fitted), len(held))
    rewards = np.array([row["rewards"]["final_reward"] for row in rows])
    guess = ((rewards[held] - rewards[fitted].mean()) ** 2).mean()
    assert manifest["held_out_error_of_mean"] == pytest.approx(guess, abs=1e-6)
    curve = read_json(tmp_path / "curve.json")
    assert curve[0] == {"step": 0, "validation_loss": manifest["held_out_error_of_mean"]}
    assert manifest["held_out_error"] == pytest.approx(
        curve[manifest["best_epoch"]]["validation_loss"], abs=2e-6
    )
    assert manifest["held_out_error"] == pytest.approx(min(row["validation_loss"] for row in curve), abs=2e-6)


def test_the_same_seed_fits_the_same_bytes_and_another_does_not(tiny_model, tmp_path):
    rows = annotated(12, 1)
    one, two, three = (
        run_fit(tiny_model, tmp_path / name, rows, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert (one / "manifest.json").read_text() == (two / "manifest.json").read_text()
    assert (one / "curve.json").read_text() == (two / "curve.json").read_text()
    assert (one / "manifest.json").read_text() != (three / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (1.5, r"row c3#0: its final_reward 1.5 is outside \[0, 1.0\].*raise max_value"),
        (-0.1, r"row c3#0: .* is outside \[0, 1.0\]"),
        (math.nan, "row c3#0: its final_reward is nan"),
        (None, "row c3#0: its final_reward is None"),
    ],
)
def test_a_reward_no_value_can_reach_names_its_row(tiny_model, tmp_path, reward, message):
    rows = annotated(10, 1)
    rows[3]["rewards"]["final_reward"] = reward
    with pytest.raises(PlumblineError, match=message):
        run_fit(tiny_model, tmp_path, rows)


def test_too_few_rows_are_refused(tiny_model, tmp_path):
    with pytest.raises(PlumblineError, match="7 rows are too few"):
        run_fit(tiny_model, tmp_path, annotated(7, 1))


# --- advantages ---------------------------------------------------------------------------------------------------


def run_advantages(model: Path, stored: Path, head: Path) -> Path:
    """Run align.advantages on a folder of align.rewarded_reference; return that folder."""
    settings = {"batch_size": 3, "precision": "float32", "trust_remote_code": False}
    flags = ["--parent", model, "--head", head, "--rewarded", stored / "rows.parquet"]
    flags += ["--settings", json.dumps(settings), "--output", stored / "advantages.jsonl"]
    call(advantages.main, *flags, "--manifest", stored / "advantages.json")
    return stored


def test_an_advantage_is_the_reward_less_the_value_of_the_prompt(tiny_model, tmp_path):
    head = run_fit(tiny_model, tmp_path / "fit", annotated(12, 1)) / "head"
    stored = write_rewarded(tiny_model, tmp_path / "rewarded", annotated(6, 2), annotated(2, 2, first=6))
    found = read_jsonl(run_advantages(tiny_model, stored, head) / "advantages.jsonl")
    rows, model, loaded = rows_of(stored), load_policy(tiny_model), load_head(head)
    assert [each["id"] for each in found] == [row["id"] for row in rows]
    for row, each in zip(rows, found, strict=True):
        with torch.no_grad():
            states = model.base_model(input_ids=torch.tensor([row["prompt"]])).last_hidden_state
            value = loaded(states, torch.ones(states.shape[:2], dtype=torch.bool)).item()
        assert each["value"] == pytest.approx(value, abs=1e-5)
        assert each["reward"] == row["reward"]
        assert each["advantage"] == each["reward"] - each["value"]
    assert found[0]["value"] == found[1]["value"]  # two answers, one prompt
    manifest = read_json(stored / "advantages.json")
    assert manifest["counts"] == {"read": 16, "kept": 16, "rejected": 0, "prompts": 8}
    above = [each["advantage"] > 0 for each, row in zip(found, rows, strict=True) if row["rank"] == 0][:6]
    assert manifest["kept_share"] == pytest.approx(sum(above) / 6, abs=1e-6)
    assert manifest["advantage"]["min"] == pytest.approx(min(each["advantage"] for each in found), abs=1e-6)


def test_a_head_of_another_model_is_refused(tiny_model, tmp_path):
    stored = write_rewarded(tiny_model, tmp_path / "rewarded", annotated(2))
    (tmp_path / "head").mkdir()
    save_head(ValueHead(16, 4, 0.1, 1.0), tmp_path / "head")
    with pytest.raises(PlumblineError, match="a value function of width 16 cannot read"):
        run_advantages(tiny_model, stored, tmp_path / "head")
