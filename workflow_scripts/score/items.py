"""Item scores: what every scorer writes, and the check that every prompt was answered."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_json

SHARE = [0.0, 1.0]  # the least and the most that an item of a rate, a share or a chance can have


def make_cell(
    subset: str,
    metric: str,
    items: Sequence[str],
    groups: Sequence[str],
    columns: dict[str, list],
    *,
    estimator: str = "mean",
    higher_is_better: bool = True,
    **extra: Any,
) -> dict[str, Any]:
    """Return one cell of a score file: n items, their n groups, and columns of n values each.

    `bounds`, among the extra keys, are the least and the most that an item of a mean can have, where there are such:
    the report's intervals need them where a policy stands at the edge. Raises ValueError when a length differs: an item
    must never be lost on the way to the table.
    """
    lengths = {len(items), len(groups), *map(len, columns.values())}
    if len(lengths) > 1:
        raise ValueError(f"{subset} {metric}: lengths differ: {sorted(lengths)}")
    return {
        "subset": subset,
        "metric": metric,
        "estimator": estimator,
        "higher_is_better": higher_is_better,
        "items": list(items),
        "groups": list(groups),
        "columns": columns,
        **extra,
    }


def write_scores(path: Path | str, benchmark: str, cells: list[dict[str, Any]], **facts: Any) -> None:
    """Write a score file `{"benchmark", "cells", **facts}`."""
    write_json(path, {"benchmark": benchmark, "cells": cells, **facts})


def first_turns_by_id(rows: Iterable[dict], ids: Iterable[str], where: str) -> dict[str, list[dict]]:
    """Return each id's generation rows of turn 0, ordered by sample; `where` names the file in messages.

    Raises PlumblineError when an id has no row, a row has an unknown id, or (id, sample) occurs twice.
    """
    answers: dict[str, dict[int, dict]] = {name: {} for name in ids}
    for row in rows:
        name, sample = row["id"], row["sample"]
        if name not in answers:
            raise PlumblineError(
                f"{where}: answer to {name!r}, which is not in the prompt set; generate again"
            )
        if row["turn"] == 0:
            if sample in answers[name]:
                raise PlumblineError(f"{where}: sample {sample} of {name!r} occurs twice; generate again")
            answers[name][sample] = row
    for name, samples in answers.items():
        if not samples:
            raise PlumblineError(f"{where}: no answer to {name!r}; every prompt needs one, so generate again")
    return {name: [samples[number] for number in sorted(samples)] for name, samples in answers.items()}
