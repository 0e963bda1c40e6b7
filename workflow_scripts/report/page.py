"""The report: one HTML page that needs no network, from the tables and files that a study leaves.

Every table sorts, the large one filters, and the address keeps both (report.html#benchmark=mt_bench&sort=-value).
Model answers and judges' words are shown as text, whatever they contain: the templates escape everything, and a
content policy lets the browser run the page's own script alone. A section without data is left out. The same input
gives the same bytes; of the inputs only costs.csv differs from run to run.

Not covered: single seeds of a policy that has several (results.csv has them), and editing anything.
"""

import argparse
import base64
import hashlib
from pathlib import Path

import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workflow_scripts.common.errors import run
from workflow_scripts.common.files import canonical_json, finished_file, read_json, sha256_of
from workflow_scripts.report.figures import (
    CALIBRATION,
    STYLE,
    cell_title,
    clearly_worse,
    draw_against_length,
    draw_forest,
    draw_loss_curves,
    draw_reward_histograms,
    draw_spread,
    headline_rows,
    inline_svg,
    read_curves,
    read_rewards,
    signed,
    typed,
)
from workflow_scripts.report.grid import cell_name, clearly_better, clearly_moved, headline_cells
from workflow_scripts.report.numbers import decimals_of, shown, value_and_spread
from workflow_scripts.report.overlaps import MUCH_OF_AN_ITEM
from workflow_scripts.report.samples import read_samples, rows_beside
from workflow_scripts.report.scores import in_order
from workflow_scripts.report.settings import read_settings
from workflow_scripts.report.spreadsheets import read_csv

TEMPLATES = Path(__file__).resolve().parents[2] / "report"
ARROWS = {True: "↑", False: "↓", "": ""}
FOLD = 500  # characters of an answer that stand open


def show(value: float) -> str:
    """Return a number as all tables write it, with a true minus."""
    return shown(value, decimals_of(value)).replace("-", "−")


def show_p(value: float) -> str:
    """Return a p-value with three decimals, or that it is smaller."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_time(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def field(text: str = "", sort: float | None = None, **extra) -> dict:
    """Return one cell of a table: its text, the number it sorts by, and what else the template knows.

    extra: spread (small, after it), note (small, below), title (on hover), mark ("better", "worse"), strong, code, copied (with a button), share (of a bar, 0 to
    1), facts ([(name, value)], folded).
    """
    blank = {
        "note": "",
        "title": "",
        "spread": "",
        "mark": "",
        "strong": False,
        "code": False,
        "copied": False,
    }
    return blank | {"share": None, "facts": [], "text": text, "sort": sort} | extra


def table(
    name: str,
    rows: list[dict[str, dict]],
    labels: dict[str, str],
    numbers: set[str],
    over: dict[str, str] | None = None,
) -> dict:
    """Return a table for the template: columns that some row fills, in the order of `labels` {key: heading}.

    rows: {key: field}; a key that starts with "_" is a fact about the row, for filters. numbers: keys of columns that
    stand to the right. over: a small line above some headings.
    """
    over = over or {}
    used = [key for key in labels if any(row[key]["text"] or row[key]["facts"] for row in rows if key in row)]
    columns = [
        {"key": key, "label": labels[key], "number": key in numbers, "over": over.get(key, "")}
        for key in used
    ]
    lines = [
        {
            "cells": [row.get(key, field()) for key in used],
            "about": {k[1:]: v for k, v in row.items() if k[0] == "_"},
        }
        for row in rows
    ]
    return {"name": name, "columns": columns, "rows": lines}


def plain_table(name: str, rows: list[dict[str, str]]) -> dict:
    """Return the rows of a CSV file as a table: a column per column, numbers to the right."""
    columns = in_order(key for row in rows for key in row)
    numbers = {key for key in columns if all(_number(row[key]) is not None for row in rows if row[key])}
    fields = [{key: field(text, _number(text)) for key, text in row.items()} for row in rows]
    return table(name, fields, {key: key.replace("_", " ") for key in columns}, numbers)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def supported_best(rows: list[dict]) -> set[tuple[str, str]]:
    """Return the (policy, cell) of the best values that a paired interval supports; typed headline rows.

    The best of a cell is supported when its difference to the baseline lies wholly on the good side of zero; the
    baseline itself, when every other policy's lies wholly on the bad side.
    """
    best = set()
    for cell in in_order(map(cell_name, rows)):
        own = [
            r for r in rows if cell_name(r) == cell and r["value"] != "" and r["policy"] not in CALIBRATION
        ]
        own = [row for row in own if row["higher_is_better"] != ""]
        if not own:
            continue
        top = (max if own[0]["higher_is_better"] else min)(row["value"] for row in own)
        for row in own:
            others = [other for other in own if other["baseline"] == row["policy"]]
            beats_all = len(others) > 0 and len(others) == len(own) - 1 and all(map(clearly_worse, others))
            if row["value"] == top and (clearly_better(row) or beats_all):
                best.add((row["policy"], cell))
    return best


def value_field(row: dict, best: set[tuple[str, str]]) -> dict:
    """Return the field of a typed row's value and interval, bold and marked where intervals support it."""
    if row["value"] == "":
        return field("–", title=row["note"])
    mark = "better" if clearly_better(row) else "worse" if clearly_worse(row) else ""
    words = f"{row['value']:g}"
    text, spread = value_and_spread(row["value"], row["ci_low"], row["ci_high"])
    text, spread = text.replace("-", "−"), spread.replace("-", "−").replace("± ", "±")
    if row["ci_low"] != "":
        words += f", interval {row['ci_low']:g} to {row['ci_high']:g}" + f" ({row['interval']})" * bool(
            row["interval"]
        )
    if mark:
        words += f"; clearly {mark} than {row['baseline']}"
    strong = (row["policy"], cell_name(row)) in best
    return field(text, row["value"], spread=spread, title=words, mark=mark, strong=strong)


def heading(text: str, higher_is_better: bool | str) -> str:
    """Return a metric's name with its arrow, which stays on the line of the last word."""
    return f"{text}\N{NO-BREAK SPACE}{ARROWS[higher_is_better]}".strip()


def headline_table(rows: list[dict], cells: list[str], best: set[tuple[str, str]]) -> dict:
    """Return the policies by the headline cells."""
    found = {(row["policy"], cell_name(row)): row for row in rows}
    firsts = {cell: next(row for row in rows if cell_name(row) == cell) for cell in cells}
    over = {cell: first["benchmark"] for cell, first in firsts.items()}
    titles = {
        cell: heading(cell_title(first | {"benchmark": ""}), first["higher_is_better"])
        for cell, first in firsts.items()
    }
    lines = []
    for policy in in_order(row["policy"] for row in rows):
        line = {"policy": field(policy, code=True)}
        line |= {cell: value_field(found[policy, cell], best) for cell in cells if (policy, cell) in found}
        lines.append(line | {"_calibration": "yes" if policy in CALIBRATION else ""})
    return table("headlines", lines, {"policy": "policy"} | titles, set(cells), over)


LABELS = {
    "policy": "policy",
    "benchmark": "benchmark",
    "subset": "subset",
    "metric": "metric",
    "value": "value, interval",
    "n": "n (groups)",
    "difference": "difference to baseline",
    "p": "p adjusted",
    "mde": "detectable",
    "clean": "clean items",
    "published": "published",
    "provenance": "provenance",
    "note": "note",
}


def results_table(rows: list[dict], best: set[tuple[str, str]]) -> dict:
    """Return every headline row of results.csv."""
    lines = [result_line(row, best) for row in rows]
    labels = {key: label for key, label in LABELS.items() if key != "clean" or any(map(overlaps, rows))}
    return table("results", lines, labels, {"value", "n", "difference", "p", "mde", "clean", "published"})


def overlaps(row: dict) -> bool:
    """Return whether some item of a row overlaps with what the policy was trained on."""
    return row["clean_n"] != "" and row["clean_n"] < row["n"]


def result_line(row: dict, best: set[tuple[str, str]]) -> dict:
    """Return the fields of one typed row."""
    line = {
        "policy": field(row["policy"], code=True),
        "benchmark": field(row["benchmark"]),
        "subset": field(row["subset"]),
        "metric": field(heading(row["metric"], row["higher_is_better"])),
        "value": value_field(row, best),
        "provenance": field(row["provenance"], code=True),
        "note": field(row["note"]),
    }
    line |= {f"_{key}": row[key] for key in ("policy", "benchmark", "metric")}
    if row["published_value"] != "":
        ours = f"ours {signed(row['published_difference'], 3)}" if row["published_difference"] != "" else ""
        line["published"] = field(show(row["published_value"]), row["published_value"], note=ours)
    if row["value"] == "":
        return line
    groups = "" if row["groups"] == row["n"] else f" ({row['groups']:.0f})"
    line["n"] = field(f"{row['n']:.0f}{groups}", row["n"])
    if row["difference"] != "":
        line |= difference_fields(row)
    if row["mde"] != "":
        line["mde"] = field(show(row["mde"]), row["mde"])
    if row["clean_n"] != "":
        line["clean"] = clean_field(row)
    return line


def difference_fields(row: dict) -> dict:
    """Return the fields of a typed row's difference to the baseline and of its p-value."""
    decimals = 3 if abs(row["difference"]) < 10 else 1
    ends = [row[f"difference_{end}"] for end in ("low", "high")]
    note = "" if "" in ends else " to ".join(signed(end, decimals) for end in ends)
    raw = f"uncorrected {row['p_value']:g}"
    if row["mcnemar_p"] != "":
        raw += f", McNemar {row['mcnemar_p']:g}"
    return {
        "difference": field(signed(row["difference"], decimals), row["difference"], note=note),
        "p": field(show_p(row["p_adjusted"]), row["p_adjusted"], title=raw),
    }


def clean_field(row: dict) -> dict:
    """Return the field of a typed row's value on the items that overlap with no training set."""
    if row["clean_value"] == "":
        return field("–", note="no clean item")
    note = f"n = {row['clean_n']:.0f}" + ", moved" * clearly_moved(row) if overlaps(row) else ""
    by_8 = (
        f"by 8-grams {row['clean8_value']:g} (n = {row['clean8_n']:.0f})" if row["clean8_value"] != "" else ""
    )
    return field(show(row["clean_value"]), row["clean_value"], note=note, title=by_8)


def forest_figures(rows: list[dict], cells: list[str]) -> list[Markup]:
    """Return a forest plot per headline cell that has differences; rows as text."""
    compared = {cell_name(row) for row in headline_rows(rows) if row["difference"]}
    return [
        picture(draw_forest(rows, [cell]), f"forest{number}", f"Differences to the baseline in {cell}")
        for number, cell in enumerate(cells)
        if cell in compared
    ]


def picture(figure: plt.Figure, name: str, label: str) -> Markup:
    """Return a figure as markup that the template takes as it is: our own drawing, its labels escaped."""
    return Markup(inline_svg(figure, name, label))


def length_figures(rows: list[dict]) -> list[Markup]:
    """Return a scatter per benchmark and rate that has a mean length beside it; typed rows."""
    lengths = {
        (r["policy"], r["benchmark"]): r["value"]
        for r in rows
        if r["metric"] == "length" and r["value"] != ""
    }
    rates = [row for row in rows if "win_rate" in row["metric"] and row["value"] != ""]
    figures = []
    for cell in in_order(map(cell_name, rates)):
        own = [
            row for row in rates if cell_name(row) == cell and (row["policy"], row["benchmark"]) in lengths
        ]
        points = [
            {
                "policy": row["policy"],
                "length": lengths[row["policy"], row["benchmark"]],
                "value": row["value"],
                "low": row["value"]
                if row["ci_low"] == ""
                else row["ci_low"],  # without an interval: no whisker
                "high": row["value"] if row["ci_high"] == "" else row["ci_high"],
            }
            for row in own
        ]
        if points:
            drawn = draw_against_length(points, cell_title(own[0]), own[0]["metric"].replace("_", " "))
            figures.append(
                picture(drawn, f"length{len(figures)}", f"{cell} against the length of the answers")
            )
    return figures


def curve_figures(curves: list[dict]) -> list[Markup]:
    """Return a panel of losses per policy, seeds together."""
    loaded = read_curves(curves) if curves else []
    return [
        picture(
            draw_loss_curves([curve for curve in loaded if curve["policy"] == policy]),
            f"curve{number}",
            f"Losses of {policy} by optimiser step",
        )
        for number, policy in enumerate(in_order(curve["policy"] for curve in loaded))
    ]


def reward_figures(paths: list[str], sets: list[dict], index: list[dict]) -> list[Markup]:
    """Return the distributions of rewards: of the annotated data, of each policy's answers, and of judges' verdicts."""
    figures: list[Markup] = []
    spreads = {name: (values, "reward") for name, values in answer_rewards(index).items()}
    for found in sets:
        verdicts = {policy: values for policy, values in found["verdicts"].items() if values}
        if verdicts:
            spreads[f"{found['benchmark']} verdicts"] = (verdicts, "verdict")
    for name, (values, label) in spreads.items():
        drawn = draw_spread(values, name, label)
        figures.append(picture(drawn, f"reward{len(figures)}", f"Distribution of {name} per policy"))
    for column, values in (read_rewards([Path(path) for path in paths]) if paths else {}).items():
        drawn = draw_reward_histograms({f"data: {column}": values})
        figures.append(
            picture(drawn, f"reward{len(figures)}", f"Distribution of the reward {column} in the data")
        )
    return figures


def answer_rewards(index: list[dict]) -> dict[str, dict[str, list[float]]]:
    """Return {"benchmark column": {policy: rewards of its answers, all seeds}} of the score files that have rewards."""
    found: dict[str, dict[str, list[float]]] = {}
    for entry in index:
        for cell in read_json(entry["file"]).get("cells") or []:
            if cell["metric"] == "reward" and cell["estimator"] == "mean":
                own = found.setdefault(f"{entry['benchmark']} {cell['subset']}", {})
                own.setdefault(entry["policy"], []).extend(cell["columns"]["value"])
    return found


def left_out_lines(sets: list[dict]) -> list[str]:
    """Return a line per benchmark on the verdicts that are in none of its figures and means, as they have no number."""
    lines = []
    for found in sets:
        told = [
            f"{count} of {policy} ({'skipped by the study' if why == 'skipped' else why})"
            for policy, counts in found["left_out"].items()
            for why, count in counts.items()
        ]
        if told:
            lines.append(f"{found['benchmark']}: verdicts left out: {', '.join(told)}.")
    return lines


def answer_length_figures(sets: list[dict]) -> list[Markup]:
    """Return the distribution of answer lengths per policy, a panel per benchmark."""
    figures = []
    for found in sets:
        lengths = {policy: values for policy, values in found["lengths"].items() if values}
        if lengths:
            drawn = draw_spread(lengths, found["benchmark"], "tokens of an answer")
            label = f"Lengths of the answers to {found['benchmark']} per policy"
            figures.append(picture(drawn, f"answers{len(figures)}", label))
    return figures


COSTS = {
    "what": "",
    "jobs": "jobs",
    "wall_seconds": "wall time",
    "gpu_seconds": "GPU time",
    "tokens": "tokens",
    "peak_memory_mb": "peak memory, GB",
    "judge_calls": "judge calls",
    "judge_stored": "from the store",
    "judge_retries": "retries",
    "prompt_tokens": "judge tokens in",
    "completion_tokens": "judge tokens out",
    "usd": "US dollars",
}


def cost_table(rows: list[dict[str, str]], key: str) -> dict:
    """Return costs.csv summed by one of its columns, with bars for wall and GPU time; its own totals left out."""
    jobs = [row for row in rows if row["name"] != "total"]
    found: dict[str, list[dict]] = {}
    for job in jobs:
        if job[key]:
            found.setdefault(job[key], []).append(job)
    sums = {name: {"jobs": float(len(own))} | _summed(own) for name, own in found.items()}
    longest = {
        part: max((s.get(part, 0) for s in sums.values()), default=0)
        for part in ("wall_seconds", "gpu_seconds")
    }
    lines = []
    for name, measured in sums.items():
        line = {"what": field(name, code=key == "policy")}
        for part, value in measured.items():
            line[part] = cost_field(part, value, longest)
        lines.append(line)
    return table(f"costs-{key}", lines, COSTS | {"what": key}, set(COSTS) - {"what"})


def _summed(jobs: list[dict]) -> dict[str, float]:
    measured = {}
    for part in set(COSTS) - {"what", "jobs"}:
        values = [float(job[part]) for job in jobs if job.get(part)]
        if any(values):
            measured[part] = max(values) if part == "peak_memory_mb" else sum(values)
    return measured


def cost_field(part: str, value: float, longest: dict[str, float]) -> dict:
    """Return the field of one measure: times with a bar, the rest as counts."""
    if part in longest:
        return field(show_time(value), value, share=value / longest[part], title=f"{value / 3600:.3f} hours")
    if part == "usd":
        return field(f"{value:,.2f}", value)
    return field(f"{value / 1024:.1f}" if part == "peak_memory_mb" else f"{value:,.0f}", value)


def overlap_section(rows: list[dict[str, str]]) -> dict:
    """Return how many items of each benchmark overlap with each training set, and the items."""
    pairs = in_order((row["benchmark"], row["training_set"]) for row in rows)
    lines = []
    for benchmark, training_set in pairs:
        own = [row for row in rows if (row["benchmark"], row["training_set"]) == (benchmark, training_set)]
        at13 = sum(float(row["share13"] or 0) > 0 for row in own)
        at8 = sum(float(row["share8"] or 0) >= MUCH_OF_AN_ITEM for row in own)
        lines.append(
            {
                "benchmark": field(benchmark),
                "set": field(training_set),
                "at13": field(str(at13), at13),
                "at8": field(str(at8), at8),
                "group": _exact_field(own, "group"),
                "whole": _exact_field(own, "whole"),
            }
        )
    labels = {
        "benchmark": "benchmark",
        "set": "training set",
        "at13": "items with a 13-gram in it",
        "at8": f"items with {100 * MUCH_OF_AN_ITEM:.0f} % of their 8-grams in it",
        "group": "by their group",
        "whole": "as a whole",
    }
    return {
        "counts": table("overlap-counts", lines, labels, {"at13", "at8", "group", "whole"}),
        "listed": plain_table("overlap-items", rows),
        "count": len({(row["benchmark"], row["item"]) for row in rows}),
    }


def _exact_field(rows: list[dict[str, str]], how: str) -> dict:
    count = sum(row.get("exact") == how for row in rows)
    return field(str(count), count) if any(row.get("exact") for row in rows) else field()


def provenance_table(provenance: dict) -> dict:
    """Return a line per record of provenance.json, its facts and files folded."""
    lines = []
    for key, record in provenance["records"].items():
        policy, seed, benchmark = key.split("|")
        facts = [(name, value) for name, value in record.items() if name not in ("id", "files")]
        facts += list(record.get("files", {}).items())
        lines.append(
            {
                "policy": field(policy, code=True),
                "seed": field(str(seed), _number(seed)),
                "benchmark": field(benchmark),
                "id": field(record["id"], code=True, copied=True),
                "facts": field(
                    facts=[
                        (name, value if isinstance(value, str) else canonical_json(value))
                        for name, value in facts
                    ]
                ),
            }
        )
    labels = {"policy": "policy", "seed": "seed", "benchmark": "benchmark", "id": "id", "facts": "behind it"}
    return table("provenance", lines, labels, {"seed"})


def digests(settings: dict, provenance: dict, results: Path) -> list[tuple[str, str]]:
    """Return (what, digest) of what stands behind the page."""
    found = [
        ("study", provenance.get("study")),
        ("lock file", provenance.get("lock", settings["lock"])),
        ("results.csv", sha256_of(results)),
    ]
    return [(what, str(value)) for what, value in found if value]


def build(settings: dict, inputs: argparse.Namespace) -> dict:
    """Return everything that the template shows; inputs: the paths of the command line, None where not given."""
    text_rows = headline_rows(read_csv(inputs.results))
    rows = [typed(row) for row in text_rows]
    provenance = read_json(inputs.provenance) if inputs.provenance else {}
    index = read_json(inputs.index) if inputs.index else []
    rewarded = {row["benchmark"] for row in rows if row["metric"] == "reward"}
    training, costs, overlap, agreement = (
        read_csv(path) if path else []
        for path in (inputs.training, inputs.costs, inputs.overlap, inputs.agreement)
    )
    sets = [
        read_samples(benchmark, rows_beside(manifest), index, settings["sample_count"])
        for benchmark, manifest in settings["prompts"].items()
    ]
    looked = any(row["clean_n"] != "" for row in rows)  # else an empty overlap.csv says nothing
    cells = headline_cells(rows, settings["bars"])
    best = supported_best(rows)
    policies = in_order(row["policy"] for row in rows)
    refused: dict[str, list[str]] = {}
    for row in rows:
        if row["value"] == "":
            refused.setdefault(f"{row['benchmark']}: {row['note']}", []).append(row["policy"])
    return {
        "study": settings["study"],
        "baseline": settings["baseline"],
        "file": settings.get("file"),
        "digests": digests(settings, provenance, inputs.results),
        "policies": [policy for policy in policies if policy not in CALIBRATION],
        "calibrated": any(policy in CALIBRATION for policy in policies),
        "filters": {
            name: in_order(row[name] for row in rows if row[name])
            for name in ("benchmark", "policy", "metric")
        },
        "refused": refused,
        "headlines": headline_table(rows, cells, best) if cells else None,
        "forest": forest_figures(text_rows, cells),
        "results": results_table(rows, best),
        "scores": sum(row["value"] != "" for row in rows),
        "lengths": length_figures(rows),
        "samples": [found for found in sets if found["prompts"] and found["lengths"]],
        "fold": FOLD,
        "warnings": [row for row in training if row["warning"]],
        "training": plain_table("training", training) if training else None,
        "curves": curve_figures(settings["curves"]),
        "rewards": reward_figures(
            settings["rewards"], sets, [e for e in index if e["benchmark"] in rewarded]
        ),
        "left_out": left_out_lines(sets),
        "answer_lengths": answer_length_figures(sets),
        "costs": [cost_table(costs, key) for key in ("stage", "policy")] if costs else [],
        "cost_jobs": plain_table("cost-jobs", costs) if costs else None,
        "data": plain_table("data", data_rows(settings["data"])) if settings["data"] else None,
        "overlap": overlap_section(overlap) if overlap or looked else None,
        "agreement": plain_table("agreement", agreement) if agreement else None,
        "provenance": provenance_table(provenance) if provenance else None,
    }


def data_rows(manifests: dict[str, str]) -> list[dict[str, str]]:
    """Return a row per dataset: what cleaning read, kept and rejected, why, and what else it counted."""
    rows = []
    for name, path in manifests.items():
        manifest = read_json(path)
        row = {"dataset": name}
        for unit in ("rows", "turns"):
            for what in ("read", "kept", "rejected"):
                row[f"{unit}_{what}"] = str(sum(count[unit][what] for count in manifest["counts"].values()))
        reasons = [
            f"{reason.removeprefix('row: ')} ({count['entries']})"
            for reason, count in manifest["rejected"].items()
        ]
        noted = [f"{note} ({count})" for note, count in manifest["notes"].items()]
        rows.append(row | {"rejected_for": ", ".join(reasons), "noted": ", ".join(noted)})
    return rows


def render(template: str, values: dict) -> str:
    """Return a template of report/ filled in, everything escaped, with our style and script inside.

    The policy in the page's head names the script by its digest, so that a browser runs nothing else.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ours = {"script": Markup(script), "style": Markup(style), "allowed": f"'sha256-{allowed}'"}
    return environment.get_template(template).render(values | ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--settings",
        required=True,
        type=read_settings,
        help="study, baseline, bars, data {dataset: manifest}, prompts {benchmark: manifest}, sample_count, curves, rewards, lock, and file, the "
        "study's YAML, if known; - reads standard input",
    )
    parser.add_argument("--results", required=True, type=Path, help="results.csv")
    parser.add_argument("--index", type=Path, help="scores.json: where answers, verdicts and item scores are")
    parser.add_argument("--training", type=Path, help="training.csv")
    parser.add_argument("--costs", type=Path, help="costs.csv")
    parser.add_argument("--overlap", type=Path, help="overlap.csv")
    parser.add_argument("--provenance", type=Path, help="provenance.json")
    parser.add_argument("--agreement", type=Path, help="judges.csv")
    parser.add_argument("--output", required=True, type=Path, help="the page, HTML")
    arguments = parser.parse_args()
    with plt.rc_context(STYLE):
        page = render("page.html.j2", build(arguments.settings, arguments))
    with finished_file(arguments.output) as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
