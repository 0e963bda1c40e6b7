"""The report: one HTML page that needs no network, from the tables and files that a study leaves.

Every table sorts, the large one filters, and the address keeps both (report.html#benchmark=mt_bench&sort=-value).
Model answers and judges' words are shown as text, whatever they contain: the templates escape everything, and a
content policy lets the browser run the page's own script alone. A section without data is left out. The same input
gives the same bytes; of the inputs only costs.csv differs from run to run.

Not covered: single seeds of a policy that has several outside of its headlines (results.csv has them), and editing
anything.
"""

import argparse
import base64
import hashlib
from pathlib import Path

import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from typing_extensions import TypedDict

from workflow_scripts.common.errors import run
from workflow_scripts.common.files import finished_file, read_json, sha256_of
from workflow_scripts.report.drawing import CALIBRATION, STYLE
from workflow_scripts.report.grid import headline_cells
from workflow_scripts.report.page_figures import (
    answer_length_figures,
    curve_figures,
    forest_figures,
    length_figures,
    reward_figures,
)
from workflow_scripts.report.page_sections import (
    accepted_lines,
    cost_table,
    data_rows,
    left_out_lines,
    overlap_section,
    provenance_table,
    settings_table,
)
from workflow_scripts.report.page_tables import (
    headline_table,
    noise_table,
    plain_table,
    results_table,
    seeds_table,
)
from workflow_scripts.report.rows import headline_rows, noise_rows, typed, without_luck
from workflow_scripts.report.samples import read_samples, read_watched, rows_beside
from workflow_scripts.report.scores import in_order
from workflow_scripts.report.seed_choice import left_out, read_choice, two_stage
from workflow_scripts.report.settings import Bar, Curve, Hyper, read_settings
from workflow_scripts.report.spreadsheets import read_csv


class Settings(TypedDict):
    """What the page shows beside the tables.

    data: {dataset: manifest}; prompts: {benchmark: manifest of its prompt set}; rewards: files of annotated rows; file:
    the study's YAML; hyper_parameters: what each run was told; lock: digest of the lock file.
    """

    study: str
    file: str
    baseline: str | None
    bars: list[Bar]
    headline: list[Bar]
    curves: list[Curve]
    rewards: list[str]
    data: dict[str, str]
    hyper_parameters: Hyper
    prompts: dict[str, str]
    sample_count: int
    lock: str


TEMPLATES = Path(__file__).resolve().parents[2] / "report"
FOLD = 500  # characters of an answer that stand open


def digests(settings: Settings, provenance: dict, results: Path) -> list[tuple[str, str]]:
    """Return (what, digest) of what stands behind the page."""
    found = [
        ("study", provenance.get("study")),
        ("lock file", provenance.get("lock", settings["lock"])),
        (results.name, sha256_of(results)),
    ]
    return [(what, str(value)) for what, value in found if value]


def rows_in(path: Path | None) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none where no file is given."""
    return read_csv(path) if path else []


def seeds_said(rows: list[dict], choice: dict | None) -> dict | None:
    """Return {"words", "intervals", "left_out"} of how the number of seeds was chosen; None where it was not."""
    if choice is None:
        return None
    return {
        "words": choice["words"],
        "intervals": two_stage(rows, choice),
        "left_out": left_out(choice),
    }


def build(settings: Settings, inputs: argparse.Namespace) -> dict:
    """Return everything that the template shows; inputs: the paths of the command line, None where not given."""
    every = read_csv(inputs.results)
    text_rows = headline_rows(every)
    rows = [typed(row) for row in text_rows]
    provenance = read_json(inputs.provenance) if inputs.provenance else {}
    index = read_json(inputs.index) if inputs.index else []
    rewarded = {row["benchmark"] for row in rows if row["metric"] == "reward"}
    own_answers = [e for e in index if e["benchmark"] in rewarded and e["kind"] != "noise"]
    training, costs = rows_in(inputs.training), rows_in(inputs.costs)
    overlap, agreement = rows_in(inputs.overlap), rows_in(inputs.agreement)
    sets = [
        read_samples(benchmark, rows_beside(manifest), index, settings["sample_count"])
        for benchmark, manifest in settings["prompts"].items()
    ]
    looked = any(row["clean_n"] != "" for row in rows)  # else an empty overlap.csv says nothing
    cells = headline_cells(rows, settings)
    policies = in_order(row["policy"] for row in rows)
    refused: dict[str, list[str]] = {}
    for row in rows:
        if row["value"] == "":
            refused.setdefault(f"{row['benchmark']}: {row['note']}", []).append(row["policy"])
    return {
        "study": settings["study"],
        "baseline": settings["baseline"],
        "file": settings["file"],
        "digests": digests(settings, provenance, inputs.results),
        "policies": [policy for policy in policies if policy not in CALIBRATION],
        "calibrated": any(policy in CALIBRATION for policy in policies),
        "filters": {
            name: in_order(row[name] for row in rows if row[name])
            for name in ("benchmark", "policy", "metric")
        },
        "refused": refused,
        "without_luck": without_luck(rows),
        "accepted": accepted_lines(provenance) if provenance else [],
        "seeds": seeds_said(rows, read_choice(inputs.seeds)),
        "headlines": headline_table(rows, cells) if cells else None,
        "each_seed": seeds_table([typed(row) for row in every], cells),
        "forest": forest_figures(text_rows, cells),
        "results": results_table(rows),
        "noise": noise_table([typed(row) for row in noise_rows(every)]),
        "scores": sum(row["value"] != "" for row in rows),
        "lengths": length_figures(rows),
        "samples": [found for found in sets if found["prompts"] and found["lengths"]],
        "fold": FOLD,
        "warnings": [row for row in training if row["warning"]],
        "training": plain_table("training", training) if training else None,
        "curves": curve_figures(settings["curves"]),
        "watched": read_watched(settings["curves"]),
        "rewards": reward_figures(settings["rewards"], sets, own_answers),
        "left_out": left_out_lines(sets),
        "answer_lengths": answer_length_figures(sets),
        "costs": [cost_table(costs, key) for key in ("stage", "policy")] if costs else [],
        "cost_jobs": plain_table("cost-jobs", costs) if costs else None,
        "data": plain_table("data", data_rows(settings["data"])) if settings["data"] else None,
        "settings": settings_table(settings["hyper_parameters"]),
        "overlap": overlap_section(overlap) if overlap or looked else None,
        "agreement": plain_table("agreement", agreement) if agreement else None,
        "provenance": provenance_table(provenance) if provenance else None,
    }


def render(template: str, values: dict, script_file: str = "page.js") -> str:
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
    script = (TEMPLATES / script_file).read_text(encoding="utf-8")
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ours = {"script": Markup(script), "style": Markup(style), "allowed": f"'sha256-{allowed}'"}
    return environment.get_template(template).render(values | ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--settings",
        required=True,
        type=read_settings(Settings),
        help="the keys of Settings, as JSON; - reads standard input",
    )
    parser.add_argument("--results", required=True, type=Path, help="results_full.csv")
    parser.add_argument("--index", type=Path, help="scores.json: where answers, verdicts and item scores are")
    parser.add_argument("--training", type=Path, help="training.csv")
    parser.add_argument("--costs", type=Path, help="costs.csv")
    parser.add_argument("--overlap", type=Path, help="overlap.csv")
    parser.add_argument("--provenance", type=Path, help="provenance.json")
    parser.add_argument("--agreement", type=Path, help="judges.csv")
    parser.add_argument("--seeds", type=Path, help="seeds.json, where the number of seeds was chosen")
    parser.add_argument("--output", required=True, type=Path, help="the page, HTML")
    arguments = parser.parse_args()
    with plt.rc_context(STYLE):
        page = render("page.html.j2", build(arguments.settings, arguments))
    with finished_file(arguments.output) as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
