"""The headline table for a paper: results.tex."""

from workflow_scripts.report.grid import headline_grid
from workflow_scripts.report.numbers import estimate
from workflow_scripts.report.rows import clearly_better

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
        r"% \usepackage{booktabs}; value $\pm$ half its interval, or [low, high]; bold where clearly better than the "
        "baseline",
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
