"""NEFTune, the weights of tokens and the KL to the parent are what their formulas say, however rows are batched."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import kl_div, linear
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.tiny import conversations, run_sft, settings_of, sft_flags, write_tokens
from tests.tiny_model import make_tiny_model
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.logprobs import keeps_rows_apart
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.templates import IGNORED
from workflow_scripts.common.training.arguments import training_arguments
from workflow_scripts.sft import objectives
from workflow_scripts.sft import train as sft_train
from workflow_scripts.sft.objectives import full_kl, items_of, lengths_of, neftune_noise, rows_of, shares
from workflow_scripts.sft.train import LearnedPositionsTrainer, learned_states
from workflow_scripts.study.training import Training

COUNT = 9
PLAIN = {"drop_last": False, "neftune_alpha": None, "kl": None, "loss_norm": "token"}
PLAIN |= {"pack_tokens": None, "batch_of": "rows"}
GOLD, FULL = ({"weight": 0.7, "form": form} for form in ("gold", "full"))
LAYOUTS = {
    "one by one": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": COUNT},
    "packed": {"packing": True, "max_length": 160},
    "packed, accumulated": {
        "packing": True,
        "max_length": 160,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": COUNT,
    },
    "padding-free": {"padding_free": True},
    "padding-free, accumulated": {
        "padding_free": True,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": COUNT,
    },
    "padded": {},
}


@pytest.fixture(scope="module")
def tokens(tiny_model, tmp_path_factory) -> Path:
    rows = conversations(COUNT + 5)
    return write_tokens(tiny_model, rows[:COUNT], rows[COUNT:], tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    """A parent unlike the tiny model, so that a policy can be far from its reference."""
    return make_tiny_model(tmp_path_factory.mktemp("other") / "model", seed=1)


def rows_from(tokens: Path, split: str = "train") -> list[dict]:
    return pyarrow.parquet.read_table(tokens / f"{split}.parquet").to_pylist()


def batch_of(rows: list[dict], **layout: object) -> dict[str, torch.Tensor]:
    return DataCollatorForLanguageModeling(pad_token_id=3, **layout)([dict(row) for row in rows])


def trainer_of(policy, rows, work, changed, reference=None, **layout) -> LearnedPositionsTrainer:
    """Return a trainer of one step over all rows, with objectives and a layout of batches of its own."""
    settings = settings_of(per_device_batch=COUNT, max_steps=1, schedule="constant", warmup=0)
    arguments = training_arguments(settings, work, 1, evaluate=False) | {"max_length": None} | layout
    return LearnedPositionsTrainer(
        settings=PLAIN | changed,
        reference=reference,
        model=policy,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(policy.name_or_path),
    )


def terms_of(policy, row: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (−log π(t), log π of the whole vocabulary, t) for each learned t of one row alone, by a plain softmax."""
    logps = policy(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0, :-1].log_softmax(-1)
    steps = [step for step, label in enumerate(row["labels"][1:]) if label != IGNORED]
    targets = torch.tensor(row["input_ids"])[1:][steps]
    return -logps[steps, targets], logps[steps], targets


def loss_of(policy, rows, norm="token", kl=None, reference=None) -> torch.Tensor:
    """Return the objective written out row by row, without batches, chunks or weights."""
    totals, count = [], 0
    for row in rows:
        losses, logps, targets = terms_of(policy, row)
        if kl is not None:
            with torch.no_grad():
                _, parent, _ = terms_of(reference, row)
            steps = torch.arange(len(targets))
            if kl["form"] == "gold":
                distances = logps[steps, targets] - parent[steps, targets]
            else:
                distances = (logps.exp() * (logps - parent)).sum(1)
            losses = losses + kl["weight"] * distances
        totals.append(losses.mean() if norm == "example" else losses.sum())
        count += 1 if norm == "example" else len(losses)
    return torch.stack(totals).sum() / count


def gradients(policy) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])


def stepped(policy, rows, work, changed, reference=None, **layout) -> tuple[float, torch.Tensor, dict]:
    """Return (logged loss, gradient, first log) of one optimiser step that leaves the weights alone."""
    found = []
    trainer = trainer_of(
        policy, rows, work, changed, reference, learning_rate=0.0, max_grad_norm=0.0, **layout
    )
    step = trainer.create_optimizer().step
    trainer.optimizer.step = lambda *given, **named: (found.append(gradients(policy)), step(*given, **named))
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert len(found) == 1, "one step over all rows"
    return logged["loss"], found[0], logged


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("norm", "kl"), [("token", None), ("example", None), ("token", GOLD), ("example", FULL), ("token", FULL)]
)
def test_loss_and_gradient_are_the_formula_in_every_layout(
    tiny_model, other_model, tokens, tmp_path, layout, norm, kl
):
    rows, policy = rows_from(tokens), load_policy(tiny_model)
    reference = load_policy(other_model)
    expected = loss_of(policy, rows, norm, kl, reference)
    expected.backward()
    wanted = gradients(policy)
    policy.zero_grad()
    changed = {"loss_norm": norm, "kl": kl}
    given = reference if kl else None
    loss, found, logged = stepped(policy, rows, tmp_path / "work", changed, given, **LAYOUTS[layout])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert (found - wanted).norm() < 1e-4 * wanted.norm()
    if kl:
        plain = loss_of(policy, rows, norm).item()
        assert logged["kl"] == pytest.approx((expected.item() - plain) / kl["weight"], rel=1e-4)
    else:
        assert "kl" not in logged


def test_the_two_normalisations_differ_on_these_rows(tiny_model, tokens):
    rows, found = rows_from(tokens), []
    for norm in ("token", "example"):
        policy = load_policy(tiny_model)
        loss_of(policy, rows, norm).backward()
        found.append(gradients(policy))
    assert (found[0] - found[1]).norm() > 0.1 * found[0].norm()


def test_shares_add_up_to_the_items_and_rows_without_a_learned_token_count_for_nothing():
    labels = [[7, IGNORED, 5, 5, 5, 5], [IGNORED, 5, IGNORED], [IGNORED] * 4, [5, IGNORED]]
    rows = [{"input_ids": [5] * len(each), "labels": each} for each in labels]
    for layout in ({}, {"padding_free": True}):
        batch = batch_of(rows, **layout)
        numbers = rows_of(batch)[:, 1:][objectives.learned_of(batch)]
        assert numbers.tolist() == [0, 0, 0, 0, 1]  # nothing predicts a row's first token
        assert shares(numbers, "token").tolist() == [1] * 5
        assert shares(numbers, "example").tolist() == [0.25] * 4 + [1]
        assert (items_of(batch, "token"), items_of(batch, "example")) == (5, 2)


def test_the_gold_penalty_only_scales_the_gradient_and_at_weight_one_nothing_is_left(
    tiny_model, other_model, tokens, tmp_path
):
    rows, reference = rows_from(tokens), load_policy(other_model)
    for norm in ("token", "example"):
        found = {}
        for weight in (0.0, 0.25, 1.0):
            changed = {"loss_norm": norm, "kl": {"weight": weight, "form": "gold"}}
            policy, work = load_policy(tiny_model), tmp_path / f"{norm}-{weight}"
            _, found[weight], _ = stepped(policy, rows, work, changed, reference, padding_free=True)
        assert found[0.0].norm() > 0.1
        assert torch.equal(found[1.0], torch.zeros_like(found[1.0]))
        assert (found[0.25] - 0.75 * found[0.0]).norm() < 1e-5 * found[0.0].norm()


@pytest.mark.parametrize("chunk", [3, 10, 1000])
def test_full_kl_is_torchs_kl_div_in_chunks_of_any_size(monkeypatch, chunk):
    monkeypatch.setattr(objectives, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden, other = (torch.randn(10, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    head, other_head = (torch.randn(30, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = torch.linspace(0.5, 1.5, 10, dtype=torch.float64)
    found = []
    for implementation in (full_kl, by_kl_div):
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        distances = implementation(*leaves, other, other_head)
        (weights * distances).sum().backward()
        found.append((distances.detach(), *(leaf.grad for leaf in leaves)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert found[0][0].min() > 0


def by_kl_div(hidden, head, other, other_head):
    """Return KL(π ‖ π_ref) per position from whole logits; kl_div takes its first argument as the second measure."""
    policy, parent = (linear(hidden, head).log_softmax(1), linear(other, other_head).log_softmax(1))
    return kl_div(parent, policy, log_target=True, reduction="none").sum(1)


@pytest.mark.parametrize("form", ["gold", "full"])
def test_at_the_parent_the_kl_is_zero_and_the_loss_is_cross_entropy(tiny_model, tokens, tmp_path, form):
    rows, policy = rows_from(tokens), load_policy(tiny_model)
    changed = {"kl": {"weight": 5.0, "form": form}}
    parent = load_policy(tiny_model)
    loss, _, logged = stepped(policy, rows, tmp_path / "work", changed, parent, padding_free=True)
    assert logged["kl"] == pytest.approx(0, abs=1e-6)
    assert loss == pytest.approx(loss_of(policy, rows).item(), rel=1e-5)


def test_the_parent_stays_as_it_was(tiny_model, tokens, tmp_path):
    rows, parent = rows_from(tokens), load_policy(tiny_model)
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    trainer = trainer_of(
        load_policy(tiny_model), rows, tmp_path / "work", {"kl": FULL}, parent, padding_free=True
    )
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    assert all(parameter.grad is None for parameter in parent.parameters())
    assert not torch.equal(trainer.model.lm_head.weight, before["lm_head.weight"])


def test_neftune_noise_is_uniform_within_alpha_over_the_root_of_length_times_width():
    width, alpha = 64, 5.0
    for length in (7, 900):
        noise = neftune_noise(
            torch.zeros(400, width), torch.full((400,), length), alpha, torch.Generator().manual_seed(0)
        )
        bound = alpha / math.sqrt(length * width)
        assert noise.abs().max() <= bound
        assert noise.abs().max() > 0.99 * bound
        assert noise.mean().abs() < 0.02 * bound
        assert noise.std() == pytest.approx(
            bound / math.sqrt(3), rel=0.02
        )  # of a uniform distribution on ±bound


def test_every_row_is_disturbed_by_its_own_length_packed_or_padded():
    lengths = [3, 11, 40]
    rows = [{"input_ids": [5] * length, "labels": [5] * length} for length in lengths]
    bounds = torch.cat([torch.full((length,), 5 / math.sqrt(length * 2048)) for length in lengths])
    flat = torch.tensor([length for length in lengths for _ in range(length)])
    packed = batch_of(
        [{"input_ids": [5] * 54, "labels": [5] * 54, "seq_lengths": lengths}], padding_free=True
    )
    for batch in (packed, batch_of(rows, padding_free=True), batch_of(rows)):
        found = lengths_of(batch)[objectives.real_of(batch)]
        assert found.tolist() == flat.tolist()
        noise = neftune_noise(torch.zeros(54, 2048), found, 5.0)
        largest = noise.abs().amax(1)
        assert (largest <= bounds).all()
        assert (largest > 0.95 * bounds).all()


def test_packed_padded_and_padding_free_rows_read_the_same_noise(tiny_model, tokens):
    policy, rows = load_policy(tiny_model), rows_from(tokens)[:4]
    merged = {name: [token for row in rows for token in row[name]] for name in ("input_ids", "labels")}
    lengths = [len(row["input_ids"]) for row in rows]
    packed = batch_of([merged | {"seq_lengths": lengths}], padding_free=True)
    found = []
    for batch in (packed, batch_of(rows, padding_free=True), batch_of(rows)):
        torch.manual_seed(3)
        found.append(learned_states(policy, batch, noise_alpha=5.0))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-4, atol=1e-5)
    assert (found[0] - learned_states(policy, packed)).abs().max() > 0.01


def test_noise_is_for_the_policy_in_training_and_never_for_the_parent_or_in_validation(
    tiny_model, other_model, tokens, tmp_path, monkeypatch
):
    monkeypatch.setattr(sft_train, "neftune_noise", lambda embeddings, *_: torch.full_like(embeddings, 0.3))
    rows, parent = rows_from(tokens), load_policy(other_model)
    changed = {"neftune_alpha": 5.0, "kl": FULL}
    noisy = load_policy(tiny_model)
    with torch.no_grad():
        noisy.get_input_embeddings().weight += 0.3
    clean = load_policy(tiny_model)
    loss, _, _ = stepped(clean, rows, tmp_path / "work", changed, parent, padding_free=True)
    assert loss == pytest.approx(loss_of(noisy, rows, kl=FULL, reference=parent).item(), rel=1e-5)
    assert loss != pytest.approx(loss_of(clean, rows, kl=FULL, reference=parent).item(), rel=1e-3)
    trainer = trainer_of(clean, rows, tmp_path / "other", changed, parent, padding_free=True)
    batch = batch_of(rows, padding_free=True)
    at_rest = trainer.compute_loss(trainer.model.eval(), batch).item()
    assert at_rest == pytest.approx(loss_of(clean, rows, kl=FULL, reference=parent).item(), rel=1e-5)
    validated = trainer.evaluate(Dataset.from_list(rows))["eval_loss"]
    assert validated == pytest.approx(loss_of(clean, rows).item(), rel=1e-5)


@pytest.mark.parametrize("pack_tokens", [None, 160])
def test_validation_is_the_plain_mean_over_all_learned_tokens_whatever_the_objective(
    tiny_model, tokens, tmp_path, pack_tokens
):
    settings = settings_of(
        pack_tokens=pack_tokens,
        per_device_batch=2,  # of five rows: the last batch has one
        max_steps=3,
        epochs=3,
        evaluate_every=3,
        neftune_alpha=5.0,
        kl=GOLD,
        loss_norm="example",
    )
    trained = run_sft(tiny_model, tokens, settings, tmp_path)
    curve = json.loads((tmp_path / "curve.json").read_text())
    (found,) = [row["validation_loss"] for row in curve if "validation_loss" in row]
    validation = rows_from(tokens, "validation")
    assert len(validation) == 5
    assert found == pytest.approx(loss_of(load_policy(trained), validation).item(), abs=1e-5)
    assert found != pytest.approx(loss_of(load_policy(trained), validation, "example").item(), abs=1e-4)
    distances = [row["kl"] for row in curve if "kl" in row]
    assert len(distances) == 3
    assert len(set(distances)) == 3, "the policy moves away"


def test_the_best_checkpoint_is_kept_by_the_validation_loss_and_patience_stops_a_run(
    tiny_model, tokens, tmp_path
):
    fast = {"learning_rate": 0.05, "schedule": "constant", "warmup": 0.0, "evaluate_every": 1}
    settings = settings_of(**fast, max_steps=40, epochs=40, keep="best", patience=2, per_device_batch=COUNT)
    trained = run_sft(tiny_model, tokens, settings, tmp_path)
    curve = json.loads((tmp_path / "curve.json").read_text())
    validated = [row["validation_loss"] for row in curve if "validation_loss" in row]
    assert 3 <= len(validated) < 40, "stopped early"
    assert validated.index(min(validated)) == len(validated) - 3, "two validations after the best"
    found = loss_of(load_policy(trained), rows_from(tokens, "validation")).item()
    assert found == pytest.approx(min(validated), abs=1e-5)
    assert found < validated[-1]


def model_of(kind: str) -> GPT2LMHeadModel | OPTForCausalLM:
    """Return a tiny random model of another architecture, without dropout."""
    torch.manual_seed(0)
    if kind == "gpt2":
        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=200, n_positions=512, n_embd=32, n_layer=2, n_head=4, **none)
        )
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "ffn_dim": 64}
    more = {"num_attention_heads": 4, "max_position_embeddings": 512, "dropout": 0.0, "init_std": 0.2}
    return OPTForCausalLM(OPTConfig(vocab_size=200, **sizes, **more))


def test_gpt2_reads_rows_laid_end_to_end_as_it_would_alone(tokens):
    model, rows = model_of("gpt2").eval(), rows_from(tokens)[:4]
    assert keeps_rows_apart(model)
    for alpha in (None, 5.0):
        torch.manual_seed(3)
        flat = learned_states(model, batch_of(rows, padding_free=True), alpha)
        torch.manual_seed(3)
        alone = [learned_states(model, batch_of([row]), alpha) for row in rows]
        torch.testing.assert_close(flat, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_model_that_cannot_tell_rows_apart_is_never_given_them_end_to_end(tiny_model, tokens, tmp_path):
    model, folder = model_of("opt"), tmp_path / "opt"
    assert keeps_rows_apart(load_policy(tiny_model))
    assert not keeps_rows_apart(model.eval())
    model.save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    settings = settings_of(per_device_batch=COUNT, max_steps=1, warmup=0.0, evaluate_every=1)
    trained = run_sft(folder, tokens, settings, tmp_path / "run")
    first, validated = json.loads((tmp_path / "run/curve.json").read_text())
    assert first["train_loss"] == pytest.approx(loss_of(model, rows_from(tokens)).item(), abs=1e-5)
    expected = loss_of(load_policy(trained), rows_from(tokens, "validation")).item()
    assert validated["validation_loss"] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(PlumblineError, match=r"opt model reads across.*set it to null"):
        run_sft(folder, tokens, settings | {"pack_tokens": 160}, tmp_path / "packed")


def test_a_mixture_of_experts_is_refused_as_its_balancing_loss_would_be_left_out(
    tiny_model, tokens, tmp_path
):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    experts = {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    model = MixtralForCausalLM(MixtralConfig(vocab_size=200, **sizes, **experts))
    model.name_or_path = str(tiny_model)  # whose tokenizer it takes
    with pytest.raises(PlumblineError, match="mixtral model balances its experts"):
        trainer_of(model, rows_from(tokens), tmp_path / "work", {})


def test_two_processes_train_and_validate_what_one_does(tiny_model, tmp_path):
    rows = conversations(15)
    tokens = write_tokens(tiny_model, rows[:8], rows[8:], tmp_path / "tokens")  # validated: seven, not even
    own = {"kl": FULL, "loss_norm": "example", "max_steps": 4, "epochs": 4, "evaluate_every": 4}
    one = run_sft(tiny_model, tokens, settings_of(batch_size=8, per_device_batch=4, **own), tmp_path / "one")
    flags = sft_flags(
        tiny_model, tokens, settings_of(batch_size=8, per_device_batch=2, **own), tmp_path / "two"
    )
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launched, "-m", "workflow_scripts.sft.train", *flags], check=True, timeout=300)
    weights, others = (load_policy(model).state_dict() for model in (one, tmp_path / "two/model"))
    assert max((weights[name] - others[name]).abs().max().item() for name in weights) < 1e-5
    curves = [json.loads((tmp_path / name / "curve.json").read_text()) for name in ("one", "two")]
    for found, expected in zip(*curves, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    expected = loss_of(load_policy(one), rows_from(tokens, "validation")).item()
    assert curves[1][-1]["validation_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("optimizer", get_args(Training.model_fields["optimizer"].annotation))
def test_every_optimizer_is_transformers_own_and_on_a_cpu_the_plain_one(tmp_path, optimizer):
    settings = settings_of(optimizer=optimizer)
    assert training_arguments(settings, tmp_path, 1, evaluate=False)["optim"] == "adamw_torch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        patch.setattr("torch.cuda.device_count", lambda: 1)
        patch.setattr("torch.cuda.is_bf16_supported", lambda: True)
        assert training_arguments(settings, tmp_path, 1, evaluate=False)["optim"] == optimizer
