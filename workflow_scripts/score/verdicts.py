"""A judge's verdicts by question and turn, and the cells that scorers of judged benchmarks share.

A verdict that failed has no value and is no part of any mean; but its share is a score of its own, and each mean's n
is the number of answers with a verdict. A verdict that the study skips is part of neither. Not covered: asking.
"""

from collections.abc import Callable, Sequence
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.score.items import SHARE, make_cell

Values = dict[tuple[str, int], list[float | None]]


def values_of(
    prompts: list[dict], generations: list[dict], verdicts: list[dict], key: str, where: str
) -> Values:
    """Return the values (`key`: rating or preference) of each (question id, turn): one per sample, None if failed.

    Raises PlumblineError when a turn has no answer, an answer has no verdict, or a verdict has no answer;
    `where` names the verdicts.
    """
    given = {(row["id"], row["sample"], row["turn"]): row for row in verdicts}
    due = {(row["id"], row["sample"], row["turn"]) for row in generations}
    odd = sorted(due ^ given.keys())
    if odd or len(given) < len(verdicts):
        name = f"; see turn {odd[0][2]}, sample {odd[0][1]} of {odd[0][0]!r}" if odd else ""
        raise PlumblineError(f"{where}: not one verdict per answer{name}; judge again")
    values: Values = {(row["id"], turn): [] for row in prompts for turn in range(1 + len(row["followups"]))}
    wrong = sorted({(name, turn) for name, _, turn in due} ^ values.keys())
    if wrong:
        name, turn = wrong[0]
        raise PlumblineError(f"turn {turn} of {name!r} is only asked or only answered; generate again")
    for (name, _, turn), row in given.items():
        if key not in row:
            raise PlumblineError(f"{where}: the verdict on turn {turn} of {name!r} has no {key}; judge again")
        if not row.get("skipped"):
            values[name, turn].append(row[key])
    return {turn: found for turn, found in values.items() if found}


def mean_cell(
    subset: str,
    metric: str,
    values: Values,
    groups: dict[str, str],
    named_by_turn: bool = False,
    measure: Callable[[float], float] = float,
    bounds: Sequence[float] = SHARE,
    **extra: Any,
) -> list[dict[str, Any]]:
    """Return the cell of a mean over (question, turn), or none where there is no verdict at all.

    An item is the mean of `measure` over its samples' verdicts, which is within `bounds`, named by its question, or
    "<question>#<turn>".
    """
    means = {}
    for key, found in values.items():
        measured = [measure(value) for value in found if value is not None]
        if measured:
            means[key] = sum(measured) / len(measured)
    if not means:
        return []
    items = names_of(means, named_by_turn)
    column = {"value": list(means.values())}
    extra["bounds"] = list(bounds)
    return [make_cell(subset, metric, items, [groups[name] for name, _ in means], column, **extra)]


def failed_cell(values: Values, groups: dict[str, str], named_by_turn: bool = False) -> dict[str, Any]:
    """Return the cell of the share of verdicts that failed."""
    shares = [sum(value is None for value in found) / len(found) for found in values.values()]
    items = names_of(values, named_by_turn)
    return make_cell(
        "overall",
        "failed",
        items,
        [groups[name] for name, _ in values],
        {"value": shares},
        higher_is_better=False,
        bounds=SHARE,
    )


def over_draws(
    verdicts: list[dict], score: Callable[[list[dict]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the cells of verdicts that a judge may have given several times: an item is the mean of its draws.

    score: from the verdicts of one draw to its cells. Beside a cell of several draws stand `draws`, a list of items'
    values for each, None where that draw has none. What is refitted as a whole is that of the first draw, and says so.
    """
    drawn: dict[int, list[dict]] = {}
    for row in verdicts:
        drawn.setdefault(row.get("draw", 0), []).append(row)
    if len(drawn) < 2:
        return score(verdicts)
    cells = [{(cell["subset"], cell["metric"]): cell for cell in score(rows)} for rows in drawn.values()]
    names = dict.fromkeys(name for own in cells for name in own)
    return [_joined([own.get(name) for own in cells]) for name in names]


def _joined(cells: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Return one cell of those of several draws, None for a draw without."""
    found = [cell for cell in cells if cell]
    if found[0]["estimator"] != "mean":
        note = f"of the first of {len(cells)} draws of the judge"
        return found[0] | {"note": "; ".join(filter(None, [found[0].get("note"), note]))}
    groups = {
        item: group for cell in found for item, group in zip(cell["items"], cell["groups"], strict=True)
    }
    values = [
        dict(zip(cell["items"], cell["columns"]["value"], strict=True)) if cell else {} for cell in cells
    ]
    draws = [[own.get(item) for item in groups] for own in values]
    given = [[value for value in column if value is not None] for column in zip(*draws, strict=True)]
    means = [sum(column) / len(column) for column in given]
    return found[0] | {
        "items": list(groups),
        "groups": list(groups.values()),
        "columns": {"value": means},
        "draws": draws,
    }


def with_cuts(cells: list[dict[str, Any]], verdicts: list[dict]) -> list[dict[str, Any]]:
    """Return cells with a note where the judge, a reward model, read dialogues without their start."""
    cut = sum(row.get("cut", False) for row in verdicts)
    if not cut:
        return cells
    note = f"{cut} of {len(verdicts)} dialogues read by the judge without their start"
    return [cell | {"note": "; ".join(filter(None, [cell.get("note"), note]))} for cell in cells]


def names_of(keys: Sequence[tuple[str, int]] | dict, by_turn: bool) -> list[str]:
    return [f"{name}#{turn + 1}" if by_turn else name for name, turn in keys]


def won(preference: float) -> float:
    return float(preference > 0.5)


def tied(preference: float) -> float:
    return float(preference == 0.5)


def lost(preference: float) -> float:
    return float(preference < 0.5)
