"""What drops in a training: the model's own layers as they came or as asked for, adapters by their own key."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from tests.command import call
from tests.offline import annotated, write_rewarded
from tests.online import ppo_settings, run_ppo
from tests.tiny import (
    conversations,
    own_settings,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    training_flags,
    weights_of,
    write_reference,
    write_tokens,
)
from workflow_scripts.align import nll
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.logprobs import flat_logps, shared_prompt_logps
from workflow_scripts.common.models import load_policy
from workflow_scripts.common.training.loading import drop_as_asked, load_trainable, set_dropout

LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.5, "targets": "all-linear", "merge": True}
STEP = {"max_steps": 1, "warmup": 0.0, "learning_rate": 1e-2}


def dropping(model: Path, folder: Path, share: float) -> Path:
    """Return a copy of a Llama whose attention drops this share."""
    shutil.copytree(model, folder)
    write_json(folder / "config.json", read_json(model / "config.json") | {"attention_dropout": share})
    return folder


def same(one: Path, other: Path) -> bool:
    """Tell whether two policies have the same weights, to the bit."""
    weights = weights_of(other)
    return all(torch.equal(weight, weights[name]) for name, weight in weights_of(one).items())


# --- which layers drop --------------------------------------------------------------------------------------------


def test_every_dropout_of_a_gpt2_is_set_and_named():
    sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    model = AutoModelForCausalLM.from_config(GPT2Config(**sizes))

    def shares() -> set[float]:
        return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}

    assert shares() == {0.1}
    assert set_dropout(model, 0.3) == ["attn_dropout", "drop", "dropout", "resid_dropout"]
    assert shares() == {0.3}
    set_dropout(model, 0.0)
    assert shares() == {0.0}


def test_leaving_out_layers_is_no_dropout_but_is_left_out_with_it():
    sizes = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 32, "word_embed_proj_dim": 16}
    model = AutoModelForCausalLM.from_config(OPTConfig(**sizes, layerdrop=0.2))
    decoder = model.model.decoder
    assert "layerdrop" not in set_dropout(model, 0.3)
    assert (decoder.layerdrop, decoder.layers[0].dropout, decoder.layers[0].self_attn.dropout) == (
        0.2,
        0.3,
        0.3,
    )
    set_dropout(model, 0.0)
    assert (decoder.layerdrop, decoder.layers[0].dropout) == (0.0, 0.0)


def test_a_number_is_the_models_own_layers_and_adapters_keep_theirs(tiny_model, capsys):
    model = load_trainable(tiny_model, settings_of(lora=LORA, dropout=0.25), 1)
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.25}
    adapters = {
        module.p for name, module in model.named_modules() if "lora_dropout" in name and hasattr(module, "p")
    }
    assert adapters == {0.5}
    assert model.config.attention_dropout == 0.0  # what is saved is as it was
    assert "dropout: 0.25 in attention_dropout" in capsys.readouterr().out


def test_null_keeps_what_the_model_came_with_or_drops_nothing_as_the_method_has_it(tiny_model, tmp_path):
    parent, settings = dropping(tiny_model, tmp_path / "parent", 0.4), settings_of(lora=LORA)

    def shares(model) -> tuple[set, set]:
        own = {layer.self_attn.attention_dropout for layer in model.model.layers}
        return own, {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}

    assert shares(load_trainable(parent, settings, 1)) == ({0.4}, {0.5})
    assert shares(load_trainable(parent, settings, 1, drops_nothing=True)) == ({0.0}, {0.0})
    asked = load_trainable(parent, settings | {"dropout": 0.0}, 1, drops_nothing=True)
    assert shares(asked) == ({0.0}, {0.5})


def test_a_model_with_nothing_that_drops_is_warned_of(capsys):
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type="linear")
    drop_as_asked(model, 0.1)
    assert "warning: dropout 0.1: a linear model has no layer that drops" in capsys.readouterr().err
    drop_as_asked(model, 0.0)
    assert capsys.readouterr().err == ""


# --- what trainings make of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [shared_prompt_logps, flat_logps])
def test_log_probs_drop_while_a_policy_trains_in_either_way_of_computing_them(tiny_model, way):
    model = load_policy(tiny_model).double()
    set_dropout(model, 0.5)
    prompts, replies = [[5, 6, 7], [8, 9]], [[[10, 11], [12]], [[13, 14], [15]]]

    def said(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return torch.cat([each for group in way(model, prompts, replies) for each in group])

    quiet = said(1)
    assert torch.equal(quiet, said(2))
    model.train()
    assert torch.equal(said(1), said(1))
    assert not torch.allclose(said(1), quiet, atol=1e-3)
    assert not torch.allclose(said(1), said(2), atol=1e-3)


def test_fine_tuning_drops_what_it_is_asked_to(tiny_model, tmp_path):
    tokens = write_tokens(tiny_model, conversations(6), [], tmp_path / "tokens")
    parent = dropping(tiny_model, tmp_path / "parent", 0.5)

    def trained(name: str, model: Path, **changed) -> Path:
        return run_sft(model, tokens, settings_of(**STEP, **changed), tmp_path / name)

    plain = trained("plain", tiny_model)
    assert same(plain, trained("off", parent, dropout=0.0))
    own = trained("own", parent)
    assert not same(plain, own)
    assert same(own, trained("asked", tiny_model, dropout=0.5))
    assert read_json(tmp_path / "off/model/config.json")["attention_dropout"] == 0.5


def test_pairs_are_learned_with_the_dropout_asked_for_and_references_without(tiny_model, tmp_path):
    parent = dropping(tiny_model, tmp_path / "parent", 0.5)
    stored = write_reference(tiny_model, pairs(6), tmp_path / "reference")
    loud = write_reference(parent, pairs(6), tmp_path / "loud")
    assert (stored / "rows.parquet").read_bytes() == (loud / "rows.parquet").read_bytes()

    def trained(name: str, model: Path, **changed) -> Path:
        return run_align("dpo", model, stored, preference_settings(**STEP, **changed), tmp_path / name)

    plain = trained("plain", tiny_model)
    assert same(plain, trained("off", parent, dropout=0.0))
    assert not same(plain, trained("own", parent))
    assert not same(plain, trained("flat", tiny_model, dropout=0.5, share_prompts=False))


def test_offline_rl_drops_nothing_unless_it_is_asked_to(tiny_model, tmp_path):
    stored = write_rewarded(tiny_model, tmp_path / "rewarded", annotated(6))
    parent = dropping(tiny_model, tmp_path / "parent", 0.5)

    def trained(name: str, model: Path, **changed) -> Path:
        own = {"sampling": "none", "padding_free": changed.pop("padding_free", True)}
        settings = own_settings(nll.Settings, settings_of(**STEP, **own, **changed))
        flags = training_flags(model, settings, tmp_path / name)
        flags += ["--rewarded", stored / "rows.parquet", "--rewarded-manifest", stored / "manifest.json"]
        call(nll.main, *flags)
        return tmp_path / name / "model"

    plain = trained("plain", tiny_model)
    assert same(plain, trained("null", parent))
    for padding_free in (True, False):
        assert not same(plain, trained(f"own-{padding_free}", parent, dropout=0.5, padding_free=padding_free))
    adapted = trained("adapted", tiny_model, lora=LORA)
    assert same(adapted, trained("quiet", tiny_model, lora=LORA | {"dropout": 0.0}))
    assert not same(adapted, trained("loud", tiny_model, lora=LORA, dropout=0.0))


def test_ppo_drops_nothing_unless_it_is_asked_to_not_even_in_attention(tiny_model, tmp_path):
    parent = dropping(tiny_model, tmp_path / "parent", 0.5)

    def trained(name: str, model: Path, **changed) -> Path:
        return run_ppo(model, ppo_settings(max_steps=1, **changed), tmp_path / name) / "model"

    plain = trained("plain", tiny_model)
    assert same(plain, trained("null", parent))
    assert not same(plain, trained("asked", parent, dropout=0.5))
