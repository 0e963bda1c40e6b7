"""Item scores of a whole study to its results: results.csv (tidy), policies.csv (wide), results.md and results.tex.

Deterministic: numbers have six significant digits (`%.6g`; -0 and rounding dust below 1e-12 are written 0), rows
stand in the order of the index (policies, seeds, then "all" for a policy of several seeds), then benchmarks, subsets
and metrics by first appearance; no time stamps, no costs, no paths.

Each score stands twice: on all items, and on those that share no text with what the policy was trained on. clean_value
leaves out every item with one 13-gram of a training set (Brown et al. 2020), clean8_value those of which at least 70 %
of the 8-grams are found (Chowdhery et al. 2022), and both those that stand in a training set exactly. A policy that no training set of the study made has only clean items;
what its base model has read before is not known here.

Not covered: a clean value of scores that cannot be estimated anew from their items (estimator "replicates").
"""

import argparse
import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path

from workflow_scripts.common.cuts import PROMPT_KINDS, cut_words
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, finished_file, read_json, sha256_of
from workflow_scripts.report.numbers import decimals_of, estimate, markdown_line, markdown_text, shown
from workflow_scripts.report.settings import read_settings
from workflow_scripts.report.spreadsheets import write_csv
from workflow_scripts.report.statistics.cells import (
    Cell,
    bounds_of,
    can_resample,
    is_plain_rate,
    read_cell,
    reduced,
    shared_items,
)
from workflow_scripts.report.statistics.differences import (
    holm,
    mcnemar,
    minimum_detectable,
    paired_difference,
)
from workflow_scripts.report.statistics.draws import draws_for, seed_of
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.report.statistics.intervals import interval

COLUMNS = (
    "study policy parent method seed seeds benchmark subset metric value ci_low ci_high interval n groups "
    "higher_is_better baseline difference difference_low difference_high p_value p_adjusted mcnemar_p mde "
    "clean_value clean_low clean_high clean_n clean8_value clean8_n published_value published_difference "
    "provenance note"
).split()
OVERLAP_COLUMNS = "benchmark item training_set share13 share8 exact match".split()
UNSEEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff\\ufffe\\uffff]+"
)  # no picture, line or file can hold them
MUCH_OF_AN_ITEM = 0.7  # of its 8-grams, from which on the 8-gram rule calls it contaminated
ALL = "all"
WHOLE = ("all", "overall")  # subsets that are the whole benchmark: no heading needs to say so


def load_scores(index: list[dict], provenance: dict[str, dict] | None = None) -> list[dict]:
    """Return one score per index entry: the entry plus what load_score returns, contaminated and answered.

    cells maps (subset, metric) to {"cell": Cell, "higher_is_better": bool or None, "note": str}, in file order;
    contaminated holds the items of the benchmark that the 13-gram and the 8-gram rule call so, None where the
    entry has no overlap file; answered, the counts of the answers it rests on. `provenance`, the records of provenance.json, has the ids; without it a score file's
    digest stands for it. Raises PlumblineError for a malformed score file, a cell named twice, an entry that stands
    twice in the index, a training set that the overlap file does not know, or a score without a record.
    """
    scores = []
    seen = set()
    overlaps = load_overlaps(index)
    for number, entry in enumerate(index):
        missing = [key for key in ("policy", "benchmark", "file") if key not in entry]
        if missing:
            raise PlumblineError(
                f"index entry {number}: {missing[0]!r} is missing; it needs policy, benchmark, file"
            )
        key = (entry["policy"], entry.get("seed"), entry["benchmark"])
        if key in seen:
            raise PlumblineError(
                f"index entry {number}: policy, seed and benchmark {key} stand in the index twice"
            )
        seen.add(key)
        score = entry | load_score(entry["file"]) | {"contaminated": None, "answered": answered_counts(entry)}
        if provenance is not None:
            record = "|".join(str(part) for part in key)
            if record not in provenance:
                raise PlumblineError(f"provenance: no record {record!r}; build provenance.json again")
            score["provenance"] = provenance[record]["id"]
        if entry.get("overlap"):
            score["contaminated"] = contaminated_items(overlaps[entry["overlap"]], entry)
        scores.append(score)
    return scores


def answered_counts(entry: dict) -> dict[str, int]:
    """Return the counts of the answers an index entry rests on, {} where it rests on none.

    Scores that were carried elsewhere come without them.
    """
    path = entry.get("generations")
    return read_json(path).get("counts", {}) if path and Path(path).is_file() else {}


def load_overlaps(index: list[dict]) -> dict[str, dict]:
    """Return the overlap files of the index by path: training set → item → shares of its n-grams and a match."""
    overlaps = {}
    for path in in_order(entry["overlap"] for entry in index if entry.get("overlap")):
        raw = read_json(path)
        sets = raw.get("sets") if isinstance(raw, dict) else None
        if not isinstance(sets, dict) or not all("items" in found for found in sets.values()):
            raise PlumblineError(f"{path}: no 'sets' with 'items'; look for the overlap again")
        overlaps[path] = {name: found["items"] for name, found in sets.items()}
        for name, items in overlaps[path].items():
            for item, found in items.items():
                if not {"13", "8", "match"} <= set(found):
                    raise PlumblineError(
                        f"{path}: item {item!r} of {name!r} needs the shares of its 13-grams and 8-grams and a match; "
                        "look for the overlap with the sizes 13 and 8"
                    )
    return overlaps


def contaminated_items(overlap: dict[str, dict], entry: dict) -> dict[str, set[str]]:
    """Return {"13": items, "8": items} that the two rules call contaminated by any training set of an index entry.

    An item that stands there exactly, by its group or as a whole, is so by both, whatever its n-grams.
    """
    items: dict[str, set[str]] = {"13": set(), "8": set()}
    for name in entry.get("training_sets") or []:
        if name not in overlap:
            raise PlumblineError(
                f"{entry['overlap']}: no training set {name!r}, which made {entry['policy']}; "
                f"it has {', '.join(overlap) or 'none'}: look for the overlap again"
            )
        for item, found in overlap[name].items():
            exact = bool(found.get("exact"))
            if exact or found["13"] > 0:
                items["13"].add(item)
            if exact or found["8"] >= MUCH_OF_AN_ITEM:
                items["8"].add(item)
    return items


def overlap_rows(index: list[dict]) -> list[dict]:
    """Return the rows of overlap.csv: each benchmark item that shares text with a training set, policies aside."""
    overlaps = load_overlaps(index)
    rows = {}
    for entry in index:
        for name, items in overlaps.get(entry.get("overlap"), {}).items():
            for item, found in items.items():
                shares = [float(found["13"]), float(found["8"])]
                row = [entry["benchmark"], item, name, *shares, found.get("exact", ""), found["match"]]
                rows[entry["benchmark"], name, item] = dict(zip(OVERLAP_COLUMNS, row, strict=True))
    return list(rows.values())


def load_score(path: Path | str) -> dict:
    """Return a score file's provenance (12 hex digits), refused (text or None), skipped and cells by (subset, metric).

    skipped: of how many prompts the study skips the verdict.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise PlumblineError(f"{path}: expected an object with 'cells' or 'refused'")
    provenance = str(raw.get("provenance") or sha256_of(path))[:12]
    refused = raw.get("refused")
    if refused is None and not raw.get("cells"):
        raise PlumblineError(f"{path}: no 'cells', and no 'refused' that says why; run the scorer again")
    cells: dict[tuple[str, str], dict] = {}
    for number, cell in enumerate(raw.get("cells") or []):
        where = f"{path}: cells[{number}]"
        if not isinstance(cell, dict) or not {"metric", "higher_is_better"} <= set(cell):
            raise PlumblineError(
                f"{where}: a cell needs metric, higher_is_better, estimator, items, groups, columns"
            )
        if cell["higher_is_better"] not in (True, False, None):
            raise PlumblineError(
                f"{where}: higher_is_better is {cell['higher_is_better']!r}; it is true, false or null"
            )
        name = (_one_line(cell.get("subset") or ""), _one_line(cell["metric"]))
        if name in cells:
            raise PlumblineError(f"{where}: subset {name[0]!r} metric {name[1]!r} stands twice in this file")
        cells[name] = {
            "cell": read_cell(cell, f"{where} ({'/'.join(filter(None, name))})"),
            "higher_is_better": cell["higher_is_better"],
            "note": "; ".join(
                filter(
                    None, [f"fidelity: {cell['fidelity']}" if "fidelity" in cell else "", cell.get("note")]
                )
            ),
        }
    skipped = raw.get("skipped") or 0
    return {"provenance": provenance, "refused": refused, "skipped": skipped, "cells": cells}


def _one_line(name: object) -> str:
    """Return a name as all tables and pictures can show it: names of subsets come from files of others."""
    return UNSEEN.sub(" ", str(name)).strip()


def in_order(values: Iterable) -> list:
    """Return the distinct values in order of first appearance."""
    return list(dict.fromkeys(values))


def score_sets(scores: list[dict]) -> list[dict]:
    """Return the sets that rows are made of: each (policy, seed), and "all" of a policy with seeds of its own.

    A set is {"policy", "parent", "method", "kind", "seed", "headline", "benchmarks": {benchmark: [score per seed]}}.
    headline is true for the one set that stands for its policy: "all" if there is one, else its only seed.
    """
    sets = []
    for policy in in_order(score["policy"] for score in scores):
        own = [score for score in scores if score["policy"] == policy]
        seeds = in_order(score.get("seed") for score in own)
        picks = [(seed, [score for score in own if score.get("seed") == seed]) for seed in seeds]
        if len(seeds) > 1:
            picks.append((ALL, sorted(own, key=lambda score: str(score.get("seed")))))
        for seed, members in picks:
            sets.append(
                {
                    "policy": policy,
                    "parent": own[0].get("parent") or "",
                    "method": own[0].get("method") or "",
                    "kind": own[0].get("kind", "policy"),
                    "seed": "" if seed is None else seed,
                    "headline": seed == ALL or len(seeds) == 1,
                    "benchmarks": {
                        name: [score for score in members if score["benchmark"] == name]
                        for name in _benchmarks(members)
                    },
                }
            )
    return sets


def _benchmarks(scores: list[dict]) -> list[str]:
    return in_order(score["benchmark"] for score in scores)


def members_of(score_set: dict | None, benchmark: str, name: tuple[str, str]) -> list[dict]:
    """Return the scores of the set, one per seed, that have the cell."""
    members = score_set["benchmarks"].get(benchmark, []) if score_set else []
    return [score for score in members if name in score["cells"]]


def baseline_set(sets: list[dict], own: dict, baseline: str | None) -> dict | None:
    """Return the set to compare with, None where nothing compares: the baseline itself and calibration rows.

    A policy's headline is compared with the baseline's; one seed of several with the baseline's same seed, and
    with its headline where it has no such seed.
    """
    if not baseline or own["policy"] == baseline or own["kind"] == "calibration":
        return None
    candidates = [score_set for score_set in sets if score_set["policy"] == baseline]
    headline = next(score_set for score_set in candidates if score_set["headline"])
    same = [score_set for score_set in candidates if score_set["seed"] == own["seed"]]
    return headline if own["headline"] or not same else same[0]


def results(scores: list[dict], settings: dict) -> list[dict]:
    """Return the rows of results.csv, numbers unrounded, with keys COLUMNS and "headline"; empty cells are "".

    settings: study, baseline (a policy or null), draws, seed, confidence. p_adjusted is Holm over every comparison
    of the study; headlines and the single seeds behind them, which hold the same evidence, are two families. There are
    as many draws as a comparison needs to pass Holm's correction, at least those of the settings; where no p-value of a
    row can pass, its note says why.
    """
    sets = score_sets(scores)
    policies = in_order(own["policy"] for own in sets)
    if settings.get("baseline") and settings["baseline"] not in policies:
        raise PlumblineError(
            f"report.baseline: {settings['baseline']!r} has no scores; policies: {', '.join(policies)}"
        )
    names = {
        benchmark: in_order(name for s in scores if s["benchmark"] == benchmark for name in s["cells"])
        for benchmark in _benchmarks(scores)
    }
    compared = [
        own["headline"]
        for benchmark in names
        for name in names[benchmark]
        for own in sets
        if members_of(own, benchmark, name)
        and members_of(baseline_set(sets, own, settings.get("baseline")), benchmark, name)
    ]
    most = max(compared.count(True), compared.count(False))
    settings = settings | {"draws": draws_for(most, settings["draws"], settings["confidence"])}
    rows: dict[tuple, dict] = {}
    for benchmark in names:
        for name in names[benchmark]:  # cell by cell, because the policies of one cell share their draws
            own_scores = [score for score in scores if score["benchmark"] == benchmark]
            cells = [s["cells"][name]["cell"] for s in own_scores if name in s["cells"]]
            scale = {"rate": is_plain_rate(cells), "bounds": bounds_of(cells)}
            for number, own in enumerate(sets):
                if members_of(own, benchmark, name):
                    rows[number, benchmark, name] = _row(sets, own, benchmark, name, settings, scale)
    ordered = []
    for number, own in enumerate(sets):
        for benchmark, members in own["benchmarks"].items():
            if all(score["refused"] is not None for score in members):
                ordered.append(_refusal_row(own, benchmark, settings))
            ordered += [
                rows[number, benchmark, n] for n in names[benchmark] if (number, benchmark, n) in rows
            ]
    for headline in (True, False):
        compared = [row for row in ordered if row["p_value"] != "" and row["headline"] == headline]
        for row, adjusted in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
            row["p_adjusted"] = adjusted
            least = row["least_p_value"] * len(compared)
            if row["least_p_value"] < 1 and least > 1 - settings["confidence"]:
                note = (
                    f"no p-value can pass Holm's correction over {len(compared)} comparisons: {row['limit']}"
                )
                row["note"] = "; ".join(filter(None, [row["note"], note]))
    set_beside(ordered, settings.get("published") or [])
    return ordered


def set_beside(rows: list[dict], published: list[dict]) -> None:
    """Fill published_value, published_difference (ours minus theirs) and published_source of the rows they belong to.

    published: [{"policy", "benchmark", "subset", "metric", "value", "source"}], in the scorer's own unit. A benchmark
    that was refused for the policy has no row to fill. Raises PlumblineError, with the nearest names, for an entry that
    belongs to no row, and for two that belong to one.
    """
    by_name: dict[tuple, list[dict]] = {}
    for row in rows:
        by_name.setdefault(_name_of(row), []).append(row)
    for entry in published:
        if (entry["policy"], entry["benchmark"], "", "") in by_name:
            continue
        own = by_name.get(_name_of(entry), [])
        if not own:
            written = {" ".join(filter(None, name)): name for name in by_name}
            nearest = difflib.get_close_matches(
                " ".join(filter(None, _name_of(entry))), written, n=3, cutoff=0.0
            )
            raise PlumblineError(
                f"report.published: no score {_shown(_name_of(entry))}; the nearest are "
                f"{', '.join(_shown(written[name]) for name in nearest)}"
            )
        for row in own:
            if row["published_value"] != "":
                raise PlumblineError(f"report.published: {_shown(_name_of(entry))} stands there twice")
            row["published_value"], row["published_source"] = float(entry["value"]), entry["source"]
            if row["value"] != "":
                row["published_difference"] = row["value"] - row["published_value"]


def _name_of(row: dict) -> tuple[str, str, str, str]:
    return row["policy"], row["benchmark"], row["subset"] or "", row["metric"]


def _shown(name: tuple[str, str, str, str]) -> str:
    return f"{name[0]} {'/'.join(filter(None, name[1:]))}"


def _row(
    sets: list[dict], own: dict, benchmark: str, name: tuple[str, str], settings: dict, scale: dict
) -> dict:
    """Return a cell's row: its estimate on all and on clean items and, on the items both have, its difference.

    scale: {"rate", "bounds"}, what the items of all policies' cells are (see is_plain_rate and bounds_of).
    """
    members = members_of(own, benchmark, name)
    other = baseline_set(sets, own, settings.get("baseline"))
    found = [score["cells"][name] for score in members]
    cells = [part["cell"] for part in found]
    other_cells = [score["cells"][name]["cell"] for score in members_of(other, benchmark, name)]
    try:
        own_items = shared_items(cells)
        shared = shared_items([*cells, *other_cells])
    except PlumblineError as error:
        where = "/".join(filter(None, [benchmark, *name]))
        raise PlumblineError(f"{where} of {own['policy']}: {error}; score all policies again") from None
    seed = seed_of(settings["seed"], benchmark, *name)
    arguments = {"draws": settings["draws"], "seed": seed, "confidence": settings["confidence"]}
    arguments["bounds"] = scale["bounds"]
    better = found[0]["higher_is_better"]
    row = _blank(own, benchmark, members, settings)
    row |= {"subset": name[0], "metric": name[1], "higher_is_better": "" if better is None else better}
    row |= {"n": len(own_items[0].items), "groups": len(set(own_items[0].groups))}
    notes = [found[0]["note"], cut_prompts(members), _items_note("averaged over the seeds", own_items, cells)]
    notes += [f"without seed {each}: {reason}" for each, reason in refusals(own, benchmark).items()]
    notes += [skipped_prompts(score) for score in members]
    if own_items[0].items:
        found_here = _estimated(own_items, arguments)
        notes.append(found_here.pop("note"))
        row |= found_here | _cleaned(found_here, row["subset"], own_items, members, arguments)
        notes += in_order(map(unscored_overlap, members))
        notes.append(_replicates_note(own_items, row["subset"], members))
    if other_cells:
        row["baseline"] = other["policy"]
        if shared[0].items and can_resample(shared) and row["value"] != "":
            difference = _compared(shared[: len(cells)], shared[len(cells) :], scale["rate"], arguments)
            notes.append(difference.pop("note"))
            row |= difference
        notes.append(_items_note("compared", shared, [*cells, *other_cells]))
    elif other and (reasons := refusals(other, benchmark)):
        notes.append(f"not compared with {other['policy']}: {next(iter(reasons.values()))}")
    elif other:
        notes.append(f"not compared with {other['policy']}: it has no such score")
    return row | {"note": "; ".join(filter(None, in_order(notes)))}


def _estimated(cells: list[Cell], arguments: dict) -> dict:
    """Return a row's value, ci_low, ci_high, interval and note; empty where they are no finite number."""
    value = point_estimate(cells)
    row: dict = {"value": value, "ci_low": "", "ci_high": "", "interval": "", "note": ""}
    if not math.isfinite(value):
        return row | {"value": "", "note": f"no finite value: {value}"}
    if not can_resample(cells):
        return row
    found = interval(cells, **arguments)
    row["note"] = found.note
    if found.low is None:
        return row
    return row | {"ci_low": found.low, "ci_high": found.high, "interval": found.method}


def _compared(first: list[Cell], second: list[Cell], rate: bool, arguments: dict) -> dict:
    """Return the columns of a paired difference; McNemar's where each side is one seed's plain rate.

    Where no draw differs from another, nothing is known of what could have been seen: mde is left empty. Beside the
    columns stand the least p-value that there could have been, and what it is limited by.
    """
    found = paired_difference(first, second, **arguments)
    if not math.isfinite(found.value):
        return {"note": "not compared: no finite difference"}
    detectable = minimum_detectable(found.standard_error, arguments["confidence"])
    return {
        "difference": found.value,
        "difference_low": "" if found.low is None else found.low,
        "difference_high": "" if found.high is None else found.high,
        "p_value": found.p_value,
        "mcnemar_p": mcnemar(first[0], second[0]) if rate and len(first) == len(second) == 1 else "",
        "mde": detectable if detectable > 0 else "",
        "note": found.note,
        "least_p_value": found.least_p_value,
        "limit": found.limit,
    }


def _cleaned(found: dict, subset: str, cells: list[Cell], members: list[dict], arguments: dict) -> dict:
    """Return the clean columns of a row; an item that any seed's training has seen is contaminated for all of them.

    found: what _estimated says of all items.
    """
    dirty = _contaminated(members)
    if dirty is None or cells[0].estimator == "replicates":
        return {}
    kept = {rule: clean_items(cells[0].items, subset, dirty[rule]) for rule in dirty}
    columns: dict = {"clean_n": len(kept["13"]), "clean8_n": len(kept["8"])}
    if len(kept["13"]) == len(cells[0].items):  # no need to draw again
        estimate = found
    elif kept["13"]:
        estimate = _estimated([reduced(cell, kept["13"]) for cell in cells], arguments)
    else:
        estimate = dict.fromkeys(("value", "ci_low", "ci_high"), "")
    columns |= {"clean_value": estimate["value"]}
    columns |= {"clean_low": estimate["ci_low"], "clean_high": estimate["ci_high"]}
    if kept["8"] and found["value"] != "":
        value = point_estimate([reduced(cell, kept["8"]) for cell in cells])
        columns["clean8_value"] = value if math.isfinite(value) else ""
    return columns


def _contaminated(members: list[dict]) -> dict[str, set[str]] | None:
    """Return the items that any seed's training has seen, by rule; None where one of them was not looked for."""
    found = [score["contaminated"] for score in members]
    if None in found:
        return None
    return {rule: set().union(*(each[rule] for each in found)) for rule in ("13", "8")}


def _replicates_note(cells: list[Cell], subset: str, members: list[dict]) -> str:
    """Return a note where items of a refitted score overlap, as such a score has no clean value."""
    dirty = _contaminated(members)
    if cells[0].estimator != "replicates" or not dirty:
        return ""
    items = cells[0].items
    count = len(items) - len(clean_items(items, subset, dirty["13"]))
    return (
        f"{count} of {len(items)} items overlap with training data; refits have no clean value"
        if count
        else ""
    )


def cut_prompts(scores: list[dict]) -> str:
    """Return a note where prompts that were answered had to be cut, over all seeds; whatever scored the answers."""
    counts = {
        kind: sum(score["answered"].get(kind, 0) for score in scores) for kind in ("answers", *PROMPT_KINDS)
    }
    words = cut_words(counts)
    return f"of {counts['answers']} answers: {words}" if words else ""


def skipped_prompts(score: dict) -> str:
    """Return a note on the prompts whose verdict the study skips: they are part of no value here."""
    count = score["skipped"]
    if not count:
        return ""
    return "1 prompt is skipped by the study" if count == 1 else f"{count} prompts are skipped by the study"


def unscored_overlap(score: dict) -> str:
    """Return a note where no cell of a score has an item by the name of one that overlaps: clean says nothing then."""
    overlapping = (score["contaminated"] or {"13": set()})["13"]
    scored = ((item, subset) for (subset, _), c in score["cells"].items() for item in c["cell"].items)
    if not overlapping or any(item_names(item, subset) & overlapping for item, subset in scored):
        return ""
    return f"none of the {len(overlapping)} items that overlap is scored under that name"


def item_names(item: str, subset: str) -> set[str]:
    """Return what an overlap file may call a cell's item: its name, with its subset before it, or without its turn.

    The two replies of a pair are one there.
    """
    pair = item.removesuffix("/original").removesuffix("/altered")
    return {item, f"{subset}/{item}", item.split("#")[0], item.rsplit("#", 1)[0], pair}


def clean_items(items: tuple[str, ...], subset: str, contaminated: set[str]) -> tuple[str, ...]:
    """Return the items of a cell that are not contaminated under any of their names, in order."""
    if not contaminated:
        return items
    return tuple(item for item in items if not item_names(item, subset) & contaminated)


def _items_note(what: str, shared: list[Cell], cells: list[Cell]) -> str:
    every = len(set().union(*(cell.items for cell in cells)))
    count = len(shared[0].items)
    if count and not can_resample(shared):
        return f"not {what} draw by draw: resampled on other items"
    if count == every:
        return ""
    return f"{what} on {count} of {every} items" if count else f"not {what}: no item in common"


def refusals(own: dict, benchmark: str) -> dict:
    """Return {seed: why it has no score} of a set's seeds that were refused one."""
    scores = own["benchmarks"].get(benchmark, [])
    return {s.get("seed"): " ".join(str(s["refused"]).split()) for s in scores if s["refused"] is not None}


def _refusal_row(own: dict, benchmark: str, settings: dict) -> dict:
    members = own["benchmarks"][benchmark]
    reasons = in_order(refusals(own, benchmark).values())
    return _blank(own, benchmark, members, settings) | {"n": 0, "groups": 0, "note": "; ".join(reasons)}


def _blank(own: dict, benchmark: str, members: list[dict], settings: dict) -> dict:
    row = dict.fromkeys(COLUMNS, "")
    provenance = [score["provenance"] for score in members]
    return row | {
        "study": settings["study"],
        "policy": own["policy"],
        "parent": own["parent"],
        "method": own["method"],
        "seed": own["seed"],
        "headline": own["headline"],
        "seeds": len(members),
        "benchmark": benchmark,
        "provenance": provenance[0] if len(provenance) == 1 else digest(provenance)[:12],
    }


def number_text(value: float | int | bool | str) -> str:
    """Return a CSV field: floats with six significant digits, booleans as true/false, the rest as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(0.0 if abs(value) < 1e-12 else value, ".6g")
    return str(value)


def write_table(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write rows as CSV, atomically."""
    write_csv(path, columns, ([number_text(row.get(column, "")) for column in columns] for row in rows))


def cell_name(row: dict) -> str:
    """Return benchmark/subset/metric, without the parts that are empty."""
    return "/".join(filter(None, [row["benchmark"], row["subset"], row["metric"]]))


def wide(rows: list[dict]) -> tuple[list[str], list[dict]]:
    """Return columns and rows of policies.csv: a line per policy and seed, a column per benchmark/subset/metric."""
    facts = ["policy", "parent", "method", "seed", "seeds"]
    lines: dict[tuple, dict] = {}
    for row in rows:
        line = lines.setdefault((row["policy"], row["seed"]), {key: row[key] for key in facts})
        line["seeds"] = max(row["seeds"], line["seeds"])
        if row["value"] != "":
            line[cell_name(row)] = row["value"]
    benchmarks = in_order(row["benchmark"] for row in rows)
    scored = sorted(_scored(rows), key=lambda row: benchmarks.index(row["benchmark"]))
    return [*facts, *in_order(map(cell_name, scored))], list(lines.values())


def _scored(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["value"] != ""]


def headline_cells(rows: list[dict], bars: list[dict]) -> list[str]:
    """Return the cells that stand for the study: those of the bar chart, and the first of each other benchmark."""
    scored = _scored(rows)
    known = in_order(map(cell_name, scored))
    chosen = [name for name in map(cell_name, bars) if name in known]
    charted = {bar["benchmark"] for bar in bars}
    firsts = {row["benchmark"]: cell_name(row) for row in reversed(scored) if row["benchmark"] not in charted}
    return chosen + [name for name in known if name in firsts.values()]


def markdown(rows: list[dict], settings: dict) -> str:
    """Return results.md: the headline cells, then every cell by benchmark, clear gains over the baseline bold.

    settings: those of `results`, and bars [{benchmark, subset, metric}], the cells of the bar chart.
    """
    rows = [row for row in rows if row["headline"]]
    text = [f"# Results of study {settings['study']}", "", _legend(rows, settings)]
    grid = headline_grid(rows, settings)
    if grid:
        text += ["", "## Headlines", "", *_markdown_table(grid)]
    for benchmark in in_order(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == benchmark]
        text += ["", f"## {benchmark}"]
        if _scored(own):
            text += ["", *_markdown_table(_grid(_scored(own), in_order(map(cell_name, _scored(own)))))]
        refused: dict[str, list[str]] = {}
        for row in own:
            if row["value"] == "":
                refused.setdefault(row["note"], []).append(f"`{row['policy']}`")
        for reason, policies in refused.items():
            text += ["", f"Not scored ({', '.join(policies)}): {markdown_text(reason)}"]
        text += _clean_lines(_scored(own))
    published = [row for row in rows if row["published_value"] != ""]
    if published:
        text += ["", "## Published values", "", *_published_table(published)]
    return "\n".join(text) + "\n"


INTERVALS = {
    "korn_graubard": "Korn and Graubard's over groups of items, where items have bounds",
    "wilson": "Wilson's where each item counts alone and is right or wrong",
    "bootstrap": "bootstrap over groups of items",
    "replicates": "refits on draws of groups",
}


def _legend(rows: list[dict], settings: dict) -> str:
    level = number_text(100.0 * settings["confidence"])
    used = {row["interval"] for row in rows}
    ways = "; ".join(text for name, text in INTERVALS.items() if name in used)
    legend = (
        f"Each number is a value ± half the width of its {level} % interval, or [low, high] where that is not symmetric"
        f"{f' ({ways})' * bool(ways)}. One without has no interval: its note in results.csv says why. "
        "↑ higher is better, ↓ lower is better."
    )
    if settings.get("baseline"):
        legend += (
            f" **Bold**: better than `{settings['baseline']}`, the {level} % interval of the paired difference "
            "lying wholly on the good side of 0 (before Holm's correction; `p_adjusted` in results.csv is after it)."
        )
    if any(row["policy"] == "gold" for row in rows):
        legend += (
            " `gold` and `empty` are no policies: the scorers' marks for the reference answers and for none."
        )
    return legend


def headline_grid(rows: list[dict], settings: dict) -> dict:
    """Return the grid of the headline cells, {} where nothing is scored; rows and settings as for `markdown`."""
    rows = [row for row in rows if row["headline"]]
    cells = headline_cells(rows, settings.get("bars") or [])
    own = [row for row in _scored(rows) if cell_name(row) in cells]
    return _grid(own, cells, with_benchmark=True) if own else {}


def _grid(rows: list[dict], cells: list[str], with_benchmark: bool = False) -> dict:
    """Return what a table to read is made of, for each language to write: policies by cells.

    {"columns": [(title, True if higher is better, False or "")], "lines": [(policy, seeds, [row or None])],
    "counts": [items, and groups where these are fewer]}.
    """
    found = {(row["policy"], cell_name(row)): row for row in rows}
    columns, counts = [], []
    for name in cells:
        own = [row for row in rows if cell_name(row) == name]
        subset = "" if own[0]["subset"] in (*WHOLE, own[0]["benchmark"]) else own[0]["subset"]
        parts = [own[0]["benchmark"] if with_benchmark else "", subset, own[0]["metric"]]
        columns.append((" ".join(filter(None, parts)), own[0]["higher_is_better"]))
        items, groups = _span(own, "n"), _span(own, "groups")
        counts.append(items if items == groups else f"{items} in {groups}")
    lines = []
    for policy in in_order(row["policy"] for row in rows):
        seeds = max(row["seeds"] for row in rows if row["policy"] == policy)
        lines.append((policy, seeds, [found.get((policy, name)) for name in cells]))
    return {"columns": columns, "lines": lines, "counts": counts}


def _span(rows: list[dict], key: str) -> str:
    counts = [row[key] for row in rows]
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"


def _markdown_table(grid: dict) -> list[str]:
    arrows = {True: " ↑", False: " ↓", "": ""}
    titles = [title + arrows[better] for title, better in grid["columns"]]
    lines = [markdown_line(["policy", *titles]), markdown_line(["---"] + ["---:"] * len(titles))]
    for policy, seeds, rows in grid["lines"]:
        label = f"`{policy}`" + (f" ({seeds} seeds)" if seeds > 1 else "")
        lines.append(markdown_line([label, *map(_markdown_cell, rows)]))
    return [*lines, markdown_line(["*items (in groups)*", *grid["counts"]])]


def _markdown_cell(row: dict | None) -> str:
    if row is None:
        return "–"
    text = estimate(row["value"], row["ci_low"], row["ci_high"])
    return f"**{text}**" if clearly_better(row) else text


def _clean_lines(rows: list[dict]) -> list[str]:
    """Return lines on the scores that leave their interval without what overlaps."""
    moved: dict[str, list[str]] = {}
    for row in filter(clearly_moved, rows):
        name = " ".join(filter(None, [row["subset"], row["metric"]]))
        decimals = decimals_of(row["value"], row["ci_low"], row["ci_high"])
        values = f"{shown(row['clean_value'], decimals)} instead of {shown(row['value'], decimals)}"
        moved.setdefault(row["policy"], []).append(f"{name} {values} ({row['clean_n']} of {row['n']} items)")
    bare = in_order(f"`{row['policy']}`" for row in rows if row["clean_n"] == 0)
    text = []
    if moved:
        text += [
            "",
            "Without the items that share 13 words in a row with the policy's training data, or stand there exactly:",
            "",
        ]
        text += [f"- `{policy}`: {markdown_text(', '.join(scores))}" for policy, scores in moved.items()]
    if bare:
        text += [
            "",
            "No clean item is left in some score: each is in, or shares 13 words in a row with, the training data "
            f"of {', '.join(bare)}.",
        ]
    return text


def clearly_moved(row: dict) -> bool:
    """Return whether a row's clean value is outside the interval of its value."""
    if row["clean_value"] == "" or row["ci_low"] == "":
        return False
    return not row["ci_low"] <= row["clean_value"] <= row["ci_high"]


def _published_table(rows: list[dict]) -> list[str]:
    lines = [markdown_line(["policy", "score", "here", "published", "difference", "source"])]
    lines.append(markdown_line(["---", "---", "---:", "---:", "---:", "---"]))
    for row in rows:
        decimals = decimals_of(row["published_value"])
        there = shown(row["published_value"], decimals)
        here, difference = "–", "–"
        if row["value"] != "":
            here = _markdown_cell(row).replace("*", "")
            sign = "+" if row["published_difference"] > 0 else ""
            difference = sign + shown(row["published_difference"], decimals)
        cells = [f"`{row['policy']}`", cell_name(row), here, there, difference, row["published_source"]]
        lines.append(markdown_line(cells))
    return lines


LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def latex(rows: list[dict], settings: dict) -> str:
    """Return results.tex: the headline table of results.md as a booktabs tabular, to be \\input into a table."""
    grid = headline_grid(rows, settings)
    if not grid:
        return "% nothing is scored\n"
    arrows = {True: r" $\uparrow$", False: r" $\downarrow$", "": ""}
    titles = [latex_text(title) + arrows[better] for title, better in grid["columns"]]
    lines = [
        r"% \usepackage{booktabs}; value $\pm$ half its interval, or [low, high]; bold where clearly better than the baseline",
        r"\begin{tabular}{l" + "r" * len(titles) + "}",
        r"\toprule",
        _latex_line(["policy", *titles]),
        r"\midrule",
    ]
    for policy, seeds, own in grid["lines"]:
        label = rf"\texttt{{{latex_text(policy)}}}" + (f" ({seeds} seeds)" if seeds > 1 else "")
        lines.append(_latex_line([label, *map(_latex_cell, own)]))
    counts = [latex_text(count) for count in grid["counts"]]
    lines += [
        r"\midrule",
        _latex_line([r"\emph{items (in groups)}", *counts]),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Return text with everything that LaTeX would read as a command escaped."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def _latex_line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(row: dict | None) -> str:
    if row is None:
        return "--"
    text = estimate(row["value"], row["ci_low"], row["ci_high"]).replace("-", "$-$").replace("±", r"$\pm$")
    return rf"\textbf{{{text}}}" if clearly_better(row) else text


def clearly_better(row: dict) -> bool:
    """Return whether the interval of the paired difference lies wholly on the good side of zero.

    Never where no direction is good, nor where the difference has no interval.
    """
    if row["difference"] == "" or row["difference_low"] == "" or row["higher_is_better"] == "":
        return False
    return row["difference_low"] > 0 if row["higher_is_better"] else row["difference_high"] < 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--index", required=True, type=Path, help="JSON list of score files with policy and seed"
    )
    parser.add_argument(
        "--settings",
        required=True,
        type=read_settings,
        help="study, baseline, draws, seed, confidence, bars, published; - reads standard input",
    )
    parser.add_argument("--provenance", type=Path, help="provenance.json, whose ids the rows shall carry")
    parser.add_argument("--output", required=True, type=Path, help="tidy table, CSV")
    parser.add_argument("--wide", required=True, type=Path, help="a line per policy and seed, CSV")
    parser.add_argument("--markdown", required=True, type=Path, help="tables to read, Markdown")
    parser.add_argument("--latex", required=True, type=Path, help="the headline table, LaTeX")
    parser.add_argument("--overlap-output", required=True, type=Path, help="items that overlap, CSV")
    arguments = parser.parse_args()
    index = read_json(arguments.index)
    if not isinstance(index, list) or not index:
        raise PlumblineError(f"{arguments.index}: expected a list with at least one score file")
    records = read_json(arguments.provenance)["records"] if arguments.provenance else None
    rows = results(load_scores(index, records), arguments.settings)
    write_table(arguments.wide, *wide(rows))
    write_table(arguments.overlap_output, OVERLAP_COLUMNS, overlap_rows(index))
    for path, text in ((arguments.markdown, markdown), (arguments.latex, latex)):
        with finished_file(path) as temporary:
            temporary.write_text(text(rows, arguments.settings), encoding="utf-8")
    write_table(arguments.output, COLUMNS, rows)


if __name__ == "__main__":
    run(main)
