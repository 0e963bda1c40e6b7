"""Item scores of a whole study to its results: results.csv and results_full.csv (tidy), policies.csv (wide), results.md
and results.tex.

results_full.csv has every column, results.csv those of the same rows that most readers want.

Deterministic: numbers have six significant digits (`%.6g`; -0 and rounding dust below 1e-12 are written 0), rows
stand in the order of the index (policies, seeds, then "all" for a policy of several seeds), then benchmarks, subsets
and metrics by first appearance; no time stamps, no costs, no paths.

Each score stands twice: on all items, and on those that share no text with what the policy was trained on.
clean_value leaves out every item with one 13-gram of a training set (Brown et al. 2020), clean8_value those of which
at least 70 % of the 8-grams are found (Chowdhery et al. 2022), and both those that stand in a training set exactly. A
policy that no training set of the study made has only clean items; what its base model has read before is not known
here.

Not covered: a clean value of scores that cannot be estimated anew from their items (estimator "replicates").
"""

import argparse
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, read_json
from workflow_scripts.report.latex import latex
from workflow_scripts.report.markdown import markdown
from workflow_scripts.report.overlaps import OVERLAP_COLUMNS, overlap_rows
from workflow_scripts.report.results import COLUMNS, FEWER, Settings, results
from workflow_scripts.report.rows import cell_name, scored_rows
from workflow_scripts.report.scores import in_order, load_scores
from workflow_scripts.report.seed_choice import choice_lines, note_choice, read_choice
from workflow_scripts.report.settings import read_settings
from workflow_scripts.report.spreadsheets import write_table


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
    scored = sorted(scored_rows(rows), key=lambda row: benchmarks.index(row["benchmark"]))
    return [*facts, *in_order(map(cell_name, scored))], list(lines.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--index", required=True, type=Path, help="JSON list of score files with policy and seed"
    )
    parser.add_argument(
        "--settings",
        required=True,
        type=read_settings(Settings),
        help="study, baseline, draws, seed, confidence, bars, published; - reads standard input",
    )
    parser.add_argument("--provenance", type=Path, help="provenance.json, whose ids the rows shall carry")
    parser.add_argument("--seeds", type=Path, help="seeds.json, where the number of seeds was chosen")
    parser.add_argument("--output", required=True, type=Path, help="tidy table, CSV")
    parser.add_argument("--full", required=True, type=Path, help="the same rows with every column, CSV")
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
    choice, said = read_choice(arguments.seeds), ""
    if choice:
        note_choice(rows, choice)
        said = "\n".join([*choice_lines(rows, choice), ""])
    write_table(arguments.wide, *wide(rows))
    write_table(arguments.overlap_output, OVERLAP_COLUMNS, overlap_rows(index))
    texts = {
        arguments.markdown: markdown(rows, arguments.settings) + said,
        arguments.latex: latex(rows, arguments.settings),
    }
    for path, text in texts.items():
        with finished_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_table(arguments.full, COLUMNS, rows)
    write_table(arguments.output, FEWER, rows)


if __name__ == "__main__":
    run(main)
