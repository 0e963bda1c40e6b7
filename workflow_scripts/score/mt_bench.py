"""MT-Bench (Zheng et al. 2023): the mean rating, 1 to 10, of answers to two-turn questions.

A verdict that failed has no rating and, as in MT-Bench, is no part of any mean; but its share is a score of
its own, and each mean's n is the number of answers rated. Not covered: asking the judge, and pairwise
MT-Bench.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.items import make_cell, write_scores

Ratings = dict[tuple[str, int], list[float | None]]


def ratings_of(prompts: list[dict], generations: list[dict], verdicts: list[dict], where: str) -> Ratings:
    """Return the ratings of each (question id, turn): one per sample, None if failed.

    Raises PlumblineError when a turn has no answer, an answer has no verdict, or a verdict has no answer;
    `where` names the verdicts.
    """
    given = {(row["id"], row["sample"], row["turn"]): row["rating"] for row in verdicts}
    due = {(row["id"], row["sample"], row["turn"]) for row in generations}
    odd = sorted(due ^ given.keys())
    if odd or len(given) < len(verdicts):
        name = f"; see turn {odd[0][2]}, sample {odd[0][1]} of {odd[0][0]!r}" if odd else ""
        raise PlumblineError(f"{where}: not one verdict per answer{name}; judge again")
    ratings: Ratings = {(row["id"], turn): [] for row in prompts for turn in range(1 + len(row["followups"]))}
    wrong = sorted({(name, turn) for name, _, turn in due} ^ ratings.keys())
    if wrong:
        name, turn = wrong[0]
        raise PlumblineError(f"turn {turn} of {name!r} is only asked or only answered; generate again")
    for (name, _, turn), rating in given.items():
        ratings[name, turn].append(rating)
    return ratings


def score(prompts: list[dict], ratings: Ratings) -> list[dict[str, Any]]:
    """Return one policy's cells: rating overall, by turn and category, and the share of failed verdicts.

    Items are question ids within a turn and "<question id>#<turn>" elsewhere; groups are question ids. An
    item is the mean over its samples. A mean with no verdict at all is left out.
    """
    category = {row["id"]: row["meta"]["category"] for row in prompts}
    means = {}
    for key, values in ratings.items():
        given = [value for value in values if value is not None]
        if given:
            means[key] = sum(given) / len(given)

    def cell(subset: str, keys: Sequence[tuple[str, int]], named_by_turn: bool) -> list[dict[str, Any]]:
        rated = [key for key in keys if key in means]
        items = [f"{name}#{turn + 1}" if named_by_turn else name for name, turn in rated]
        value = {"value": [means[key] for key in rated]}
        return [make_cell(subset, "rating", items, [name for name, _ in rated], value)] if rated else []

    keys = list(ratings)
    cells = cell("overall", keys, True)
    for turn in sorted({turn for _, turn in keys}):
        cells += cell(f"turn{turn + 1}", [key for key in keys if key[1] == turn], False)
    for name in dict.fromkeys(category.values()):
        cells += cell(name, [key for key in keys if category[key[0]] == name], True)
    failed = [sum(value is None for value in ratings[key]) / len(ratings[key]) for key in keys]
    items, groups = [f"{name}#{turn + 1}" for name, turn in keys], [name for name, _ in keys]
    return [*cells, make_cell("overall", "failed", items, groups, {"value": failed}, higher_is_better=False)]


def main() -> None:
    """Write the MT-Bench scores of one policy."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--prompts", required=True, help="the prompt set, with each question's category")
    parser.add_argument(
        "--generations", required=True, help="the policy's answers, each of which needs a verdict"
    )
    parser.add_argument("--verdicts", required=True, help="the judge's ratings")
    parser.add_argument(
        "--settings", required=True, type=json.loads, help='{"benchmark": its name in the study}'
    )
    parser.add_argument("--output", required=True, help="score file to write")
    args = parser.parse_args()
    prompts = read_jsonl(args.prompts)
    ratings = ratings_of(prompts, read_jsonl(args.generations), read_jsonl(args.verdicts), args.verdicts)
    write_scores(args.output, args.settings["benchmark"], score(prompts, ratings))


if __name__ == "__main__":
    run(main)
