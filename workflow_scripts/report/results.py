"""From item scores to the rows of results.csv: estimates with intervals, differences to the baseline, and notes."""

import difflib
import math

import numpy as np
from typing_extensions import TypedDict

from workflow_scripts.common.cuts import PROMPT_KINDS, cut_words
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest
from workflow_scripts.report.overlaps import clean_items, contaminated_of, unscored_overlap
from workflow_scripts.report.rows import fill_noise, than_baseline
from workflow_scripts.report.scores import (
    baseline_set,
    benchmarks_of,
    in_order,
    members_of,
    refusals,
    score_sets,
)
from workflow_scripts.report.settings import Bar
from workflow_scripts.report.statistics.cells import (
    Cell,
    bounds_of,
    can_resample,
    is_plain_rate,
    reduced,
    shared_items,
)
from workflow_scripts.report.statistics.differences import (
    holm,
    items_apart,
    mcnemar,
    paired_difference,
)
from workflow_scripts.report.statistics.draws import draws_for, seed_of
from workflow_scripts.report.statistics.estimators import point_estimate, seed_estimates
from workflow_scripts.report.statistics.intervals import interval


class Published(TypedDict):
    """A number that a source gives for a cell of results.csv, in its unit."""

    policy: str
    benchmark: str
    subset: str
    metric: str
    value: float
    source: str


class Settings(TypedDict):
    """What the results table is made by; `baseline` is the policy that the others are compared with."""

    study: str
    baseline: str | None
    draws: int
    seed: int
    confidence: float
    bars: list[Bar]
    headline: list[Bar]
    published: list[Published]


# results_full.csv; what most readers want of it is results.csv. docs/read-the-table.md says what each is.
COLUMNS = (
    "study policy parent method seed seeds benchmark subset metric value ci_low ci_high interval training_luck "
    "seed_sd seed_low seed_high n groups higher_is_better baseline difference difference_low difference_high "
    "difference_luck than_baseline p_value p_adjusted mcnemar_p mde noise "
    "clean_value clean_low clean_high clean_n clean8_value clean8_n published_value published_difference "
    "provenance note"
).split()
FEWER = (
    "policy parent method seed seeds benchmark subset metric value ci_low ci_high interval training_luck n groups "
    "higher_is_better baseline difference difference_low difference_high than_baseline p_adjusted provenance note"
).split()


def results(scores: list[dict], settings: Settings) -> list[dict]:
    """Return the rows of the table, numbers unrounded, with keys COLUMNS and "headline"; empty cells are "".

    p_adjusted is Holm over every comparison of the study with its baseline; headlines and the single seeds behind them,
    which hold the same evidence, are two families, and what answers again is in neither. There are as many draws as a
    comparison needs to pass Holm's correction, at least those of the settings; where no p-value of a row can pass, its
    note says why.
    """
    sets = score_sets(scores)
    policies = in_order(own["policy"] for own in sets)
    if settings["baseline"] and settings["baseline"] not in policies:
        raise PlumblineError(
            f"report.baseline: {settings['baseline']!r} has no scores; policies: {', '.join(policies)}"
        )
    names = {
        benchmark: in_order(name for s in scores if s["benchmark"] == benchmark for name in s["cells"])
        for benchmark in benchmarks_of(scores)
    }
    compared = [
        own["headline"]
        for benchmark in names
        for name in names[benchmark]
        for own in sets
        if own["kind"] != "noise"
        and members_of(own, benchmark, name)
        and members_of(baseline_set(sets, own, settings["baseline"]), benchmark, name)
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
    fill_noise(ordered)
    for row in ordered:
        row["than_baseline"] = than_baseline(row)
    fill_published(ordered, settings["published"])
    return ordered


def fill_published(rows: list[dict], published: list[Published]) -> None:
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
    sets: list[dict], own: dict, benchmark: str, name: tuple[str, str], settings: Settings, scale: dict
) -> dict:
    """Return a cell's row: its estimate on all and on clean items and, on the items both have, its difference.

    scale: {"rate", "bounds"}, what the items of all policies' cells are (see is_plain_rate and bounds_of).
    """
    members = members_of(own, benchmark, name)
    other = baseline_set(sets, own, settings["baseline"])
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
    notes += chosen_notes(members)
    notes += [missing_answers(members), adopted_note(members), members[0].get("relative", "")]
    if own_items[0].items:
        found_here = _estimated(own_items, arguments)
        notes.append(found_here.pop("note"))
        row |= found_here | _cleaned(found_here, row["subset"], own_items, members, arguments)
        row |= (
            {"drawn": _drawn(found)} | _seeds_apart(own_items) | {"training_luck": luck_of([own], [members])}
        )
        notes += in_order(map(unscored_overlap, members))
        notes += in_order(score["allowed"] for score in members)
        notes.append(_replicates_note(own_items, row["subset"], members))
    if other_cells:
        row["baseline"] = other["policy"]
        if shared[0].items and can_resample(shared) and row["value"] != "":
            others = members_of(other, benchmark, name)
            arguments["same_seeds"] = _seeds(members) == _seeds(others)
            difference = _compared(shared[: len(cells)], shared[len(cells) :], scale["rate"], arguments)
            notes.append(difference.pop("note"))
            if min(len(members), len(others)) > 1 and not arguments["same_seeds"]:
                notes.append(f"compared with other seeds of {other['policy']}: the luck of both adds up")
            row |= difference | {"difference_luck": luck_of([own, other], [members, others])}
            if (
                own["kind"] == "noise"
            ):  # no question that a test would answer, so no part of any family of tests
                row |= {"p_value": "", "mcnemar_p": "", "mde": ""}
                notes.insert(0, _changed_note(members[0]["changed"], shared, arguments["same_seeds"]))
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


def _changed_note(changed: str, shared: list[Cell], same_seeds: bool) -> str:
    """Return what was otherwise as a policy answered again, and how many of its items' scores that has changed.

    shared: the cells of the answers made again, then as many of the first ones, seed by seed where same_seeds says so.
    """
    if not same_seeds:
        return f"answered again with {changed}"
    half = len(shared) // 2
    apart = [items_apart(*pair) for pair in zip(shared[:half], shared[half:], strict=True)]
    over = f" over {half} seeds" if half > 1 else ""
    count, every = sum(int(each.sum()) for each in apart), sum(each.size for each in apart)
    return f"answered again with {changed}: {count} of {every} items changed{over}"


def _seeds(members: list[dict]) -> list:
    return [score.get("seed") for score in members]


def luck_of(sets: list[dict], members: list[list[dict]]) -> str:
    """Return whether an interval of the scores of these sets holds the luck of training.

    included: each policy that was trained has several seeds. not included: one was trained once. none: nothing was
    trained here, so there is no such luck: base models, answers from elsewhere, calibration rows have no parent.
    """
    trained = [len(own) for whole, own in zip(sets, members, strict=True) if whole["parent"]]
    if not trained:
        return "none"
    return "included" if min(trained) > 1 else "not included"


def _drawn(found: list[dict]) -> list[float]:
    """Return the value of each draw of a judge, averaged over seeds; none where it was drawn once."""
    drawn = [cell.get("drawn", []) for cell in found]
    whole = len(drawn[0]) > 1 and len({len(draws) for draws in drawn}) == 1
    return np.mean(drawn, axis=0).tolist() if whole else []


def _seeds_apart(cells: list[Cell]) -> dict:
    """Return the standard deviation of several seeds' values, the least and the greatest."""
    values = seed_estimates(cells)
    if len(values) < 2 or not np.isfinite(values).all():
        return {}
    spread = {"seed_sd": float(values.std(ddof=1))}
    return spread | {"seed_low": float(values.min()), "seed_high": float(values.max())}


def _compared(first: list[Cell], second: list[Cell], rate: bool, arguments: dict) -> dict:
    """Return the columns of a paired difference; McNemar's where each side is one seed's plain rate.

    Where no draw differs from another, nothing is known of what could have been seen: mde is left empty. Beside the
    columns stand the least p-value that there could have been, and what it is limited by.
    """
    found = paired_difference(first, second, **arguments)
    if not math.isfinite(found.value):
        return {"note": "not compared: no finite difference"}
    return {
        "difference": found.value,
        "difference_low": "" if found.low is None else found.low,
        "difference_high": "" if found.high is None else found.high,
        "p_value": found.p_value,
        "mcnemar_p": mcnemar(first[0], second[0]) if rate and len(first) == len(second) == 1 else "",
        "mde": found.detectable if found.detectable > 0 else "",
        "note": found.note,
        "least_p_value": found.least_p_value,
        "limit": found.limit,
    }


def _cleaned(found: dict, subset: str, cells: list[Cell], members: list[dict], arguments: dict) -> dict:
    """Return the clean columns of a row; an item that any seed's training has seen is contaminated for all of them.

    found: what _estimated says of all items.
    """
    dirty = contaminated_of(members)
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


def _replicates_note(cells: list[Cell], subset: str, members: list[dict]) -> str:
    """Return a note where items of a refitted score overlap, as such a score has no clean value."""
    dirty = contaminated_of(members)
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


def missing_answers(scores: list[dict]) -> str:
    """Return a note where a policy from elsewhere has left prompts unanswered: they are part of no value here."""
    lacking = sum(score["answered"].get("missing", 0) for score in scores)
    asked = sum(score["answered"].get("prompts", 0) for score in scores)
    return f"{lacking} of {asked} prompts have no answer and are not scored" if lacking else ""


def adopted_note(scores: list[dict]) -> str:
    """Return a note where weights of a policy's lineage were taken as they came, not trained by this study."""
    names = scores[0].get("adopted", [])
    return f"adopted, not trained here: {', '.join(names)}" if names else ""


def skipped_prompts(score: dict) -> str:
    """Return a note on the prompts whose verdict the study skips: they are part of no value here."""
    count = score["skipped"]
    if not count:
        return ""
    return "1 prompt is skipped by the study" if count == 1 else f"{count} prompts are skipped by the study"


def chosen_notes(scores: list[dict]) -> list[str]:
    """Return a note on each seed's policy that was chosen by its answers while it trained."""
    several = len(scores) > 1
    chosen = [(score["seed"], score["chosen"]) for score in scores if score.get("chosen")]
    return [f"seed {seed}: {words}" if several else words for seed, words in chosen]


def _items_note(what: str, shared: list[Cell], cells: list[Cell]) -> str:
    every = len(set().union(*(cell.items for cell in cells)))
    count = len(shared[0].items)
    if count and not can_resample(shared):
        return f"not {what} draw by draw: resampled on other items"
    if count == every:
        return ""
    return f"{what} on {count} of {every} items" if count else f"not {what}: no item in common"


def _refusal_row(own: dict, benchmark: str, settings: Settings) -> dict:
    members = own["benchmarks"][benchmark]
    reasons = in_order(refusals(own, benchmark).values())
    return _blank(own, benchmark, members, settings) | {"n": 0, "groups": 0, "note": "; ".join(reasons)}


def _blank(own: dict, benchmark: str, members: list[dict], settings: Settings) -> dict:
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
