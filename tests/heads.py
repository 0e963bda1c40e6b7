"""Tiny classifiers with heads of their own, and a tokenizer of a few words."""

import numpy as np
from safetensors.numpy import save_file

WORDS = "a cell is box of life good bad the what you are kind rude".split()
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # RoBERTa's order: positions count from the padding id
WIDTH, HEADS, MIDDLE = 16, 2, 6


def save_tokenizer(folder, **tokens):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if tokens.pop("pairs", False):
        tokenizer.post_processor = processors.TemplateProcessing(
            "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **tokens).save_pretrained(folder)


def save_head(folder, shapes, seed=3):
    draw = np.random.default_rng(seed)
    head = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(head, folder / "head.safetensors")


CRITIC = {
    "dense.weight": (MIDDLE, WIDTH),
    "dense.bias": (MIDDLE,),
    "out.weight": (1, MIDDLE),
    "out.bias": (1,),
}
OFFENSIVE = {"out.weight": (2, WIDTH), "out.bias": (2,)}


def save_classifiers(make_folder):
    """Save tiny random encoders with heads; return {"critic", "no pooler", "offensive": folder}."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaModel

    torch.set_num_threads(1)
    found = {name: make_folder(name.replace(" ", "_")) for name in ("critic", "no pooler", "offensive")}
    for seed, name in enumerate(("critic", "no pooler")):
        torch.manual_seed(seed)
        config = RobertaConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            intermediate_size=24,
            max_position_embeddings=34,
            type_vocab_size=1,
            pad_token_id=1,
            initializer_range=0.4,
        )
        RobertaModel(config, add_pooling_layer=name == "critic").save_pretrained(found[name])
        save_tokenizer(
            found[name], bos_token="<s>", eos_token="</s>", pad_token="<pad>", pairs=True, model_max_length=32
        )
        save_head(found[name], CRITIC)
    torch.manual_seed(7)
    config = GPT2Config(
        vocab_size=len(SPECIAL) + len(WORDS),
        n_embd=WIDTH,
        n_layer=2,
        n_head=HEADS,
        n_positions=32,
        bos_token_id=2,
        eos_token_id=2,
        initializer_range=0.4,
    )
    GPT2LMHeadModel(config).save_pretrained(found["offensive"])  # as published: inside a language model
    save_tokenizer(found["offensive"], eos_token="</s>")
    save_head(found["offensive"], OFFENSIVE)
    return found
