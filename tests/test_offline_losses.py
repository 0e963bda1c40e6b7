"""The weights of the offline methods against their formulas, in float64, with the formulas written out here."""

import math

import pytest
import torch

from workflow_scripts.align import a_lol, a_lol_kl, a_lol_ref_free, a_lol_seq, nll, r_gold, r_lol, wbc
from workflow_scripts.align.offline import (
    MAX_LOG_RATIO,
    Answers,
    OfflineLoss,
    clipped,
    count_clipped,
    sequence_log_ratio,
    token_log_ratio,
)

SETTINGS = {"clip": 0.9, "beta": 0.3, "floor": 0.1, "clamp": True}
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
RATIOS = {"r_lol": sequence_log_ratio, "a_lol": sequence_log_ratio, "a_lol_seq": token_log_ratio}


def random_answers(seed: int, rows: int = 6, longest: int = 5, spread: float = 0.5) -> Answers:
    """Return ragged answers, padded with zeros; the policy's log-probs are a leaf, the reference's lie around them."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    tokens = torch.randint(1, longest + 1, (rows,), generator=generator)
    tokens[0], tokens[1] = longest, 1
    real = torch.arange(longest)[None] < tokens[:, None]
    logps = -4 * drawn(rows, longest)
    reference = logps + spread * (drawn(rows, longest) - 0.5)
    return Answers(
        (logps * real).requires_grad_(), reference * real, tokens, drawn(rows), drawn(rows) * 2 - 1
    )


def bounded(ratio: float, clip: float | None) -> float:
    return ratio if clip is None else min(max(ratio, 1 - clip), 1 + clip)


def weight(method: str, batch: Answers, row: int, place: int, settings: dict) -> float:
    """Return w of one token by the method's formula, in plain Python."""
    length = int(batch.tokens[row])
    said, told = batch.logps[row, :length].tolist(), batch.reference[row, :length].tolist()
    reward, advantage = batch.reward[row].item(), batch.advantage[row].item()
    whole = bounded(math.exp(sum(said) - sum(told)), settings["clip"])
    token = bounded(math.exp(said[place] - told[place]), settings["clip"])
    return {
        "nll": 1.0,
        "wbc": reward,
        "r_gold": reward * max(math.exp(said[place]), settings["floor"]),
        "r_lol": reward * whole,
        "a_lol": max(advantage, 0.0) * whole,
        "a_lol_ref_free": max(advantage, 0.0) if settings["clamp"] else advantage,
        "a_lol_seq": max(advantage, 0.0) * token,
        "a_lol_kl": max(advantage, 0.0) - settings["beta"],
    }[method]


class LossOfGiven(OfflineLoss):
    """An offline loss whose batch is given instead of asked of a model."""

    def answers(self, model: Answers, rows: list[dict]) -> Answers:
        return model


def loss_of(method: str, settings: dict) -> LossOfGiven:
    module = METHODS[method]
    constant = a_lol_kl.constant if method == "a_lol_kl" else None
    return LossOfGiven(module.weights, settings, None, RATIOS.get(method), constant)


def loss(method: str, batch: Answers, settings: dict) -> torch.Tensor:
    """Return the loss a training step would take of a batch."""
    rows = [{"id": f"r{index}"} for index in range(len(batch.tokens))]
    return loss_of(method, settings)(batch, rows)[0]


def gradient(method: str, batch: Answers, settings: dict) -> torch.Tensor:
    return torch.autograd.grad(loss(method, batch, settings), batch.logps)[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clip", [0.2, 0.9, None])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_the_value_and_gradient_of_its_formula(method, clip, seed):
    # L = mean over rows of Σ_t w_t · (−log π(y_t)), w constant;  ∂L/∂log π(y_t) = −w_t / rows
    # a_lol_kl has max(A, 0)·ℓ + β(log π(y) − log π_ref(y)) for its value
    batch, settings = random_answers(seed), SETTINGS | {"clip": clip}
    rows = len(batch.tokens)
    value, slopes = 0.0, torch.zeros_like(batch.logps)
    for row, length in enumerate(batch.tokens.tolist()):
        for place in range(length):
            by = weight(method, batch, row, place, settings)
            slopes[row, place] = -by / rows
            if method != "a_lol_kl":
                value += by * -batch.logps[row, place].item() / rows
        if method == "a_lol_kl":
            said, told = batch.logps[row].sum().item(), batch.reference[row].sum().item()
            advantage = max(batch.advantage[row].item(), 0.0)
            value += (advantage * -said + settings["beta"] * (said - told)) / rows
    found = loss(method, batch, settings)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(value, rel=1e-12)
    real = torch.arange(batch.logps.shape[1])[None] < batch.tokens[:, None]
    given = gradient(method, batch, settings)
    torch.testing.assert_close(given[real], slopes[real], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_where_policy_and_reference_agree_only_reward_or_advantage_is_left(method):
    batch = random_answers(4)
    batch = batch._replace(reference=batch.logps.detach().clone())
    settings = SETTINGS | {"floor": 1.0}  # R-GOLD has no ratio: its floor stands in for 1
    plain = {"r_gold": "wbc", "r_lol": "wbc", "a_lol": "a_lol_ref_free", "a_lol_seq": "a_lol_ref_free"}
    same = gradient(plain.get(method, method), batch, settings)
    torch.testing.assert_close(gradient(method, batch, settings), same, rtol=1e-12, atol=0)


def test_a_clip_of_zero_is_the_reference_free_method():
    batch, settings = random_answers(5), SETTINGS | {"clip": 0.0}
    wanted = gradient("a_lol_ref_free", batch, settings)
    assert torch.equal(gradient("a_lol", batch, settings), wanted)
    assert torch.equal(gradient("a_lol_seq", batch, settings), wanted)


@pytest.mark.parametrize("beta", [0.0, 0.2, 2.0])
def test_a_lol_kl_has_the_gradient_of_the_reference_free_method_with_the_advantage_less_beta(beta):
    batch = random_answers(6)
    positive = batch._replace(advantage=batch.advantage.clamp(min=0))
    shifted = positive._replace(advantage=positive.advantage - beta)
    unclamped = SETTINGS | {"clamp": False}
    wanted = gradient("a_lol_ref_free", shifted, unclamped)
    torch.testing.assert_close(gradient("a_lol_kl", batch, SETTINGS | {"beta": beta}), wanted)


def test_a_lol_kl_unlearns_answers_of_an_advantage_below_beta():
    batch = random_answers(7)._replace(advantage=torch.full((6,), 0.1, dtype=torch.float64))
    assert (gradient("a_lol_kl", batch, SETTINGS | {"beta": 0.2})[:, 0] > 0).all()
    assert (gradient("a_lol_kl", batch, SETTINGS | {"beta": 0.05})[:, 0] < 0).all()


@pytest.mark.parametrize("method", ["a_lol", "a_lol_seq", "a_lol_ref_free"])
def test_answers_without_an_advantage_are_not_learned_from(method):
    batch = random_answers(8)
    assert (batch.advantage < 0).any()
    assert (gradient(method, batch, SETTINGS)[batch.advantage < 0] == 0).all()


def test_with_clamp_off_a_negative_advantage_unlearns_its_answer():
    batch = random_answers(8)
    slopes = gradient("a_lol_ref_free", batch, SETTINGS | {"clamp": False})
    assert (slopes[batch.advantage < 0][:, 0] > 0).all()


@pytest.mark.parametrize("clip", [0.0, 0.1, 0.9, 1.5])
def test_a_clipped_ratio_keeps_to_its_bounds_and_is_itself_within_them(clip):
    log_ratio = torch.linspace(-800, 800, 20001, dtype=torch.float64)  # e^800 is no float64
    found = clipped(log_ratio, clip)
    assert found.min() >= max(1 - clip, 0) - 1e-12
    assert found.max() <= 1 + clip + 1e-12
    inside = (log_ratio.exp() > 1 - clip) & (log_ratio.exp() < 1 + clip)
    torch.testing.assert_close(found[inside], log_ratio[inside].exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_clip_an_overflowing_ratio_is_stopped_at_a_finite_bound_and_counted(dtype):
    log_ratio = torch.tensor(
        [[-2000.0], [0.0], [MAX_LOG_RATIO - 1], [MAX_LOG_RATIO + 1], [5000.0]], dtype=dtype
    )
    found = clipped(log_ratio, None)[:, 0].tolist()
    assert found[:3] == pytest.approx([0.0, 1.0, math.exp(MAX_LOG_RATIO - 1)])
    assert found[3:] == pytest.approx([math.exp(MAX_LOG_RATIO)] * 2)
    assert count_clipped(log_ratio, torch.tensor([9, 9, 9, 9, 9]), None) == (2, 5)


def test_a_ratio_of_thousands_of_nats_gives_a_finite_loss_and_gradient():
    batch = random_answers(9)
    batch = batch._replace(reference=batch.reference - 1000, advantage=torch.ones(6, dtype=torch.float64))
    for method in ("r_lol", "a_lol", "a_lol_seq"):
        for clip in (None, 0.9):
            assert loss(method, batch, SETTINGS | {"clip": clip}).isfinite()
            assert gradient(method, batch, SETTINGS | {"clip": clip}).isfinite().all()


def test_clipped_ratios_are_counted_by_answer_or_by_token_and_never_in_padding():
    batch = random_answers(10, spread=3.0)
    low, high, row_count, token_count = 0.5, 1.5, 0, 0
    for row, length in enumerate(batch.tokens.tolist()):
        each = (batch.logps[row, :length] - batch.reference[row, :length]).tolist()
        row_count += not low <= math.exp(sum(each)) <= high
        token_count += sum(not low <= math.exp(value) <= high for value in each)
    rows, tokens = len(batch.tokens), int(batch.tokens.sum())
    assert 0 < row_count <= rows
    assert 0 < token_count < tokens
    assert count_clipped(sequence_log_ratio(batch), batch.tokens, 0.5) == (row_count, rows)
    assert count_clipped(token_log_ratio(batch), batch.tokens, 0.5) == (token_count, tokens)


def test_a_loss_counts_rows_learned_rows_and_clipped_ratios_of_training_alone():
    batch, counting = random_answers(10, spread=3.0), loss_of("a_lol", SETTINGS | {"clip": 0.5})
    rows = [{"id": f"r{index}"} for index in range(6)]
    with torch.no_grad():
        counting(batch, rows)
    assert not counting.counts
    counting(batch, rows)
    _, seen = counting(batch, rows)
    clips, ratios = count_clipped(sequence_log_ratio(batch), batch.tokens, 0.5)
    learned = int((batch.advantage > 0).sum())
    assert dict(counting.counts) == {"rows": 12, "learned": 2 * learned, "clipped": 2 * clips, "ratios": 12}
    assert seen == {"clipped_share": clips / ratios}


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_is_a_sum_over_tokens_and_a_mean_over_rows(method):
    batch = random_answers(11)
    twice = Answers(*(torch.cat([value, value]) for value in batch))
    found = loss(method, twice, SETTINGS).item()
    assert found == pytest.approx(loss(method, batch, SETTINGS).item(), rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_row(bad, capsys):
    batch = random_answers(12)
    reward = batch.reward.clone()
    reward[3] = bad
    assert not loss("wbc", batch._replace(reward=reward), SETTINGS).isfinite()  # on which the trainer ends
    assert "row r3: its loss is" in capsys.readouterr().out
