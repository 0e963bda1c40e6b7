"""Score texts with a sequence classifier: a reward model of the study, or any other model of that kind.

Covers the text a reward model reads, loading from safetensors, and batched scores that do not depend on the
batch. Not covered: training one, and squashing or weighting its scores.
"""

import inspect
import itertools
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.common.decoding import closing, opening
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_tokenizer, load_whole, model_config, precision_of
from workflow_scripts.common.templates import Rendered, encode, joined, says_special

# isort: split
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, GPTNeoXConfig

# Words of somebody, a text that has such among its own, or a pair of somebody's words. What somebody says is plain
# text, whatever it spells of special tokens.
Text = str | Rendered | tuple[str, str]

OASST_TYPE = "gpt_neox_reward_model"
SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def render_pair(messages: Sequence[dict], reply: str, eos: str) -> Rendered:
    """Return the text a reward model reads: a "Speaker: words" line per message, the reply last, eos.

    Words are stripped; `eos` is the tokenizer's end token ("" where it has none). Training and scoring must
    share this text.
    """
    turns = [*messages, {"role": "assistant", "content": reply}]
    lines = [
        (("", f"{SPEAKERS[turn['role']]}: "), (turn["role"], turn["content"].strip()), ("", "\n"))
        for turn in turns
    ]
    *parts, _ = itertools.chain.from_iterable(lines)  # the last line has no end but eos
    return joined([*parts, ("", eos)])


def refuse_nothing(folder: Path | str) -> None:
    """Raise PlumblineError where a folder holds no model."""
    if not (Path(folder) / "config.json").is_file():
        raise PlumblineError(
            f"{folder}: no reward model here; delete its manifest and run again to make it anew"
        )


def load_reward_model(folder: Path | str, dtype: str = "float32") -> tuple[Any, Any]:
    """Return (model in evaluation mode, tokenizer) of a folder: safetensors only, none of its own code.

    The model is told the tokenizer's padding token: it reads its score off the last token that is not one.
    """
    refuse_nothing(folder)
    tokenizer = load_tokenizer(folder)
    model = load_whole(
        AutoModelForSequenceClassification, folder, dtype=precision_of(dtype), trust_remote_code=False
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def config_of(folder: Path | str) -> Any:
    """Return the configuration of a classifier's folder, without loading its weights or code of its own.

    An OpenAssistant reward model has a type of its own; its configuration is that of the GPT-NeoX it stands on.
    """
    refuse_nothing(folder)
    written = model_config(folder)
    if written.get("model_type") == OASST_TYPE:
        return GPTNeoXConfig.from_dict(written | {"model_type": GPTNeoXConfig.model_type})
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def encode_texts(tokenizer: Any, texts: Sequence[Text], max_tokens: int) -> dict[str, list[list[int]]]:
    """Return {name: a row of ids or mask per text}; too long ones are cut on the left, a pair's longer half first.

    A text of no tokens at all is read as the end token alone: some tokenizers add none of their own.
    """
    side, tokenizer.truncation_side = tokenizer.truncation_side, "left"
    try:
        if is_pair(texts[0]):
            words: Any = [list(halves) for halves in zip(*texts, strict=True)]
            encoded = dict(
                tokenizer(*words, truncation=True, max_length=max_tokens, split_special_tokens=True)
            )
        else:
            words = [text_of(text).text for text in texts]
            encoded = dict(tokenizer(words, truncation=True, max_length=max_tokens))
            for place, ids in spelling_ids(tokenizer, texts).items():
                before, after = opening(tokenizer), closing(tokenizer)
                kept = ids[max(0, len(ids) + len(before) + len(after) - max_tokens) :]
                row = [*before, *kept, *after]
                parts = {"input_ids": row, "attention_mask": [1] * len(row)}
                for name, rows in encoded.items():
                    rows[place] = parts.get(name, [0] * len(row))
    finally:
        tokenizer.truncation_side = side
    end = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    filling = {"input_ids": end, "attention_mask": 1}
    return {name: [row or [filling.get(name, 0)] for row in rows] for name, rows in encoded.items()}


def is_pair(text: Text) -> bool:
    """Tell whether a text is a pair, which a tokenizer joins in its own way."""
    return not isinstance(text, str | Rendered)


def text_of(text: str | Rendered) -> Rendered:
    """Return a text that is no pair with what is said in it."""
    return joined([("user", text)]) if isinstance(text, str) else text


def spelling_ids(tokenizer: Any, texts: Sequence[str | Rendered]) -> dict[int, list[int]]:
    """Return by place the ids of those texts in which somebody spells a special token; without what frames a text."""
    rendered = map(text_of, texts)
    return {
        place: encode(text.text, tokenizer, text.spans)[0]
        for place, text in enumerate(rendered)
        if says_special(text.text, tokenizer, text.spans)
    }


def are_cut(tokenizer: Any, texts: Sequence[Text], max_tokens: int) -> list[bool]:
    """Return which texts are longer than `max_tokens`, so that `encode_texts` cuts them."""

    def tokens(text: Text) -> int:
        if is_pair(text):
            return len(tokenizer(*text, split_special_tokens=True, verbose=False)["input_ids"])
        for ids in spelling_ids(tokenizer, [text]).values():
            return len(opening(tokenizer)) + len(ids) + len(closing(tokenizer))
        return len(tokenizer(text_of(text).text, verbose=False)["input_ids"])

    too_long = {text: tokens(text) > max_tokens for text in dict.fromkeys(texts)}
    return [too_long[text] for text in texts]


@torch.no_grad()
def score_batches(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    batch_size: int,
    max_tokens: int,
    label: int | None = None,
    known: Container[Text] = (),
    share: tuple[int, int] = (0, 1),
) -> Iterator[dict[Text, float]]:
    """Yield {text: score} batch by batch, of the texts that are not in `known`, each once; longest texts first.

    Which texts share a batch depends on `texts` alone: a run that goes on where another was killed asks the rest in
    the same batches. share (k, n): of the batches every n-th, from the k-th. All texts are plain, or all are pairs.
    Scores and errors are those of `score_texts`.
    """
    outputs = model.config.num_labels
    if outputs > 1 and label not in range(outputs):
        raise PlumblineError(
            f"label {label} of a classifier with {outputs} classes; choose 0 to {outputs - 1}"
        )
    if outputs == 1 and label is not None:
        raise PlumblineError(
            f"label {label} of a classifier with one output; it has no classes: leave label out"
        )
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return
    model.eval()
    encoded = encode_texts(tokenizer, distinct, max_tokens)
    accepted = [name for name in encoded if name in inspect.signature(model.forward).parameters]
    order = sorted(range(len(distinct)), key=lambda index: len(encoded["input_ids"][index]), reverse=True)
    for number, start in enumerate(range(0, len(order), batch_size)):
        chosen = [index for index in order[start : start + batch_size] if distinct[index] not in known]
        if number % share[1] != share[0] or not chosen:
            continue
        rows = {name: [encoded[name][index] for index in chosen] for name in accepted}
        batch = tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(model.device)
        logits = model(**batch).logits.float()
        values = logits[:, 0] if outputs == 1 else logits.softmax(-1)[:, label]
        yield {distinct[index]: value for index, value in zip(chosen, values.tolist(), strict=True)}


def score_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    batch_size: int,
    max_tokens: int,
    label: int | None = None,
) -> list[float]:
    """Return one score per text: the raw logit of a one-output model, else the probability of class `label`.

    A text is a string, one that knows who says what (`Rendered`), or a pair as the tokenizer joins two. Texts of like
    length share a batch; equal texts are read once, so their scores are equal to the last digit. A text longer than
    `max_tokens` is cut on the left: the reply, at its end, survives. Raises PlumblineError when a model of several
    classes is given no `label` among them, and when a model of one output is given one.
    """
    scores: dict[Text, float] = {}
    for batch in score_batches(model, tokenizer, texts, batch_size, max_tokens, label):
        scores |= batch
    return [scores[text] for text in texts]
