"""The score files of a study as its index lists them, and the sets of them that rows of the table are made of."""

import re
from collections.abc import Iterable
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.report.overlaps import allowed_overlap, contaminated_items, load_overlaps
from workflow_scripts.report.statistics.cells import read_cell

UNSEEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff\\ufffe\\uffff]+"
)  # no picture, line or file can hold them
ALL = "all"
AGAIN = "again"  # what stands for the method of a policy that answers again


def load_scores(index: list[dict], provenance: dict[str, dict] | None = None) -> list[dict]:
    """Return one score per index entry: the entry plus what load_score returns, contaminated and answered.

    cells maps (subset, metric) to {"cell": Cell, "higher_is_better": bool or None, "note": str}, in file order;
    contaminated holds the items of the benchmark that the 13-gram and the 8-gram rule call so, None where the entry
    has no overlap file; answered, the counts of the answers it rests on; chosen, by what its policy was,
    in words; allowed, of a study that allows overlap, how much of it there is, in words. `provenance`, the records of
    provenance.json, has the ids; without it a score file's digest stands for it. Raises PlumblineError for a
    malformed score file, a cell named twice, an entry that stands twice in the index, a training set that the overlap
    file does not know, or a score without a record.
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
        score["chosen"] = chosen_by(entry)
        if provenance is not None:
            record = "|".join(str(part) for part in key)
            if record not in provenance:
                raise PlumblineError(f"provenance: no record {record!r}; build provenance.json again")
            score["provenance"] = provenance[record]["id"]
        if entry.get("overlap"):
            score["contaminated"] = contaminated_items(overlaps[entry["overlap"]], entry)
        score["allowed"] = allowed_overlap(overlaps, entry)
        scores.append(score)
    return scores


def answered_counts(entry: dict) -> dict[str, int]:
    """Return the counts of the answers an index entry rests on, {} where it rests on none.

    Scores that were carried elsewhere come without them.
    """
    path = entry.get("generations")
    return read_json(path).get("counts", {}) if path and Path(path).is_file() else {}


def chosen_by(entry: dict) -> str:
    """Return in words by what the policy of an index entry was chosen, "" where it was not, or nobody can tell."""
    path = entry.get("chosen")
    manifest = read_json(path) if path and Path(path).is_file() else {}
    if "choice" in manifest:
        return choice_words(manifest["choice"])
    if "watched" not in manifest:  # its training diverged, or the scores were carried elsewhere
        return ""
    watched = manifest["watched"]
    return (
        f"step {watched['step']} of {manifest['steps']} is kept, chosen by {watched['metric']} "
        f"({watched['value']:.6g}) of its answers to {watched['prompts']} validation prompts"
    )


def choice_words(choice: dict) -> str:
    """Return in words which of several policies stands in a row, by what it was chosen, and what the others had."""
    values = choice["values"]
    others = [
        f"{name} {'diverged' if value is None else f'{value:.6g}'}"
        for name, value in values.items()
        if name != choice["chosen"]
    ]
    seeds = f", the mean over {choice['seeds']} seeds" if choice["seeds"] > 1 else ""
    return (
        f"{choice['chosen']}, chosen among {len(values)} by {choice['by']}{seeds}: {values[choice['chosen']]:.6g} "
        f"({', '.join(others)})"
    )


def load_score(path: Path | str) -> dict:
    """Return a score file's provenance (12 hex digits), refused (text or None), skipped and cells by (subset, metric).

    skipped: of how many prompts the study skips the verdict. A cell of a judge's draws also has `drawn`, the mean of
    each draw over the items that all draws have.
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
        name = (one_line(cell.get("subset") or ""), one_line(cell["metric"]))
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
        whole = [values for values in zip(*cell.get("draws", []), strict=True) if None not in values]
        if whole:
            cells[name]["drawn"] = [sum(draw) / len(draw) for draw in zip(*whole, strict=True)]
    skipped = raw.get("skipped") or 0
    return {"provenance": provenance, "refused": refused, "skipped": skipped, "cells": cells}


def one_line(name: object) -> str:
    """Return a name as all tables and pictures can show it: names of subsets come from files of others."""
    return UNSEEN.sub(" ", str(name)).strip()


def in_order(values: Iterable) -> list:
    """Return the distinct values in order of first appearance."""
    return list(dict.fromkeys(values))


def score_sets(scores: list[dict]) -> list[dict]:
    """Return the sets that rows are made of: each (policy, seed), and "all" of a policy with seeds of its own.

    A set is {"policy", "parent", "method", "kind", "of", "seed", "headline", "benchmarks": {benchmark: [score per
    seed]}}. headline is true for the one set that stands for its policy: "all" if there is one, else its only seed. A
    set of kind noise is the policy `of`, answering again.
    """
    sets = []
    for policy in in_order(score["policy"] for score in scores):
        own = [score for score in scores if score["policy"] == policy]
        seeds = in_order(score.get("seed") for score in own)
        kind = own[0].get("kind", "policy")
        picks = [(seed, [score for score in own if score.get("seed") == seed]) for seed in seeds]
        if len(seeds) > 1:
            picks.append((ALL, sorted(own, key=lambda score: str(score.get("seed")))))
        for seed, members in picks:
            sets.append(
                {
                    "policy": policy,
                    "parent": own[0].get("parent") or "",
                    "method": AGAIN if kind == "noise" else own[0].get("method") or "",
                    "kind": kind,
                    "of": own[0].get("of", ""),
                    "seed": "" if seed is None else seed,
                    "headline": seed == ALL or len(seeds) == 1,
                    "benchmarks": {
                        name: [score for score in members if score["benchmark"] == name]
                        for name in benchmarks_of(members)
                    },
                }
            )
    return sets


def benchmarks_of(scores: list[dict]) -> list[str]:
    return in_order(score["benchmark"] for score in scores)


def members_of(score_set: dict | None, benchmark: str, name: tuple[str, str]) -> list[dict]:
    """Return the scores of the set, one per seed, that have the cell."""
    members = score_set["benchmarks"].get(benchmark, []) if score_set else []
    return [score for score in members if name in score["cells"]]


def baseline_set(sets: list[dict], own: dict, baseline: str | None) -> dict | None:
    """Return the set to compare with, None where nothing compares: the baseline itself and calibration rows.

    What answers again is compared with the policy that it is, whatever the baseline. Else a policy's headline is
    compared with the baseline's; one seed of several with the baseline's same seed, and with its headline where it has
    no such seed.
    """
    baseline = own["of"] if own["kind"] == "noise" else baseline
    if not baseline or own["policy"] == baseline or own["kind"] == "calibration":
        return None
    candidates = [score_set for score_set in sets if score_set["policy"] == baseline]
    headline = next(score_set for score_set in candidates if score_set["headline"])
    same = [score_set for score_set in candidates if score_set["seed"] == own["seed"]]
    return headline if own["headline"] or not same else same[0]


def refusals(own: dict, benchmark: str) -> dict:
    """Return {seed: why it has no score} of a set's seeds that were refused one."""
    scores = own["benchmarks"].get(benchmark, [])
    return {s.get("seed"): " ".join(str(s["refused"]).split()) for s in scores if s["refused"] is not None}
