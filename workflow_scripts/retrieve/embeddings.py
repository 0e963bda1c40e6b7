"""Passages and questions as vectors of length 1, so that their product is their cosine.

- By words: TF-IDF over the passages, a word counted as 1 + ln(count). No model is needed.
- By a model: the mean of its last layer over the tokens of a text, as sentence-transformers uses MiniLM (Reimers and
  Gurevych 2019). It is a folder of safetensors that transformers loads. A text longer than the model reads loses its
  end, and is counted. On the CPU, in float32, so that all machines find the same passages.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.progress import counted
from workflow_scripts.common.words import weighed_words

BATCH = 64


class Embedded(NamedTuple):
    """Vectors (texts, dim), dense or sparse, of length 1, 0 where a text says nothing; `cut` texts lost their end."""

    passages: Any
    questions: Any
    cut: int = 0


def by_words(passages: Sequence[str], questions: Sequence[str]) -> Embedded:
    """Embed by the words of the passages; PlumblineError if they have none."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, tokenizer=weighed_words, token_pattern=None)
    try:
        return Embedded(words.fit_transform(passages), words.transform(questions))
    except ValueError as error:
        raise PlumblineError(f"the passages cannot be told apart by words: {error}") from None


def by_model(passages: Sequence[str], questions: Sequence[str], folder: Path | str) -> Embedded:
    """Embed by the mean of a model's last layer over a text's tokens; PlumblineError if its weights are damaged."""
    from transformers import AutoModel

    from workflow_scripts.common.models import context_of, load_tokenizer, load_whole, torch

    tokenizer = load_tokenizer(folder)
    model = load_whole(AutoModel, folder, new="pooler", dtype=torch.float32).eval()
    longest = context_of(model.config, tokenizer)
    texts = [*passages, *questions]
    plain = {"split_special_tokens": True}  # what a text spells of special tokens is text
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False, **plain)["input_ids"]]
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = sorted(range(len(texts)), key=lambda place: -lengths[place])
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for places in counted(batches, "embedding", "texts", len(order)):
        batch = tokenizer(
            [texts[place] for place in places],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=longest,
            return_tensors="pt",
            **plain,
        )
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        vectors[places] = ((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)).numpy()
    if not np.isfinite(vectors).all():
        raise PlumblineError(f"{folder}: gives vectors that are not finite: fetch its weights again")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cut = sum(length > longest for length in lengths)
    return Embedded(vectors[: len(passages)], vectors[len(passages) :], cut)
