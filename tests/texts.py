"""Tokenizers of two manners, the templates that come with Plumbline, and what is learned of a text."""

import string

import yaml
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from workflow_scripts.common import templates
from workflow_scripts.common.templates import IGNORED, encode

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TEMPLATES = yaml.safe_load(stream)

CORPUS = [
    "System: Be brief.\nStudent: What is a cell?\n\nTutorbot: A unit of life.\n",
    "USER: And a virus? ASSISTANT: Not a cell.",
    "### Instruction:\nWhat is a cell?\n\n### Response:\nA unit of life.",
    "<|user|>\nWhat is a cell?<|end|>\n<|assistant|>\nA unit of life.<|end|>\n",
]
MARKS = ["<|im_start|>", "<|im_end|>", "<|end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
MARKS += ["<start_of_turn>", "<end_of_turn>"]


def llama_like():
    """SentencePiece's ways, as prepare_model builds them: prepended and replaced spaces, bytes for the unknown."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [*"▁What ▁cell ▁life Tutor bot ▁unit ▁Not Student System ▁AS SIST ANT USER ▁User nser".split()]
    pieces += [*string.ascii_letters, *"▁:?.#|<>_{}\"'1", '▁{"', "▁{"]
    pieces += [word[:end] for word in words for end in range(2, len(word) + 1)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [(piece[:-1], piece[-1]) for piece in vocabulary if len(piece) > 1 and piece[0] != "<"]
    fast = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def byte_level(use_regex, corpus=CORPUS, vocabulary=420):
    """GPT-2's ways: no BOS; without the regex, merges cross every boundary."""
    fast = Tokenizer(BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(corpus * 4, BpeTrainer(vocab_size=vocabulary, initial_alphabet=sorted(alphabet)))
    fast.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|endoftext|>", pad_token="<|pad|>")


LLAMA, GPT2, STRADDLING = llama_like(), byte_level(True), byte_level(False)
TOKENIZERS = {"llama": LLAMA, "gpt2": GPT2, "straddling": STRADDLING}


def learned_text(text, tokens, tokenizer, spans=()):
    """Return the stretches of text whose tokens are labelled."""
    _, offsets = encode(text, tokenizer, spans)
    stretches, last = [], None
    for (start, end), label in zip(offsets, tokens.labels, strict=True):
        if label != IGNORED:
            if start == last or (stretches and start < last):  # bytes of one character share its offsets
                stretches[-1] += text[max(start, last) : end]
            else:
                stretches.append(text[start:end])
            last = end
    return stretches
