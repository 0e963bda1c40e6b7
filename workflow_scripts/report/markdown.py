"""The results as text to read: results.md."""

from workflow_scripts.report.grid import grid_of, headline_grid
from workflow_scripts.report.numbers import decimals_of, estimate, markdown_line, markdown_text, shown
from workflow_scripts.report.rows import (
    cell_name,
    clearly_better,
    clearly_moved,
    is_noise,
    noise_rows,
    scored_rows,
    seeds_apart,
    without_luck,
)
from workflow_scripts.report.scores import in_order
from workflow_scripts.report.spreadsheets import number_text


def markdown(rows: list[dict], settings: dict) -> str:
    """Return results.md: the headline cells, then every cell by benchmark, clear gains over the baseline bold.

    settings: those of `results`, and bars [{benchmark, subset, metric}], the cells of the bar chart.
    """
    noise = [row for row in noise_rows(rows) if row["headline"]]
    rows = [row for row in rows if row["headline"] and not is_noise(row)]
    text = [f"# Results of study {settings['study']}", ""]
    if lacking := without_luck(rows):
        text += [f"**{markdown_text(lacking)}**", ""]
    text += [_legend(rows, settings)]
    grid = headline_grid(rows, settings)
    if grid:
        text += ["", "## Headlines", "", *_markdown_table(grid), *_seed_lines(grid)]
        named = {policy for policy, *_ in grid["lines"]}
        text += _not_scored([row for row in rows if row["policy"] not in named])
    for benchmark in in_order(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == benchmark]
        text += ["", f"## {benchmark}"]
        if scored_rows(own):
            text += [
                "",
                *_markdown_table(grid_of(scored_rows(own), in_order(map(cell_name, scored_rows(own))))),
            ]
        text += _not_scored(own)
        text += _clean_lines(scored_rows(own))
    if noise:
        text += ["", "## Noise", "", NOISE, "", *_noise_table(noise)]
    published = [row for row in rows if row["published_value"] != ""]
    if published:
        text += ["", "## Published values", "", *_published_table(published)]
    return "\n".join(text) + "\n"


INTERVALS = {
    "korn_graubard": "Korn and Graubard's over groups of items, where items have bounds",
    "wilson": "Wilson's where each item counts alone and is right or wrong",
    "bootstrap": "bootstrap over groups of items",
    "replicates": "refits on draws of groups",
    "two_level_korn_graubard": "over seeds and groups of items, within the scale's ends",
    "two_level_t": "t over seeds and groups of items",
    "two_level_log_t": "t over seeds and groups of items, of the logarithm",
}


NOISE = (
    "How far numbers move when nothing that is meant to matter has changed. Each line is a policy that answered once "
    "more, otherwise, and how far that is from its own row. No difference between policies that is not larger than the "
    "largest of these of its score (the column `noise` of results_full.csv) is marked."
)


def _not_scored(rows: list[dict]) -> list[str]:
    """Return, for each reason why rows have no value, a line with the policies."""
    refused: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["value"] == "":
            refused.setdefault(row["note"], {})[f"`{row['policy']}`"] = None
    lines = [f"Not scored ({', '.join(policies)}): {markdown_text(why)}" for why, policies in refused.items()]
    return [each for line in lines for each in ("", line)]


def _legend(rows: list[dict], settings: dict) -> str:
    level = number_text(100.0 * settings["confidence"])
    used = {row["interval"] for row in rows}
    ways = "; ".join(text for name, text in INTERVALS.items() if name in used)
    named = f" ({ways})" if ways else ""
    legend = (
        f"Each number is a value ± half the width of its {level} % interval, or [low, high] where that is not "
        f"symmetric{named}. One without has no interval: its note in results.csv says why. "
        "↑ higher is better, ↓ lower is better."
    )
    if settings["baseline"]:
        legend += (
            f" **Bold**: better than `{settings['baseline']}`, the {level} % interval of the paired difference "
            "over seeds and items lying wholly on the good side of 0 (before Holm's correction; `p_adjusted` in "
            "results.csv is after it)."
        )
    if any(row["noise"] != "" for row in rows):
        legend += " Nothing is bold that is no further from it than the score's noise (see below)."
    if any(row["policy"] == "gold" for row in rows):
        legend += (
            " `gold` and `empty` are no policies: the scorers' marks for the reference answers and for none."
        )
    return legend


def _markdown_table(grid: dict) -> list[str]:
    arrows = {True: " ↑", False: " ↓", "": ""}
    titles = [title + arrows[better] for title, better in grid["columns"]]
    lines = [markdown_line(["policy", *titles]), markdown_line(["---"] + ["---:"] * len(titles))]
    for policy, seeds, rows in grid["lines"]:
        label = f"`{policy}`" + (f" ({seeds} seeds)" if seeds > 1 else "")
        lines.append(markdown_line([label, *map(_markdown_cell, rows)]))
    return [*lines, markdown_line(["*items (in groups)*", *grid["counts"]])]


def _seed_lines(grid: dict) -> list[str]:
    """Return how far the seeds of each policy lie apart, by the columns of a grid; nothing where each has one."""
    titles = [title for title, _ in grid["columns"]]
    lines = [
        markdown_line([f"`{policy}`", *(seeds_apart(row) if row else "" for row in rows)])
        for policy, _, rows in grid["lines"]
        if any(row and seeds_apart(row) for row in rows)
    ]
    if not lines:
        return []
    head = [markdown_line(["policy", *titles]), markdown_line(["---"] + ["---:"] * len(titles))]
    return ["", "The seeds by themselves, from the least to the greatest:", "", *head, *lines]


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


def _noise_table(rows: list[dict]) -> list[str]:
    lines = [markdown_line(["again", "score", "value", "difference", "what was otherwise"])]
    lines.append(markdown_line(["---", "---", "---:", "---:", "---"]))
    for row in rows:
        value, difference = "–", "–"
        if row["value"] != "":
            value = estimate(row["value"], row["ci_low"], row["ci_high"])
        if row["difference"] != "":
            difference = number_text(row["difference"])
        cells = [f"`{row['policy']}`", cell_name(row), value, difference, row["note"]]
        lines.append(markdown_line(cells))
    return lines


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
