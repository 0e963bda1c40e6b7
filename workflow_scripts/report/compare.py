"""Two results tables side by side: two studies, or two runs of one.

    python -m workflow_scripts.report.compare results/a results/b
    python -m workflow_scripts.report.compare results/a results/b --map tiny.sft=other.sft --output compare.html

A and B are folders of results or their results.csv. Rows are matched by policy, benchmark, subset, metric and seed; a
row that only one has is listed with what it has. A difference is B minus A. Intervals that overlap say little, as both
studies asked the same: where the item scores lie beside both tables (scores.json), the difference is also drawn
paired, on the items that both have, under the same draws.

Not covered: correction for many comparisons, and whether two items by one name are one (it is checked for prompt sets,
which lie in prompts/; the items of log-likelihood tasks go by their names).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, read_json, read_jsonl
from workflow_scripts.report.numbers import markdown_line, signed, value_and_spread
from workflow_scripts.report.page import render
from workflow_scripts.report.page_tables import ARROWS, field, heading, table
from workflow_scripts.report.rows import cell_title, typed
from workflow_scripts.report.scores import in_order, load_scores, members_of, score_sets
from workflow_scripts.report.spreadsheets import csv_text, number_text, read_csv
from workflow_scripts.report.statistics.cells import Cell, bounds_of, can_resample, shared_items
from workflow_scripts.report.statistics.differences import paired_difference
from workflow_scripts.report.statistics.draws import seed_of

COLUMNS = (
    "policy policy_b benchmark subset metric seed higher_is_better value_a ci_low_a ci_high_a n_a value_b ci_low_b "
    "ci_high_b n_b difference intervals paired_difference paired_low paired_high paired_p paired_items training_luck "
    "noise note"
).split()
SCORED = ("policy", "parent", "method", "seed", "kind", "benchmark", "file")


class Key(NamedTuple):
    """What a row is matched by; the policy by A's name for it."""

    policy: str
    benchmark: str
    subset: str
    metric: str
    seed: str


class Results(NamedTuple):
    """One side: its folder, its typed rows by key, its policies' own names, and each row's cells by seed."""

    folder: Path
    rows: dict[Key, dict]
    names: dict[str, str]
    cells: dict[Key, dict[str, Cell]]


def key_of(row: dict, names: dict[str, str]) -> Key:
    """Return a row's key; names: {this side's policy: A's name for it}, others keep their own."""
    return Key(
        names.get(row["policy"], row["policy"]), row["benchmark"], row["subset"], row["metric"], row["seed"]
    )


def read_side(path: Path, names: dict[str, str]) -> Results:
    """Return a side from its results folder or results.csv; names: {its policy: A's name for it}.

    Raises PlumblineError where there is no table, a policy of `names` is not in it, or two would share a name.
    """
    results = path / "results.csv" if path.is_dir() else path
    full = results.with_name("results_full.csv")  # the same rows, with the noise of each
    results = full if results.name == "results.csv" and full.is_file() else results
    rows = [typed(row) for row in read_csv(results)]
    policies = in_order(row["policy"] for row in rows)
    for own, other in names.items():
        if own not in policies:
            raise PlumblineError(f"--map: {results} has no policy {own!r}; it has {', '.join(policies)}")
        if other != own and other in policies and other not in names:
            raise PlumblineError(f"--map: {results} has a policy {other!r} beside {own!r}; map that one, too")
    found = {key_of(row, names): row for row in rows}
    shown = {names.get(policy, policy): policy for policy in policies}
    return Results(results.parent, found, shown, dict(item_scores(results.parent, names)))


def item_scores(folder: Path, names: dict[str, str]) -> Iterator[tuple[Key, dict[str, Cell]]]:
    """Yield the cells behind each row, by seed, of the score files that scores.json lists and that are there."""
    index = read_json(folder / "scores.json") if (folder / "scores.json").exists() else []
    entries = []
    for entry in index:
        file = local_file(folder, entry["file"])
        if file:
            entries.append({name: entry.get(name) for name in SCORED} | {"file": file})
    for own in score_sets(load_scores(entries)):
        for benchmark, scores in own["benchmarks"].items():
            for subset, metric in in_order(name for score in scores for name in score["cells"]):
                members = members_of(own, benchmark, (subset, metric))
                policy = names.get(own["policy"], own["policy"])
                key = Key(policy, benchmark, subset, metric, str(own["seed"]))
                cells = {str(score["seed"]): score["cells"][subset, metric]["cell"] for score in members}
                yield key, cells


def local_file(folder: Path, written: str) -> Path | None:
    """Return a file of a results folder by the path that its index has, wherever the folder lies now."""
    parts = Path(written).parts
    places = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((place for place in places if place.is_file()), None)


def prompts_differ(first: Path, second: Path, benchmark: str) -> bool:
    """Return whether two results folders have a benchmark's prompt of one id with two contents."""
    files = [folder / "prompts" / f"{benchmark}.jsonl" for folder in (first, second)]
    if not all(file.exists() for file in files):
        return False
    one = {row["id"]: row for row in read_jsonl(files[0])}
    other = {row["id"]: row for row in read_jsonl(files[1])}
    return any(one[name] != other[name] for name in set(one) & set(other))


def compare(first: Results, second: Results, draws: int, confidence: float) -> list[dict]:
    """Return the rows of the comparison (keys COLUMNS, "" where there is nothing), in A's order, then B's own."""
    changed = {
        benchmark: prompts_differ(first.folder, second.folder, benchmark)
        for benchmark in {key.benchmark for key in first.cells} & {key.benchmark for key in second.cells}
    }
    rows = []
    for key in in_order([*first.rows, *second.rows]):
        row = matched_row(key, first, second)
        if row["value_a"] != "" and row["value_b"] != "" and key in first.cells and key in second.cells:
            if changed[key.benchmark]:
                row["note"] = "; ".join(filter(None, [row["note"], "not paired: the prompts differ"]))
            else:
                row |= paired(row, first.cells[key], second.cells[key], draws, confidence)
        rows.append(row)
    return rows


def matched_row(key: Key, first: Results, second: Results) -> dict:
    """Return a row with the values of both sides, their difference, and whether their intervals overlap."""
    row = dict.fromkeys(COLUMNS, "") | key._asdict()
    notes = []
    lucks, noises = set(), []
    for side, results in (("a", first), ("b", second)):
        own = results.rows.get(key)
        refusal = results.rows.get(key._replace(subset="", metric=""))  # a benchmark refused as a whole
        if own is not None:
            row |= {f"{name}_{side}": own[name] for name in ("value", "ci_low", "ci_high", "n")}
            row["higher_is_better"] = own["higher_is_better"]
            lucks.add(own["training_luck"])
            noises.append(own["noise"])
        if refusal is not None:
            notes.append(f"{side.upper()} not scored: {refusal['note']}")
        elif own is None:
            notes.append(f"only in {'B' if side == 'a' else 'A'}")
        elif own["value"] == "":
            notes.append(f"{side.upper()} has no value: {own['note']}")
    if second.names.get(key.policy, key.policy) != key.policy:
        row["policy_b"] = second.names[key.policy]
    if row["value_a"] != "" and row["value_b"] != "":
        row["difference"] = row["value_b"] - row["value_a"]
        if row["ci_low_a"] != "" and row["ci_low_b"] != "":
            meet = row["ci_low_a"] <= row["ci_high_b"] and row["ci_low_b"] <= row["ci_high_a"]
            row["intervals"] = "overlap" if meet else "apart"
    row["training_luck"] = next((luck for luck in ("not included", "included") if luck in lucks), "")
    row["noise"] = max((noise for noise in noises if noise != ""), default="")
    return row | {"note": "; ".join(notes)}


def paired(row: dict, ours: dict[str, Cell], theirs: dict[str, Cell], draws: int, confidence: float) -> dict:
    """Return the columns of the paired difference B minus A on the items both have, or a note why there is none.

    ours, theirs: the cells of A and of B by seed; where the seeds are the same ones, they are paired, too.
    """
    first, second = list(ours.values()), list(theirs.values())
    if first[0].estimator != second[0].estimator:
        return {"note": f"not paired: {first[0].estimator} in A, {second[0].estimator} in B"}
    try:
        shared = shared_items([*second, *first])
    except PlumblineError as error:
        return {"note": f"not paired: {error}"}
    count = len(shared[0].items)
    if not count or not can_resample(shared):
        return {"note": "not paired: " + ("resampled on other items" if count else "no item in common")}
    seed = seed_of(0, row["benchmark"], row["subset"], row["metric"])
    bounds = bounds_of(shared)
    found = paired_difference(
        shared[: len(second)],
        shared[len(second) :],
        draws,
        seed,
        confidence,
        bounds,
        list(ours) == list(theirs),
    )
    said = [found.note] if found.value else []  # that nothing differs needs no note
    every = len(set().union(*(cell.items for cell in [*first, *second])))
    if count < every:
        said = [f"paired on {count} of {every} items", *said]
    return {
        "paired_difference": found.value,
        "paired_low": "" if found.low is None else found.low,
        "paired_high": "" if found.high is None else found.high,
        "paired_p": found.p_value,
        "paired_items": count,
        "note": "; ".join(filter(None, said)),
    }


def clear_change(row: dict) -> str:
    """Return "better" or "worse" where the paired interval lies wholly on one side of zero, else "".

    Never where it leaves out the luck of a training that was done once, or where the difference is no larger than what
    either side's score moves by when a policy answers again.
    """
    if row["higher_is_better"] == "" or row["paired_low"] == "" or row["training_luck"] == "not included":
        return ""
    if row["noise"] != "" and abs(row["paired_difference"]) <= row["noise"]:
        return ""
    if row["paired_low"] <= 0 <= row["paired_high"]:
        return ""
    return "better" if (row["paired_low"] > 0) == row["higher_is_better"] else "worse"


def summary(rows: list[dict]) -> str:
    """Return in one sentence how many rows both sides have, and how many clearly moved."""
    both = sum(row["difference"] != "" for row in rows)
    only = {side: sum(row["note"].startswith(f"only in {side}") for row in rows) for side in "AB"}
    moved = {way: sum(clear_change(row) == way for row in rows) for way in ("better", "worse")}
    refused = len(rows) - both - sum(only.values())
    text = f"{both} values in both, {only['A']} rows only in A, {only['B']} only in B"
    if refused:
        text += f", {refused} without a value on a side"
    text += f". Paired, B is clearly better in {moved['better']} and clearly worse in {moved['worse']}."
    once = sum(row["training_luck"] == "not included" for row in rows)
    if once:
        text += f" {once} rows are of a policy that was trained once: training luck is not included, nothing is marked."
    return text


def plain_number(value: float | str) -> str:
    """Return a CSV field: six significant digits as in results.csv."""
    return number_text(value) if not isinstance(value, float) or not value.is_integer() else f"{value:.0f}"


def as_csv(rows: list[dict]) -> str:
    """Return the comparison as CSV, every row and column."""
    return csv_text(COLUMNS, ([plain_number(row[name]) for name in COLUMNS] for row in rows))


def shown_value(row: dict, side: str) -> tuple[str, str]:
    """Return a side's value and its interval as text, "" where there is none."""
    value, low, high = row[f"value_{side}"], row[f"ci_low_{side}"], row[f"ci_high_{side}"]
    if value == "":
        return "", ""
    text, spread = value_and_spread(value, low, high)
    return text.replace("-", "−"), spread.replace("-", "−").replace("± ", "±")


def shown_difference(row: dict, name: str) -> str:
    """Return a difference with its sign, "" where there is none."""
    return signed(row[name], 3 if abs(row[name]) < 10 else 1) if row[name] != "" else ""


def shown_policy(row: dict) -> str:
    """Return a policy's name, with B's own name for it where that is another."""
    return f"{row['policy']} = {row['policy_b']}" if row["policy_b"] else row["policy"]


def as_markdown(rows: list[dict], sides: tuple[str, str]) -> str:
    """Return the comparison as a Markdown table; sides: what A and B are."""
    heads = ["policy", "score", "seed", "A", "B", "B − A", "intervals", "paired difference", "note"]
    lines = [heads, ["---", "---", "---", "---:", "---:", "---:", "---", "---:", "---"]]
    for row in rows:
        pair = shown_difference(row, "paired_difference")
        if pair and row["paired_low"] != "":
            pair += f" [{shown_difference(row, 'paired_low')}, {shown_difference(row, 'paired_high')}]"
        if change := clear_change(row):
            pair = f"**{pair}** {change}" if change == "better" else f"{pair} {change}"
        score = heading(cell_title(row), row["higher_is_better"])
        values = [" ".join(filter(None, shown_value(row, side))) for side in "ab"]
        shown = [f"`{shown_policy(row)}`", score, row["seed"], *values, shown_difference(row, "difference")]
        lines.append([*shown, row["intervals"], pair, row["note"]])
    text = "\n".join(map(markdown_line, lines))
    return f"A: {sides[0]}\nB: {sides[1]}\n\n{summary(rows)}\n\n{text}\n"


def as_html(rows: list[dict], sides: tuple[str, str]) -> str:
    """Return the comparison as one page that needs no network, sortable and filtered like the report."""
    labels = {
        "policy": "policy",
        "benchmark": "benchmark",
        "subset": "subset",
        "metric": "metric",
        "seed": "seed",
        "a": "A",
        "b": "B",
        "difference": "B − A",
        "intervals": "intervals",
        "paired": "paired",
        "note": "note",
    }
    lines = [html_line(row) for row in rows]
    values = {
        "sides": sides,
        "summary": summary(rows),
        "filters": {
            name: in_order(row[name] for row in rows if row[name])
            for name in ("benchmark", "policy", "metric")
        },
        "results": table("results", lines, labels, {"seed", "a", "b", "difference", "paired"}),
    }
    return render("page.compare.j2", values)


def html_line(row: dict) -> dict:
    """Return the fields of one row."""
    line = {
        "policy": field(shown_policy(row), code=True),
        "benchmark": field(row["benchmark"]),
        "subset": field(row["subset"]),
        "metric": field(f"{row['metric']} {ARROWS[row['higher_is_better']]}".strip()),
        "seed": field(row["seed"]),
        "intervals": field(row["intervals"]),
        "note": field(row["note"]),
    }
    for side in "ab":
        text, half = shown_value(row, side)
        line[side] = field(text, row[f"value_{side}"] if text else None, spread=half)
    if row["difference"] != "":
        line["difference"] = field(shown_difference(row, "difference"), row["difference"])
    if row["paired_difference"] != "":
        ends = " to ".join(filter(None, (shown_difference(row, f"paired_{end}") for end in ("low", "high"))))
        line["paired"] = field(
            shown_difference(row, "paired_difference"),
            row["paired_difference"],
            note=ends,
            mark=clear_change(row),
            strong=clear_change(row) == "better",
        )
    return line | {f"_{name}": row[name] for name in ("policy", "benchmark", "metric")}


def renamed(text: str) -> tuple[str, str]:
    """Return (B's policy, A's name for it) of a --map flag, tiny.sft=other.sft."""
    first, _, second = text.partition("=")
    if not first or not second:
        raise argparse.ArgumentTypeError(f"{text!r} is not A's policy = B's policy, as in tiny.sft=other.sft")
    return second, first


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Path, help="a results folder, or its results.csv")
    parser.add_argument("b", type=Path, help="the other one")
    parser.add_argument(
        "--map", type=renamed, action="append", default=[], help="A's policy = B's name for it"
    )
    parser.add_argument(
        "--output", type=Path, help=".md, .csv or .html; without it, Markdown to the terminal"
    )
    parser.add_argument("--draws", type=int, default=10_000, help="of the paired bootstrap")
    parser.add_argument("--confidence", type=float, default=0.95, help="of its intervals")
    arguments = parser.parse_args()
    names = dict(arguments.map)
    kind = arguments.output.suffix if arguments.output else ".md"
    if kind not in (".md", ".csv", ".html"):
        raise PlumblineError(f"--output {arguments.output}: comparisons are .md, .csv or .html")
    first = read_side(arguments.a, {})
    unknown = sorted(set(names.values()) - set(first.names))
    if unknown:
        raise PlumblineError(
            f"--map: {arguments.a} has no policy {unknown[0]!r}; it has {', '.join(first.names)}"
        )
    rows = compare(first, read_side(arguments.b, names), arguments.draws, arguments.confidence)
    sides = (str(arguments.a), str(arguments.b))
    text = as_csv(rows) if kind == ".csv" else (as_html if kind == ".html" else as_markdown)(rows, sides)
    if not arguments.output:
        sys.stdout.write(text)
        return
    with finished_file(arguments.output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
