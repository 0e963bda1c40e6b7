"""A judge's score from 0 to 100 of answers to instructions that have a correct output (Raschka 2024, chapter 7).

The score is the mean over the answers that got one; an empty answer has 0. The share of failed verdicts, replies that
were no lone integer, is a score of its own: the source leaves them out and shows how many are left. Not covered: asking
the judge.
"""

from typing import Any

from typing_extensions import TypedDict

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.flags import judged_parser
from workflow_scripts.score.items import write_scores
from workflow_scripts.score.verdicts import Values, failed_cell, mean_cell, over_draws, values_of, with_cuts


class Settings(TypedDict):
    benchmark: str


def score(prompts: list[dict], ratings: Values) -> list[dict[str, Any]]:
    """Return one policy's cells: score and failed. An item is a prompt, the mean over its samples."""
    groups = {row["id"]: row["group"] for row in prompts}
    return [*mean_cell("overall", "score", ratings, groups, bounds=(0, 100)), failed_cell(ratings, groups)]


def main() -> None:
    """Write the scores from 0 to 100 of one policy."""
    args = judged_parser(main.__doc__, Settings).parse_args()
    prompts = answered_prompts(args.prompts, args.generations)
    verdicts = read_jsonl(args.verdicts)
    generations = read_jsonl(args.generations)

    def cells_of(rows: list[dict]) -> list[dict[str, Any]]:
        ratings = values_of(prompts, generations, rows, "rating", args.verdicts)
        return with_cuts(score(prompts, ratings), rows)

    write_scores(args.output, args.settings["benchmark"], over_draws(verdicts, cells_of))


if __name__ == "__main__":
    run(main)
