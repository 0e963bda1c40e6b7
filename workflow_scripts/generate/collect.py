"""Hand one prompt set's answers on from the policy's answer store, as a file of its own with a manifest.

Apart from `answer` so that a change to one benchmark's prompts makes only that benchmark's answers new.
"""

import argparse
import shutil
from pathlib import Path

from workflow_scripts.common.cuts import PROMPT_KINDS, cut_counts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, read_json, read_jsonl, write_jsonl, write_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answered", type=Path, required=True, help="JSON: prompt set → fingerprint")
    parser.add_argument("--answers", type=Path, required=True, help="folder of the policy's finished answers")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of the stores that answering goes on from"
    )
    parser.add_argument("--prompts", type=Path, required=True, help="manifest of the prompt set")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    store = arguments.answers / f"{read_json(arguments.answered).get(arguments.prompts.stem)}.jsonl"
    if not store.is_file():
        raise PlumblineError(
            f"{store}: the stored answers are gone; delete {arguments.answered} and run again to have them made anew"
        )
    if not (
        arguments.work / store.name
    ).exists():  # fetched, not answered here: a prompt set more costs itself alone
        with finished_file(arguments.work / store.name) as temporary:
            shutil.copyfile(store, temporary)
    prompts = read_jsonl(arguments.prompts.with_suffix(".jsonl"))
    place = {row["id"]: index for index, row in enumerate(prompts)}
    rows = sorted(read_jsonl(store), key=lambda row: (place[row["id"]], row["sample"], row["turn"]))
    samples = read_json(arguments.prompts)["sampling"]["samples"]
    expected = sum(1 + len(row["followups"]) for row in prompts) * samples
    if len(rows) != expected:
        raise PlumblineError(
            f"{store}: {len(rows)} answers, {expected} are owed; delete {arguments.answered} and rerun"
        )
    write_jsonl(arguments.output, rows)
    counts = {
        "answers": len(rows),
        "finished": sum(row["finish_reason"] == "stop" for row in rows),
        **{name: count for name, count in cut_counts(rows).items() if name in PROMPT_KINDS},
        "special_spelled": sum("special_spelled" in row for row in rows),
    }
    write_manifest(arguments.manifest, [arguments.output], counts=counts)


if __name__ == "__main__":
    run(main)
