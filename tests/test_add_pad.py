"""`add_pad`: a model whose tokenizer has no padding token gets one, with the mean of the other rows, and keeps it."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.prepared import prepare
from tests.tiny import TEMPLATE, conversations, manifest_of, run_sft, settings_of, write_tokens
from tests.tiny_model import ANSWERS, QUESTIONS
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.models import embedding_size, load_policy, load_tokenizer
from workflow_scripts.sft.tokenise import tokenise_row


def unpadded(folder: Path, tied: bool = False, spare: int = 0, more: tuple[str, ...] = ()) -> Path:
    """Write a random Llama in bfloat16 whose tokenizer pads with nothing, and with `spare` rows more than tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>", "</s>", *more], show_progress=False
    )
    tokenizer.train_from_iterator([*QUESTIONS, *ANSWERS, "System: Student: \n\nTutorbot: "], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(fast) + spare,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        **sizes,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("tied", "spare"), [(False, 0), (True, 0), (False, 5)])
def test_the_new_token_has_the_mean_of_the_other_rows_and_all_else_is_as_it_was(tmp_path, tied, spare):
    source = unpadded(tmp_path / "source", tied, spare)
    before = {file.name: sha256_of(file) for file in source.iterdir()}
    facts = prepare(source, tmp_path / "model", format="hf", add_pad=True)
    assert {
        file.name: sha256_of(file) for file in source.iterdir()
    } == before  # its files are linked, not shared
    old, new = load_policy(source, torch.bfloat16), load_policy(tmp_path / "model", torch.bfloat16)
    tokenizer, pad = load_tokenizer(tmp_path / "model"), len(AutoTokenizer.from_pretrained(source))
    rows = pad + max(1, spare)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", pad)
    assert facts["added_tokens"] == ["<pad>"] and facts["vocabulary"] == rows
    assert embedding_size(tmp_path / "model") == rows
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        was, found = getattr(old, layer)().weight, getattr(new, layer)().weight
        assert found.shape[0] == rows and found.dtype == torch.bfloat16
        assert torch.equal(found[:pad], was[:pad])
        mean = was[:pad].float().mean(0).to(torch.bfloat16)
        torch.testing.assert_close(found[pad], mean)
    assert new.config.pad_token_id == new.generation_config.pad_token_id == pad
    # Another's program finds the same: transformers' own loading, sizes checked.
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert plain.config.vocab_size == plain.get_input_embeddings().weight.shape[0]


def test_texts_and_masks_are_the_same_and_a_trained_policy_keeps_the_token(tmp_path):
    source = unpadded(tmp_path / "source")
    prepare(source, tmp_path / "model", format="hf", add_pad=True)
    own = {"objective": "it", "im_mask": "paper", "it_mask": "reply", "template": TEMPLATE}
    for row in conversations(3):
        found = [tokenise_row(row, load_tokenizer(folder), own) for folder in (source, tmp_path / "model")]
        assert found[0] == found[1]
    manifest_of(tmp_path / "model")
    tokens = write_tokens(tmp_path / "model", conversations(4), [], tmp_path / "tokens")
    trained = run_sft(tmp_path / "model", tokens, settings_of(max_steps=1), tmp_path / "run")
    assert load_tokenizer(trained).pad_token == "<pad>"
    assert embedding_size(trained) == embedding_size(tmp_path / "model")


def test_a_token_that_is_there_already_is_not_drawn_anew(tmp_path, capsys):
    source = unpadded(tmp_path / "source", more=("<pad>",))
    facts = prepare(source, tmp_path / "model", format="hf", add_pad=True)
    assert facts["added_tokens"] == []
    assert load_tokenizer(tmp_path / "model").pad_token == "<pad>"
    old, new = load_policy(source), load_policy(tmp_path / "model")
    assert torch.equal(old.get_input_embeddings().weight, new.get_input_embeddings().weight)


def test_a_tokenizer_that_pads_already_is_left_alone(tiny_model, tmp_path, capsys):
    facts = prepare(tiny_model, tmp_path / "model", format="hf", add_pad=True)
    assert "added_tokens" not in facts
    assert "pads with '<pad>' already" in capsys.readouterr().out
    assert sha256_of(tmp_path / "model/model.safetensors") == sha256_of(tiny_model / "model.safetensors")


def test_without_the_key_another_special_token_pads(tmp_path):
    facts = prepare(unpadded(tmp_path / "source"), tmp_path / "model", format="hf")
    assert "vocabulary" not in facts
    assert load_tokenizer(tmp_path / "model").pad_token == "<unk>"
    assert read_json(tmp_path / "model/config.json")["vocab_size"] == len(load_tokenizer(tmp_path / "model"))
