"""Heads of their own: each equals its formula, written out in float64 from stored tensors, and loads nothing else."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import erf, softmax

from tests.heads import CRITIC, HEADS, MIDDLE, OFFENSIVE, WIDTH, save_classifiers, save_head
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import COUNTED_AFTER_PADDING, context_of
from workflow_scripts.common.templates import joined


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_classifiers(tmp_path_factory.mktemp)


def doubles(folder, prefix=""):
    tensors = {
        name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()
    }
    tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    head = {name: value.astype(np.float64) for name, value in load_file(folder / "head.safetensors").items()}
    return tensors, head


def normed(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def gelu(x):
    return x * (1 + erf(x / math.sqrt(2))) / 2


def attention(q, k, v, causal):
    """Return multi-head attention (time, width): softmax(q k' / sqrt(d)) v in each head."""
    size, out = WIDTH // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        if causal:
            scores = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
        out.append(softmax(scores, -1) @ v[:, part])
    return np.hstack(out)


def critic_by_hand(folder, ids, pooled):
    t, head = doubles(folder)

    def affine(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        return normed(x, t[f"{name}.weight"], t[f"{name}.bias"], 1e-12)

    positions = t["embeddings.position_embeddings.weight"][2 : 2 + len(ids)]
    x = (
        t["embeddings.word_embeddings.weight"][ids]
        + positions
        + t["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        q, k, v = (affine(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        x = norm(
            x + affine(attention(q, k, v, False), f"{at}.attention.output.dense"),
            f"{at}.attention.output.LayerNorm",
        )
        x = norm(
            x + affine(gelu(affine(x, f"{at}.intermediate.dense")), f"{at}.output.dense"),
            f"{at}.output.LayerNorm",
        )
    first = np.tanh(affine(x[0], "pooler.dense")) if pooled else x[0]
    middle = gelu(first @ head["dense.weight"].T + head["dense.bias"])
    return middle @ head["out.weight"].T + head["out.bias"]


def offensive_by_hand(folder, ids):
    t, head = doubles(folder, "transformer.")

    def affine(x, name):  # GPT-2 stores its weights (in, out)
        return x @ t[f"{name}.weight"] + t[f"{name}.bias"]

    def norm(x, name):
        return normed(x, t[f"{name}.weight"], t[f"{name}.bias"], 1e-5)

    x = t["wte.weight"][ids] + t["wpe.weight"][: len(ids)]
    for layer in range(2):
        q, k, v = np.split(affine(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3, -1)
        x = x + affine(attention(q, k, v, True), f"h.{layer}.attn.c_proj")
        y = affine(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + affine(y, f"h.{layer}.mlp.c_proj")
    last = max(place for place, token in enumerate(ids) if token == 2)
    return norm(x, "ln_f")[last] @ head["out.weight"].T + head["out.bias"]


def logits_of(model, rows, pad):
    """Return the logits of rows of ids in one batch, padded on the right, in float64."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        return model.double()(input_ids=ids, attention_mask=mask).logits.numpy()


@pytest.mark.parametrize("name", ["critic", "no pooler"])
def test_the_critic_is_its_formula(folders, name):
    from workflow_scripts.common.classifier_heads import load_head_classifier

    model, tokenizer = load_head_classifier(folders[name], "critic")
    rows = [tokenizer("a cell", "is a box of life")["input_ids"], tokenizer("you", "are")["input_ids"]]
    assert tokenizer.convert_ids_to_tokens(rows[1]) == ["<s>", "you", "</s>", "</s>", "are", "</s>"]
    expected = [critic_by_hand(folders[name], row, name == "critic") for row in rows]
    np.testing.assert_allclose(logits_of(model, rows, 1), expected, rtol=1e-9, atol=1e-9)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert model.config.num_labels == 1 and not model.training


def test_the_offensive_head_reads_the_state_of_the_last_end_token(folders):
    from workflow_scripts.common.classifier_heads import load_head_classifier

    model, tokenizer = load_head_classifier(folders["offensive"], "offensive")
    texts = ["what is a cell </s> you are kind </s>", "rude </s> good bad", "you are rude </s>"]
    rows = tokenizer(texts)["input_ids"]
    expected = [offensive_by_hand(folders["offensive"], row) for row in rows]
    # The padding id lies outside the embeddings, as that of the published tokenizer does.
    np.testing.assert_allclose(logits_of(model, rows, 50_257), expected, rtol=1e-9, atol=1e-9)
    assert rows[1][-1] != 2 and len({tuple(np.round(row, 3)) for row in expected}) == 3
    with pytest.raises(PlumblineError, match="no end token"):
        logits_of(model, [rows[0], tokenizer("good bad")["input_ids"]], 2)


def test_the_pooler_is_used_where_there_is_one_alone(folders):
    ids = [0, 5, 6, 2]
    with_pooler = critic_by_hand(folders["critic"], ids, True)
    assert abs(with_pooler - critic_by_hand(folders["critic"], ids, False)) > 1e-3
    assert "pooler.dense.weight" not in load_file(folders["no pooler"] / "model.safetensors")


def test_scores_are_the_softmax_and_do_not_depend_on_the_batch(folders):
    from workflow_scripts.common.classifier_heads import load_head_classifier
    from workflow_scripts.common.reward_model import score_texts

    model, tokenizer = load_head_classifier(folders["offensive"], "offensive")
    texts = [
        joined([("", text)])
        for text in ("what is a cell </s> you are kind </s>", "you are rude </s>", "good </s>")
    ]
    safe = [
        softmax(offensive_by_hand(folders["offensive"], tokenizer(text.text)["input_ids"]))[0]
        for text in texts
    ]
    for batch_size in (1, 3):
        assert score_texts(model, tokenizer, texts, batch_size, 32, 0) == pytest.approx(safe, abs=1e-5)
        offence = score_texts(model, tokenizer, texts, batch_size, 32, 1)
        assert offence == pytest.approx([1 - value for value in safe], abs=1e-5)
    with pytest.raises(PlumblineError, match="label None of a classifier with 2 classes"):
        score_texts(model, tokenizer, texts, 2, 32)
    critic, words = load_head_classifier(folders["critic"], "critic")
    pairs = [("a cell", "is a box"), ("you", "are rude")]
    expected = [critic_by_hand(folders["critic"], words(*pair)["input_ids"], True)[0] for pair in pairs]
    assert score_texts(critic, words, pairs, 2, 32) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(PlumblineError, match="label 0 of a classifier with one output"):
        score_texts(critic, words, pairs, 2, 32, 0)


def test_roberta_reads_as_many_tokens_as_stand_behind_its_padding_position(folders):
    from workflow_scripts.common.classifier_heads import load_head_classifier
    from workflow_scripts.common.reward_model import score_texts

    model, tokenizer = load_head_classifier(folders["critic"], "critic")
    tokenizer.model_max_length = 10**9  # many a tokenizer does not say
    assert context_of(model.config, tokenizer) == 34 - 2
    long = score_texts(model, tokenizer, ["good " * 60, "bad " * 60], 1, context_of(model.config, tokenizer))
    assert all(map(math.isfinite, long))


@pytest.mark.parametrize(
    "kind", ["gpt2", "openai-gpt", "ctrl", "opt", "bert", "deberta-v2", *COUNTED_AFTER_PADDING]
)
def test_a_classifier_of_any_kind_is_asked_to_read_as_much_as_it_can_and_no_more(kind):
    from types import SimpleNamespace

    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {
        "vocab_size": 40,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_labels": 1,
    }
    names = {"intermediate_size": 16, "dff": 16, "attention_window": 4, "position_embedding_type": "absolute"}
    config = AutoConfig.for_model(kind, **sizes, **names, max_position_embeddings=24, dtype=torch.float32)
    config.pad_token_id = 1
    model = AutoModelForSequenceClassification.from_config(config).eval()
    context = context_of(config, SimpleNamespace(model_max_length=10**30))  # many a tokenizer does not say
    with torch.no_grad():
        assert model(torch.full((1, context), 7)).logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError), match=r"out of|must match"):
            model(torch.full((1, context + 1), 7))


@pytest.mark.parametrize(
    ("missing", "instead", "message"),
    [
        ("head.safetensors", None, "no head.safetensors; fetch"),
        (
            "head.safetensors",
            "custom_roberta_classification_head.pt",
            r"classification_head.pt can run code.*convert",
        ),
        ("model.safetensors", "pytorch_model.bin", r"pytorch_model.bin can run code.*'model.safetensors'"),
        ("config.json", "pytorch_model.bin", "no config.json; fetch"),
    ],
)
def test_a_missing_file_is_named_and_a_pickle_is_to_be_converted(
    folders, tmp_path, missing, instead, message
):
    from workflow_scripts.common.classifier_heads import load_head_classifier

    folder = shutil.copytree(folders["critic"], tmp_path / "model")
    (folder / missing).unlink()
    if instead:
        (folder / instead).write_bytes(b"\x80\x04.")
    with pytest.raises(PlumblineError, match=message):
        load_head_classifier(folder, "critic")


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("critic", {"dense.weight": (MIDDLE, WIDTH + 1)}),
        ("critic", {"out.weight": (1, MIDDLE + 1)}),
        ("critic", {"out.weight": (2, MIDDLE), "out.bias": (2,)}),
        ("critic", {"more": (1,)}),
        ("critic", {"dense.bias": None}),
        ("offensive", {"out.weight": (3, WIDTH), "out.bias": (3,)}),
        ("offensive", {"out.bias": None}),
    ],
)
def test_a_head_of_another_shape_is_refused_with_both_shapes(folders, tmp_path, kind, changed):
    from workflow_scripts.common.classifier_heads import load_head_classifier

    folder = shutil.copytree(folders[kind], tmp_path / "model")
    shapes = {"critic": CRITIC, "offensive": OFFENSIVE}[kind] | changed
    save_head(folder, {name: shape for name, shape in shapes.items() if shape})
    with pytest.raises(PlumblineError, match=rf"a {kind} head on this encoder needs .*out.weight \("):
        load_head_classifier(folder, kind)


def test_an_encoder_of_another_kind_or_with_a_tensor_missing_is_refused(folders, tmp_path):
    from workflow_scripts.common.classifier_heads import load_head_classifier

    with pytest.raises(PlumblineError, match="a gpt2 encoder, where this head needs a roberta"):
        load_head_classifier(folders["offensive"], "critic")
    folder = shutil.copytree(folders["critic"], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    gone = "encoder.layer.1.output.dense.weight"
    save_file(
        {name: value for name, value in tensors.items() if name != gone},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(PlumblineError, match=f"1 tensors of the encoder are missing, first {gone}"):
        load_head_classifier(folder, "critic")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(PlumblineError, match="its encoder cannot be loaded"):
        load_head_classifier(folder, "critic")
    (folder / "head.safetensors").write_bytes(b"no tensors")
    shutil.copy2(folders["critic"] / "config.json", folder)
    shutil.copy2(folders["critic"] / "model.safetensors", folder)
    with pytest.raises(PlumblineError, match="not a safetensors file"):
        load_head_classifier(folder, "critic")
