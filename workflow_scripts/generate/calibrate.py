"""Answers of two pseudo-policies: `gold` gives every reference, `empty` says nothing.

They go through the same scorers as any policy, so a reader of the table sees what a full and an empty mark look like.
"""

import argparse
from pathlib import Path

from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl, write_manifest


def calibration_answers(prompts: list[dict], samples: int, policy: str) -> list[dict]:
    """Return the generations of `gold` or `empty` for a prompt set; a prompt without reference is answered empty."""
    answers = []
    for row in prompts:
        turns = 1 + len(row["followups"])
        texts = (row["reference"] or [""] * turns) if policy == "gold" else [""] * turns
        answers += [
            {
                "id": row["id"],
                "sample": sample,
                "turn": turn,
                "text": texts[turn],
                "finish_reason": "stop",
                "prompt_tokens": 0,
                "completion_tokens": 0,
            }
            for sample in range(samples)
            for turn in range(turns)
        ]
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", choices=("gold", "empty"), required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="manifest of the prompt set")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    prompts = read_jsonl(arguments.prompts.with_suffix(".jsonl"))
    samples = read_json(arguments.prompts)["sampling"]["samples"]
    write_jsonl(arguments.output, calibration_answers(prompts, samples, arguments.policy))
    write_manifest(arguments.manifest, [arguments.output])


if __name__ == "__main__":
    run(main)
