"""List every score of a study and what stands behind it: scores.json, which tables, provenance and page read.

The rules give policies and benchmarks, each with what is its own; an entry is one of each. So a study of a hundred
policies still fits on a command line.
"""

import argparse
import json
import sys
from pathlib import Path

from workflow_scripts.common.errors import run
from workflow_scripts.common.files import write_json

COPIED = ("policy", "parent", "method", "seed", "kind", "training_sets")


def entry_of(cell: dict, benchmark: dict) -> dict:
    """Return one entry: the policy's words, its score file, and the files and facts the score rests on.

    cell: {"policy", "parent", "method", "seed", "kind", "training_sets", "folder", "files", "facts"}; benchmark:
    {"name", "answered", "judged", "measured", "overlap", "files", "facts"}: whether there are answers, verdicts and
    likelihoods. `generations` and `verdicts` are null where there are none. `chosen`, the manifest of a policy that was
    chosen by its answers while it trained, is there for such alone; so is `adopted`, the policies of its lineage whose
    weights were not trained here; of a policy that answers again `of`, which it is, and what is `changed` (its cell
    names the `benchmarks` that it answers); and `overlap_allowed`, true, where the study lets questions of a benchmark
    stand in training data; and `relative`, how a judge is related to the policy, of its `relatives` alone.
    """
    folder, name = cell["folder"], benchmark["name"]
    generations = f"{folder}/generations/{name}.json" if benchmark["answered"] else None
    verdicts = f"{folder}/verdicts/{name}.jsonl" if benchmark["judged"] else None
    likelihoods = f"{folder}/likelihoods/{name}.jsonl" if benchmark["measured"] else None
    score = f"{folder}/scores/{name}.json"
    own = [path for path in (score, generations, verdicts, likelihoods, benchmark["overlap"]) if path]
    told = (*((key, cell) for key in ("chosen", "adopted", "of", "changed")), ("overlap_allowed", benchmark))
    there = {key: part[key] for key, part in told if key in part}
    if kin := benchmark.get("relatives", {}).get(cell.get("of", cell["policy"])):
        there["relative"] = kin
    return (
        {key: cell[key] for key in COPIED}
        | there
        | {
            "benchmark": name,
            "file": score,
            "generations": generations,
            "verdicts": verdicts,
            "overlap": benchmark["overlap"],
            "files": list(dict.fromkeys([*own, *benchmark["files"], *cell["files"]])),
            "facts": benchmark["facts"] | cell["facts"],
        }
    )


def entries_of(given: dict) -> list[dict]:
    """Return the entries of {"cells", "benchmarks"}: one of each policy and benchmark that it is scored on."""
    return [
        entry_of(cell, benchmark)
        for cell in given["cells"]
        for benchmark in given["benchmarks"]
        if benchmark["name"] in cell.get("benchmarks", [benchmark["name"]])
    ]


def main() -> None:
    """Write the index of a study whose policies and benchmarks stand on standard input, as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    write_json(arguments.output, entries_of(json.load(sys.stdin)))


if __name__ == "__main__":
    run(main)
