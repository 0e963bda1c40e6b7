"""Low-rank adapters: what is trained, what is frozen, and that what is saved is a plain policy."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.tiny import (
    align_flags,
    call,
    conversations,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    sft_flags,
    write_reference,
    write_tokens,
)
from workflow_scripts.align import dpo
from workflow_scripts.align.preference import align
from workflow_scripts.common import row_trainer
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.training import load_trainable, merged
from workflow_scripts.sft import train as sft_train

LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


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
    changed = moved(weights(tiny_model), weights(folder))
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
        call(lambda: align(dpo.loss, "workflow_scripts.align.dpo"), *flags)
    assert list((tmp_path / "broken/work").glob("*/checkpoint-2"))
    again = run_align("dpo", tiny_model, stored, settings, tmp_path / "broken")
    assert not moved(weights(whole), weights(again))


def test_a_layer_that_is_not_there_is_named(tiny_model):
    with pytest.raises(PlumblineError, match=r"lora.targets \['c_attn'\]"):
        load_trainable(tiny_model, settings_of(lora=LORA | {"targets": ["c_attn"]}), 1)


def test_an_adapter_the_loss_would_leave_out_is_refused(tiny_model):
    with pytest.raises(PlumblineError, match="lm_head would be left out"):
        load_trainable(tiny_model, settings_of(lora=LORA | {"targets": ["q_proj", "lm_head"]}), 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_four_bits_without_cuda_say_what_to_do(tiny_model, tmp_path):
    tokens = write_tokens(tiny_model, conversations(4), conversations(1), tmp_path / "tokens")
    flags = sft_flags(tiny_model, tokens, settings_of(lora=LORA, quantise="nf4"), tmp_path / "run")
    with pytest.raises(PlumblineError, match=r"nf4 needs a CUDA device.*leave it out"):
        call(sft_train.main, *flags)
