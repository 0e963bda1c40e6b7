"""MT-Bench (Zheng et al. 2023): the mean rating, 1 to 10, of answers to two-turn questions, or their win rates.

The numbers are those of FastChat's show_result on the same judgments. Like there, a verdict that failed is part of no
mean; unlike there, its share is a score of its own, and so is the share of ratings off the scale, which FastChat's
grammar lets pass. Pairwise, a (question, turn) is a win or a loss only where both orders agree, else a tie; the
adjusted win rate counts a tie as half a win. Not covered: asking the judge.
"""

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.flags import judged_parser
from workflow_scripts.score.items import SHARE, make_cell, write_scores
from workflow_scripts.score.verdicts import (
    Values,
    failed_cell,
    lost,
    mean_cell,
    names_of,
    over_draws,
    values_of,
    with_cuts,
    won,
)

LOWEST, HIGHEST = 1, 10


class Settings(TypedDict):
    benchmark: str
    mode: str


def subsets_of(prompts: list[dict], values: Values) -> dict[str, Values]:
    """Return the values overall, by turn and by category."""
    category = {row["id"]: row["meta"]["category"] for row in prompts}

    def chosen(wanted: Any) -> Values:
        return {key: found for key, found in values.items() if wanted(key)}

    turns = {
        f"turn{turn + 1}": chosen(lambda key, turn=turn: key[1] == turn)
        for turn in sorted({turn for _, turn in values})
    }
    categories = {
        name: chosen(lambda key, name=name: category[key[0]] == name)
        for name in dict.fromkeys(category.values())
    }
    return {"overall": values} | turns | categories


def mean_cells(
    prompts: list[dict], values: Values, metric: str, bounds: Sequence[float] = SHARE
) -> list[dict[str, Any]]:
    """Return a mean overall, by turn and by category.

    Items are question ids within a turn and "<question id>#<turn>" elsewhere; groups are question ids. A mean with
    no verdict at all is left out.
    """
    groups = {row["id"]: row["id"] for row in prompts}
    return [
        cell
        for subset, part in subsets_of(prompts, values).items()
        for cell in mean_cell(subset, metric, part, groups, not subset.startswith("turn"), bounds=bounds)
    ]


def off_scale_cells(prompts: list[dict], values: Values) -> list[dict[str, Any]]:
    """Return the share of verdicts that rate outside 1 to 10, if there are any."""
    shares = [
        sum(value is not None and not LOWEST <= value <= HIGHEST for value in found) / len(found)
        for found in values.values()
    ]
    if not any(shares):
        return []
    items, groups = names_of(values, True), [name for name, _ in values]
    return [
        make_cell(
            "overall", "off_scale", items, groups, {"value": shares}, higher_is_better=False, bounds=SHARE
        )
    ]


def score(prompts: list[dict], ratings: Values) -> list[dict[str, Any]]:
    """Return one policy's cells: rating overall, by turn and category, and the share of failed verdicts."""
    groups = {row["id"]: row["id"] for row in prompts}
    return [
        *mean_cells(prompts, ratings, "rating", (LOWEST, HIGHEST)),
        failed_cell(ratings, groups, True),
        *off_scale_cells(prompts, ratings),
    ]


def score_pairwise(prompts: list[dict], preferences: Values) -> list[dict[str, Any]]:
    """Return one policy's cells: adjusted win rate overall, by turn and category, win and loss rate, failed share."""
    groups = {row["id"]: row["id"] for row in prompts}
    return [
        *mean_cells(prompts, preferences, "win_rate_adjusted"),
        *mean_cell("overall", "win_rate", preferences, groups, True, won),
        *mean_cell("overall", "loss_rate", preferences, groups, True, lost, higher_is_better=False),
        failed_cell(preferences, groups, True),
    ]


def main() -> None:
    """Write the MT-Bench scores of one policy."""
    args = judged_parser(main.__doc__, Settings).parse_args()
    pairwise = args.settings["mode"] == "pairwise"
    prompts, verdicts = answered_prompts(args.prompts, args.generations), read_jsonl(args.verdicts)
    key = "preference" if pairwise else "rating"
    generations = read_jsonl(args.generations)

    def cells_of(rows: list[dict]) -> list[dict[str, Any]]:
        values = values_of(prompts, generations, rows, key, args.verdicts)
        return with_cuts(score_pairwise(prompts, values) if pairwise else score(prompts, values), rows)

    write_scores(args.output, args.settings["benchmark"], over_draws(verdicts, cells_of))


if __name__ == "__main__":
    run(main)
