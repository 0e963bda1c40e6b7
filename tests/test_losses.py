"""The preference losses against their papers' formulas, in float64, with the formulas written out here."""

import math
from types import ModuleType, SimpleNamespace

import pytest
import torch

from workflow_scripts.align import dpo, ipo, kto
from workflow_scripts.align.preference import PairLogps, loss_over_pairs

BETA = 0.3
SETTINGS = {
    "beta": BETA,
    "loss": "sigmoid",
    "label_smoothing": 0.0,
    "logp_reduction": "sum",
    "reference_free": False,
    "sft_weight": 0.0,
    "desirable_weight": 1.0,
    "undesirable_weight": 1.0,
}
METHODS = {"dpo": dpo, "ipo": ipo, "kto": kto}


def loss_of(method: ModuleType, pairs: PairLogps, settings: dict) -> torch.Tensor:
    """Return a method's loss of some pairs, made of the rewards that it gives them."""
    return method.loss(method.rewards(pairs, settings), pairs, settings)


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
    assert loss_of(dpo, agreeing_pairs(), SETTINGS).item() == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
def test_ipo_is_one_over_four_beta_squared_where_policy_and_reference_agree(beta):
    loss = loss_of(ipo, agreeing_pairs(), SETTINGS | {"beta": beta})
    assert loss.item() == pytest.approx(1 / (4 * beta**2), rel=1e-12)


@pytest.mark.parametrize(("desirable", "undesirable"), [(1.0, 1.0), (1.5, 0.5), (2.0, 3.0)])
def test_kto_is_a_quarter_of_the_weights_where_policy_and_reference_agree(desirable, undesirable):
    weights = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    loss = loss_of(kto, agreeing_pairs(), SETTINGS | weights)
    assert loss.item() == pytest.approx((desirable + undesirable) / 4, rel=1e-12)  # .5 with weights 1


@pytest.mark.parametrize("seed", range(3))
def test_dpo_has_the_value_and_gradient_of_its_formula(seed):
    # L = mean −ln σ(β(r⁺ − r⁻));  ∂L/∂log π(y⁺) = −β σ(−β(r⁺ − r⁻))/n, and its opposite by log π(y⁻)
    pairs = random_pairs(seed)
    margins = [BETA * (chosen - rejected) for chosen, rejected in ratios(pairs)]
    value = sum(-math.log(sigmoid(margin)) for margin in margins) / len(margins)
    slope = [BETA * sigmoid(-margin) / len(margins) for margin in margins]
    gradients = [[-each for each in slope], slope]
    expect(loss_of(dpo, pairs, SETTINGS), value, [pairs.chosen, pairs.rejected], gradients)


@pytest.mark.parametrize("seed", range(3))
def test_dpo_sft_weight_adds_the_mean_token_likelihood_of_the_chosen_reply(seed):
    # … − w · mean log π(y⁺)/|y⁺|
    pairs, weight = random_pairs(seed), 0.7
    lengths = pairs.chosen_tokens.tolist()
    plain = loss_of(dpo, pairs, SETTINGS)
    slope = torch.autograd.grad(plain, pairs.chosen)[0].tolist()
    per_token = [logp / length for logp, length in zip(pairs.chosen.tolist(), lengths, strict=True)]
    value = plain.item() - weight * sum(per_token) / len(per_token)
    wanted = [each - weight / length / len(lengths) for each, length in zip(slope, lengths, strict=True)]
    expect(loss_of(dpo, pairs, SETTINGS | {"sft_weight": weight}), value, [pairs.chosen], [wanted])


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
    expect(loss_of(ipo, pairs, SETTINGS), value, [pairs.chosen, pairs.rejected], [by_chosen, by_rejected])


def test_ipo_does_not_change_when_replies_and_their_log_ratios_grow_alike():
    pairs = random_pairs(0)
    scaled = {name: getattr(pairs, name) * 3 for name in PairLogps._fields[:6]}
    once, thrice = loss_of(ipo, pairs, SETTINGS), loss_of(ipo, pairs._replace(**scaled), SETTINGS)
    assert once.item() == pytest.approx(thrice.item(), rel=1e-12)
    assert loss_of(dpo, pairs._replace(**scaled), SETTINGS).item() != pytest.approx(
        loss_of(dpo, pairs, SETTINGS).item()
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
    loss = loss_of(kto, pairs, SETTINGS | {"desirable_weight": desirable, "undesirable_weight": undesirable})
    expect(loss, value, [pairs.chosen, pairs.rejected], [by_chosen, by_rejected])


def test_kto_reads_a_negative_divergence_as_zero():
    below, zero = (loss_of(kto, with_divergence(random_pairs(5), mean), SETTINGS) for mean in (-3.0, 0.0))
    above = loss_of(kto, with_divergence(random_pairs(5), 3.0), SETTINGS)
    assert below.item() == pytest.approx(zero.item(), rel=1e-12)
    assert above.item() != pytest.approx(zero.item(), rel=1e-3)


def test_kto_sends_no_gradient_through_its_divergence():
    pairs = with_divergence(random_pairs(6), 3.0)
    found = torch.autograd.grad(loss_of(kto, pairs, SETTINGS), pairs.divergence, allow_unused=True)
    assert found == (None,)


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_is_a_mean_over_pairs_so_their_order_does_not_matter(name):
    pairs = random_pairs(7)
    turned = [value.flip(0) for value in pairs]
    assert loss_of(METHODS[name], PairLogps(*turned), SETTINGS).item() == pytest.approx(
        loss_of(METHODS[name], pairs, SETTINGS).item(), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_dpo_on_averaged_log_probs_divides_each_side_by_its_own_length(seed):
    pairs = random_pairs(seed)
    rows = zip(ratios(pairs), pairs.chosen_tokens.tolist(), pairs.rejected_tokens.tolist(), strict=True)
    margins = [BETA * (chosen / long - rejected / other) for (chosen, rejected), long, other in rows]
    value = sum(-math.log(sigmoid(margin)) for margin in margins) / len(margins)
    assert loss_of(dpo, pairs, SETTINGS | {"logp_reduction": "mean"}).item() == pytest.approx(
        value, rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_conservative_dpo_takes_a_share_of_the_pairs_to_be_the_wrong_way_round(seed, share):
    # L = mean −(1 − ε) ln σ(u) − ε ln σ(−u);  ∂L/∂log π(y⁺) = β (σ(u) − (1 − ε))/n: 0 where σ(u) = 1 − ε
    pairs = random_pairs(seed)
    margins = [BETA * (chosen - rejected) for chosen, rejected in ratios(pairs)]
    each = [
        -(1 - share) * math.log(sigmoid(margin)) - share * math.log(sigmoid(-margin)) for margin in margins
    ]
    slope = [BETA * (sigmoid(margin) - (1 - share)) / len(margins) for margin in margins]
    loss = loss_of(dpo, pairs, SETTINGS | {"label_smoothing": share})
    expect(loss, sum(each) / len(each), [pairs.chosen, pairs.rejected], [slope, [-one for one in slope]])
    agreeing = loss_of(dpo, agreeing_pairs(), SETTINGS | {"label_smoothing": share})
    assert agreeing.item() == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_dpo_without_reference_reads_the_policy_alone(seed):
    pairs = random_pairs(seed)
    margins = [
        BETA * (chosen - rejected)
        for chosen, rejected in zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)
    ]
    value = sum(-math.log(sigmoid(margin)) for margin in margins) / len(margins)
    assert loss_of(dpo, pairs, SETTINGS | {"reference_free": True}).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_hinge_is_one_minus_the_margin_until_the_margin_is_one(seed):
    pairs = random_pairs(seed)
    margins = [BETA * (chosen - rejected) for chosen, rejected in ratios(pairs)]
    value = sum(max(0.0, 1 - margin) for margin in margins) / len(margins)
    loss = loss_of(dpo, pairs, SETTINGS | {"loss": "hinge"})
    assert loss.item() == pytest.approx(value, rel=1e-12)
    slope = torch.autograd.grad(loss, pairs.chosen)[0].tolist()
    assert slope == pytest.approx([-BETA / len(margins) * (margin < 1) for margin in margins], rel=1e-12)
    assert loss_of(dpo, agreeing_pairs(), SETTINGS | {"loss": "hinge"}).item() == 1.0


def logged(method: ModuleType, settings: dict) -> dict[str, float]:
    """Return what a method logs of two pairs: what the policy says of a token is the token over −10."""
    rows = [
        {
            "chosen": [1, 2, 3, 4],
            "rejected": [7],
            "reference_chosen": [-0.5] * 4,
            "reference_rejected": [-3.0],
        },
        {"chosen": [9], "rejected": [1, 2], "reference_chosen": [-2.0], "reference_rejected": [-0.1, -0.1]},
    ]

    def logps_of(model: object, prompts: list, completions: list) -> list:
        return [[-torch.tensor(each, dtype=torch.float64) / 10 for each in pair] for pair in completions]

    model = SimpleNamespace(device="cpu")
    loss = loss_over_pairs(method.rewards, method.loss, SETTINGS | settings, logps_of)
    return loss(model, [row | {"prompt": [1]} for row in rows], torch.tensor([0.3, 1.0]))[1]


# Log-probs of the chosen −1.0 and −0.9, of the rejected −0.7 and −0.3; log-ratios 1.0 and 1.1, 2.3 and −0.1.
SUMS, RATIOS = ((-1.0, -0.7), (-0.9, -0.3)), ((1.0, 2.3), (1.1, -0.1))
LENGTHS = ((4, 1), (1, 2))


@pytest.mark.parametrize(
    ("method", "settings", "rewards", "averaged"),
    [
        (dpo, {}, RATIOS, False),
        (dpo, {"loss": "hinge", "sft_weight": 1.0}, RATIOS, False),
        (dpo, {"reference_free": True}, SUMS, False),
        (dpo, {"logp_reduction": "mean"}, RATIOS, True),
        (dpo, {"reference_free": True, "logp_reduction": "mean"}, SUMS, True),
        (ipo, {}, RATIOS, True),
        (kto, {}, RATIOS, False),
    ],
)
def test_margin_and_accuracy_are_of_the_rewards_that_are_trained(method, settings, rewards, averaged):
    margins = [
        chosen / (long if averaged else 1) - rejected / (other if averaged else 1)
        for (chosen, rejected), (long, other) in zip(rewards, LENGTHS, strict=True)
    ]
    seen = logged(method, settings)
    assert seen["margin"] == pytest.approx(sum(margins) / 2, rel=1e-6)
    assert seen["accuracy"] == sum(margin > 0 for margin in margins) / 2
