"""Small tokenizers in the manner of every large family, and both engines around made-up models, for tests of the border
between text and tokens."""

import string
from types import SimpleNamespace

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from workflow_scripts.common.answering import Answer
from workflow_scripts.generate.engine import TransformersEngine
from workflow_scripts.generate.vllm_engine import VllmEngine

CORPUS = [
    "def double(number):\n    return 2 * number\n\n    # twice the number\n",
    "    for each in numbers:\n        if each > 0:\n            total += each\n    return total\n",
    "System: Be brief.\nStudent: What is a cell?\n\nTutorbot: A unit of life. And a virus? Not a cell.\n",
    "### Instruction:\nName two gases.\n\n### Response:\nOxygen, and helium!",
    "<|user|>\nWhat is a cell?<|end|>\n<|assistant|>\nA unit of life.<|end|>\n",
] * 4
MARKS = ["<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACES = normalizers.Replace(" ", "▁")
PIECES = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def closed(tokenizer: Tokenizer, frame: str = "<s> $A") -> None:
    """Have a tokenizer put special tokens around its texts."""
    known = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=known)


def fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(named | special))


def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary and merges of SentencePiece's kind, learned from the corpus, with bytes for the unknown."""
    learned = Tokenizer(models.BPE())
    learned.normalizer = SPACES
    learned.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    words = [word for word, _ in sorted(learned.get_vocab().items(), key=lambda item: item[1])]
    # As in SentencePiece's, a piece begins with a space or is made of them.
    words = [word for word in words if "\n" not in word and ("▁" not in word[1:] or not word.strip("▁"))]
    every = ["<unk>", "<s>", "</s>", *BYTES, *string.ascii_letters, *string.digits, *"▁#|<>_", *words]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(every))}
    merges = []
    for word in words:
        cuts = ((word[:at], word[at:]) for at in range(1, len(word)))
        merges += [cut for cut in cuts if cut[0] in vocabulary and cut[1] in vocabulary]
    return vocabulary, merges


def sentencepiece(legacy: bool = True) -> PreTrainedTokenizerFast:
    """Llama 2's ways: a space before every text, and after every special token too; not `legacy`: before the first."""
    vocabulary, merges = pieces()
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), SPACES])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([*PIECES, decoders.Strip(" ", 1, 0)])
    closed(tokenizer)
    return fast(tokenizer)


def byte_level(use_regex: bool = True, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's ways; without the regex, merges cross every border."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return fast(tokenizer, **ends, pad_token="<|pad|>")


def unigram() -> PreTrainedTokenizerFast:
    """XLNet's and T5's ways: the likeliest pieces, spaces as ▁, a text closed by </s>; with bytes for the unknown."""
    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    learned.train_from_iterator([text.replace("\n", " ") for text in CORPUS], trainer)
    scored = [(piece, score) for piece, score in _scores(learned) if piece not in BYTES]
    known = {piece for piece, _ in scored}
    scored += [(letter, -9.0) for letter in [*string.ascii_letters, "▁", "\n"] if letter not in known]
    tokenizer = Tokenizer(
        models.Unigram([*scored, *((byte, -12.0) for byte in BYTES)], unk_id=0, byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([*PIECES, decoders.Strip(" ", 1, 0)])
    closed(tokenizer, "$A </s>")
    return fast(tokenizer)


def _scores(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    import json

    return [tuple(each) for each in json.loads(tokenizer.to_str())["model"]["vocab"]]


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's ways: words in lower case and their ends, closed by [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    alphabet = sorted(string.ascii_lowercase + string.digits + string.punctuation)
    trainer = trainers.WordPieceTrainer(
        vocab_size=300,
        initial_alphabet=alphabet,
        special_tokens=["<unk>", "<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    closed(tokenizer, "<s> $A </s>")
    return fast(tokenizer)


FAITHFUL = {
    "Llama 2": sentencepiece(),
    "a space before the first": sentencepiece(legacy=False),
    "byte level": byte_level(),
    "byte level across borders": byte_level(use_regex=False),
    "unigram": unigram(),
}
WORDS = word_piece()
FAMILIES = FAITHFUL | {"word piece": WORDS}

PLAIN = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 4000, "min_new_tokens": 0, "batch_size": 8}
PLAIN |= {"beams": 1, "repetition_penalty": 1.0}


class MadeUp:
    """A model that goes on from each prompt with tokens it was given, for either library."""

    device = "cpu"
    generation_config = None

    def __init__(self, replies: dict[tuple[int, ...], list[int]], pad: int) -> None:
        self.replies, self.pad, self.asked = replies, pad, {}

    def generate(self, asked: object, *more: object, **named: object) -> object:
        """Return ids (batch, longest), padded on the right, or for vLLM's prompts its outputs."""
        if isinstance(asked, list):
            self.asked = more[0][0]
            made = [self.replies[tuple(prompt)] for prompt in asked]
            ended = [SimpleNamespace(finish_reason="stop", token_ids=tuple(reply)) for reply in made]
            return [SimpleNamespace(outputs=[each]) for each in ended]
        self.asked = named
        keep = named["attention_mask"].bool()
        made = [self.replies[tuple(row[mask].tolist())] for row, mask in zip(asked, keep, strict=True)]
        width = max(map(len, made))
        return torch.cat(
            [asked, torch.tensor([reply + [self.pad] * (width - len(reply)) for reply in made])], dim=1
        )

    def _supports_default_dynamic_cache(self) -> bool:
        """It says all at once."""
        return False

    def get_input_embeddings(self) -> object:
        """As large as any tokenizer here may want it."""
        return SimpleNamespace(num_embeddings=10**6)

    def reset_prefix_cache(self) -> None:
        """vLLM's; there is none."""


def answers(
    engine: str,
    tokenizer: object,
    prompts: list[list[int]],
    replies: list[list[int]],
    end: str,
    stop: list[str],
) -> list[Answer]:
    """Return what an engine answers where the model says just these tokens."""
    by_prompt = {tuple(prompt): reply for prompt, reply in zip(prompts, replies, strict=True)}
    model = MadeUp(by_prompt, tokenizer.pad_token_id)
    kind = {"transformers": TransformersEngine, "vllm": VllmEngine}[engine]
    made = object.__new__(kind)
    made.tokenizer, made.ends, made.model, made.llm, made.adapter = tokenizer, [], model, model, None
    made.vllm = SimpleNamespace(
        SamplingParams=lambda **named: named, TokensPrompt=lambda prompt_token_ids: prompt_token_ids
    )
    sampling = PLAIN | {"stop": stop}
    found = dict(made.answer(prompts, sampling, end, 1, [True] * len(prompts)))
    return [found[place] for place in range(len(prompts))]
