"""The preference losses against their papers' formulas, in float64, with the formulas written out here."""

import math

import pytest
import torch

from workflow_scripts.align import dpo, ipo, kto
from workflow_scripts.align.preference import PairLogps

BETA = 0.3
SETTINGS = {
    "beta": BETA,
    "loss": "sigmoid",
    "logp_reduction": "sum",
    "reference_free": False,
    "sft_weight": 0.0,
    "desirable_weight": 1.0,
    "undesirable_weight": 1.0,
}
LOSSES = {"dpo": dpo.loss, "ipo": ipo.loss, "kto": kto.loss}


def random_pairs(seed: int, pairs: int = 6) -> PairLogps:
    """Return random log-probs; those of the policy are leaves, so that gradients can be read off them."""
    generator = torch.Generator().manual_seed(seed)

    def logps(count: int, learned: bool) -> torch.Tensor:
        drawn = -20 * torch.rand(count, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_(learned)

    def tokens() -> torch.Tensor:
        return torch.randint(1, 30, (pairs,), generator=generator).double()

    return PairLogps(
        logps(pairs, True),
        logps(pairs, True),
        logps(pairs, False),
        logps(pairs, False),
        tokens(),
        tokens(),
        logps(1, True)[0],
    )


def agreeing_pairs() -> PairLogps:
    """Return pairs where policy and reference say the same."""
    pairs = random_pairs(0)
    same = {"reference_chosen": pairs.chosen, "reference_rejected": pairs.rejected}
    same = {name: value.detach() for name, value in same.items()}
    return pairs._replace(**same, divergence=torch.zeros((), dtype=torch.float64))


def with_divergence(pairs: PairLogps, mean: float) -> PairLogps:
    """Return pairs whose mismatched completions have the given mean log-ratio."""
    return pairs._replace(divergence=torch.tensor(mean, dtype=torch.float64, requires_grad=True))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def ratios(pairs: PairLogps) -> list[tuple[float, float]]:
    """Return [(log-ratio of the chosen, log-ratio of the rejected)] summed over tokens."""
    chosen = (pairs.chosen - pairs.reference_chosen).tolist()
    return list(zip(chosen, (pairs.rejected - pairs.reference_rejected).tolist(), strict=True))


def expect(
    loss: torch.Tensor, value: float, leaves: list[torch.Tensor], gradients: list[list[float]]
) -> None:
    """Hold a loss to its value and to its gradient by each leaf."""
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(value, rel=1e-12)
    for found, wanted in zip(torch.autograd.grad(loss, leaves), gradients, strict=True):
        assert found.tolist() == pytest.approx(wanted, rel=1e-10, abs=1e-14)


def test_dpo_is_ln_2_where_policy_and_reference_agree():
    assert dpo.loss(agreeing_pairs(), SETTINGS).item() == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
def test_ipo_is_one_over_four_beta_squared_where_policy_and_reference_agree(beta):
    loss = ipo.loss(agreeing_pairs(), SETTINGS | {"beta": beta})
    assert loss.item() == pytest.approx(1 / (4 * beta**2), rel=1e-12)


@pytest.mark.parametrize(("desirable", "undesirable"), [(1.0, 1.0), (1.5, 0.5), (2.0, 3.0)])
def test_kto_is_a_quarter_of_the_weights_where_policy_and_reference_agree(desirable, undesirable):
    weights = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    loss = kto.loss(agreeing_pairs(), SETTINGS | weights)
    assert loss.item() == pytest.approx((desirable + undesirable) / 4, rel=1e-12)  # .5 with weights 1


@pytest.mark.parametrize("seed", range(3))
def test_dpo_has_the_value_and_gradient_of_its_formula(seed):
    # L = mean −ln σ(β(r⁺ − r⁻));  ∂L/∂log π(y⁺) = −β σ(−β(r⁺ − r⁻))/n, and its opposite by log π(y⁻)
    pairs = random_pairs(seed)
    margins = [BETA * (chosen - rejected) for chosen, rejected in ratios(pairs)]
    value = sum(-math.log(sigmoid(margin)) for margin in margins) / len(margins)
    slope = [BETA * sigmoid(-margin) / len(margins) for margin in margins]
    gradients = [[-each for each in slope], slope]
    expect(dpo.loss(pairs, SETTINGS), value, [pairs.chosen, pairs.rejected], gradients)


@pytest.mark.parametrize("seed", range(3))
def test_dpo_sft_weight_adds_the_mean_token_likelihood_of_the_chosen_reply(seed):
    # … − w · mean log π(y⁺)/|y⁺|
    pairs, weight = random_pairs(seed), 0.7
    lengths = pairs.chosen_tokens.tolist()
    plain = dpo.loss(pairs, SETTINGS)
    slope = torch.autograd.grad(plain, pairs.chosen)[0].tolist()
    per_token = [logp / length for logp, length in zip(pairs.chosen.tolist(), lengths, strict=True)]
    value = plain.item() - weight * sum(per_token) / len(per_token)
    wanted = [each - weight / length / len(lengths) for each, length in zip(slope, lengths, strict=True)]
    expect(dpo.loss(pairs, SETTINGS | {"sft_weight": weight}), value, [pairs.chosen], [wanted])


@pytest.mark.parametrize("seed", range(3))
def test_ipo_has_the_value_and_gradient_of_its_formula(seed):
    # L = mean (h − 1/(2β))², h = r⁺/|y⁺| − r⁻/|y⁻|;  ∂L/∂log π(y⁺) = 2(h − 1/(2β))/|y⁺|/n
    pairs = random_pairs(seed)
    count = len(pairs.chosen)
    rows = zip(ratios(pairs), pairs.chosen_tokens.tolist(), pairs.rejected_tokens.tolist(), strict=True)
    gaps, by_chosen, by_rejected = [], [], []
    for (chosen, rejected), long, other in rows:
        gaps.append(chosen / long - rejected / other - 1 / (2 * BETA))
        by_chosen.append(2 * gaps[-1] / long / count)
        by_rejected.append(-2 * gaps[-1] / other / count)
    value = sum(gap**2 for gap in gaps) / count
    expect(ipo.loss(pairs, SETTINGS), value, [pairs.chosen, pairs.rejected], [by_chosen, by_rejected])


def test_ipo_does_not_change_when_replies_and_their_log_ratios_grow_alike():
    pairs = random_pairs(0)
    scaled = {name: getattr(pairs, name) * 3 for name in PairLogps._fields[:6]}
    once, thrice = ipo.loss(pairs, SETTINGS), ipo.loss(pairs._replace(**scaled), SETTINGS)
    assert once.item() == pytest.approx(thrice.item(), rel=1e-12)
    assert dpo.loss(pairs._replace(**scaled), SETTINGS).item() != pytest.approx(
        dpo.loss(pairs, SETTINGS).item()
    )


@pytest.mark.parametrize("divergence", [2.5, 0.0, -4.0])
@pytest.mark.parametrize(("desirable", "undesirable"), [(1.0, 1.0), (1.33, 0.7)])
def test_kto_has_the_value_and_gradient_of_its_formula(divergence, desirable, undesirable):
    # L = mean over both sides of w⁺(1 − σ(β(r⁺ − z))) and w⁻(1 − σ(β(z − r⁻))), z = max(0, divergence)
    # and constant; ∂L/∂log π(y⁺) = −w⁺βσσ′/2n with σσ′ = σ(u)σ(−u), and with the other sign by log π(y⁻)
    pairs = with_divergence(random_pairs(4), divergence)
    count, z = 2 * len(pairs.chosen), max(0.0, divergence)
    inner = [(BETA * (chosen - z), BETA * (z - rejected)) for chosen, rejected in ratios(pairs)]
    value = (
        sum(desirable * (1 - sigmoid(good)) + undesirable * (1 - sigmoid(bad)) for good, bad in inner) / count
    )
    by_chosen = [-desirable * BETA * sigmoid(good) * sigmoid(-good) / count for good, _ in inner]
    by_rejected = [undesirable * BETA * sigmoid(bad) * sigmoid(-bad) / count for _, bad in inner]
    loss = kto.loss(pairs, SETTINGS | {"desirable_weight": desirable, "undesirable_weight": undesirable})
    expect(loss, value, [pairs.chosen, pairs.rejected], [by_chosen, by_rejected])


def test_kto_reads_a_negative_divergence_as_zero():
    below, zero = (kto.loss(with_divergence(random_pairs(5), mean), SETTINGS) for mean in (-3.0, 0.0))
    above = kto.loss(with_divergence(random_pairs(5), 3.0), SETTINGS)
    assert below.item() == pytest.approx(zero.item(), rel=1e-12)
    assert above.item() != pytest.approx(zero.item(), rel=1e-3)


def test_kto_sends_no_gradient_through_its_divergence():
    pairs = with_divergence(random_pairs(6), 3.0)
    found = torch.autograd.grad(kto.loss(pairs, SETTINGS), pairs.divergence, allow_unused=True)
    assert found == (None,)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_mean_over_pairs_so_their_order_does_not_matter(name):
    pairs = random_pairs(7)
    turned = [value.flip(0) for value in pairs]
    assert LOSSES[name](PairLogps(*turned), SETTINGS).item() == pytest.approx(
        LOSSES[name](pairs, SETTINGS).item(), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_dpo_on_averaged_log_probs_divides_each_side_by_its_own_length(seed):
    pairs = random_pairs(seed)
    rows = zip(ratios(pairs), pairs.chosen_tokens.tolist(), pairs.rejected_tokens.tolist(), strict=True)
    margins = [BETA * (chosen / long - rejected / other) for (chosen, rejected), long, other in rows]
    value = sum(-math.log(sigmoid(margin)) for margin in margins) / len(margins)
    assert dpo.loss(pairs, SETTINGS | {"logp_reduction": "mean"}).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_dpo_without_reference_reads_the_policy_alone(seed):
    pairs = random_pairs(seed)
    margins = [
        BETA * (chosen - rejected)
        for chosen, rejected in zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)
    ]
    value = sum(-math.log(sigmoid(margin)) for margin in margins) / len(margins)
    assert dpo.loss(pairs, SETTINGS | {"reference_free": True}).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_hinge_is_one_minus_the_margin_until_the_margin_is_one(seed):
    pairs = random_pairs(seed)
    margins = [BETA * (chosen - rejected) for chosen, rejected in ratios(pairs)]
    value = sum(max(0.0, 1 - margin) for margin in margins) / len(margins)
    loss = dpo.loss(pairs, SETTINGS | {"loss": "hinge"})
    assert loss.item() == pytest.approx(value, rel=1e-12)
    slope = torch.autograd.grad(loss, pairs.chosen)[0].tolist()
    assert slope == pytest.approx([-BETA / len(margins) * (margin < 1) for margin in margins], rel=1e-12)
    assert dpo.loss(agreeing_pairs(), SETTINGS | {"loss": "hinge"}).item() == 1.0
