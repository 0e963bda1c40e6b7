"""A Llama and its tokenizer as the llama2.c project writes them."""

import struct

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = ["▁the", "▁cat", "▁cell", "ing", "he", "▁a", "at", "▁t", "▁to", "▁tow", "ow", "er"]
LETTERS = list("▁abcdefghiklnorstw.")


def make_pieces():
    """Return (piece, score) as a SentencePiece BPE model has them: bytes and letters, then merges, best first."""
    merged = dict.fromkeys(word[:end] for word in WORDS for end in range(2, len(word) + 1))
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((chr(byte), 0.0) for byte in range(256))]
    pieces += [(piece, -float(rank)) for rank, piece in enumerate(sorted(merged, key=by_length))]
    first = len(merged)
    return pieces + [(letter, -float(first + rank)) for rank, letter in enumerate(LETTERS)]


def by_length(piece):
    return len(piece), piece[::-1]  # an order unlike the alphabet's


def write_tokenizer(path, pieces):
    """Write `tokenizer.bin`: longest length, then score, length and bytes of each piece, spaces for U+2581."""
    texts = [piece.replace("▁", " ").encode() for piece, _ in pieces]
    raw = struct.pack("<i", max(map(len, texts)))
    for (_, score), text in zip(pieces, texts, strict=True):
        raw += struct.pack("<fi", score, len(text)) + text
    path.write_bytes(raw)


def paired(rows, heads):
    """Undo transformers' order of query and key rows: (i, i + head/2) become neighbours, head by head."""
    total, width = rows.shape
    half = total // heads // 2
    order = [
        head * 2 * half + offset + part * half
        for head in range(heads)
        for offset in range(half)
        for part in (0, 1)
    ]
    return rows[order].reshape(total, width)


def write_checkpoint(path, model):
    """Write a Llama as a llama2.c version-0 checkpoint: header, then every tensor over all layers."""
    config, state = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    tied = config.tie_word_embeddings

    def over_layers(name, change=lambda block: block):
        return [
            change(state[f"model.layers.{layer}.{name}.weight"]) for layer in range(config.num_hidden_layers)
        ]

    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    blocks = [state["model.embed_tokens.weight"], *over_layers("input_layernorm")]
    blocks += over_layers("self_attn.q_proj", lambda block: paired(block, heads))
    blocks += over_layers("self_attn.k_proj", lambda block: paired(block, kv_heads))
    for name in ("self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm"):
        blocks += over_layers(name)
    for name in ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"):
        blocks += over_layers(name)
    head = config.hidden_size // heads
    blocks += [state["model.norm.weight"], np.full(config.max_position_embeddings * head, 7.0)]
    blocks += [] if tied else [state["lm_head.weight"]]
    sizes = [config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads, kv_heads]
    sizes += [config.vocab_size if tied else -config.vocab_size, config.max_position_embeddings]
    path.write_bytes(
        struct.pack("<7i", *sizes) + b"".join(np.asarray(block, "<f4").tobytes() for block in blocks)
    )


def make_model(tied, kv_heads=2):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(make_pieces()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # norms that are not all ones, so that no two can be exchanged unseen
        for name, value in model.named_parameters():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    return model
