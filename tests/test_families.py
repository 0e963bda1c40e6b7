"""Families of models whose weights are read, tied, adapted or used in ways of their own: trained right or refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load as safe_load
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import preference_settings
from tests.tiny_model import make_tiny_model
from workflow_scripts.common import models
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.logprobs import head_of, shared_prompt_logps
from workflow_scripts.common.models import attention_of
from workflow_scripts.common.training import loading, sharding, streaming

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": "all-linear", "merge": True}


def made(kind: str, **more: object) -> torch.nn.Module:
    """Return a random policy of a kind."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | more)).eval()


def stored(kind: str, folder, **more: object):
    made(kind, **more).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "more", "what"),
    [
        (
            "recurrent_gemma",
            {"head_dim": 8, "lru_width": 16, "block_types": ["recurrent", "attention"]},
            "soft_cap",
        ),
        ("modernbert-decoder", {"decoder_bias": False, "global_attn_every_n_layers": 1}, "its lm_head"),
        ("gemma2", {"head_dim": 8}, "final_logit_softcapping"),
        ("phi", {}, "bias"),
    ],
)
def test_what_does_more_than_its_head_is_refused(kind, more, what):
    with pytest.raises(PlumblineError, match=f"does more than its LM head does.*{what}"):
        head_of(made(kind, **more))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "opt", "qwen3", "gpt_neox"])
def test_of_others_the_head_is_all_there_is(kind):
    more = {"n_head": 2, "n_layer": 2, "n_embd": 16} if kind == "gpt2" else {"word_embed_proj_dim": 16}
    model, ids = made(kind, **more), torch.arange(3, 30)[None]
    with torch.no_grad():
        states = model.base_model(ids).last_hidden_state
        assert torch.allclose(model(ids).logits, states @ head_of(model).T, atol=1e-5)


def test_a_state_that_cannot_be_taken_for_each_answer_is_refused():
    with pytest.raises(PlumblineError, match="a mamba model's state after a prompt cannot be taken"):
        shared_prompt_logps(made("mamba", state_size=4), [[3, 4]], [[[5], [6]]])


def test_a_family_without_pytorch_s_attention_takes_its_own():
    assert attention_of(torch.float32, made("bloom").config)[0] == "eager"
    assert attention_of(torch.float32, made("llama").config)[0] == "sdpa"


def test_a_head_stored_apart_from_the_embedding_it_is_tied_to_is_read_by_each_process(tmp_path):
    model = make_tiny_model(tmp_path / "model", tied=True)
    assert sharding.kind_to_share(model, False) is not None
    file = model / "model.safetensors"
    weights = load_file(file)
    embedding = weights["model.embed_tokens.weight"]
    save_file(weights | {"lm_head.weight": embedding.clone()}, file, {"format": "pt"})
    assert sharding.kind_to_share(model, False) is not None
    save_file(weights | {"lm_head.weight": embedding + 1}, file, {"format": "pt"})
    assert sharding.kind_to_share(model, False) is None


def test_files_with_one_tensor_for_several_weights_are_not_shared_out(tmp_path):
    AutoConfig.for_model("hrm_text", **SIZES).save_pretrained(tmp_path)
    with pytest.raises(
        PlumblineError, match=r"in one tensor, mlp.gate_up_proj.weight, what the model has in several"
    ):
        sharding.kind_to_share(tmp_path, False)


def test_one_weight_of_two_layers_is_not_shared_out_by_fsdp():
    model = made("llama")
    sharding.refuse_weights_of_two_layers(model)
    model.lm_head.weight = model.model.embed_tokens.weight
    sharding.refuse_weights_of_two_layers(model)
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(
        PlumblineError, match=r"layers\.0\.mlp.* and .*layers\.1\.mlp.* one weight of two layers"
    ):
        sharding.refuse_weights_of_two_layers(model)


def shared_by(kind: str, monkeypatch) -> None:
    """Let this process look like one of a training that is shared out in this way."""
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")


@pytest.mark.parametrize("by", ["FSDP", "DEEPSPEED"])
def test_adapters_on_experts_are_not_shared_out(by, monkeypatch):
    more = {"num_local_experts": 2, "num_experts_per_tok": 1}
    assert loading.with_adapters(made("mixtral", **more), LORA).adapted
    shared_by(by, monkeypatch)
    assert loading.with_adapters(made("mixtral", **more), LORA | {"targets": ["q_proj"]}).adapted
    with pytest.raises(PlumblineError, match="adapters on experts, which are one tensor"):
        loading.with_adapters(made("mixtral", **more), LORA)


def test_an_adapter_on_the_embedding_is_refused_where_it_would_change_the_head_or_not_be_kept(monkeypatch):
    on_embedding = LORA | {"targets": ["embed_tokens", "q_proj"]}
    assert loading.with_adapters(made("llama"), on_embedding | {"merge": False}).adapted
    with pytest.raises(PlumblineError, match="the LM head is the embedding"):
        loading.with_adapters(made("llama", tie_word_embeddings=True), on_embedding)
    shared_by("FSDP", monkeypatch)
    assert loading.with_adapters(made("llama"), on_embedding).adapted
    with pytest.raises(PlumblineError, match=r"cannot be kept alone; set lora.merge: true"):
        loading.with_adapters(made("llama"), on_embedding | {"merge": False})


@pytest.mark.parametrize("tied", [True, False])
def test_a_user_s_adapter_on_an_embedding_that_is_the_head_is_not_added_into_it(tied, tmp_path):
    base = stored("llama", tmp_path / "base", tie_word_embeddings=tied)
    config = LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(base)
    if not tied:
        assert models.merged_into(model, tmp_path / "adapter")
        return
    with pytest.raises(PlumblineError, match="adapts the embedding, which is the LM head, too"):
        models.merged_into(model, tmp_path / "adapter")


def test_convolutions_that_are_read_and_not_called_are_not_shared_out_by_zero3(tmp_path, monkeypatch):
    folder = stored("lfm2", tmp_path / "model", layer_types=["conv", "full_attention"])
    settings = preference_settings()
    assert loading.load_trainable(folder, settings, 0)
    shared_by("DEEPSPEED", monkeypatch)
    monkeypatch.setattr(loading, "load_cut", lambda *_: made("lfm2", layer_types=["conv", "full_attention"]))
    with pytest.raises(PlumblineError, match=r"a lfm2 model may read .* parallel: fsdp or zero2"):
        loading.load_trainable(folder, settings, 0)


def test_a_header_names_each_type_of_number_as_the_library_does():
    kinds = [
        torch.float64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.int64,
        torch.bool,
        torch.float16,
    ]
    tensors = {str(kind): torch.ones(3, dtype=kind) for kind in kinds}
    header, places = streaming.header_of(tensors)
    theirs = safe_load(header + b"\x01" * sum(each.nbytes for each in tensors.values()))
    found = {name: tensor.dtype for name, tensor in theirs.items()}
    assert found == {name: tensor.dtype for name, tensor in tensors.items()} and places.keys() == found.keys()
