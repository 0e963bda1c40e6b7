"""Do two judges agree? Correlations, exact agreement, Krippendorff's α and mean difference of two lists of ratings,
with intervals.

Two ways in. `agreement A.json B.json` takes flat JSON lists, the same item at the same place of both (null: no
verdict). `--settings` takes pairs of score files, the cells they both have joined by item; where two judges rate
several policies, rows of policy "all" follow, over all their answers. Intervals are those of the results table: Korn
and Graubard's for exact agreement, a share; percentiles of a bootstrap over groups of items (two turns of one
question, answers of several policies to it, are drawn together) for all else; none for one group, and none where all
draws are equal.

Of a judge that was drawn several times a row has the α of its draws. Not covered: which of the judges is right.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NotRequired

import numpy as np
from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json
from workflow_scripts.report.scores import ALL
from workflow_scripts.report.settings import read_settings
from workflow_scripts.report.spreadsheets import csv_text, number_text, write_csv
from workflow_scripts.report.statistics.alpha import alpha
from workflow_scripts.report.statistics.cells import Cell
from workflow_scripts.report.statistics.draws import group_draws, seed_of
from workflow_scripts.report.statistics.intervals import ALL_EQUAL, ONE_GROUP, ROUNDING, interval

COLUMNS = (
    "policy seed first second subset metric measure value ci_low ci_high n groups only_first only_second note"
).split()
# A judge's word on one item: no count, no length.
RATINGS = ("rating", "score", "win_rate", "win_rate_adjusted")
VERDICTS = ("win_rate", "win_rate_adjusted")  # a win, a tie or a loss, which have no distance: α is nominal
DRAWS = 2_000
BY_HAND = {"seed": 0, "confidence": 0.95}  # of two lists, for which no study says it


class Rated(TypedDict):
    """A score file with a judge's ratings of one policy's answers."""

    policy: str
    seed: int
    benchmark: str
    file: str
    relative: NotRequired[bool]  # the judge is a relative of the policy, and not of all


class Settings(TypedDict):
    """Pairs of score files of two judges each, score files of one judge's several draws, and the seed and level of the
    intervals.
    """

    pairs: list[list[Rated]]
    drawn: NotRequired[list[Rated]]
    seed: int
    confidence: float


BLOCK = 2**21  # numbers of a block of draws: 16 MiB


def pearson(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the product-moment correlation per draw (draws,), NaN where one side has one value only.

    first, second: values (items,), or one row per draw (draws, items); weights (draws, items) count each item.
    """
    total = weights.sum(axis=1, keepdims=True)
    first = first - (weights * first).sum(axis=1, keepdims=True) / total
    second = second - (weights * second).sum(axis=1, keepdims=True) / total
    together = (weights * first * second).sum(axis=1)
    spread = np.sqrt((weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1))
    return _share(together, spread)


def spearman(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the rank correlation per draw (draws,): Pearson's of the ranks within the draw, ties at their middle."""
    return pearson(weights, _ranks(weights, first), _ranks(weights, second))


def kendall(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b per draw (draws,): (P − Q) / √((N − T_1)(N − T_2)), N pairs, T ties (Kendall 1945).

    P and Q count the pairs of items that both sides order alike and unlike. Time is quadratic in the items.
    """
    total = weights.sum(axis=1)
    pairs = total * (total - 1) / 2
    surplus = np.zeros(len(weights))
    step = max(1, BLOCK // len(first))
    for start in range(0, len(first), step):
        some = slice(start, start + step)
        signs = np.sign(first[:, None] - first[some]) * np.sign(second[:, None] - second[some])
        surplus += ((weights @ signs) * weights[:, some]).sum(axis=1) / 2
    return _share(surplus, np.sqrt((pairs - _ties(weights, first)) * (pairs - _ties(weights, second))))


def exact_agreement(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the share of items with equal values per draw (draws,)."""
    return weights @ (first == second) / weights.sum(axis=1)


def mean_difference(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the mean of `first` minus `second` per draw (draws,)."""
    return weights @ (first - second) / weights.sum(axis=1)


def interval_alpha(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Krippendorff's α of ratings, which disagree by their distance's square, per draw (draws,)."""
    return alpha(weights, np.column_stack([first, second]))


def nominal_alpha(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Krippendorff's α of verdicts, which disagree by being unequal, per draw (draws,)."""
    return alpha(weights, np.column_stack([first, second]), nominal=True)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
    "exact_agreement": exact_agreement,
    "alpha": interval_alpha,
    "mean_difference": mean_difference,
}
CORRELATIONS = ("pearson", "spearman", "kendall")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _counts(weights: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each distinct value was drawn (draws, distinct), rising, and each item's place in that."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    return np.add.reduceat(weights[:, order], starts, axis=1), place


def _ranks(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    counts, place = _counts(weights, values)
    return (counts.cumsum(axis=1) - (counts - 1) / 2)[:, place]


def _ties(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    counts, _ = _counts(weights, values)
    return (counts * (counts - 1)).sum(axis=1) / 2


def compare(
    first: np.ndarray, second: np.ndarray, groups: list[str], settings: dict, nominal: bool = False
) -> list[dict]:
    """Return a row per measure: n, groups, value, ci_low, ci_high, and a note where there is something to say.

    first, second: ratings (items,) of the same items, which are in `groups`; settings: draws, seed, confidence;
    nominal: they are verdicts, and α asks only whether they are equal. A correlation is undefined where a side has one
    value for all items, α where both have it; draws of that kind are left out, and counted.
    """
    if not len(first):
        return [{"measure": name, "n": 0, "groups": 0, "note": "no item in common"} for name in MEASURES]
    # Items that were rated alike count as one: with whole ratings that leaves few, however many items there are.
    rated, of_item = np.unique(np.column_stack([first, second]), axis=0, return_inverse=True)
    names, of_group = np.unique(groups, return_inverse=True)
    together = np.zeros((len(names), len(rated)))
    np.add.at(together, (of_group, of_item.ravel()), 1)
    measures = MEASURES | ({"alpha": nominal_alpha} if nominal else {})
    draws = group_draws(len(names), settings["draws"], settings["seed"])
    samples = _samples(rated, draws, together, measures)
    points = _samples(rated, np.ones((1, len(names))), together, measures)
    items = tuple(map(str, range(len(first))))
    equal = Cell(items, tuple(map(str, groups)), "mean", {"value": (first == second).astype(float)})
    rows = []
    for name in MEASURES:
        row = {"measure": name, "n": len(first), "groups": len(names)}
        if name == "exact_agreement":
            found = interval([equal], 0, 0, settings["confidence"], bounds=(0.0, 1.0))
            ends = {} if found.low is None else {"ci_low": found.low, "ci_high": found.high}
            rows.append(row | {"value": found.value, "note": found.note} | ends)
        else:
            rows.append(row | _interval(points[name][0], samples[name], len(names), settings["confidence"]))
    return rows


def _samples(
    rated: np.ndarray, counts: np.ndarray, together: np.ndarray, measures: dict[str, Callable]
) -> dict[str, np.ndarray]:
    """Return each measure of each draw (draws,), NaN where undefined.

    rated: distinct pairs of ratings (distinct, 2); counts: how often a group was drawn (draws, groups); together: how
    often each pair of ratings is in each group (groups, distinct).
    """
    first, second = rated.T
    step = max(1, BLOCK // sum(together.shape))
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for start in range(0, len(counts), step):
        weights = counts[start : start + step].astype(float) @ together
        constant = [(_counts(weights, side)[0] > 0).sum(axis=1) < 2 for side in (first, second)]
        for name, measure in measures.items():
            values = measure(weights, first, second)
            undefined = (constant[0] | constant[1]) & (name in CORRELATIONS)
            blocks[name].append(np.where(undefined, np.nan, values))
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def _interval(value: float, samples: np.ndarray, groups: int, confidence: float) -> dict:
    """Return value, ci_low, ci_high and note; without numbers where the value is undefined (NaN)."""
    if np.isnan(value):
        return {"note": "undefined: one side has the same value for every item"}  # of α both have it
    kept = samples[~np.isnan(samples)]
    if groups < 2 or np.ptp(kept) <= ROUNDING * max(1.0, abs(value)):
        return {"value": float(value), "note": ONE_GROUP if groups < 2 else ALL_EQUAL}
    low, high = np.percentile(kept, [50 * (1 - confidence), 50 * (1 + confidence)])
    row = {"value": float(value), "ci_low": float(low), "ci_high": float(high)}
    if len(kept) < len(samples):
        row["note"] = f"interval from the {len(kept)} of {len(samples)} draws where it is defined"
    return row


def read_ratings(path: Path) -> list[float | None]:
    """Return a flat JSON list of finite numbers, null where there is no verdict; PlumblineError for anything else."""
    values = read_json(path)
    if not isinstance(values, list):
        raise PlumblineError(f"{path}: expected a flat JSON list of ratings")
    for place, value in enumerate(values):
        number = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
        if value is not None and not number:
            raise PlumblineError(
                f"{path}: rating {place} is {value!r}; ratings are numbers, or null for no verdict"
            )
    return values


def list_rows(paths: list[Path], settings: dict) -> list[dict]:
    """Return the rows that compare two flat lists; PlumblineError when their lengths differ."""
    first, second = read_ratings(paths[0]), read_ratings(paths[1])
    if len(first) != len(second):
        raise PlumblineError(
            f"{paths[0]} has {len(first)} ratings and {paths[1]} {len(second)}: they are paired by place, so a list "
            "needs every item (null where there is no verdict)"
        )
    rated = [
        {str(place): value for place, value in enumerate(side) if value is not None}
        for side in (first, second)
    ]
    named = {
        "policy": "",
        "seed": "",
        "first": paths[0].stem,
        "second": paths[1].stem,
        "subset": "",
        "metric": "",
    }
    groups = {item: item for side in rated for item in side}
    return rows_on_shared_items(named, *rated, groups, settings)


def rows_on_shared_items(
    named: dict, first: dict[str, float], second: dict[str, float], groups: dict[str, str], settings: dict
) -> list[dict]:
    """Return the rows of two {item: rating}, on the items both have; only_first and only_second count the others."""
    shared = [item for item in first if item in second]
    seed = seed_of(settings["seed"], named["first"], named["second"], named["subset"], named["metric"])
    rows = compare(
        np.array([first[item] for item in shared], dtype=float),
        np.array([second[item] for item in shared], dtype=float),
        [groups[item] for item in shared],
        settings | {"seed": seed},
        nominal=named["metric"] in VERDICTS,
    )
    alone = {"only_first": len(first) - len(shared), "only_second": len(second) - len(shared)}
    return [named | row | alone for row in rows]


def read_cells(entry: dict) -> dict[tuple[str, str], dict[str, dict]]:
    """Return {(subset, metric): {"ratings": {item: value}, "groups": {item: group}}} of a score file's ratings.

    A refused score has none.
    """
    score = read_json(entry["file"])
    return {
        (cell["subset"], cell["metric"]): {
            "ratings": dict(zip(cell["items"], cell["columns"]["value"], strict=True)),
            "groups": dict(zip(cell["items"], cell["groups"], strict=True)),
        }
        for cell in score.get("cells") or []
        if cell["metric"] in RATINGS
    }


def pair_rows(pairs: list[list[Rated]], settings: dict) -> list[dict]:
    """Return the rows of pairs of score files, each entry {"policy", "seed", "benchmark", "file"}.

    A pair is one policy's answers under two judges, that is two benchmarks. Cells are those that both files have;
    where two judges share several policies, rows of policy "all" follow, with an item per policy, seed and item.
    """
    rows: list[dict] = []
    pooled: dict[tuple, list[tuple[str, dict, dict]]] = {}
    kin: dict[str, tuple[bool, bool]] = {}
    for first, second in pairs:
        who = {"policy": first["policy"], "seed": first["seed"]}
        if who != {"policy": second["policy"], "seed": second["seed"]}:
            raise PlumblineError(
                f"{first['file']} and {second['file']}: answers of two policies or seeds; "
                "judges are compared on the same"
            )
        judges = {"first": first["benchmark"], "second": second["benchmark"]}
        ours, theirs = read_cells(first), read_cells(second)
        names = [name for name in ours if name in theirs]
        if not names:
            rows.append(
                who
                | judges
                | {
                    "note": f"no ratings in common ({', '.join(RATINGS)}): refused, or another kind of judging"
                }
            )
        for subset, metric in names:
            cells = ours[subset, metric], theirs[subset, metric]
            named = judges | {"subset": subset, "metric": metric}
            rows += _cell_rows(who | named, [("", *cells)], settings)
            prefix = f"{first['policy']}|{first['seed']}|"
            kin[prefix] = bool(first.get("relative")), bool(second.get("relative"))
            pooled.setdefault(tuple(named.items()), []).append((prefix, *cells))
    for named, parts in pooled.items():
        if len(parts) > 1:
            whole = {"policy": ALL, "seed": ALL} | dict(named)
            rows += _cell_rows(whole, parts, settings) + self_preference(whole, parts, kin, settings)
    return rows


def self_preference(
    named: dict,
    parts: list[tuple[str, dict, dict]],
    kin: dict[str, tuple[bool, bool]],
    settings: dict,
) -> list[dict]:
    """Return a row for each of two judges that has relatives among the policies, and others: how much more it favours
    them than the other judge does.

    parts: (prefix of a policy and seed, its cell by the first judge, by the second); kin: by prefix, whether the first
    and the second are relatives. The value is (relatives' mean - others' mean) by the judge less the same by the other,
    on the items that both have rated; the interval is over groups of items.
    """
    rows = []
    for place, judge in enumerate((named["first"], named["second"])):
        related = [kin[prefix][place] for prefix, *_ in parts]
        if all(related) or not any(related):
            continue
        gaps, groups, close = [], [], []
        for own, (_, *cells) in zip(related, parts, strict=True):
            ours, theirs = cells[place]["ratings"], cells[1 - place]["ratings"]
            shared = [item for item in ours if item in theirs]
            gaps += [ours[item] - theirs[item] for item in shared]
            groups += [cells[place]["groups"][item] for item in shared]
            close += [own] * len(shared)
        if all(close) or not any(close):
            continue
        names, of_group = np.unique(groups, return_inverse=True)
        seed = seed_of(settings["seed"], named["first"], named["second"], named["subset"], named["metric"])
        counts = np.vstack([np.ones(len(names)), group_draws(len(names), settings["draws"], seed)])
        weights, near = counts[:, of_group], np.array(close, dtype=float)
        means = [_share(weights @ (side * np.array(gaps)), weights @ side) for side in (near, 1 - near)]
        samples = means[0] - means[1]
        found = _interval(samples[0], samples[1:], len(names), settings["confidence"])
        note = f"how much more {judge} favours its relatives than the other judge does"
        row = named | {"measure": "self_preference", "n": len(gaps), "groups": len(names)} | found
        rows.append(row | {"note": "; ".join(filter(None, [note, found.get("note")]))})
    return rows


def draw_rows(entries: list[Rated], settings: dict) -> list[dict]:
    """Return a row per rating of score files whose judge was drawn several times: Krippendorff's α of its draws."""
    rows = []
    for entry in entries:
        for cell in read_json(entry["file"]).get("cells") or []:
            if "draws" not in cell or cell["metric"] not in RATINGS:
                continue
            named = {"policy": entry["policy"], "seed": entry["seed"], "first": entry["benchmark"]}
            named |= {"second": f"its {len(cell['draws'])} draws"}
            named |= {"subset": cell["subset"], "metric": cell["metric"], "measure": "alpha"}
            names, of_group = np.unique(cell["groups"], return_inverse=True)
            ratings = np.array(cell["draws"], dtype=float).T
            seed = seed_of(settings["seed"], entry["benchmark"], cell["subset"], cell["metric"])
            counts = np.vstack([np.ones(len(names)), group_draws(len(names), settings["draws"], seed)])
            samples = alpha(counts[:, of_group], ratings, nominal=cell["metric"] in VERDICTS)
            found = _interval(samples[0], samples[1:], len(names), settings["confidence"])
            rows.append(named | {"n": len(ratings), "groups": len(names)} | found)
    return rows


def _cell_rows(named: dict, parts: list[tuple[str, dict, dict]], settings: dict) -> list[dict]:
    """Return the rows of one or more (prefix, first cell, second cell); an item is its name after its prefix."""
    first, second, groups = {}, {}, {}
    for prefix, ours, theirs in parts:
        first |= {prefix + item: value for item, value in ours["ratings"].items()}
        second |= {prefix + item: value for item, value in theirs["ratings"].items()}
        groups |= {prefix + item: group for item, group in ours["groups"].items()}
    return rows_on_shared_items(named, first, second, groups, settings)


def fields_of(rows: list[dict]) -> Iterator[list[str]]:
    """Yield the rows' fields as text, numbers with six significant digits."""
    return ([number_text(row.get(name, "")) for name in COLUMNS] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", nargs="*", type=Path, help="two JSON lists of ratings, paired by place")
    parser.add_argument(
        "--settings",
        type=read_settings(Settings),
        help='{"pairs": [[entry, entry]], "seed", "confidence"}, entry: policy, seed, benchmark, file; or - to read it '
        "from standard input",
    )
    parser.add_argument("--output", type=Path, help="judges.csv; without it the rows are printed")
    arguments = parser.parse_args()
    settings = arguments.settings
    if len(arguments.lists) != (0 if settings else 2):
        parser.error("give two lists, or settings with pairs")
    if settings:
        known = settings | {"draws": DRAWS}
        rows = pair_rows(settings["pairs"], known) + draw_rows(settings.get("drawn", []), known)
    else:
        rows = list_rows(arguments.lists, BY_HAND | {"draws": DRAWS})
    if arguments.output is None:
        sys.stdout.write(csv_text(COLUMNS, fields_of(rows)))
    else:
        write_csv(arguments.output, COLUMNS, fields_of(rows))


if __name__ == "__main__":
    run(main)
