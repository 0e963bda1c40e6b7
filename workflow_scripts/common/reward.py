"""Score texts with a sequence classifier: a reward model of the study, or any other model of that kind.

Covers the text a reward model reads, loading from safetensors, and batched scores that do not depend on the
batch. Not covered: training one, and squashing or weighting its scores.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_tokenizer, precision_of

# isort: split
import torch
from transformers import AutoModelForSequenceClassification

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def render_pair(messages: Sequence[dict], reply: str, eos: str) -> str:
    """Return the plain text a reward model reads: a "Speaker: words" line per message, the reply last, eos.

    Words are stripped; `eos` is the tokenizer's end token ("" where it has none). Training and scoring must
    share this text.
    """
    turns = [*messages, {"role": "assistant", "content": reply}]
    return "\n".join(f"{SPEAKERS[turn['role']]}: {turn['content'].strip()}" for turn in turns) + eos


def load_reward_model(folder: Path | str, dtype: str = "float32") -> tuple[Any, Any]:
    """Return (model in evaluation mode, tokenizer) of a folder: safetensors only, none of its own code.

    The model is told the tokenizer's padding token: it reads its score off the last token that is not one.
    """
    if not (Path(folder) / "config.json").is_file():
        raise PlumblineError(
            f"{folder}: no reward model here; delete its manifest and run again to make it anew"
        )
    tokenizer = load_tokenizer(folder)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=precision_of(dtype), use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        raise PlumblineError(f"{folder}: cannot be loaded as a sequence classifier: {error}") from None
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def context_of(model: Any, tokenizer: Any) -> int:
    """Return the most tokens a classifier can read at once."""
    return min(model.config.to_dict().get("max_position_embeddings") or 2048, tokenizer.model_max_length)


@torch.no_grad()
def score_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    batch_size: int,
    max_tokens: int,
    label: int | None = None,
) -> list[float]:
    """Return one score per text: the raw logit of a one-output model, else the probability of class `label`.

    Texts of like length share a batch; equal texts are read once, so their scores are equal to the last
    digit. A text longer than `max_tokens` is cut on the left: the reply, at its end, survives. Raises
    PlumblineError when a model of several classes is given no `label` among them.
    """
    outputs = model.config.num_labels
    if outputs > 1 and label not in range(outputs):
        raise PlumblineError(
            f"label {label} of a classifier with {outputs} classes; choose 0 to {outputs - 1}"
        )
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return []
    model.eval()
    side, tokenizer.truncation_side = tokenizer.truncation_side, "left"
    try:
        encoded = tokenizer(distinct, truncation=True, max_length=max_tokens)
    finally:
        tokenizer.truncation_side = side
    accepted = [name for name in encoded if name in inspect.signature(model.forward).parameters]
    order = sorted(range(len(distinct)), key=lambda index: len(encoded["input_ids"][index]), reverse=True)
    scores: dict[str, float] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = {name: [encoded[name][index] for index in chosen] for name in accepted}
        batch = tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(model.device)
        logits = model(**batch).logits.float()
        values = logits[:, 0] if outputs == 1 else logits.softmax(-1)[:, label]
        scores |= {distinct[index]: value for index, value in zip(chosen, values.tolist(), strict=True)}
    return [scores[text] for text in texts]
