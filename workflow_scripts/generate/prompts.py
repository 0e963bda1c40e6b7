"""Build one prompt set: what a benchmark, or the making of preference pairs, asks every policy.

A prompt set is rows of {id, group, messages or text, followups, reference, meta} and a manifest that also holds the
sampling settings, so a policy's answers depend on nothing else.
"""

import argparse
import json
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.turns import turns_of

# Where a completed function ends: the next top-level statement (Chen et al. 2021, section 2.2).
CODE_STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]


def field(row: dict, name: str, path: Path, number: int) -> object:
    """Return a field of a row; PlumblineError names file, row and field if it is missing."""
    if name not in row:
        raise PlumblineError(f"{path}: row {number} has no {name!r} (it has {', '.join(row)})")
    return row[name]


def turn_prompts(path: Path, history: int | None = None) -> list[dict]:
    """One prompt per assistant turn of each conversation, or per ranked row; the gold or best reply is the reference."""
    turns = [turn for row in read_jsonl(path) for turn in turns_of(row, history)]
    return [
        {**turn, "followups": [], "reference": [turn["reference"]]}
        for turn in turns
        if turn["meta"].get("rank", 0) == 0
    ]


def humaneval_prompts(path: Path) -> list[dict]:
    """One raw text prompt per problem; the canonical solution is the reference."""
    return [
        {
            "id": field(row, "task_id", path, number),
            "group": row["task_id"],
            "text": field(row, "prompt", path, number),
            "followups": [],
            "reference": [field(row, "canonical_solution", path, number)],
            "meta": {},
        }
        for number, row in enumerate(read_jsonl(path), 1)
    ]


def mt_bench_prompts(path: Path) -> list[dict]:
    """One row per question with its second turn as followup; references where the question has them."""
    return [
        {
            "id": str(field(row, "question_id", path, number)),
            "group": str(row["question_id"]),
            "messages": [{"role": "user", "content": field(row, "turns", path, number)[0]}],
            "followups": row["turns"][1:],
            "reference": row.get("reference"),
            "meta": {"category": field(row, "category", path, number)},
        }
        for number, row in enumerate(read_jsonl(path), 1)
    ]


def alpaca_eval_prompts(path: Path) -> list[dict]:
    """One row per instruction; the answer to be compared with is the reference."""
    return [
        {
            "id": str(number - 1),
            "group": str(number - 1),
            "messages": [{"role": "user", "content": field(row, "instruction", path, number)}],
            "followups": [],
            "reference": [field(row, "output", path, number)],
            "meta": {"dataset": row.get("dataset", "")},
        }
        for number, row in enumerate(read_jsonl(path), 1)
    ]


BUILDERS = {
    "turns": turn_prompts,
    "humaneval": humaneval_prompts,
    "mt_bench": mt_bench_prompts,
    "alpaca_eval": alpaca_eval_prompts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=BUILDERS, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--sampling", type=json.loads, required=True, help="how answers are drawn, as JSON")
    parser.add_argument("--history", type=int, help="turns: at most so many past exchanges in a prompt")
    parser.add_argument("--limit", type=int, help="keep the first so many rows")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    more = {"history": arguments.history} if arguments.kind == "turns" else {}
    rows = BUILDERS[arguments.kind](arguments.input, **more)[: arguments.limit]
    identities = [row["id"] for row in rows]
    if not rows or len(set(identities)) < len(rows):
        raise PlumblineError(f"{arguments.input}: {'ids repeat' if rows else 'holds no prompts'}")
    stop = CODE_STOPS if arguments.kind == "humaneval" else []
    count = write_jsonl(arguments.output, rows)
    write_manifest(
        arguments.manifest, [arguments.output], count=count, sampling=arguments.sampling | {"stop": stop}
    )


if __name__ == "__main__":
    run(main)
