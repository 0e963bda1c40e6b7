"""Converting llama2.c files: a Llama written the way that project writes it comes back with the same logits."""

import struct
from itertools import pairwise

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.llama2c import make_model, make_pieces, paired, write_checkpoint, write_tokenizer
from tests.prepared import prepare
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.download.prepare_model import (
    convert_gguf,
    convert_llama2c,
    merges_of,
    nll_per_token,
    read_llama2c,
    read_llama2c_pieces,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with weights.bin and tokenizer.bin, and the model they were written from."""
    folder = tmp_path_factory.mktemp("llama2c")
    write_checkpoint(folder / "weights.bin", make_model(tied=True))
    write_tokenizer(folder / "tokenizer.bin", make_pieces())
    return folder


@pytest.fixture(scope="module")
def converted(source):
    convert_llama2c(source / "weights.bin", source / "tokenizer.bin", source / "model")
    return source / "model"


@pytest.mark.parametrize(("tied", "kv_heads"), [(True, 4), (True, 2), (False, 1)])
def test_a_converted_checkpoint_has_the_same_logits(tmp_path, tied, kv_heads):
    model = make_model(tied, kv_heads)
    write_checkpoint(tmp_path / "weights.bin", model)
    write_tokenizer(tmp_path / "tokenizer.bin", make_pieces())
    convert_llama2c(tmp_path / "weights.bin", tmp_path / "tokenizer.bin", tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", use_safetensors=True).eval()
    ids = torch.randint(0, model.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    assert again.config.tie_word_embeddings == tied
    assert again.generation_config.eos_token_id == 2


def test_only_queries_and_keys_are_permuted(source):
    _, tensors = read_llama2c(source / "weights.bin")
    state = make_model(tied=True).state_dict()
    assert set(tensors) == set(state)
    for name, block in tensors.items():
        np.testing.assert_array_equal(block, state[name].numpy())


def test_a_text_survives_the_tokenizer(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    for text in ("the cat", " the  cell.", "é 日本 😀\nto", "", "Zeta"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.eos_token_id == 2
    assert tokenizer.convert_ids_to_tokens(tokenizer("\n")["input_ids"]) == ["<s>", "▁", "<0x0A>"]


def sentencepiece(text, pieces):
    """Tokenise by SentencePiece's own rule: join the neighbours whose union scores best, the left-most first."""
    scores = dict(pieces[259:])
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        joins = [(-scores[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not joins:
            return parts
        at = min(joins)[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]


def test_merges_give_what_sentencepiece_gives(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    draw = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(draw.choice([*"abcdefghiklnorstw. ", "the", "cat", " tow", "ing"], size=12))
        found = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert found == sentencepiece(text, make_pieces()), text


def test_merges_come_best_score_first():
    pieces = make_pieces()
    scores = dict(pieces[259:])
    merges = merges_of(pieces)
    ranks = [scores[left + right] for left, right in merges]
    assert ranks == sorted(ranks, reverse=True)
    assert ("▁t", "he") in merges
    assert {left + right for left, right in merges} == {piece for piece, _ in pieces[259:] if len(piece) > 1}


def test_byte_pieces_get_their_names(source):
    pieces = read_llama2c_pieces(source / "tokenizer.bin", len(make_pieces()))
    assert [piece for piece, _ in pieces[:4]] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert pieces[258][0] == "<0xFF>"
    assert pieces[259:] == make_pieces()[259:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:20], "too short for a llama2.c header"),
        (lambda raw: raw[:-4], "ends before the weights its header announces"),
        (lambda raw: raw[:1000], "ends before the weights"),
        (lambda raw: raw + bytes(8), "2 floats are left over after the weights"),
        (lambda raw: raw + b"x", "bytes are not a header and whole floats"),
        (lambda raw: raw[:-1], "bytes are not a header and whole floats"),
        (lambda raw: bytes(28) + raw[28:], "not a llama2.c checkpoint"),
        (
            lambda raw: struct.pack("<7i", 33, *struct.unpack_from("<6i", raw, 4)) + raw[28:],
            "not a llama2.c checkpoint",
        ),
    ],
)
def test_a_checkpoint_of_the_wrong_size_is_a_clear_error(tmp_path, source, change, message):
    path = tmp_path / "weights.bin"
    path.write_bytes(change((source / "weights.bin").read_bytes()))
    with pytest.raises(PlumblineError, match=f"{path}: .*{message}"):
        read_llama2c(path)


@pytest.mark.parametrize("lost", [1, 3, 9, 500])
def test_a_tokenizer_that_ends_early_is_a_clear_error(tmp_path, source, lost):
    path = tmp_path / "tokenizer.bin"
    pieces = [*make_pieces()[:-1], ("▁towe", -99.0)]
    write_tokenizer(path, pieces)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(PlumblineError, match=f"{path}: .*{len(pieces)}"):
        read_llama2c_pieces(path, len(pieces))


def test_a_conversion_is_checked_on_texts(tmp_path, source, converted):
    llama2c = {"format": "llama2c", "weights": "weights.bin", "tokenizer": "tokenizer.bin"}
    texts = ["the cat", "a cell."]
    nll = nll_per_token(converted, texts)
    manifest = prepare(source, tmp_path / "fine", **llama2c, check={"texts": texts, "max_nll": nll + 0.01})
    assert manifest["check_nll"] == round(nll, 3)
    assert "fine/model.safetensors" in manifest["files"]
    with pytest.raises(PlumblineError, match="nats per token on its check texts, more than max_nll"):
        prepare(source, tmp_path / "bad", **llama2c, check={"texts": texts, "max_nll": nll - 0.01})
    assert sorted(item.name for item in tmp_path.iterdir()) == ["fine", "fine.json"]


def test_the_check_counts_every_token_but_the_first_once(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    model = AutoModelForCausalLM.from_pretrained(converted, use_safetensors=True).eval()
    total = count = 0
    for text in ("the cat", "a cell."):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logps = model(ids).logits[0, :-1].log_softmax(-1)
        total -= logps.gather(1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    assert nll_per_token(converted, ["the cat", "a cell."]) == pytest.approx(total / count, rel=1e-5)


def test_a_transformers_folder_is_taken_as_it_is(tmp_path, converted):
    manifest = prepare(converted, tmp_path / "same", format="hf")
    given = {item.name for item in converted.iterdir()}
    assert {name.removeprefix("same/") for name in manifest["files"]} == given | {"chat_template.jinja"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlumblineError, match=r"needs config\.json and \*\.safetensors"):
        prepare(tmp_path / "empty", tmp_path / "none", format="hf")


def write_gguf(path, model):
    """Write a Llama as llama.cpp does: its names, query and key rows in neighbouring pairs, a byte-level tokenizer."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", *"abcdefghij", "ab", "Ġab"]
    tokens += [f"<spare{number}>" for number in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied to the embedding
        key = name.removesuffix(".weight")
        prefix = ""
        if key.startswith("model.layers."):
            layer, key = key.removeprefix("model.layers.").split(".", 1)
            prefix = f"blk.{layer}."
        rows = value.numpy()
        writer.add_tensor(
            f"{prefix}{names[key]}.weight",
            np.ascontiguousarray(paired(rows, heads[key]) if key in heads else rows),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_folder_with_the_same_logits_and_the_ends_its_metadata_names(tmp_path):
    model = make_model(tied=True)
    write_gguf(tmp_path / "tiny.gguf", model)
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", use_safetensors=True).eval()
    ids = torch.randint(0, model.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert tokenizer("ab ab<|im_end|>", add_special_tokens=False).input_ids[-1] == 2
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
