"""Preference pairs for a reward model, from the conversations of a split of its own.

Chosen is always what the dialogue itself shows to be right. Rejected, per tutor turn: the same reply with a wrong
label, another turn's reply, a reply cut short, or nothing. And per sub-problem, as plain question and answer: a
student's answer the tutor called correct against one it called wrong, unclear or off-topic, or nothing.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.turns import reward_context, turns_of
from workflow_scripts.common.tutor_reply import (
    EVALUATION,
    LABEL_FIELDS,
    LABELS,
    SUBPROBLEM,
    format_reply,
    parse_reply,
)

WORSE = ("wrong label", "other turn", "cut short", "empty")


def worse_reply(kind: str, gold: str, others: list[str], rng: random.Random) -> str:
    """Return a reply that is worse than the gold one in one way."""
    if kind == "wrong label":
        reply = parse_reply(gold)
        field = rng.choice(LABEL_FIELDS)
        wrong = [label for label in LABELS[field] if label != reply[field]]
        return format_reply(reply | {field: rng.choice(wrong)}, "json" if gold.startswith('{"') else "python")
    if kind == "other turn":
        return rng.choice(others)
    return gold[: rng.randrange(1, max(2, len(gold) - 10))] if kind == "cut short" else ""


def tutor_pairs(conversations: list[dict], rng: random.Random) -> list[dict]:
    """Return one pair per tutor turn: the last exchange before it, the gold reply, and a worse one."""
    turns = [turn for conversation in conversations for turn in turns_of(conversation)]
    replies = sorted({turn["reference"] for turn in turns})
    pairs = []
    for turn in turns:
        kind = rng.choice(WORSE)
        rejected = worse_reply(kind, turn["reference"], replies, rng)
        if rejected != turn["reference"]:
            messages = reward_context(turn["messages"])
            pairs.append(
                {"messages": messages, "chosen": turn["reference"], "rejected": rejected, "kind": kind}
            )
    return pairs


def answer_pairs(conversations: list[dict], rng: random.Random) -> list[dict]:
    """Return pairs of plain answers to the same sub-problem: one called correct, one that was not, or nothing."""
    right: dict[tuple[str, str], set[str]] = {}
    wrong: dict[tuple[str, str], set[str]] = {}
    for conversation in conversations:
        messages = [message for message in conversation["messages"] if message["role"] != "system"]
        question = messages[0]["content"].partition(" Facts:")[0]
        for before, answer, after in zip(messages[1::2], messages[2::2], messages[3::2], strict=False):
            step = parse_reply(before["content"])[SUBPROBLEM]
            verdict = parse_reply(after["content"])[EVALUATION]
            if verdict in "bade":
                (right if verdict == "b" else wrong).setdefault((question, step), set()).add(
                    answer["content"]
                )
    pairs = []
    for place in sorted(right):
        messages = [{"role": "user", "content": place[0]}]
        losing = sorted(wrong.get(place, ()))
        for rejected in [*rng.sample(losing, k=min(2, len(losing))), ""]:
            chosen = rng.choice(sorted(right[place]))
            pairs.append({"messages": messages, "chosen": chosen, "rejected": rejected, "kind": "answer"})
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="conversations of the reward split")
    parser.add_argument("--settings", type=json.loads, required=True, help='{"seed": …}')
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    conversations = read_jsonl(arguments.rows)
    rng = random.Random(arguments.settings["seed"])
    pairs = tutor_pairs(conversations, rng) + answer_pairs(conversations, rng)
    if not pairs:
        raise PlumblineError(f"{arguments.rows}: no pairs can be made of {len(conversations)} conversations")
    rng.shuffle(pairs)
    write_jsonl(arguments.output, pairs)
    kinds = dict(Counter(pair["kind"] for pair in pairs))
    write_manifest(
        arguments.manifest, [arguments.output], counts={"conversations": len(conversations), "pairs": kinds}
    )


if __name__ == "__main__":
    run(main)
