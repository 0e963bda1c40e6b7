"""Which attention a policy computes with; and that FlashAttention's own calls give our log-probs what PyTorch's give.

There is no CUDA device here as a rule, so a stand-in package takes flash_attn's place: its functions, as its
documentation describes them, on any device. What the kernels themselves compute is not covered.
"""

import itertools
import sys
import types

import pytest
import torch
from transformers import AutoConfig, GPT2Config, modeling_flash_attention_utils

from workflow_scripts.common import models
from workflow_scripts.common.logprobs import flat_logps, keeps_rows_apart, shared_prompt_logps
from workflow_scripts.common.models import attention_of, load_policy

BF16 = torch.bfloat16


@pytest.fixture
def device(monkeypatch):
    """Make the machine one with a CUDA device of the given compute capability and packages."""

    def make(capability=(8, 0), package="2.8.3", taken=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(models, "is_flash_attn_2_available", lambda: taken)
        module = types.ModuleType("flash_attn")
        module.__version__ = package
        monkeypatch.setitem(sys.modules, "flash_attn", module if package else None)

    return make


@pytest.fixture
def llama(tiny_model):
    return AutoConfig.from_pretrained(tiny_model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cpu_takes_pytorch_s_attention(tiny_model, capfd):
    models.say_once.cache_clear()
    for dtype in (torch.float32, BF16):
        assert load_policy(tiny_model, dtype).config._attn_implementation == "sdpa"
    assert capfd.readouterr().err.count("attention: sdpa (there is no CUDA device)\n") == 1


def test_flash_attention_is_taken_where_all_allows_it(device, llama):
    device()
    for dtype in (BF16, torch.float16):
        assert attention_of(dtype, llama) == ("flash_attention_2", "flash_attn 2.8.3")


@pytest.mark.parametrize(
    ("machine", "dtype", "reason"),
    [
        ({"capability": (7, 5)}, BF16, "the device has compute capability 7.5, FlashAttention needs 8.0"),
        ({}, torch.float32, "FlashAttention does not compute in float32"),
        ({"package": None}, BF16, "flash_attn is not installed"),
        (
            {"package": "4.0.0", "taken": False},
            BF16,
            "flash_attn 4.0.0 is not a version 2 that transformers takes",
        ),
    ],
)
def test_else_pytorch_s_attention_is_and_the_reason_is_said(device, llama, machine, dtype, reason):
    device(**machine)
    assert attention_of(dtype, llama) == ("sdpa", reason)


def test_a_package_that_does_not_load_is_no_reason_to_stop(device, llama, monkeypatch):
    device()

    def broken(name):
        raise ImportError("undefined symbol")

    monkeypatch.setattr(models.importlib, "import_module", broken)
    assert attention_of(BF16, llama) == ("sdpa", "flash_attn cannot be loaded: undefined symbol")


def test_an_architecture_that_cannot_use_it_or_is_not_known_does_not(device, monkeypatch):
    device()

    class Own(GPT2Config):
        model_type = "own"

    assert attention_of(BF16, Own()) == ("sdpa", "whether a own model can use FlashAttention is not known")
    kind = models.AutoModelForCausalLM._model_mapping[GPT2Config]
    monkeypatch.setattr(kind, "_supports_flash_attn", False)
    assert attention_of(BF16, GPT2Config()) == ("sdpa", "a gpt2 model cannot use FlashAttention")


def test_what_a_policy_computes_in_decides_and_not_what_its_weights_are_kept_in(
    device, tiny_model, monkeypatch
):
    device()
    asked = []
    monkeypatch.setattr(models, "attention_of", lambda dtype, _: (asked.append(dtype), ("sdpa", ""))[1])
    assert load_policy(tiny_model, computing=BF16).dtype == torch.float32
    load_policy(tiny_model, BF16)
    load_policy(tiny_model)
    assert asked == [BF16, BF16, torch.float32]


# The stand-in.


def attend(query, key, value, softmax_scale, causal):
    """Return attention of query (tokens, heads, width) over key and value, causal from the bottom right corner."""
    assert query.dtype in (BF16, torch.float16), "FlashAttention only supports fp16 and bf16"
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = softmax_scale or query.shape[-1] ** -0.5
    weights = torch.einsum("qhd,khd->hqk", query.float(), key.float()) * scale
    if causal:
        seen = torch.ones(weights.shape[1:], dtype=torch.bool).tril(key.shape[0] - query.shape[0])
        weights = weights.masked_fill(~seen, -torch.inf)
    return torch.einsum("hqk,khd->qhd", weights.softmax(-1).nan_to_num(), value.float()).to(query.dtype)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, **_):
    return torch.stack([attend(*row, softmax_scale, causal) for row in zip(q, k, v, strict=True)])


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False, **_
):
    queries, keys = (itertools.pairwise(ends.tolist()) for ends in (cu_seqlens_q, cu_seqlens_k))
    rows = [
        attend(q[a:b], k[c:d], v[c:d], softmax_scale, causal)
        for (a, b), (c, d) in zip(queries, keys, strict=True)
    ]
    return torch.cat(rows)


@pytest.fixture
def both(tiny_model, monkeypatch):
    """The tiny policy with PyTorch's attention, and with the stand-in's."""
    package, padding = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.bert_padding")
    package.flash_attn_func, package.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    package.flash_attn_with_kvcache = None
    padding.pad_input = modeling_flash_attention_utils._pad_input
    padding.unpad_input = modeling_flash_attention_utils._unpad_input
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    monkeypatch.setattr(modeling_flash_attention_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    entry = modeling_flash_attention_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2]
    here = {"general_availability_check": lambda: True, "supported_devices": ((lambda: True, "cpu"),)}
    monkeypatch.setitem(modeling_flash_attention_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX, 2, entry | here)
    plain = load_policy(tiny_model)
    monkeypatch.setattr(models, "attention_of", lambda *_: ("flash_attention_2", "a stand-in"))
    return plain, load_policy(tiny_model, computing=BF16)


PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
COMPLETIONS = [[[15, 16, 17], [18]], [[19, 20, 21, 22]], [[23, 24], [25, 26, 27, 28, 29]]]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("way", [shared_prompt_logps, flat_logps])
def test_both_ways_to_log_probs_are_exact_with_flash_attention(both, way, count):
    plain, flash = both
    assert flash.config._attn_implementation == "flash_attention_2"
    with torch.no_grad(), torch.autocast("cpu", BF16):
        expected, found = (way(model, PROMPTS[:count], COMPLETIONS[:count]) for model in (plain, flash))
        alone = [
            way(flash, [prompt], [[each]])[0][0]
            for prompt, group in zip(PROMPTS, COMPLETIONS, strict=True)
            for each in group
        ]
    found, expected = (list(itertools.chain(*rows)) for rows in (found, expected))
    assert found[0].std() > 0.5, "far from uniform"
    for one, two, three in zip(found, expected, alone, strict=False):
        torch.testing.assert_close(one, two, atol=0.15, rtol=0)
        torch.testing.assert_close(one, three, atol=0.15, rtol=0)


def test_a_policy_that_waits_for_its_gpu_is_asked_what_it_can_do_without_flash_attention(both, monkeypatch):
    """FlashAttention refuses tensors that are not on a GPU, and a policy is loaded on the CPU."""

    def refuses(*_, **__):
        raise RuntimeError("FlashAttention only supports CUDA tensors")

    _, flash = both
    monkeypatch.setattr(modeling_flash_attention_utils, "_flash_varlen_fn", refuses, raising=False)
    monkeypatch.setattr(modeling_flash_attention_utils, "_flash_fn", refuses, raising=False)
    for name in ("flash_attn_func", "flash_attn_varlen_func"):
        monkeypatch.setattr(sys.modules["flash_attn"], name, refuses)
    modeling_flash_attention_utils._loaded_implementation = None
    with pytest.raises(RuntimeError, match="only supports CUDA"), torch.autocast("cpu", BF16):
        flash(input_ids=torch.tensor([[1, 2, 3]]))
    assert keeps_rows_apart(flash)
    assert flash.config._attn_implementation == "flash_attention_2"
