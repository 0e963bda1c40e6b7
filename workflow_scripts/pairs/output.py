"""What every step that makes pairs writes: pairs, ranked rows, answers left out, and the manifest that counts them."""

import argparse
from collections import Counter
from typing import Any

from workflow_scripts.common.files import write_jsonl, write_manifest
from workflow_scripts.pairs.lengths import length_facts, said


def told_reasons(rejected: list[dict]) -> str:
    """Return why answers were left out, and how many for each reason, in a line."""
    return ", ".join(f"{why}: {count}" for why, count in Counter(row["reason"] for row in rejected).items())


def write_pairs(
    arguments: argparse.Namespace,
    pairs: list[dict],
    ranked: list[dict],
    rejected: list[dict],
    counts: dict[str, Any],
) -> None:
    """Write a step's files, say what was left out and how long replies are, and last write the manifest.

    `counts` is what the step counts itself; reasons and lengths are counted here, of all kinds of pairs alike.
    """
    write_jsonl(arguments.output, pairs)
    write_jsonl(arguments.ranked, ranked)
    write_jsonl(arguments.rejected, rejected)
    counts = counts | {
        "rejected": dict(Counter(row["reason"] for row in rejected)),
        "lengths": length_facts(pairs),
    }
    for why, count in counts["rejected"].items():
        print(f"left out, {why}: {count} answers")
    print(said(counts["lengths"]))
    files = [arguments.output, arguments.ranked, arguments.rejected]
    write_manifest(arguments.manifest, files, counts=counts)
