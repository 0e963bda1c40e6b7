"""Preference pairs from a policy's own mistakes: the gold reply is chosen, a reply that mismatches it is rejected.

The rule is that of Tutorbot-Spock (Sonkar et al. 2024): the structured fields are compared, free text never is.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.tutor_reply import ACTION, EVALUATION, FIELDS, STATE, format_reply, parse_reply

LONGEST_LABEL = {EVALUATION: 1, ACTION: 2, STATE: 1}


def is_well_formed(gold: dict | None) -> bool:
    """Tell whether a gold reply can be compared with: five text fields, labels of at most one (action: two) characters."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--generations", type=Path, required=True)
    parser.add_argument(
        "--settings", type=json.loads, required=True, help='{"reply_format": "json" or "python"}'
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rejected", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    generations = read_jsonl(arguments.generations)
    pairs, rejected = build_pairs(
        read_jsonl(arguments.prompts), generations, arguments.settings["reply_format"]
    )
    assert len(pairs) + len(rejected) == len(generations)
    if not pairs:
        raise PlumblineError(
            f"{arguments.generations}: the policy made no mistake on {len(generations)} prompts, so there are no pairs; "
            "raise pairs.*.temperature or samples, or train the parent less"
        )
    write_jsonl(arguments.output, pairs)
    write_jsonl(arguments.rejected, rejected)
    counts = {
        "read": len(generations),
        "kept": len(pairs),
        "share_kept": round(len(pairs) / len(generations), 4),
        "mismatches": dict(Counter(pair["meta"]["mismatch"] for pair in pairs)),
        "rejected": dict(Counter(row["reason"] for row in rejected)),
    }
    print(f"{counts['kept']} pairs of {counts['read']} answers ({counts['share_kept']:.1%})")
    write_manifest(arguments.manifest, [arguments.output, arguments.rejected], counts=counts)


if __name__ == "__main__":
    run(main)
