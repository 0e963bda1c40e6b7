"""`backend: fastchat`: token ids and labels of its vicuna format are those of FastChat's own `preprocess`."""

import pytest
import torch
from fastchat.train.train import preprocess

from tests.families import sentencepiece
from tests.tiny_model import ANSWERS, QUESTIONS
from workflow_scripts.common.templates import IGNORED, tokenise_conversation
from workflow_scripts.study.templates import bundled_templates

VICUNA = bundled_templates()["vicuna"]


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer in Llama 2's manner, with what FastChat asks of one: the legacy mode and a length to pad to."""
    tokenizer = sentencepiece()
    tokenizer.legacy, tokenizer.model_max_length = True, 768
    return tokenizer


def talk(exchanges: int, first: int) -> list[str]:
    """Return what is said in so many exchanges, a question and its answer in turn."""
    places = range(first, first + exchanges)
    return [
        each
        for at in places
        for each in (QUESTIONS[at % len(QUESTIONS)], ANSWERS[(3 * at + 1) % len(ANSWERS)])
    ]


@pytest.mark.parametrize("exchanges", [1, 2, 3])
@pytest.mark.parametrize("first", range(4))
def test_ids_and_labels_are_those_of_fastchats_own_preprocessing(tokenizer, exchanges, first):
    said = talk(exchanges, first)
    source = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]
    theirs = preprocess([source], tokenizer)
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)
    ]
    ours = tokenise_conversation(messages, VICUNA, tokenizer)
    length = len(ours.input_ids)
    assert theirs["input_ids"][0, :length].tolist() == ours.input_ids
    assert theirs["labels"][0, :length].tolist() == ours.labels
    assert sum(label != IGNORED for label in ours.labels) > exchanges  # and it learned something
    # Behind our row theirs has padding alone, and learns none of it.
    assert torch.all(theirs["input_ids"][0, length:] == tokenizer.pad_token_id)
    assert torch.all(theirs["labels"][0, length:] == IGNORED)
