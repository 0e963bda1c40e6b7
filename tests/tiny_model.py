"""A tiny random Llama with a tokenizer of its own, for tests that need a model and no training."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)  # the sums of a killed and of an unbroken run must be made in one order

QUESTIONS = [
    "What does a cell wall do?",
    "Why is the sky blue",
    "Is a whale a fish, or is it a mammal? I keep mixing the two up.",
    "Name two gases.",
    "How do plants make sugar out of light, water and air?",
    "Where does digestion begin",
    "What is osmosis?",
    "Which blood cells carry oxygen, and what is the name of the pigment in them?",
]
ANSWERS = [
    "Think of what holds a plant upright. Which part of the cell would that be?",
    "No.",
    "Good! Now say why.",
    "That is right: what happens to the blue part of the light on its way through the air?",
    "Yes",
    "Not quite. Where does its young get milk from?",
    "Try once more, with the word water.",
    "It is the mouth, so think about chewing first and about the stomach after it.",
]


def make_tiny_model(folder: Path, seed: int = 0, width: int = 32, tied: bool = False) -> Path:
    """Write a random 2-layer Llama (4 heads, vocabulary about 200) and its fast tokenizer as a folder.

    tied: its head is its embedding, whose rows are an odd number.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], show_progress=False
    )
    texts = [*QUESTIONS, *ANSWERS, "System: Tutor the student.\nStudent: \n\nTutorbot: "] * 3
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast) | 1 if tied else len(fast),
        tie_word_embeddings=tied,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,  # log-probs far from uniform, gradients far from rounding
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
