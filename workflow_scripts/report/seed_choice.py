"""What the tables say of a number of seeds that was chosen as the study ran (seeds.json, see choose_seeds.py)."""

import math
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.report.numbers import decimals_of, markdown_text, shown
from workflow_scripts.report.rows import cell_name, headline_rows


def read_choice(path: Path | None) -> dict | None:
    """Return what was chosen and why; None where no file is given. PlumblineError where it has another shape."""
    if path is None:
        return None
    value = read_json(path)
    if not isinstance(value, dict) or not {"on", "until", "seeds", "words", "policies", "reached"} <= set(
        value
    ):
        raise PlumblineError(f"{path}: does not say how many seeds were chosen; delete it, and run again")
    return value


def is_about(row: dict, choice: dict) -> bool:
    """Tell whether a row is of the cell and of a policy that the seeds were chosen by."""
    on = choice["on"]
    there = (row["benchmark"], row["subset"], row["metric"]) == (on["benchmark"], on["subset"], on["metric"])
    return there and "half_width" in choice["policies"].get(row["policy"], {})


def note_choice(rows: list[dict], choice: dict) -> None:
    """Note in each row whose interval was to be so narrow that it is not, where more seeds would have been needed."""
    for row in headline_rows(rows):
        if not is_about(row, choice):
            continue
        own = choice["policies"][row["policy"]]
        if own["half_width"] > choice["until"]:
            why = "the items alone are wider" if own["needed"] is None else f"{own['needed']} seeds would do"
            note = (
                f"± {choice['until']:g} was asked for by seeds.until, and the two-stage interval is "
                f"± {own['half_width']:.3g}: {why}"
            )
            row["note"] = "; ".join(filter(None, [row["note"], note]))


def two_stage(rows: list[dict], choice: dict) -> list[str]:
    """Return "policy: value ± half width" of each policy that the seeds were chosen by; of typed rows."""
    found = []
    for row in headline_rows(rows):
        if is_about(row, choice) and row["value"] != "" and math.isfinite(row["value"]):
            half = choice["policies"][row["policy"]]["half_width"]
            low, high = row["value"] - half, row["value"] + half
            decimals = decimals_of(row["value"], low, high)
            found.append(f"{row['policy']}: {shown(row['value'], decimals)} ± {shown(half, decimals)}")
    return found


def left_out(choice: dict) -> list[str]:
    """Return a line for each policy that decided nothing, and for each of its first seeds without a score."""
    lines = []
    for policy, own in choice["policies"].items():
        if "left_out" in own:
            lines.append(f"{policy} decided nothing: {own['left_out']}")
        lines += [f"{policy}, seed {seed}: no score: {why}" for seed, why in own["without"].items()]
    return lines


def choice_lines(rows: list[dict], choice: dict) -> list[str]:
    """Return the lines of results.md on how the number of seeds was chosen."""
    if not rows:
        return []
    cell = cell_name(choice["on"])
    text = ["", "## Seeds", "", f"{markdown_text(choice['words'])}."]
    if intervals := two_stage(rows, choice):
        text += [
            "",
            f"Two-stage intervals of {markdown_text(cell)}, their width fixed by the first seeds:",
            "",
        ]
        text += [f"- {markdown_text(line)}" for line in intervals]
    if lacking := left_out(choice):
        text += ["", *(f"- {markdown_text(line)}" for line in lacking)]
    return text
