"""AlpacaEval (Li et al. 2023): how often a judge prefers the policy's answer to a reference answer.

The win rate is the mean preference, 0 to 1 (the published tables show it times 100). A failed verdict is no
part of it, but its share is a score of its own. The answers' length stands beside, because judges like
length. Not covered: asking the judge, and the length-controlled win rate.
"""

import argparse
import json
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.items import first_turns_by_id, make_cell, write_scores


def preferences_of(ids: list[str], verdicts: list[dict], where: str) -> dict[str, list[float | None]]:
    """Return each prompt's preferences, one per sample, None if failed; PlumblineError if it has none."""
    preferences: dict[str, list[float | None]] = {name: [] for name in ids}
    for row in verdicts:
        if row["id"] not in preferences:
            raise PlumblineError(f"{where}: verdict on {row['id']!r}, which is not asked; judge again")
        preferences[row["id"]].append(row["preference"])
    for name, values in preferences.items():
        if not values:
            raise PlumblineError(f"{where}: no verdict on {name!r}; judge again")
    return preferences


def score(
    prompts: list[dict], lengths: dict[str, float], verdicts: list[dict], where: str
) -> list[dict[str, Any]]:
    """Return the cells of one policy: win_rate, length (mean characters of its answers) and failed.

    An item is a prompt, the mean over its samples. More length is neither better nor worse: its
    higher_is_better is null. With no verdict at all there is no win rate.
    """
    groups = {row["id"]: row["group"] for row in prompts}
    ids = list(groups)
    preferences = preferences_of(ids, verdicts, where)
    given = {name: [value for value in values if value is not None] for name, values in preferences.items()}
    wins = {name: sum(values) / len(values) for name, values in given.items() if values}
    failed = {name: 1 - len(given[name]) / len(values) for name, values in preferences.items()}

    def cell(metric: str, values: dict[str, float], **extra: Any) -> dict[str, Any]:
        items = [name for name in ids if name in values]
        columns = {"value": [values[name] for name in items]}
        return make_cell("overall", metric, items, [groups[name] for name in items], columns, **extra)

    cells = [cell("win_rate", wins)] if wins else []
    return [
        *cells,
        cell("length", lengths, higher_is_better=None),
        cell("failed", failed, higher_is_better=False),
    ]


def main() -> None:
    """Write the AlpacaEval scores of one policy."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--prompts", required=True, help="the prompt set")
    parser.add_argument("--generations", required=True, help="the policy's answers, for their length")
    parser.add_argument("--verdicts", required=True, help="the judge's preferences")
    parser.add_argument(
        "--settings", required=True, type=json.loads, help='{"benchmark": its name in the study}'
    )
    parser.add_argument("--output", required=True, help="score file to write")
    args = parser.parse_args()
    prompts = read_jsonl(args.prompts)
    answers = first_turns_by_id(
        read_jsonl(args.generations), [row["id"] for row in prompts], args.generations
    )
    lengths = {name: sum(len(row["text"]) for row in rows) / len(rows) for name, rows in answers.items()}
    write_scores(
        args.output,
        args.settings["benchmark"],
        score(prompts, lengths, read_jsonl(args.verdicts), args.verdicts),
    )


if __name__ == "__main__":
    run(main)
