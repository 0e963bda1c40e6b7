"""PPO: its formulas against loops written out, its loop against what it promises, and a toy reward it must raise."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.online import LENGTH, ending_at, online_flags, ppo_settings, prompts, run_ppo
from tests.reward_settings import given_reward
from tests.tiny import TEMPLATE
from workflow_scripts.align import online, ppo, ppo_learner
from workflow_scripts.align.online import reply_of, tokenise_prompts
from workflow_scripts.align.ppo import batch_of
from workflow_scripts.align.ppo_learner import Experience, Learner, State, minibatches
from workflow_scripts.align.ppo_numbers import (
    averaged,
    gae,
    kl_rewards,
    next_kl_coef,
    ppo_loss,
    value_loss,
    whiten,
)
from workflow_scripts.align.scores import Moments, scaled_scores
from workflow_scripts.common import reward_columns, reward_rules
from workflow_scripts.common.decoding import reply_text
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.templates import ends_of, reply_end


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


@pytest.fixture
def learner(tiny_model, tmp_path):
    return Learner(tiny_model, ppo_settings(), tmp_path, seed=1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Formulas.


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.9, 0.0)])
def test_an_advantage_is_the_discounted_sum_of_all_later_temporal_differences(gamma, lam):
    rewards, values = drawn(7), drawn(7, seed=1)
    after = [*values.tolist()[1:], 0.0]
    deltas = [rewards[t].item() + gamma * after[t] - values[t].item() for t in range(7)]
    wanted = [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, 7)) for t in range(7)]
    assert gae(rewards, values, gamma, lam).tolist() == pytest.approx(wanted, abs=1e-12)


def test_without_discount_advantage_plus_value_is_the_reward_to_go():
    rewards, values = drawn(5), drawn(5, seed=1)
    wanted = [sum(rewards[t:].tolist()) for t in range(5)]
    assert (gae(rewards, values, 1.0, 1.0) + values).tolist() == pytest.approx(wanted, abs=1e-12)


def test_an_answers_rewards_are_its_charge_for_leaving_the_parent_and_at_the_end_its_score():
    logps, reference = drawn(4), drawn(4, seed=1)
    wanted = [-0.3 * (logps[t].item() - reference[t].item()) + (2.5 if t == 3 else 0.0) for t in range(4)]
    assert kl_rewards(logps, reference, 2.5, 0.3).tolist() == pytest.approx(wanted, abs=1e-12)


def test_whitened_advantages_have_mean_0_and_variance_1_and_keep_their_order():
    values = drawn(50) * 3 + 4
    mean = sum(values.tolist()) / 50
    variance = sum((value - mean) ** 2 for value in values.tolist()) / 50
    wanted = [(value - mean) / math.sqrt(variance) for value in values.tolist()]
    assert whiten(values).tolist() == pytest.approx(wanted, abs=1e-7)
    assert whiten(torch.full((3,), 2.0)).tolist() == [0.0, 0.0, 0.0]


def test_the_clipped_loss_is_equation_7_token_by_token():
    logps, old, advantages = drawn(40) * 0.4, drawn(40, seed=1) * 0.4, drawn(40, seed=2)
    loss, clipped = ppo_loss(logps, old, advantages, 0.2)
    for t in range(40):
        ratio, advantage = math.exp(logps[t].item() - old[t].item()), advantages[t].item()
        bounded = min(max(ratio, 0.8), 1.2)
        assert loss[t].item() == pytest.approx(-min(ratio * advantage, bounded * advantage), abs=1e-12)
        assert clipped[t].item() == (bounded * advantage < ratio * advantage)
    assert 0 < clipped.sum() < 40


def test_where_the_clip_binds_the_policy_has_no_gradient_and_elsewhere_that_of_ratio_times_advantage():
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1, 1.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, -2.0], dtype=torch.float64)
    logps = ratios.log().requires_grad_()
    loss, clipped = ppo_loss(logps, torch.zeros(6, dtype=torch.float64), advantages, 0.2)
    loss.sum().backward()
    assert clipped.tolist() == [True, True, False, False, False, False]
    assert logps.grad.tolist() == pytest.approx([0.0, 0.0, 1.5, -0.5, -1.1, 2.0], abs=1e-12)


def test_the_value_loss_takes_the_worse_of_the_free_and_the_clipped_estimate():
    values, old, returns = drawn(40), drawn(40, seed=1), drawn(40, seed=2)
    found = value_loss(values, old, returns, 0.3).tolist()
    for t, (value, before, wanted) in enumerate(
        zip(values.tolist(), old.tolist(), returns.tolist(), strict=True)
    ):
        near = min(max(value, before - 0.3), before + 0.3)
        assert found[t] == pytest.approx(max((value - wanted) ** 2, (near - wanted) ** 2) / 2, abs=1e-12)


def test_running_moments_are_those_of_all_scores_together():
    batches = [[1.0, 2.5, -3.0], [1000.25], [0.5, 0.5, 7.0, 9.0]]
    moments = Moments()
    for batch in batches:
        moments = moments.updated(batch)
    scores = np.concatenate(batches)
    assert moments.count == 8
    assert moments.mean == pytest.approx(scores.mean(), rel=1e-14)
    assert moments.squares == pytest.approx(((scores - scores.mean()) ** 2).sum(), rel=1e-14)


@pytest.mark.parametrize(
    ("scaling", "norm", "clip", "wanted"),
    [
        (False, False, None, [1.0, 3.0, 8.0]),
        (False, True, None, [-3.0, -1.0, 4.0]),
        (True, False, None, [1 / 13**0.5, 3 / 13**0.5, 8 / 13**0.5]),
        (True, True, 1.0, [-3 / 13**0.5, -1 / 13**0.5, 1.0]),
    ],
)
def test_scores_are_shifted_scaled_and_clipped_as_set(scaling, norm, clip, wanted):
    scores = [1.0, 3.0, 8.0]  # mean 4, sample variance (9 + 1 + 16) / 2 = 13
    settings = {"score_scaling": scaling, "score_norm": norm, "score_clip": clip}
    assert scaled_scores(scores, Moments().updated(scores), settings) == pytest.approx(wanted, abs=1e-12)


def test_equal_scores_are_not_blown_up_by_their_deviation():
    settings = {"score_scaling": True, "score_norm": False, "score_clip": None}
    assert scaled_scores([0.7, 0.7], Moments().updated([0.7, 0.7]), settings) == [0.7, 0.7]


def test_the_adaptive_coefficient_follows_the_kl_by_at_most_two_percent_a_step():
    adaptive = {"kl_control": "adaptive", "kl_control_target": 6.0}
    assert next_kl_coef(0.2, 6.6, adaptive) == pytest.approx(0.2 * (1 + 0.1 * 0.1))
    assert next_kl_coef(0.2, 60.0, adaptive) == pytest.approx(0.2 * 1.02)
    assert next_kl_coef(0.2, 0.0, adaptive) == pytest.approx(0.2 * 0.98)
    assert next_kl_coef(0.2, 60.0, {"kl_control": "fixed"}) == 0.2


# What the policy says of an answer.

ROWS = [Experience([1, 20, 30, 40], [50, 60, 2]), Experience([1, 7], [9, 11, 13, 15, 17])]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_values_and_entropy_are_those_of_the_models_own_logits(tiny_model, learner, temperature):
    learner.settings["temperature"] = temperature
    with torch.no_grad():
        learner.value.weight.copy_(drawn(1, 32))
        learner.value.bias.fill_(0.5)
        logps, values, states = learner.judged(ROWS)
    model, wanted_logps, wanted_values, entropy = load_policy(tiny_model), [], [], 0.0
    for row in ROWS:
        with torch.no_grad():
            output = model(torch.tensor([row.prompt + row.answer]), output_hidden_states=True)
        for at, token in enumerate(row.answer, len(row.prompt)):
            known = (output.logits[0, at - 1] / temperature).log_softmax(-1)
            wanted_logps.append(known[token].item())
            entropy -= (known.exp() * known).sum().item()
            state = output.hidden_states[-1][0, at - 1] / temperature
            wanted_values.append((state @ learner.value.weight[0] + 0.5).item())
    assert logps.tolist() == pytest.approx(wanted_logps, abs=2e-5)
    assert values.tolist() == pytest.approx(wanted_values, abs=2e-5)
    assert learner.entropy(states) == pytest.approx(entropy, abs=1e-4)


def test_an_answer_ends_with_its_end_token_or_at_the_limit(learner, tokenizer):
    torch.manual_seed(0)
    ends = list(range(2, 60))  # a third of the vocabulary: many answers end early
    answers = learner.sample([[1, 20, 30], [1, 7]] * 8, ends, tokenizer)
    lengths = {len(answer) for answer, *_ in answers}
    assert min(lengths) < 8 == learner.settings["max_new_tokens"] >= max(lengths)
    for answer, ended, _ in answers:
        assert not any(token in ends for token in answer[:-1])
        assert (answer[-1] in ends) is ended
        assert ended or len(answer) == 8


def test_an_answer_that_spells_a_stop_string_ends_with_it_and_is_rewarded_without(learner, tokenizer):
    learner.settings |= {"stop": ["e", "qu"], "max_new_tokens": 12}
    torch.manual_seed(0)
    prompt, end = [1, 20, 30], tokenizer.eos_token_id
    answers = learner.sample([prompt] * 32, [end], tokenizer)
    stopped = [answer for answer, ended, _ in answers if ended and answer[-1] != end]
    assert len({len(answer) for answer in stopped}) > 1
    for answer in stopped:
        whole, before = (reply_text(tokenizer, prompt, some) for some in (answer, answer[:-1]))
        assert "e" in whole or "qu" in whole
        assert "e" not in before and "qu" not in before
        rewarded = reply_of(prompt, answer, [end], ["e", "qu"], TEMPLATE, tokenizer)
        assert whole.strip().startswith(rewarded) and "e" not in rewarded and "qu" not in rewarded
    for answer, ended, _ in answers:
        assert ended or len(answer) == 12


def test_a_gradient_is_the_same_however_the_batch_is_cut(tiny_model, tmp_path):
    rows = [
        Experience(row.prompt, row.answer, *(0.1 * drawn(4, len(row.answer), seed=seed).float()))
        for seed, row in enumerate([*ROWS, *ROWS])
    ]
    found = []
    for size in (4, 1):
        learner = Learner(tiny_model, ppo_settings(per_device_batch=size), tmp_path, seed=1)
        numbers = learner.learn(rows)
        found.append((numbers, torch.cat([weight.grad.flatten() for weight in learner.learned.values()])))
    (whole, gradient), (parts, same) = found
    assert parts == pytest.approx(whole, abs=1e-5)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(same, gradient, rtol=1e-4, atol=1e-6)


# A run.


def spied_ratios(monkeypatch) -> list[torch.Tensor]:
    """Return the list that every later call of the loss adds its log ratios to."""
    seen, own = [], ppo_learner.ppo_loss

    def spy(logps, old_logps, advantages, clip):
        seen.append((logps - old_logps).detach())
        return own(logps, old_logps, advantages, clip)

    monkeypatch.setattr(ppo_learner, "ppo_loss", spy)
    return seen


@pytest.mark.parametrize(
    "lora", [None, {"rank": 4, "alpha": 8, "dropout": 0.5, "targets": "all-linear", "merge": True}]
)
def test_the_first_ratios_after_sampling_are_exactly_1_and_later_ones_are_not(
    tiny_model, tmp_path, monkeypatch, lora
):
    seen = spied_ratios(monkeypatch)
    run_ppo(tiny_model, ppo_settings(batch_size=4, per_device_batch=4, top_p=0.9, lora=lora), tmp_path)
    assert len(seen) == 2 * 2 * 2  # steps × passes × minibatches
    for step in (0, 1):
        first, *later = seen[4 * step : 4 * step + 4]
        assert not first.any()
        assert all(each.any() for each in later)


def test_what_is_learned_from_is_what_the_formulas_say(tiny_model, learner, tmp_path):
    learner.settings |= {"kl_coef": 0.3, "gamma": 0.9, "lam": 0.8, "temperature": 0.7}
    with torch.no_grad():
        learner.value.weight.copy_(drawn(1, 32))
        for weight in learner.policy.parameters():
            weight.mul_(1.1)  # away from the parent
    scores = [1.0, 3.0, 8.0, 0.0]
    tokenizer = load_tokenizer(tiny_model)
    rows, counts = tokenise_prompts(prompts(4), TEMPLATE, 64, tokenizer)
    setup = online.Online(
        tokenizer, rows, [2], lambda asked, answers: online.Scores(scores, 0.0), counts, tmp_path
    )
    torch.manual_seed(0)
    state = State(kl_coef=0.3)
    batch, facts = learner.play(rows, setup, state)
    scaled = (np.array(scores) - 3) / np.std(scores, ddof=1)
    raw, divergences = [], []
    for row, score in zip(batch, scaled, strict=True):
        with torch.no_grad():
            own, values, _ = learner.judged([row])
            parent = learner.reference([row])
        torch.testing.assert_close(row.logps, own, rtol=0, atol=2e-5)
        torch.testing.assert_close(row.values, values, rtol=0, atol=2e-5)
        advantages = gae(kl_rewards(own, parent, score, 0.3), values, 0.9, 0.8)
        torch.testing.assert_close(row.returns, advantages + values, rtol=0, atol=1e-4)
        raw.append(advantages)
        divergences.append((own - parent).sum().item())
    found = torch.cat([row.advantages for row in batch])
    torch.testing.assert_close(found, whiten(torch.cat(raw)), rtol=0, atol=1e-4)
    assert facts["reward"] == 3.0
    assert facts["kl"] == pytest.approx(sum(divergences) / 4, abs=1e-3)
    assert abs(facts["kl"]) > 0.01
    assert state.moments.count == 4
    assert state.tokens == sum(len(row.prompt) + len(row.answer) for row in batch)


def test_an_update_takes_the_clipped_gradient_of_its_own_rows_alone(learner, monkeypatch):
    rows = [
        Experience(row.prompt, row.answer, *(0.1 * drawn(4, len(row.answer), seed=seed).float()))
        for seed, row in enumerate([*ROWS, *ROWS])
    ]
    learner.settings |= {"batch_size": 2, "per_device_batch": 2, "ppo_epochs": 1, "max_grad_norm": 0.001}
    seen = []

    def gradient():
        return torch.cat([weight.grad.flatten() for weight in learner.learned.values()])

    monkeypatch.setattr(learner.optimizer, "step", lambda: seen.append(gradient()))  # the weights stay
    learner.improve(rows, lambda update: 1e-3, 0)
    assert len(seen) == 2
    for found, own in zip(seen, (rows[:2], rows[2:]), strict=True):
        learner.optimizer.zero_grad()
        learner.learn(own)
        alone = gradient()
        assert alone.norm() > 0.002
        torch.testing.assert_close(found, alone * 0.001 / alone.norm(), rtol=2e-3, atol=1e-8)


def test_matrices_decay_and_norms_and_biases_do_not(tiny_model, tmp_path):
    learner = Learner(tiny_model, ppo_settings(weight_decay=0.3), tmp_path, seed=1)
    decays = {
        weight: group["weight_decay"]
        for group in learner.optimizer.param_groups
        for weight in group["params"]
    }
    assert len(decays) == len(learner.learned)
    for name, weight in learner.learned.items():
        assert decays[weight] == (0.0 if "norm" in name or "bias" in name else 0.3), name


def test_answers_are_drawn_as_set(learner, tokenizer, monkeypatch):
    seen, own = [], learner.policy.generate

    def spy(*arguments, **named):
        seen.append(named)
        return own(*arguments, **named)

    monkeypatch.setattr(learner.policy, "generate", spy)
    learner.settings |= {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5}
    learner.sample([[1, 20, 30]], [2, 5], tokenizer)
    wanted = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_new_tokens": 5}
    ends = {"eos_token_id": [2, 5], "pad_token_id": tokenizer.pad_token_id, "stopping_criteria": []}
    assert wanted | ends | {"remove_invalid_values": True} == {
        name: value for name, value in seen[0].items() if name != "attention_mask"
    }


def test_a_first_step_starts_at_the_parent_and_a_run_writes_what_other_methods_write(tiny_model, tmp_path):
    folder = run_ppo(tiny_model, ppo_settings(), tmp_path)
    rows = read_json(folder / "curve.json")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["kl"] == 0 != rows[1]["kl"]
    wanted = {"reward", "kl", "policy_loss", "value_loss", "entropy", "clipped_share", "response_tokens"}
    assert wanted <= set(rows[0])
    manifest = read_json(folder / "manifest.json")
    assert manifest["steps"] == 2
    assert manifest["counts"].pop("read") == manifest["counts"].pop("kept") == 12
    assert not any(manifest["counts"].values())
    assert sha256_of(folder / "model/model.safetensors") == manifest["files"]["model/model.safetensors"]
    assert sha256_of(tiny_model / "model.safetensors") != manifest["files"]["model/model.safetensors"]
    load_policy(folder / "model")
    asked = read_json(folder / "cost.json")["tokens"]
    answered = sum(row["response_tokens"] for row in rows) * 8
    assert asked > answered > 0
    assert not list((folder / "work").iterdir())


def test_a_reward_rises(tiny_model, tmp_path):
    settings = ppo_settings(
        rollout_batch=16, ppo_epochs=4, per_device_batch=8, max_steps=30, learning_rate=3e-3, target_kl=0.1
    )
    rows = read_json(run_ppo(tiny_model, settings, tmp_path) / "curve.json")
    earned = [row["reward"] for row in rows]
    assert sum(earned[-5:]) / 5 > sum(earned[:5]) / 5 + 0.2


def test_passes_over_a_batch_end_once_the_policy_has_left_it(tiny_model, tmp_path):
    near = ppo_settings(max_steps=1, ppo_epochs=4, per_device_batch=4, target_kl=1e-6)
    free = near | {"target_kl": None}
    [stopped] = read_json(run_ppo(tiny_model, near, tmp_path / "near") / "curve.json")
    [whole] = read_json(run_ppo(tiny_model, free, tmp_path / "free") / "curve.json")
    assert (stopped["updates"], whole["updates"]) == (1, 8)


def test_the_learning_rate_follows_its_schedule_update_by_update(tiny_model, tmp_path):
    settings = ppo_settings(max_steps=3, ppo_epochs=2, per_device_batch=4, schedule="cosine", warmup=0.25)
    rows = read_json(run_ppo(tiny_model, settings, tmp_path) / "curve.json")
    last = [3, 7, 11]  # the last of each step's four updates, of twelve; the first three warm up
    wanted = [1e-3 * 0.5 * (1 + math.cos(math.pi * (update - 3) / 9)) for update in last]
    assert [row["learning_rate"] for row in rows] == pytest.approx(wanted, abs=1e-6)


def test_a_pass_takes_every_answer_once_the_first_as_scored_the_others_shuffled():
    torch.manual_seed(0)
    batch = [Experience([number], [number]) for number in range(8)]
    pieces = [[row.prompt[0] for row in piece] for piece in minibatches(batch, 3, 4)]
    assert [len(piece) for piece in pieces] == [4] * 6
    first, second, third = (pieces[at] + pieces[at + 1] for at in (0, 2, 4))
    assert first == list(range(8)) == sorted(second) == sorted(third)
    assert len({tuple(first), tuple(second), tuple(third)}) == 3


def test_a_curve_has_the_means_of_every_few_steps_under_the_last_one():
    rows = [{"step": step, "reward": float(step)} for step in (1, 2, 3, 4, 5)]
    assert averaged(rows, 2) == [
        {"step": 2, "reward": 1.5},
        {"step": 4, "reward": 3.5},
        {"step": 5, "reward": 5.0},
    ]


def test_an_answer_without_an_end_is_charged_what_is_set(tiny_model, tmp_path, monkeypatch):
    earned, own = [], ppo_learner.kl_rewards

    def spy(logps, reference, score, kl_coef):
        earned.append(score)
        return own(logps, reference, score, kl_coef)

    monkeypatch.setattr(ppo_learner, "kl_rewards", spy)
    model = ending_at(tiny_model, "a", tmp_path / "ending")
    settings = ppo_settings(max_steps=1, rollout_batch=32, per_device_batch=8)
    [row] = read_json(run_ppo(model, settings, tmp_path / "free") / "curve.json")
    run_ppo(model, settings | {"missing_end_penalty": 2.0}, tmp_path / "charged")
    differences = [free - charged for free, charged in zip(earned[:32], earned[32:], strict=True)]
    assert set(np.round(differences, 9)) == {0.0, 2.0}
    assert sum(differences) / 2 == pytest.approx(row["unfinished"] * 32)


def test_a_reward_that_is_no_number_ends_the_run_with_the_prompts_id(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(reward_rules, "length_reward", lambda replies, words: np.full(len(replies), np.nan))
    with pytest.raises(PlumblineError, match=r"c0#0.*long.*nan"):
        run_ppo(tiny_model, ppo_settings(), tmp_path, rows=1)


class Killed(BaseException):
    pass


def killed_at(call_number: int, monkeypatch) -> None:
    """Let the reward of the given step end the process, as a kill would."""
    calls, own = [], reward_rules.length_reward

    def reward(replies, words):
        calls.append(1)
        if len(calls) == call_number:
            raise Killed
        return own(replies, words)

    monkeypatch.setattr(reward_rules, "length_reward", reward)


@pytest.mark.parametrize(
    "lora", [None, {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": "all-linear", "merge": True}]
)
def test_ppo_killed_and_run_again_ends_with_the_bytes_of_an_unbroken_run(
    tiny_model, tmp_path, monkeypatch, capsys, lora
):
    settings = ppo_settings(
        max_steps=7,
        checkpoint_every=2,
        top_p=0.95,
        kl_control="adaptive",
        lora=lora,
        schedule="cosine",
        log_every=3,
    )
    unbroken = run_ppo(tiny_model, settings, tmp_path / "unbroken")
    assert "resuming" not in capsys.readouterr().out
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_at(6, patched)
        run_ppo(tiny_model, settings, tmp_path / "resumed")
    assert not (tmp_path / "resumed/model").exists()
    [work] = (tmp_path / "resumed/work").iterdir()
    assert [folder.name for folder in work.iterdir()] == ["checkpoint-4"]
    half = work / "checkpoint-6"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"half")
    torch.manual_seed(99)
    capsys.readouterr()
    resumed = run_ppo(tiny_model, settings, tmp_path / "resumed")
    printed = capsys.readouterr().out
    assert "resuming from" in printed
    assert "checkpoint-4" in printed
    assert printed.count('{"step"') == 3  # and not from the start again
    for name in ("model/model.safetensors", "manifest.json", "curve.json"):
        assert sha256_of(resumed / name) == sha256_of(unbroken / name), name
    assert [row["step"] for row in read_json(resumed / "curve.json")] == [3, 6, 7]


def test_with_adapters_the_parent_is_the_policy_without_them(tiny_model, tmp_path):
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear", "merge": True}
    learner = Learner(tiny_model, ppo_settings(lora=lora), tmp_path, seed=1)
    whole = Learner(tiny_model, ppo_settings(), tmp_path, seed=1)
    with torch.no_grad():
        for name, weight in learner.learned.items():
            if "lora_B" in name:
                weight.normal_()
        left = learner.judged(ROWS)[0]
        assert torch.equal(learner.reference(ROWS), whole.reference(ROWS))
        assert torch.equal(learner.judged(ROWS)[0], left)  # and the adapters are back
    assert not torch.allclose(left, whole.reference(ROWS), atol=1e-2)
    assert all(weight.requires_grad for weight in learner.learned.values())


def test_a_parent_kept_as_adapters_alone_is_trained_whole_where_no_adapters_are_asked_for(
    tiny_model, tmp_path
):
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear", "merge": False}
    parent = run_ppo(tiny_model, ppo_settings(lora=lora), tmp_path / "parent") / "model"
    child = run_ppo(parent, ppo_settings(), tmp_path / "child") / "model"
    before, after = load_policy(parent).state_dict(), load_policy(child).state_dict()
    assert [name for name, weight in after.items() if torch.equal(weight, before[name])] == []


def test_gradient_checkpointing_changes_nothing_but_memory(tiny_model, tmp_path):
    plain = run_ppo(tiny_model, ppo_settings(), tmp_path / "plain")
    saving = run_ppo(tiny_model, ppo_settings(gradient_checkpointing=True), tmp_path / "saving")
    same = ("model/model.safetensors", "curve.json")
    assert [sha256_of(saving / name) for name in same] == [sha256_of(plain / name) for name in same]


def test_a_batch_that_cannot_be_cut_and_processes_that_share_the_weights_are_refused(
    tiny_model, tmp_path, monkeypatch
):
    with pytest.raises(PlumblineError, match="rollout_batch 8 is no multiple"):
        run_ppo(tiny_model, ppo_settings(per_device_batch=3), tmp_path)
    for shared in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        with monkeypatch.context() as patched, pytest.raises(PlumblineError, match="parallel: ddp"):
            patched.setenv(shared, "true")
            run_ppo(tiny_model, ppo_settings(), tmp_path)


# Prompts.


def test_every_prompt_is_asked_once_a_pass_in_another_order_each_pass():
    rows = [{"id": number} for number in range(10)]
    asked = [row["id"] for step in range(5) for row in batch_of(rows, step, 4, seed=3)]
    passes = [asked[:10], asked[10:]]
    assert [sorted(each) for each in passes] == [list(range(10))] * 2
    assert passes[0] != passes[1]
    assert asked[8:12] == [row["id"] for row in batch_of(rows, 2, 4, seed=3)]
    assert asked[:4] != [row["id"] for row in batch_of(rows, 0, 4, seed=4)]


def test_prompts_are_cut_on_the_left_counted_and_rejected_where_they_spell_a_special_token(tiny_model):
    tokenizer, rows = load_tokenizer(tiny_model), prompts(6)
    rows[2]["messages"][-1]["content"] = "What does </s> mean?"
    whole, _ = tokenise_prompts(rows, TEMPLATE, 500, tokenizer)
    limit = sorted(len(row["prompt"]) for row in whole)[2]
    kept, counts = tokenise_prompts(rows, TEMPLATE, limit, tokenizer)
    assert [counts[name] for name in ("read", "kept", "rejected")] == [6, 5, 1]
    assert counts["cut"] == counts["prompts_cut"] == sum(len(r["prompt"]) > limit for r in whole) > 0
    for row, other in zip(kept, whole, strict=True):
        assert len(row["prompt"]) <= limit
        assert row["prompt"] == other["prompt"] or row["prompt_tokens_cut"] > 0
        assert row["prompt"][0] == tokenizer.bos_token_id
    assert whole[0]["prompt"].count(tokenizer.bos_token_id) == 1
    text = tokenizer.decode(whole[0]["prompt"])
    assert text.endswith("\nTutorbot:")
    with pytest.raises(PlumblineError, match="prompt h0: has no messages"):
        tokenise_prompts([{"id": "h0", "text": "def f():"}], TEMPLATE, 500, tokenizer)


def test_an_answer_ends_at_eos_or_the_templates_own_token_and_no_longer_end_is_taken(tiny_model):
    tokenizer = load_tokenizer(tiny_model)

    def ends(end: str) -> list[int]:
        template = TEMPLATE | {"assistant": TEMPLATE["assistant"] | {"end": end}}
        return ends_of(reply_end(template, tokenizer), tokenizer)

    assert ends("{eos}") == ends("") == [tokenizer.eos_token_id]
    assert ends("<s>") == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    with pytest.raises(PlumblineError, match=r"'Why\?', which is no token of this model"):
        ends("Why?")
    with pytest.raises(PlumblineError, match=r"'<\|end\|>', which is no token of this model"):
        ends("<|end|>")


def test_a_reply_is_an_answers_text_without_its_end(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    words = tokenizer(" Good! Now say why.", add_special_tokens=False)["input_ids"]
    full_stop = words[-1]
    assert reply_of([5, 6], [*words, 2], [2], [], TEMPLATE, tokenizer) == "Good! Now say why."
    assert reply_of([5, 6], words, [2], [], TEMPLATE, tokenizer) == "Good! Now say why."
    assert reply_of([5, 6], words, [2, full_stop], [], TEMPLATE, tokenizer) == "Good! Now say why"
    assert reply_of([5, 6], [2], [2], [], TEMPLATE, tokenizer) == ""
    assert reply_of([5, 6], words, [2], [], TEMPLATE | {"strip": False}, tokenizer) == " Good! Now say why."


def test_a_reward_that_only_known_answers_have_is_refused(tiny_model, tmp_path):
    with pytest.raises(PlumblineError, match=r"rewards\.human: is given for known answers only"):
        run_ppo(tiny_model, ppo_settings(), tmp_path, rewards={"human": given_reward("score")})


def test_rewards_decide_what_is_resumed(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["ppo", *online_flags(tiny_model, prompts(4), ppo_settings(), tmp_path, LENGTH)]
    )
    works = [online.prepare("", ppo.Settings, "workflow_scripts.align.ppo")[1].work for _ in range(2)]
    longer = {"long": LENGTH["long"] | {"words": 7}}
    monkeypatch.setattr(
        "sys.argv", ["ppo", *online_flags(tiny_model, prompts(4), ppo_settings(), tmp_path, longer)]
    )
    works.append(online.prepare("", ppo.Settings, "workflow_scripts.align.ppo")[1].work)
    assert [first == second for first, second in pairwise(works)] == [True, False]


def test_answers_that_a_reward_does_not_read_whole_are_told_of_in_the_curve(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        reward_columns, "cut_for", lambda turns, settings: [True] + [False] * (len(turns) - 1)
    )
    rows = read_json(run_ppo(tiny_model, ppo_settings(), tmp_path) / "curve.json")
    assert [row["texts_cut"] for row in rows] == [1 / 8] * 2
