"""Plain texts as rows of tokens: what language modelling learns of a dataset of schema `text`.

A row is the text behind BOS, where the tokenizer puts one, and closed by its end token, where it has one; every token
is learned. What the text spells of special tokens is plain text. A text longer than a row becomes several, each going
on where the one before it ends, so that no token is lost; with `overflow: reject` it is refused.
"""

from typing import Any

from workflow_scripts.common.templates import tokenise_text
from workflow_scripts.sft.splitting import TOO_LONG

ROLE = "text"


def are_texts(rows: list[dict]) -> bool:
    """Tell whether rows are plain texts: all of a split are, or none."""
    return bool(rows) and rows[0]["messages"][0]["role"] == ROLE


def tokenise_texts(
    rows: list[dict], tokenizer: Any, limit: int, overflow: str
) -> tuple[list[dict], list[dict], dict[str, int]]:
    """Return (token rows of at most `limit` tokens, rejections, {"texts_split": how many became several rows})."""
    kept: list[dict] = []
    rejected: list[dict] = []
    split = 0
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for row in rows:
        tokens = tokenise_text(row["messages"][0]["content"], tokenizer) + end
        if len(tokens) > limit and overflow == "reject":
            detail = f"{len(tokens)} tokens, at most {limit}"
            rejected.append({"id": row["id"], "reason": TOO_LONG, "detail": detail})
            continue
        pieces = [tokens[at : at + limit] for at in range(0, len(tokens), limit)]
        if len(pieces) > 1 and len(pieces[-1]) == 1 and limit > 2:  # a row of one token predicts nothing
            pieces[-2:] = [pieces[-2][:-1], [pieces[-2][-1], *pieces[-1]]]
        split += len(pieces) > 1
        kept += [
            {
                "id": row["id"] if len(pieces) == 1 else f"{row['id']}/part-{n}",
                "input_ids": piece,
                "labels": piece,
            }
            for n, piece in enumerate(pieces, 1)
        ]
    return kept, rejected, {"texts_split": split}
