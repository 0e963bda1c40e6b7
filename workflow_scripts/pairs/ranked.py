"""Preference pairs from answers that came ranked, or that their rewards rank: the best against each of the others.

Rows are annotated ones, or, with `annotated: false`, those of a dataset: these are ranked as they came.

Every answer ends in a ranked row (two answers or more, the best first) or in the rejections. The ranked rows are for
objectives over all answers of a prompt; the pairs for those over two.
"""

import math
from collections import Counter
from typing import Literal

from typing_extensions import TypedDict

from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.turns import turns_of
from workflow_scripts.pairs.output import told_reasons, write_pairs


class Settings(TypedDict):
    """What the step reads."""

    by: Literal["rank", "reward"]
    annotated: bool


def as_they_came(path: str) -> list[dict]:
    """Return the answers of a dataset's ranked rows as annotated ones, rewarded by the order they came in.

    It is 1 for the preferred answer, 0 for the last, and evenly between; of labelled answers, of which each came in a
    row of its own, 1 for a good one and 0 for a bad one.
    """
    answers = []
    for row in read_jsonl(path):
        last = max(len(row["candidates"]) - 1, 1)
        for turn in turns_of(row):
            labelled = "prompt" in turn["meta"]  # it shares its prompt with answers of other rows
            came = turn["given"]["label"] if labelled else 1 - turn["meta"]["rank"] / last
            answers.append(turn | {"rewards": {"final_reward": round(came, 6)}})
    return answers


def rank_answers(rows: list[dict], by: str, split: str) -> tuple[list[dict], list[dict]]:
    """Return (ranked rows, rejected answers) of annotated rows.

    The answers of one prompt share what precedes "#" in their ids; those that came in a row each (schema `labelled`)
    share meta["prompt"]. `by` is "rank" (the order they came in) or "reward" (final_reward, falling; equal rewards keep
    their rank). Raises PlumblineError for a reward that is not finite, and for labelled answers by rank.
    """
    if by == "rank" and any("prompt" in row["meta"] for row in rows):
        raise PlumblineError(
            "answers labelled good or bad came in no order: give by: reward, and an annotation of labels"
        )
    prompts: dict[str, list[dict]] = {}
    for row in rows:
        prompts.setdefault(row["meta"].get("prompt") or row["id"].rpartition("#")[0], []).append(row)
    ranked, rejected = [], []
    for prompt, answers in prompts.items():
        distinct: dict[str, dict] = {}
        for answer in sorted(answers, key=lambda answer: answer["meta"].get("rank", 0)):
            text, reward = answer["reference"].strip(), answer["rewards"]["final_reward"]
            if text in distinct:
                rejected.append({"id": answer["id"], "reason": "chosen equals rejected"})
            elif not math.isfinite(reward):
                raise PlumblineError(f"row {answer['id']}: final_reward is {reward}; mend its annotation")
            else:
                distinct[text] = answer
        kept = list(distinct.values())
        if by == "reward":
            kept.sort(key=lambda answer: -answer["rewards"]["final_reward"])
        if len(kept) < 2 or not kept[0]["reference"].strip():
            why = "no other answer to the prompt" if len(kept) < 2 else "the best answer is empty"
            rejected += [{"id": answer["id"], "reason": why} for answer in kept]
            continue
        ranked.append(
            {
                "id": prompt,
                "group": kept[0]["group"],
                "messages": kept[0]["messages"],
                "answers": [answer["reference"] for answer in kept],
                "rewards": [answer["rewards"]["final_reward"] for answer in kept],
                "split": split,
                "meta": {},
            }
        )
    assert sum(len(row["answers"]) for row in ranked) + len(rejected) == len(rows)
    return ranked, rejected


def pairs_of(row: dict, by: str) -> list[dict]:
    """Return the best answer of a ranked row against each other one; ranked by rewards, equal ones make no pair."""
    shared = {name: row[name] for name in ("group", "messages", "split")}
    return [
        {
            "id": f"{row['id']}/{place}",
            **shared,
            "chosen": row["answers"][0],
            "rejected": answer,
            "meta": {"reward_gap": round(row["rewards"][0] - row["rewards"][place], 6)},
        }
        for place, answer in enumerate(row["answers"])
        if place and (by == "rank" or row["rewards"][0] > row["rewards"][place])
    ]


def main() -> None:
    files = {"ranked": "JSON Lines of ranked rows to write", "rejected": "the answers left out"}
    parser = step_parser(__doc__, Settings, **files)
    parser.add_argument(
        "--annotated", nargs="+", required=True, help="train=rows.jsonl, validation=rows.jsonl"
    )
    arguments = parser.parse_args()
    by = arguments.settings["by"]
    ranked, rejected, read = [], [], 0
    for split, path in (item.split("=", 1) for item in arguments.annotated):
        rows = read_jsonl(path) if arguments.settings["annotated"] else as_they_came(path)
        found, lost = rank_answers(rows, by, split)
        ranked, rejected, read = ranked + found, rejected + lost, read + len(rows)
    pairs = [pair for row in ranked for pair in pairs_of(row, by)]
    if not pairs:
        raise PlumblineError(
            f"{', '.join(arguments.annotated)}: no prompt has two answers that can be told apart; "
            f"left out: {told_reasons(rejected) or 'none, but all rewards are equal'}"
        )
    counts = {
        "answers_read": read,
        "answers_ranked": sum(len(row["answers"]) for row in ranked),
        "prompts": len(ranked),
        "pairs": dict(Counter(pair["split"] for pair in pairs)),
        "equal_rewards": sum(len(row["answers"]) - 1 for row in ranked) - len(pairs),
    }
    if arguments.settings["annotated"]:  # else the rewards are made of the ranks
        agreeing = sum(pair["meta"]["reward_gap"] >= 0 for pair in pairs)
        counts["reward_agrees"] = round(agreeing / len(pairs), 4)
    print(f"{len(pairs)} pairs of {read} answers to {len(ranked)} prompts")
    if counts["equal_rewards"]:
        print(f"no pair: {counts['equal_rewards']} answers with the reward of the best one")
    write_pairs(arguments, pairs, ranked, rejected, counts)


if __name__ == "__main__":
    run(main)
