"""Preference pairs from a policy's own mistakes: the gold reply is chosen, a reply that mismatches it is rejected.

The rule is that of Tutorbot-Spock (Sonkar et al. 2024): the structured fields are compared, free text never is. Two
more come from the history of its repository: wrong labels alone, or every answer. How many pairs each of the three
would make is counted. The same answers are also written ranked, for objectives over more than two: gold first, then by
the labels they got right.

`fidelity: code` reads and writes as the published programs do: an answer is a Python literal or none, what loses is
written as it came, its keys in their own order, and an answer that says nothing loses like any other.
"""

from collections import Counter
from collections.abc import Callable
from typing import Literal

from typing_extensions import TypedDict

from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.tutor_reply import (
    FIELDS,
    LABEL_FIELDS,
    WRITERS,
    format_reply,
    is_well_formed,
    parse_python,
    parse_reply,
    read_answer,
)
from workflow_scripts.pairs.held_out import held_out_groups
from workflow_scripts.pairs.output import told_reasons, write_pairs


class Settings(TypedDict):
    """What the step reads; `validation_share` is of the groups."""

    reply_format: Literal["python", "json"]
    which: Literal["mistakes", "wrong_labels", "all"]
    fidelity: Literal["paper", "code"]
    validation_share: float
    seed: int


# By `which`: does an answer make a pair, given why it loses (None: it does not).
RULES: dict[str, Callable[[str | None], bool]] = {
    "mistakes": lambda why: why is not None,
    "wrong_labels": lambda why: why in LABEL_FIELDS,
    "all": lambda why: True,
}


def mismatch(gold: dict, response: str, fidelity: str = "paper") -> str | None:
    """Return why a response loses against the gold reply, the first that applies, or None if it does not.

    unparsable → malformed (no dict, a field missing, all fields empty) → Evaluation → Action → Subproblem State.
    """
    reply = parse_reply(response) if fidelity == "paper" else read_answer(response, fidelity)
    if reply is None:
        return "unparsable"
    if any(field not in reply for field in FIELDS) or not any(reply[field] for field in FIELDS):
        return "malformed"
    return next((field for field in LABEL_FIELDS if str(reply[field]).strip() != gold[field].strip()), None)


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


def as_published(text: str, reply_format: str) -> str:
    """Return an answer as the published programs write it: what is a literal anew, all else to the letter."""
    value = parse_python(text)
    if value is None:
        return text
    try:
        written = WRITERS[reply_format](value) if isinstance(value, dict) else str(value)
        written.encode()
    except (TypeError, UnicodeEncodeError):
        return text
    return written


def build_pairs(
    prompts: list[dict],
    generations: list[dict],
    reply_format: str,
    which: str = "mistakes",
    fidelity: str = "paper",
) -> tuple[list[dict], list[dict], Counter]:
    """Return (pairs, rejections, how many answers each rule would take): every generation ends in one of the two."""
    by_id = {prompt["id"]: prompt for prompt in prompts}
    pairs, rejected, seen = [], [], set()
    taken: Counter = Counter(dict.fromkeys(RULES, 0))
    for generation in generations:
        prompt, text = by_id[generation["id"]], generation["text"]
        gold = parse_reply(prompt["reference"][0])
        name = {"id": prompt["id"], "sample": generation["sample"]}
        if gold is None or not is_well_formed(gold):
            rejected.append(name | {"reason": "gold reply is not well formed"})
            continue
        why = mismatch(gold, text, fidelity)
        taken.update(rule for rule, takes in RULES.items() if takes(why))
        if not RULES[which](why):
            reason = "labels all agree" if why is None else f"no labels to compare: {why}"
            rejected.append(name | {"reason": reason})
            continue
        published = fidelity == "code"
        losing = as_published(text, reply_format) if published else in_format(text.strip(), reply_format)
        if not losing and not published:
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
                    "chosen": prompt["reference"][0] if published else format_reply(gold, reply_format),
                    "rejected": losing,
                    "meta": {"mismatch": why or "none"},
                }
            )
    return pairs, rejected, taken


def labels_right(gold: dict, losing: str) -> float:
    """Return the share of label fields that a losing answer got right; 0 if it holds no reply."""
    reply = parse_reply(losing) or {}
    right = (str(reply.get(field, "")).strip() == gold[field].strip() for field in LABEL_FIELDS)
    return sum(right) / len(LABEL_FIELDS)


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
    asked = [settings[name] for name in ("reply_format", "which", "fidelity")]
    pairs, rejected, taken = build_pairs(read_jsonl(arguments.prompts), generations, *asked)
    assert len(pairs) + len(rejected) == len(generations)
    if not pairs:
        raise PlumblineError(
            f"{arguments.generations}: none of {len(generations)} answers makes a pair ({told_reasons(rejected)}); "
            "raise pairs.*.temperature or samples, or train the parent less. Pairs without mistakes: from: samples, "
            "ranked by a reward"
        )
    held_out = held_out_groups(
        [pair["group"] for pair in pairs], settings["validation_share"], settings["seed"]
    )
    pairs = [pair | {"split": "validation" if pair["group"] in held_out else "train"} for pair in pairs]
    counts = {
        "read": len(generations),
        "kept": len(pairs),
        "share_kept": round(len(pairs) / len(generations), 4),
        "pair_yield": dict(taken),
        "splits": dict(Counter(pair["split"] for pair in pairs)),
        "mismatches": dict(Counter(pair["meta"]["mismatch"] for pair in pairs)),
    }
    print(f"{counts['kept']} pairs of {counts['read']} answers ({counts['share_kept']:.1%})")
    shares = (f"{rule} {count} ({count / len(generations):.2%})" for rule, count in taken.items())
    print(f"pairs by each rule: {', '.join(shares)}")
    write_pairs(arguments, pairs, rank_pairs(pairs), rejected, counts)


if __name__ == "__main__":
    run(main)
