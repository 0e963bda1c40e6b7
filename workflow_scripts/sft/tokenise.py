"""Conversations to token rows with labels: the one place where it is decided what a policy learns from.

Writes `<split>.parquet` (columns id, input_ids, labels) for each split, `rejected.jsonl` and a manifest with counts.
`objective` says what is learned:

- `it` (instruction tuning): the assistant's contents and end tokens (`it_mask: reply`); as published code has it, with
  words of the template's: the header before them (`header`), what stands behind them (`after`), or that and the header
  that follows (`next`).
- `im` (instruction modelling, Shi et al. 2024): the prompts too. `im_mask: paper` is their eq. 4, all contents and no
  word of the template; `im_mask: code` is what their published runs did, all but BOS and the first header.
- `lm`: the texts of all conversations, one after another, are cut into blocks of `max_tokens`. `lm_text: plain` has no
  template and no special tokens, and every token is learned; `lm_text: template` is their "packed" baseline: the rows
  of `it`, with the template and the labels that these have. Of each `lm_rows` rows what fills no block is left over.
  Plain texts (schema `text`) are rows of their own (see `texts`).

Of the chosen answers of pairs (`--pairs`) each is a row, of which `it` learns the reply.

Of a message marked "learn": false (see `clean`) no token is learned under any objective; it is context alone.

A conversation longer than `max_tokens` is cut at the end (`overflow: cut`), rejected (`overflow: reject`), or made into
several rows (`overflow: split`, see `splitting`). A row cut at the end loses the end of a reply and its end token, or
replies altogether: both are counted, and said. Where the dataset limits the history, or the template writes the reply
otherwise than those before it, each assistant turn is a row of its own, of which `it` learns the last reply and `im`
the prompt as well; a message that several turns see is then learned several times. `lm` reads conversations whole.
"""

import argparse
import sys
from pathlib import Path
from typing import Literal, NotRequired

import pyarrow
import pyarrow.parquet
from typing_extensions import TypedDict

from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.cuts import say_cuts, say_rejected
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import (
    canonical_json,
    finished_file,
    read_jsonl,
    write_jsonl,
    write_manifest,
)
from workflow_scripts.common.fitting import lost_ends
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import (
    IGNORED,
    Template,
    Tokens,
    ends_of,
    refused,
    reply_end,
    tokenise_conversation,
    tokenise_plain,
    tokenise_reply,
)
from workflow_scripts.common.turns import turns_of, window
from workflow_scripts.sft.splitting import TOO_LONG, split_long
from workflow_scripts.sft.texts import are_texts, tokenise_texts

REMAINDER = "remainder"  # what is left of a text behind its last block
# What `tokenise_conversation` learns.
IM_MASKS = {"paper": "contents", "code": "text"}
IT_MASKS = {"reply": "replies", "header": "header", "after": "after", "next": "next"}


class Settings(TypedDict):
    """What the step reads; a row has at most max_tokens, and a policy may be asked in another template."""

    objective: Literal["it", "im", "lm"]
    im_mask: Literal["paper", "code"]
    it_mask: Literal["reply", "header", "after", "next"]
    max_tokens: int
    overflow: Literal["cut", "reject", "split"]
    lm_text: Literal["plain", "template"]
    lm_rows: int | None
    history_turns: int | None
    template: Template
    asked_in: NotRequired[Template]


def spread(rows: list[dict], settings: Settings) -> list[dict]:
    """Return the rows to learn from: whole conversations, or one row per assistant turn.

    It is turns where the history is limited, and where the template writes the reply that is asked for otherwise than
    those before it: each is then learned as it is asked for.
    """
    history = settings["history_turns"]
    if history is None and not settings["template"].get("reply"):
        return rows
    return [turn for row in rows for turn in turns_of(row, history)]


def shortened(rows: list[dict], history: int | None) -> int:
    """Return how many turns of conversations see less than all that was said before them."""
    if history is None:
        return 0
    whole = (turn["messages"] for row in rows for turn in turns_of(row))
    return sum(len(window(messages, history)) < len(messages) for messages in whole)


def cut_off(row: dict, tokenizer: object, settings: Settings) -> dict[str, int]:
    """Return what a row that is cut at max_tokens loses: ends of replies and replies altogether, a turn's own alone."""
    template, limit = settings["template"], settings["max_tokens"]
    if "reference" not in row:
        ends, replies = lost_ends(row["messages"], template, tokenizer, limit)
        return {"ends_lost": ends, "replies_lost": replies}
    said = [*row["messages"], {"role": "assistant", "content": row["reference"]}]
    # Of several replies that are cut or left out the last is the turn's own.
    ends, replies = lost_ends(said, template, tokenizer, limit)
    return {"ends_lost": int(ends and not replies), "replies_lost": int(replies > 0)}


def tokenise_row(row: dict, tokenizer: object, settings: Settings) -> Tokens:
    """Return the tokens of a conversation or of a turn, labelled for the objective `it` or `im`."""
    template, messages = settings["template"], row["messages"]
    if settings["objective"] == "im":
        if "reference" in row:
            messages = [*messages, {"role": "assistant", "content": row["reference"]}]
        return tokenise_conversation(messages, template, tokenizer, IM_MASKS[settings["im_mask"]])
    mask = IT_MASKS[settings["it_mask"]]
    if "reference" not in row:
        return tokenise_conversation(messages, template, tokenizer, mask)
    if mask == "header":
        known = [message | {"learn": False} for message in messages]
        said = [*known, {"role": "assistant", "content": row["reference"]}]
        return tokenise_conversation(said, template, tokenizer, mask)
    prompt, reply = tokenise_reply(messages, row["reference"], template, tokenizer)
    return Tokens(prompt + reply, [IGNORED] * len(prompt) + reply)


def refusal(row: dict, tokenizer: object, template: Template | None = None) -> dict | None:
    """Return the rejection of a row that spells out a special token or that the template does not write, or None."""
    why = refused(row["messages"], [row["reference"]] if "reference" in row else [], template, tokenizer)
    return {"id": row["id"], "reason": why[0], "detail": why[1]} if why else None


def tokenise_rows(
    rows: list[dict], tokenizer: object, settings: Settings
) -> tuple[list[dict], list[dict], dict[str, int]]:
    """Return (token rows, rejections, counts of what was cut) of conversations; every row is in one of the first two.

    The counts are `cut` rows, `tokens_cut`, `ends_lost` (replies without their end) and `replies_lost` (left out
    whole).
    """
    kept, rejected, limit = [], [], settings["max_tokens"]
    cuts = dict.fromkeys(("cut", "tokens_cut", "ends_lost", "replies_lost"), 0)
    for row in rows:
        if found := refusal(row, tokenizer, settings["template"]):
            rejected.append(found)
            continue
        tokens = tokenise_row(row, tokenizer, settings)
        if len(tokens.input_ids) > limit and settings["overflow"] == "reject":
            detail = f"{len(tokens.input_ids)} tokens, at most {limit}"
            rejected.append({"id": row["id"], "reason": TOO_LONG, "detail": detail})
        elif all(label == IGNORED for label in tokens.labels[:limit]):
            rejected.append(
                {"id": row["id"], "reason": "nothing to learn", "detail": f"in the first {limit} tokens"}
            )
        else:
            kept.append(
                {"id": row["id"], "input_ids": tokens.input_ids[:limit], "labels": tokens.labels[:limit]}
            )
            excess = len(tokens.input_ids) - limit
            if excess > 0:
                lost = {"cut": 1, "tokens_cut": excess} | cut_off(row, tokenizer, settings)
                cuts = {name: cuts[name] + lost[name] for name in cuts}
    assert len(kept) + len(rejected) == len(rows)
    return kept, rejected, cuts


def plain_rows(rows: list[dict], tokenizer: object) -> tuple[list[dict], list[dict]]:
    """Return (token rows, rejections) of the contents of conversations, joined by newlines, without a template."""
    kept, rejected = [], []
    for row in rows:
        if found := refusal(row, tokenizer):
            rejected.append(found)
        else:
            tokens = tokenise_plain(row["messages"], tokenizer)
            kept.append({"id": row["id"], "input_ids": tokens.input_ids, "labels": tokens.labels})
    return kept, rejected


def cut_blocks(
    rows: list[dict], tokenizer: object, settings: Settings
) -> tuple[list[dict], list[dict], dict[str, int]]:
    """Return (blocks of `max_tokens` tokens, rejections, counts of what was cut and left over) for the objective `lm`.

    Rows are joined `lm_rows` at a time, or all. What is left behind the blocks, shorter than one, is a rejection with
    the id `remainder`.
    """
    size, cuts = settings["max_tokens"], {}
    if settings["lm_text"] == "plain":
        whole, rejected = plain_rows(rows, tokenizer)
    else:
        whole, rejected, cuts = tokenise_rows(rows, tokenizer, settings)
    together = settings["lm_rows"] or max(len(whole), 1)
    blocks: list[dict] = []
    remainder = 0
    for first in range(0, len(whole), together):
        joined = {
            key: [token for row in whole[first : first + together] for token in row[key]]
            for key in ("input_ids", "labels")
        }
        length = len(joined["input_ids"])
        blocks += [
            {"id": f"block-{len(blocks) + at // size}"} | {key: joined[key][at : at + size] for key in joined}
            for at in range(0, length - size + 1, size)
        ]
        remainder += length % size
    if remainder:
        detail = f"{remainder} tokens, a block has {size}"
        rejected.append({"id": REMAINDER, "reason": "shorter than a block", "detail": detail})
    assert len(blocks) * size + remainder == sum(len(row["input_ids"]) for row in whole)
    unlearned = [block["id"] for block in blocks if all(label == IGNORED for label in block["labels"])]
    rejected += [{"id": name, "reason": "nothing to learn", "detail": "context alone"} for name in unlearned]
    kept = [block for block in blocks if block["id"] not in unlearned]
    return kept, rejected, cuts | {"remainder_tokens": remainder}


def chosen_rows(pairs: list[dict]) -> dict[str, list[dict]]:
    """Return {split: rows} of the chosen answers of pairs, each once: turns, of which the reply alone is learned."""
    found: dict[str, dict[tuple, dict]] = {"train": {}, "validation": {}}
    for pair in pairs:
        said = (canonical_json(pair["messages"]), pair["chosen"])
        row = {"id": pair["id"], "messages": pair["messages"], "reference": pair["chosen"]}
        found[pair["split"]].setdefault(said, row)
    return {name: list(rows.values()) for name, rows in found.items() if rows}


def read_splits(arguments: argparse.Namespace) -> dict[str, tuple[str, list[dict]]]:
    """Return {split: (the file, its rows)} of what the command line names: conversations, or the chosen of pairs."""
    if arguments.pairs:
        rows = chosen_rows(read_jsonl(arguments.pairs))
        return {name: (str(arguments.pairs), part) for name, part in rows.items()}
    named = dict(item.split("=", 1) for item in arguments.splits)
    return {name: (path, read_jsonl(path)) for name, path in named.items()}


def tokenise_split(
    path: str, rows: list[dict], tokenizer: object, settings: Settings
) -> tuple[list[dict], list[dict], dict[str, int]]:
    """Return (token rows, rejections, counts) of one split; what is cut or left out is also said."""
    history, left_out, splits = settings["history_turns"], [], {}
    texts = are_texts(rows)
    if settings["overflow"] == "split" and not texts:
        rows, left_out, count = split_long(rows, tokenizer, settings["template"], settings["max_tokens"])
        splits = {"conversations_split": count}
    if texts:
        kept, rejected, cuts = tokenise_texts(rows, tokenizer, settings["max_tokens"], settings["overflow"])
        print(f"{path}: {cuts['texts_split']} of {len(rows)} texts became several rows", file=sys.stderr)
    elif settings["objective"] == "lm":
        kept, rejected, cuts = cut_blocks(rows, tokenizer, settings)
        print(
            f"{path}: {cuts['remainder_tokens']} tokens, less than a block, are left over",
            file=sys.stderr,
        )
    else:
        turns = [row for row in rows if "reference" in row]
        whole = spread([row for row in rows if "reference" not in row], settings)
        kept, rejected, cuts = tokenise_rows([*whole, *turns], tokenizer, settings)
        cuts["histories_cut"] = shortened(rows, history)
    rejected += left_out
    if not kept:
        raise PlumblineError(f"{path}: no row can be learned from; see the reasons: {rejected[:3]}")
    counts = {
        # Of blocks what is read is pieces: blocks, a remainder, conversations refused. So it is of what was split.
        "read": len(kept) + len(rejected),
        "kept": len(kept),
        "rejected": len(rejected),
        "tokens": sum(len(row["input_ids"]) for row in kept),
        "learned_tokens": sum(label != IGNORED for row in kept for label in row["labels"]),
        **cuts,
        **splits,
    }
    unused = [row["reason"] for row in rejected if row["id"] != REMAINDER]
    say_rejected(path, unused, counts["read"])
    say_cuts(
        path,
        counts,
        "a reply without its end token teaches nothing of stopping: raise max_tokens, or set overflow: split "
        "or reject",
    )
    return kept, rejected, counts


def main() -> None:
    parser = step_parser(__doc__, Settings, tokenizer="model folder")
    read = parser.add_mutually_exclusive_group(required=True)
    read.add_argument("--splits", nargs="+", help="name=conversations.jsonl of each split")
    read.add_argument("--pairs", type=Path, help="pairs whose chosen answers are learned")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.tokenizer)
    asked = arguments.settings.get("asked_in") or arguments.settings["template"]
    ends_of(reply_end(asked, tokenizer), tokenizer)  # before anything is trained that could not be asked
    counts, all_rejected, files = {}, [], []
    for name, (path, rows) in read_splits(arguments).items():
        kept, rejected, counts[name] = tokenise_split(path, rows, tokenizer, arguments.settings)
        files.append(arguments.output / f"{name}.parquet")
        with finished_file(files[-1]) as temporary:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept), temporary)
        all_rejected += [{"split": name, **row} for row in rejected]
    write_jsonl(arguments.output / "rejected.jsonl", all_rejected)
    write_manifest(
        arguments.manifest,
        [*files, arguments.output / "rejected.jsonl"],
        counts=counts,
        template=asked,
    )


if __name__ == "__main__":
    run(main)
