"""Conversations to token rows with labels: the one place where it is decided what a policy learns from.

Writes `<split>.parquet` (columns id, input_ids, labels) for each split, `rejected.jsonl` and a manifest with counts.
A conversation longer than `max_tokens` is cut at the end (`overflow: cut`) or rejected (`overflow: reject`). Where the
dataset limits the history, each tutor turn is a row of its own, with the loss on its reply.
"""

import argparse
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import (
    IGNORED,
    Tokens,
    forbidden_text,
    tokenise_conversation,
    tokenise_reply,
)
from workflow_scripts.common.turns import turns_of


def spread(rows: list[dict], history: int | None) -> list[dict]:
    """Return the rows to learn from: whole conversations, or with a limited history one row per assistant turn."""
    return rows if history is None else [turn for row in rows for turn in turns_of(row, history)]


def tokenise_row(row: dict, template: dict, tokenizer: object) -> Tokens:
    """Return the tokens of a conversation, or of a turn with the loss on its reply."""
    if "reference" not in row:
        return tokenise_conversation(row["messages"], template, tokenizer)
    prompt, reply = tokenise_reply(row["messages"], row["reference"], template, tokenizer)
    return Tokens(prompt + reply, [IGNORED] * len(prompt) + reply)


def tokenise_rows(rows: list[dict], tokenizer: object, settings: dict) -> tuple[list[dict], list[dict]]:
    """Return (token rows, rejections) of conversations; every row is in exactly one of the two."""
    kept, rejected = [], []
    limit = settings["max_tokens"]
    for row in rows:
        said = [*row["messages"], {"content": row.get("reference", "")}]
        special = forbidden_text(said, tokenizer)
        if special:
            rejected.append({"id": row["id"], "reason": "special token in content", "detail": special})
            continue
        tokens = tokenise_row(row, settings["template"], tokenizer)
        if len(tokens.input_ids) > limit and settings["overflow"] == "reject":
            detail = f"{len(tokens.input_ids)} tokens, at most {limit}"
            rejected.append({"id": row["id"], "reason": "too long", "detail": detail})
        elif all(label == IGNORED for label in tokens.labels[:limit]):
            rejected.append(
                {"id": row["id"], "reason": "nothing to learn", "detail": f"in the first {limit} tokens"}
            )
        else:
            kept.append(
                {"id": row["id"], "input_ids": tokens.input_ids[:limit], "labels": tokens.labels[:limit]}
            )
    return kept, rejected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", nargs="+", required=True, help="name=conversations.jsonl of each split")
    parser.add_argument("--tokenizer", type=Path, required=True, help="model folder")
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.tokenizer)
    counts, all_rejected, files = {}, [], []
    for name, path in (item.split("=", 1) for item in arguments.splits):
        rows = spread(read_jsonl(path), arguments.settings["history_turns"])
        kept, rejected = tokenise_rows(rows, tokenizer, arguments.settings)
        assert len(kept) + len(rejected) == len(rows)
        if not kept:
            raise PlumblineError(f"{path}: no row can be learned from; see the reasons: {rejected[:3]}")
        files.append(arguments.output / f"{name}.parquet")
        with finished_file(files[-1]) as temporary:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept), temporary)
        all_rejected += [{"split": name, **row} for row in rejected]
        counts[name] = {
            "read": len(rows),
            "kept": len(kept),
            "rejected": len(rejected),
            "tokens": sum(len(row["input_ids"]) for row in kept),
            "learned_tokens": sum(label != IGNORED for row in kept for label in row["labels"]),
        }
    write_jsonl(arguments.output / "rejected.jsonl", all_rejected)
    write_manifest(arguments.manifest, [*files, arguments.output / "rejected.jsonl"], counts=counts)


if __name__ == "__main__":
    run(main)
