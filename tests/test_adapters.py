"""Low-rank adapters: what is trained, what is frozen, that what is saved is a plain policy, and one left unmerged."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from tests.command import call
from tests.tiny import (
    align_flags,
    conversations,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    sft_flags,
    weights_of,
    write_reference,
    write_tokens,
)
from workflow_scripts.align import dpo
from workflow_scripts.align.preference import align
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.models import adapter_base, load_policy, load_tokenizer
from workflow_scripts.common.training import loading, row_trainer
from workflow_scripts.common.training.loading import load_trainable, merged
from workflow_scripts.sft import train as sft_train

LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "merge": True}


def moved(one: dict, two: dict) -> set[str]:
    assert one.keys() == two.keys()
    return {name for name in one if not torch.equal(one[name], two[name])}


def test_adapters_start_as_the_parent_and_merge_into_a_scaled_product(tiny_model):
    plain = load_trainable(tiny_model, settings_of(), 1)
    model = load_trainable(tiny_model, settings_of(lora=LORA), 1)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    assert trained
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    layer = model.model.layers[0].self_attn.q_proj
    torch.manual_seed(0)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    wanted = plain.model.layers[0].self_attn.q_proj.weight + 8 / 2 * product
    found = merged(model).model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_only_the_adapted_weights_move_and_the_saved_policy_is_plain(tiny_model, tmp_path, kind):
    settings = {"max_steps": 2, "learning_rate": 1e-2, "lora": LORA}
    if kind == "sft":
        tokens = write_tokens(tiny_model, conversations(8), conversations(2), tmp_path / "tokens")
        folder = run_sft(tiny_model, tokens, settings_of(**settings), tmp_path / "run")
    else:
        stored = write_reference(tiny_model, pairs(8), tmp_path / "reference")
        folder = run_align("dpo", tiny_model, stored, preference_settings(**settings), tmp_path / "run")
    changed = moved(weights_of(tiny_model), weights_of(folder))
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)


def test_a_run_with_adapters_resumes_to_the_same_weights(tiny_model, tmp_path, monkeypatch):
    stored = write_reference(tiny_model, pairs(12), tmp_path / "reference")
    settings = preference_settings(max_steps=4, learning_rate=1e-2, lora=LORA, checkpoint_every=2)
    whole = run_align("dpo", tiny_model, stored, settings, tmp_path / "whole")

    class Killed(Exception):
        pass

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(row_trainer, "callbacks_of", lambda _: [Stop()])
        flags = align_flags(tiny_model, stored, settings, tmp_path / "broken")
        call(lambda: align(dpo.rewards, dpo.loss, dpo.Settings, "workflow_scripts.align.dpo"), *flags)
    assert list((tmp_path / "broken/work").glob("*/checkpoint-2"))
    again = run_align("dpo", tiny_model, stored, settings, tmp_path / "broken")
    assert not moved(weights_of(whole), weights_of(again))


def test_a_layer_that_is_not_there_is_named(tiny_model):
    with pytest.raises(PlumblineError, match=r"lora.targets \['c_attn'\]"):
        load_trainable(tiny_model, settings_of(lora=LORA | {"targets": ["c_attn"]}), 1)


def test_an_adapter_the_loss_would_leave_out_is_refused(tiny_model):
    with pytest.raises(PlumblineError, match="lm_head would be left out"):
        load_trainable(tiny_model, settings_of(lora=LORA | {"targets": ["q_proj", "lm_head"]}), 1)


def test_four_bits_without_their_package_say_what_to_do(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    tokens = write_tokens(tiny_model, conversations(4), conversations(1), tmp_path / "tokens")
    flags = sft_flags(tiny_model, tokens, settings_of(lora=LORA, quantise="nf4"), tmp_path / "run")
    with pytest.raises(PlumblineError, match=r"nf4 needs bitsandbytes.*leave it out"):
        call(sft_train.main, *flags)


# Left unmerged: the folder holds PEFT's own files and the tokenizer.


@pytest.fixture
def unmerged(tiny_model, tmp_path):
    """An adapter folder as PEFT writes it, its weights drawn at random."""
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(load_policy(tiny_model), config)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    load_tokenizer(tiny_model).save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    load_tokenizer(tiny_model).save_pretrained(tmp_path / "merged")
    return tmp_path / "adapter"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_unmerged_adapter_loads_as_the_merged_policy(tiny_model, unmerged, dtype):
    found = load_policy(unmerged, dtype).state_dict()
    expected = load_policy(unmerged.parent / "merged", dtype).state_dict()
    assert not moved(found, expected)
    assert moved(found, load_policy(tiny_model, dtype).state_dict())
    assert {weight.dtype for weight in found.values()} == {dtype}
    assert load_tokenizer(unmerged)("Name two gases.") == load_tokenizer(tiny_model)("Name two gases.")


def test_a_policy_is_an_adapter_or_stands_alone(tiny_model, unmerged):
    assert adapter_base(tiny_model) is None
    assert adapter_base(unmerged) == tiny_model


def test_an_adapter_whose_base_is_gone_says_which(unmerged):
    config = read_json(unmerged / "adapter_config.json") | {"base_model_name_or_path": "data/models/gone"}
    write_json(unmerged / "adapter_config.json", config)
    with pytest.raises(PlumblineError, match="adapts the model in data/models/gone, which is not there"):
        load_policy(unmerged)


def test_only_safetensors_are_loaded(tiny_model, unmerged, tmp_path):
    (unmerged / "adapter_model.safetensors").rename(unmerged / "adapter_model.bin")
    with pytest.raises(PlumblineError, match=r"adapter: no adapter_model\.safetensors here"):
        load_policy(unmerged)
    shutil.copytree(tiny_model, tmp_path / "pickled")
    (tmp_path / "pickled/model.safetensors").rename(tmp_path / "pickled/pytorch_model.bin")
    with pytest.raises(PlumblineError, match=r"pickled: no \*\.safetensors here"):
        load_policy(tmp_path / "pickled")


def test_the_harness_scores_an_unmerged_adapter_as_the_merged_policy(unmerged):
    from workflow_scripts.score.harness.run import Instance, load_model

    settings = {"dtype": "float32", "batch_size": 2, "apply_chat_template": False}
    asked = [
        Instance("loglikelihood", {}, (prompt, " Name two gases."), 0)
        for prompt in ("Yes?", "What is osmosis?", "Why")
    ]
    scores = [
        load_model(folder, settings).loglikelihood(asked) for folder in (unmerged, unmerged.parent / "merged")
    ]
    assert scores[0] == scores[1]
