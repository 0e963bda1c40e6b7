"""Preference pairs for a reward model, from the rows of a split of its own.

Ranked rows bring their pairs: the preferred answer against each other one. Of a conversation, chosen is always what it
shows to be right; rejected, per turn: another turn's reply, a reply cut short, nothing, or (structured tutor replies)
the same reply with a wrong label. And of tutoring, per sub-problem, as plain question and answer: a student's answer
the tutor called correct against one it called wrong, unclear or off-topic, or nothing.
"""

import random
from collections import Counter

from typing_extensions import TypedDict

from workflow_scripts.common.command_line import step_parser
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

WORSE = ("wrong label", "other turn", "cut short", "empty")  # the first for structured tutor replies alone


class Settings(TypedDict):
    """What the step reads."""

    seed: int


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


def is_structured(reply: str) -> bool:
    """Tell whether a reply is a tutor's with its labels."""
    return set(LABEL_FIELDS) <= set(parse_reply(reply) or ())


def is_tutoring(row: dict) -> bool:
    """Tell whether all replies of a conversation are a tutor's, each with its sub-problem."""
    replies = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    whole = all(is_structured(reply) and SUBPROBLEM in (parse_reply(reply) or ()) for reply in replies)
    return bool(replies) and "candidates" not in row and whole


def gold_turns(rows: list[dict]) -> list[dict]:
    """Return the turns of rows whose reply is gold: an answer that is labelled bad (its rank is not 0) is none."""
    return [turn for row in rows for turn in turns_of(row) if turn["meta"].get("rank", 0) == 0]


def turn_pairs(rows: list[dict], rng: random.Random) -> list[dict]:
    """Return a pair per turn: the last exchange before it, the gold reply, and a worse one; none if both are equal."""
    turns = gold_turns(rows)
    replies = sorted({turn["reference"] for turn in turns})
    pairs = []
    for turn in turns:
        kind = rng.choice(WORSE if is_structured(turn["reference"]) else WORSE[1:])
        rejected = worse_reply(kind, turn["reference"], replies, rng)
        if rejected != turn["reference"]:
            messages = reward_context(turn["messages"])
            pairs.append(
                {"messages": messages, "chosen": turn["reference"], "rejected": rejected, "kind": kind}
            )
    return pairs


def ranked_pairs(rows: list[dict]) -> list[dict]:
    """Return the preferred answer of each ranked row against each of its others."""
    return [
        {
            "messages": reward_context(row["messages"]),
            "chosen": row["candidates"][0]["content"],
            "rejected": other["content"],
            "kind": "ranked",
        }
        for row in rows
        for other in row["candidates"][1:]
        if other["content"] != row["candidates"][0]["content"]
    ]


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
                answers = right if verdict == "b" else wrong
                answers.setdefault((question, step), set()).add(answer["content"])
    pairs = []
    for place in sorted(right):
        messages = [{"role": "user", "content": place[0]}]
        losing = sorted(wrong.get(place, ()))
        for rejected in [*rng.sample(losing, k=min(2, len(losing))), ""]:
            chosen = rng.choice(sorted(right[place]))
            pairs.append({"messages": messages, "chosen": chosen, "rejected": rejected, "kind": "answer"})
    return pairs


def main() -> None:
    parser = step_parser(__doc__, Settings, rows="conversations of the reward split")
    arguments = parser.parse_args()
    rows = read_jsonl(arguments.rows)
    rng = random.Random(arguments.settings["seed"])
    ranked = [row for row in rows if len(row.get("candidates", ())) > 1]
    others = [row for row in rows if len(row.get("candidates", ())) < 2]
    tutoring = [row for row in others if is_tutoring(row)]
    of_ranks, of_turns = ranked_pairs(ranked), turn_pairs(others, rng)
    possible = sum(len(row["candidates"]) - 1 for row in ranked) + len(gold_turns(others))
    equal = possible - len(of_ranks) - len(of_turns)
    pairs = of_ranks + of_turns + answer_pairs(tutoring, rng)
    if not pairs:
        raise PlumblineError(f"{arguments.rows}: no pairs can be made of {len(rows)} rows")
    rng.shuffle(pairs)
    write_jsonl(arguments.output, pairs)
    kinds = dict(Counter(pair["kind"] for pair in pairs))
    counts = {"rows": len(rows), "pairs": kinds, "left_out_as_equal": equal}
    print(f"{len(pairs)} pairs of {len(rows)} rows; {equal} left out, whose two replies would be equal")
    write_manifest(arguments.manifest, [arguments.output], counts=counts)


if __name__ == "__main__":
    run(main)
