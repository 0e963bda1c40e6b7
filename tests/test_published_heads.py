"""Heads in the files they were published in: keras weights become the critic, published names are understood."""

import json
import shutil

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.heads import CRITIC, OFFENSIVE, SPECIAL, WIDTH, WORDS, save_classifiers, save_tokenizer
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.download.convert_critic import convert

SCORED = [("a cell", "is a box of life"), ("you", "are rude")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_classifiers(tmp_path_factory.mktemp)


def keras_name(name):
    """Return what keras calls a tensor of RoBERTa, and whether it holds it turned."""
    *path, last = name.replace("layer.", "layer_").split(".")
    if path[-1] == "LayerNorm":
        last = {"weight": "gamma", "bias": "beta"}[last]
    elif path[0] == "embeddings":
        last = "weight" if path[-1] == "word_embeddings" else "embeddings"
    elif last == "weight":
        last = "kernel"
    whole = "/".join(["tf_roberta_model", "roberta", *path, f"{last}:0"])
    return whole.replace("/layer_", "/layer_._"), last == "kernel"


def save_keras(path, folder, change=None, root=""):
    """Write a critic's tensors as keras 2 writes weights: one group a layer, names in attributes, matrices turned."""
    layers = {"input_1": {}, "roberta": {}, "dropout_73": {}, "dense": {}, "dropout_74": {}, "dense_1": {}}
    for name, value in load_file(folder / "model.safetensors").items():
        called, turned = keras_name(name)
        layers["roberta"][called] = value.T if turned else value
    for name, value in load_file(folder / "head.safetensors").items():
        layer, part = name.split(".")
        layer = {"dense": "dense", "out": "dense_1"}[layer]
        part = {"weight": "kernel", "bias": "bias"}[part]
        layers[layer][f"{layer}/{part}:0"] = value.T
    if change:
        change(layers)
    with h5py.File(path, "w") as file:
        group = file.require_group(root) if root else file
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, tensors in layers.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [name.encode() for name in tensors]
            for name, value in tensors.items():
                inner.create_dataset(name, data=value)
        if root:
            file.create_dataset("optimizer_weights/Adam/iterations:0", data=np.int64(7))
    return path


@pytest.fixture
def base(folders, tmp_path):
    """Return the folder of the encoder that the critic was trained from: other weights, the same shape."""
    folder = shutil.copytree(folders["critic"], tmp_path / "base")
    (folder / "head.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"the encoder's weights before")
    return folder


@pytest.mark.parametrize("root", ["", "model_weights"], ids=["save_weights", "save"])
def test_keras_weights_become_the_critic_they_were(folders, base, tmp_path, root):
    from workflow_scripts.common.classifier_heads import load_head_classifier
    from workflow_scripts.common.reward_model import score_texts

    save_keras(tmp_path / "critic.h5", folders["critic"], root=root)
    (tmp_path / "out").mkdir()
    convert(tmp_path / "critic.h5", base, tmp_path / "out")
    scores = []
    for folder in (folders["critic"], tmp_path / "out"):
        model, tokenizer = load_head_classifier(folder, "critic")
        scores.append(score_texts(model, tokenizer, SCORED, 2, 32))
    assert scores[0] == scores[1] and scores[0][0] != pytest.approx(scores[0][1], abs=1e-3)


def without_a_layer(layers):
    del layers["dense"]


def without_a_tensor(layers):
    layers["roberta"].pop("tf_roberta_model/roberta/pooler/dense/bias:0")


def one_more(layers):
    layers["roberta"]["tf_roberta_model/roberta/encoder/layer_._2/output/dense/bias:0"] = np.zeros(4, "f4")


def not_finite(layers):
    layers["dense"]["dense/bias:0"] = layers["dense"]["dense/bias:0"] * np.nan


def words(layers):
    layers["dense"]["dense/bias:0"] = np.array([b"words"] * 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_layer, "beside the encoder it has .*dense_1.*two dense layers"),
        (without_a_tensor, "as pooler.dense.bias it has nothing, where the base's config.json asks for"),
        (one_more, "as encoder.layer.2.output.dense.bias it has .* asks for nothing"),
        (not_finite, "dense.bias holds numbers that are not finite"),
        (words, "holds .*, which are no weights"),
    ],
)
def test_keras_weights_that_are_not_the_critics_are_refused(folders, base, tmp_path, change, message):
    save_keras(tmp_path / "critic.h5", folders["critic"], change)
    with pytest.raises(PlumblineError, match=message):
        convert(tmp_path / "critic.h5", base, tmp_path)


def test_a_file_of_weights_is_read_for_its_own_numbers_alone(folders, base, tmp_path):
    path = save_keras(tmp_path / "critic.h5", folders["critic"])
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.zeros(6, "f4").tobytes())
    with h5py.File(path, "a") as file:
        del file["dense/dense/bias:0"]
        file["dense"].create_dataset("dense/bias:0", (6,), "f4", external=[(str(secret), 0, 24)])
    with pytest.raises(PlumblineError, match="not stored whole in the file itself"):
        convert(path, base, tmp_path)
    with h5py.File(path, "a") as file:
        del file["dense/dense/bias:0"]
        file["dense/dense/bias:0"] = h5py.ExternalLink("other.h5", "/dense/bias")
    with pytest.raises(PlumblineError, match="beside the encoder it has"):
        convert(path, base, tmp_path)
    with h5py.File(path, "a") as file:
        del file["dense/dense/bias:0"]
        file["dense"].create_dataset("dense/bias:0", (10**12,), "f4", chunks=(1000,))
    with pytest.raises(PlumblineError, match="not stored whole in the file itself"):
        convert(path, base, tmp_path)
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(PlumblineError, match="cannot be read as HDF5"):
        convert(path, base, tmp_path)


def test_a_head_is_found_under_its_published_names(folders, tmp_path):
    """The files hold the whole classifier, as the published pickles do, saved as safetensors tensor by tensor."""
    from workflow_scripts.common.classifier_heads import read_head

    named = {"critic": {"dense": "dense", "out": "out_proj"}, "offensive": {"out": "off_classifier"}}
    for kind, names in named.items():
        folder = shutil.copytree(folders[kind], tmp_path / kind)
        here = read_head(folder, kind, WIDTH)
        head = load_file(folder / "head.safetensors")
        (folder / "head.safetensors").unlink()
        called = {f"{names[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in head.items()}
        model = load_file(folder / "model.safetensors")
        save_file(model | called, folder / "model.safetensors", metadata={"format": "pt"})
        published = read_head(folder, kind, WIDTH)
        assert set(here) == set(published) == set({"critic": CRITIC, "offensive": OFFENSIVE}[kind])
        assert all((here[name] == published[name]).all() for name in here)
        save_file(called, folder / "head.safetensors")
        assert set(read_head(folder, kind, WIDTH)) == set(here)


@pytest.fixture
def oasst(tmp_path):
    """Return the folder of a tiny reward model in OpenAssistant's layout, and the model itself."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXModel

    torch.manual_seed(3)
    config = GPTNeoXConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        bos_token_id=2,
        eos_token_id=2,
        initializer_range=0.4,
    )
    encoder, out = GPTNeoXModel(config).eval(), torch.nn.Linear(WIDTH, 1)
    folder = tmp_path / "oasst"
    folder.mkdir()
    save_tokenizer(folder, eos_token="</s>", pad_token="<pad>")
    tensors = {f"gpt_neox.{name}": value for name, value in encoder.state_dict().items()}
    tensors |= {f"out_proj.{name}": value for name, value in out.state_dict().items()}
    whole = {name: value.detach().numpy().copy() for name, value in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    written = config.to_dict() | {
        "model_type": "gpt_neox_reward_model",
        "architectures": ["GPTNeoXRewardModel"],
        "pooling": "last",
    }
    (folder / "config.json").write_text(json.dumps(written))
    return folder, encoder, out


def test_an_openassistant_reward_model_scores_the_last_token_with_its_bias(oasst):
    import torch

    from workflow_scripts.common.classifiers import load_classifier
    from workflow_scripts.common.models import context_of
    from workflow_scripts.common.reward_model import config_of, score_texts
    from workflow_scripts.common.templates import joined

    folder, encoder, out = oasst
    model, tokenizer = load_classifier(folder, "oasst")
    assert context_of(config_of(folder), tokenizer) == 32
    texts = ["what is a cell </s>", "you are kind and good </s>", "rude </s>"]
    expected = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected.append(out(encoder(input_ids=ids).last_hidden_state[0, -1]).item())
    assert abs(out.bias.item()) > 1e-3 and len({round(value, 4) for value in expected}) == 3
    rendered = [joined([("", text)]) for text in texts]
    for batch_size in (1, 3):
        assert score_texts(model, tokenizer, rendered, batch_size, 32) == pytest.approx(expected, abs=1e-5)


def test_an_openassistant_reward_model_that_pools_otherwise_is_refused(oasst):
    from workflow_scripts.common.classifier_heads import load_head_classifier

    folder, *_ = oasst
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"pooling": "mean"}))
    with pytest.raises(PlumblineError, match="pooling 'mean'; only last"):
        load_head_classifier(folder, "oasst")
