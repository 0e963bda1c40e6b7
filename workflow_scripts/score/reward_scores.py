"""Rewards of a policy's answers: the mean of each reward column, and how long and how varied the answers are.

Reads the rows of `annotate.answers`. Covers one cell per column (subset: its name, final_reward among them) and, in
subset "text", words and distinct n-grams. Distinct-n is that of each answer, averaged over answers: the number for a
whole corpus (Li et al. 2016) falls with the corpus' size and is no mean of items, so it has no interval here.
Not covered: giving the rewards.
"""

import math

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.text_measures import NGRAMS, distinct
from workflow_scripts.common.words import split_words
from workflow_scripts.score.flags import measured_parser
from workflow_scripts.score.items import SHARE, make_cell, write_scores


class Settings(TypedDict):
    benchmark: str


def check_rows(rows: list[dict], where: str) -> list[str]:
    """Return the reward columns of annotated rows; `where` names the file in messages.

    Raises PlumblineError when there are no rows, one stands twice or lacks a key, when columns differ from row to row,
    or a reward is no finite number.
    """
    if not rows:
        raise PlumblineError(f"{where}: no rows; annotate the answers again")
    seen = set()
    for number, row in enumerate(rows, 1):
        missing = [name for name in ("id", "group", "reference", "rewards") if name not in row]
        if missing:
            raise PlumblineError(
                f"{where}: row {number} lacks {', '.join(missing)}; annotate the answers again"
            )
        if row["id"] in seen:
            raise PlumblineError(f"{where}: {row['id']!r} occurs twice; annotate the answers again")
        seen.add(row["id"])
        if list(row["rewards"]) != list(rows[0]["rewards"]):
            raise PlumblineError(
                f"{where}: {row['id']!r} has the rewards {', '.join(row['rewards'])}, the first row "
                f"{', '.join(rows[0]['rewards'])}; annotate the answers again"
            )
        for column, value in row["rewards"].items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise PlumblineError(
                    f"{where}: reward {column!r} of {row['id']!r} is {value!r}, not a finite number; annotate again"
                )
    return list(rows[0]["rewards"])


def score(rows: list[dict], where: str) -> list[dict]:
    """Return the cells of annotated answers: reward columns in their order, then the text's own measures."""
    columns = check_rows(rows, where)
    items, groups = [row["id"] for row in rows], [row["group"] for row in rows]

    def cell(subset: str, metric: str, values: list[float], **extra) -> dict:
        return make_cell(subset, metric, items, groups, {"value": values}, **extra)

    def note(column: str) -> dict:
        cut = sum(column in row.get("texts_cut", ()) for row in rows)
        return {"note": f"{cut} of {len(rows)} texts read without their start"} if cut else {}

    cells = [
        cell(column, "reward", [row["rewards"][column] for row in rows], **note(column)) for column in columns
    ]
    words = [float(len(split_words(row["reference"]))) for row in rows]
    cells.append(cell("text", "words", words, higher_is_better=None))
    for n in NGRAMS:
        values = [distinct(row["reference"], n) for row in rows]
        cells.append(cell("text", f"distinct_{n}_per_answer", values, bounds=SHARE))
    return cells


def main() -> None:
    """Write the reward scores of one policy."""
    args = measured_parser(main.__doc__, Settings, "the policy's answers with their rewards").parse_args()
    write_scores(args.output, args.settings["benchmark"], score(read_jsonl(args.measured), args.measured))


if __name__ == "__main__":
    run(main)
