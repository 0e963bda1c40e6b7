"""SimPO's loss against its paper's formula, written out here, and against TRL's."""

import math
from types import SimpleNamespace

import pyarrow.parquet
import pytest
import torch

from tests.tiny import align_flags, call, pairs, preference_settings, write_reference
from workflow_scripts.align import simpo
from workflow_scripts.align.preference import PairLogps
from workflow_scripts.common.files import read_json

SETTINGS = {"beta": 2.0, "gamma_beta_ratio": 0.5, "sft_weight": 0.0}
FIELDS = PairLogps._fields[:6]


def batch_of(*columns: list[float]) -> PairLogps:
    """Return pairs of these columns; what the policy says are leaves, so that gradients can be read off them."""
    tensors = [torch.tensor(column, dtype=torch.float64) for column in columns]
    return PairLogps(tensors[0].requires_grad_(), tensors[1].requires_grad_(), *tensors[2:])


def random_batch(seed: int, count: int = 6) -> PairLogps:
    """Return random pairs."""
    generator = torch.Generator().manual_seed(seed)
    logps = [(-20 * torch.rand(count, generator=generator)).tolist() for _ in range(4)]
    tokens = [torch.randint(1, 30, (count,), generator=generator).tolist() for _ in range(2)]
    return batch_of(*logps, *tokens)


def loss_of(batch: PairLogps, **changed: float) -> torch.Tensor:
    """Return the loss of some pairs, made of the rewards that they are given."""
    settings = SETTINGS | changed
    return simpo.loss(simpo.rewards(batch, settings), batch, settings)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_loss_of_two_pairs_by_hand():
    # Mean log-probs −3/3 and −8/4, apart by 1; −4/2 and −2/2, apart by −1. γ = 2 · 0.5 = 1.
    batch = batch_of([-3.0, -4.0], [-8.0, -2.0], [-1.0, -1.0], [-1.0, -1.0], [3.0, 2.0], [4.0, 2.0])
    first, second = math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))  # −ln σ(2 − 1), −ln σ(−2 − 1)
    assert loss_of(batch).item() == pytest.approx((first + second) / 2, rel=1e-12)
    assert loss_of(batch, sft_weight=0.5).item() == pytest.approx((first + 0.5 + second + 1.0) / 2, rel=1e-12)
    assert simpo.rewards(batch, SETTINGS).chosen.tolist() == [-1.0, -2.0]


def test_a_pair_that_wins_by_just_the_margin_has_ln_2():
    batch = batch_of([-4.0], [-9.0], [0.0], [0.0], [4.0], [6.0])
    assert loss_of(batch, gamma_beta_ratio=0.5).item() == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beta", "ratio", "weight"), [(2.0, 0.5, 0.0), (10.0, 0.3, 0.0), (2.5, 0.0, 0.7)])
def test_the_loss_has_the_value_and_gradient_of_its_formula(seed, beta, ratio, weight):
    # u = β (log π(y⁺)/|y⁺| − log π(y⁻)/|y⁻|) − γ
    # ∂L/∂log π(y⁺) = −(β σ(−u) + w)/(n |y⁺|);  ∂L/∂log π(y⁻) = β σ(−u)/(n |y⁻|)
    batch = random_batch(seed)
    count = len(batch.chosen)
    value, by_chosen, by_rejected = 0.0, [], []
    columns = (batch.chosen, batch.rejected, batch.chosen_tokens, batch.rejected_tokens)
    for chosen, rejected, long, other in zip(*(column.tolist() for column in columns), strict=True):
        inner = beta * (chosen / long - rejected / other) - beta * ratio
        value += (-math.log(sigmoid(inner)) - weight * chosen / long) / count
        by_chosen.append(-(beta * sigmoid(-inner) + weight) / (count * long))
        by_rejected.append(beta * sigmoid(-inner) / (count * other))
    loss = loss_of(batch, beta=beta, gamma_beta_ratio=ratio, sft_weight=weight)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(value, rel=1e-12)
    found = torch.autograd.grad(loss, [batch.chosen, batch.rejected])
    assert found[0].tolist() == pytest.approx(by_chosen, rel=1e-10)
    assert found[1].tolist() == pytest.approx(by_rejected, rel=1e-10)


def test_what_the_reference_said_changes_nothing():
    batch = random_batch(3)
    moved = batch._replace(
        reference_chosen=batch.reference_chosen + 7.0, reference_rejected=batch.reference_rejected - 3.0
    )
    assert torch.equal(loss_of(batch), loss_of(moved))


def test_a_reply_said_several_times_over_changes_nothing():
    batch = random_batch(4)
    repeated = batch._replace(**{name: getattr(batch, name) * 3 for name in FIELDS})
    assert loss_of(repeated, sft_weight=0.3).item() == pytest.approx(
        loss_of(batch, sft_weight=0.3).item(), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradient_are_those_of_trl(seed):
    from trl.experimental.cpo import CPOTrainer

    beta, ratio = 2.5, 0.55
    batch = random_batch(seed)
    itself = SimpleNamespace(
        loss_type="simpo",
        beta=beta,
        simpo_gamma=beta * ratio,
        label_smoothing=0.0,
        alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    ours = simpo.rewards(batch, SETTINGS)
    losses, *_ = CPOTrainer.cpo_loss(itself, ours.chosen, ours.rejected)  # which takes averaged log-probs
    leaves = [batch.chosen, batch.rejected]
    theirs = torch.autograd.grad(losses.mean(), leaves)
    loss = loss_of(batch, beta=beta, gamma_beta_ratio=ratio)
    assert loss.item() == pytest.approx(losses.mean().item(), rel=1e-12)
    for own, other in zip(torch.autograd.grad(loss, leaves), theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=0)


def test_a_training_logs_the_margin_a_token_and_raises_it(tiny_model, tmp_path):
    stored = write_reference(tiny_model, pairs(8), tmp_path / "reference")
    own = {"gamma_beta_ratio": 0.5, "beta": 2.0, "max_steps": 6, "epochs": 6, "learning_rate": 1e-2}
    settings = preference_settings(**own, per_device_batch=8)
    call(simpo.main, *align_flags(tiny_model, stored, settings, tmp_path / "run", method="simpo"))
    curve = [row for row in read_json(tmp_path / "run/curve.json") if "margin" in row]
    # One batch is all pairs: what is logged first is of the parent, whose mean log-probs are stored.
    rows = pyarrow.parquet.read_table(stored / "rows.parquet").to_pylist()
    margins = [
        sum(row["reference_chosen"]) / len(row["chosen"])
        - sum(row["reference_rejected"]) / len(row["rejected"])
        for row in rows
    ]
    assert curve[0]["margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
    assert curve[0]["accuracy"] == sum(margin > 0 for margin in margins) / len(margins)
    assert curve[-1]["margin"] > curve[0]["margin"]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
