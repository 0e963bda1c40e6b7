"""Preference pairs from a policy's own mistakes: the gold reply is chosen, a reply that mismatches it is rejected.

The rule is that of Tutorbot-Spock (Sonkar et al. 2024): the structured fields are compared, free text never is. The
same answers are also written ranked, for objectives over more than two: gold first, then by the labels they got right.
"""

import random
from collections import Counter
from typing import Literal

from typing_extensions import TypedDict

from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.tutor_reply import ACTION, EVALUATION, FIELDS, STATE, format_reply, parse_reply

LONGEST_LABEL = {EVALUATION: 1, ACTION: 2, STATE: 1}


class Settings(TypedDict):
    """What the step reads; `validation_share` is of the groups."""

    reply_format: Literal["python", "json"]
    validation_share: float
    seed: int


def is_well_formed(gold: dict | None) -> bool:
    """Tell whether a gold reply can be compared with: five text fields, labels of at most a character (action: two)."""
    return gold is not None and all(
        isinstance(gold.get(field), str) and len(gold[field]) <= LONGEST_LABEL.get(field, len(gold[field]))
        for field in FIELDS
    )


def mismatch(gold: dict, response: str) -> str | None:
    """Return why a response loses against the gold reply, the first that applies, or None if it does not.

    unparsable → malformed (no dict, a field missing, all fields empty) → Evaluation → Action → Subproblem State.
    """
    reply = parse_reply(response)
    if reply is None:
        return "unparsable"
    if any(field not in reply for field in FIELDS) or not any(reply[field] for field in FIELDS):
        return "malformed"
    return next((field for field in LONGEST_LABEL if str(reply[field]).strip() != gold[field].strip()), None)


def in_format(text: str, reply_format: str) -> str:
    """Return an answer's dict in the study's format, or the text itself if it holds none that can be written so."""
    reply = parse_reply(text)
    if reply is None:
        return text
    try:
        written = format_reply(reply, reply_format)
        written.encode()
    except (TypeError, UnicodeEncodeError):  # a Python set, bytes, a tuple as key; half of a surrogate pair
        return text
    return written


def build_pairs(
    prompts: list[dict], generations: list[dict], reply_format: str
) -> tuple[list[dict], list[dict]]:
    """Return (pairs, rejections): every generation ends in exactly one of the two."""
    by_id = {prompt["id"]: prompt for prompt in prompts}
    pairs, rejected, seen = [], [], set()
    for generation in generations:
        prompt, text = by_id[generation["id"]], generation["text"].strip()
        gold = parse_reply(prompt["reference"][0])
        name = {"id": prompt["id"], "sample": generation["sample"]}
        if not is_well_formed(gold):
            rejected.append(name | {"reason": "gold reply is not well formed"})
            continue
        why = mismatch(gold, text)
        if why is None:
            rejected.append(name | {"reason": "labels all agree"})
            continue
        losing = in_format(text, reply_format)
        if not losing:
            rejected.append(name | {"reason": "empty answer"})
        elif (prompt["id"], losing) in seen:
            rejected.append(name | {"reason": "same answer again"})
        else:
            seen.add((prompt["id"], losing))
            pairs.append(
                {
                    "id": f"{prompt['id']}/{generation['sample']}",
                    "group": prompt["group"],
                    "messages": prompt["messages"],
                    "chosen": format_reply(gold, reply_format),
                    "rejected": losing,
                    "meta": {"mismatch": why},
                }
            )
    return pairs, rejected


def held_out_groups(groups: list[str], share: float, seed: int) -> set[str]:
    """Return the groups whose pairs are only validated on: a share of them, at least one if the share is positive."""
    order = sorted(set(groups))
    random.Random(seed).shuffle(order)
    return set(order[: max(1, round(share * len(order)))] if share else [])


def labels_right(gold: dict, losing: str) -> float:
    """Return the share of label fields that a losing answer got right; 0 if it holds no reply."""
    reply = parse_reply(losing) or {}
    return sum(str(reply.get(field, "")).strip() == gold[field].strip() for field in LONGEST_LABEL) / len(
        LONGEST_LABEL
    )


def best_first(row: dict) -> dict:
    """Return a row whose first answer stays where it is and whose others stand by their rewards, falling."""
    answers, rewards = row["answers"], row["rewards"]
    order = [0, *sorted(range(1, len(answers)), key=lambda place: -rewards[place])]
    return row | {
        "answers": [answers[place] for place in order],
        "rewards": [rewards[place] for place in order],
    }


def rank_pairs(pairs: list[dict]) -> list[dict]:
    """Return one row per prompt: its answers, the gold one first, with the share of right labels as reward.

    The order among answers of equal reward is that of their samples.
    """
    rows: dict[str, dict] = {}
    for pair in pairs:
        prompt = pair["id"].rpartition("/")[0]
        shared = {name: pair[name] for name in ("group", "messages", "split")}
        row = rows.setdefault(prompt, {"id": prompt, **shared, "answers": [pair["chosen"]], "rewards": [1.0]})
        row["answers"].append(pair["rejected"])
        row["rewards"].append(round(labels_right(parse_reply(pair["chosen"]), pair["rejected"]), 6))
    return [best_first(row) for row in rows.values()]


def main() -> None:
    files = {"prompts": "the prompt set", "generations": "the policy's answers to it"}
    files |= {"ranked": "JSON Lines of ranked rows to write", "rejected": "the answers left out"}
    parser = step_parser(__doc__, Settings, **files)
    arguments = parser.parse_args()
    settings, generations = arguments.settings, read_jsonl(arguments.generations)
    pairs, rejected = build_pairs(read_jsonl(arguments.prompts), generations, settings["reply_format"])
    assert len(pairs) + len(rejected) == len(generations)
    if not pairs:
        raise PlumblineError(
            f"{arguments.generations}: the policy made no mistake on {len(generations)} prompts, so there are no "
            "pairs; raise pairs.*.temperature or samples, or train the parent less"
        )
    held_out = held_out_groups(
        [pair["group"] for pair in pairs], settings["validation_share"], settings["seed"]
    )
    pairs = [pair | {"split": "validation" if pair["group"] in held_out else "train"} for pair in pairs]
    write_jsonl(arguments.output, pairs)
    write_jsonl(arguments.ranked, rank_pairs(pairs))
    write_jsonl(arguments.rejected, rejected)
    counts = {
        "read": len(generations),
        "kept": len(pairs),
        "share_kept": round(len(pairs) / len(generations), 4),
        "splits": dict(Counter(pair["split"] for pair in pairs)),
        "mismatches": dict(Counter(pair["meta"]["mismatch"] for pair in pairs)),
        "rejected": dict(Counter(row["reason"] for row in rejected)),
    }
    print(f"{counts['kept']} pairs of {counts['read']} answers ({counts['share_kept']:.1%})")
    files = [arguments.output, arguments.ranked, arguments.rejected]
    write_manifest(arguments.manifest, files, counts=counts)


if __name__ == "__main__":
    run(main)
