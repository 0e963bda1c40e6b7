"""Prompts that a policy has answered: all of them, but where its answers came from elsewhere and say that some lack."""

from pathlib import Path

from workflow_scripts.common.files import read_json, read_jsonl


def answered_prompts(prompts: Path | str, generations: Path | str) -> list[dict]:
    """Return a prompt set's rows without those that have no answer, where the answers' manifest counts any `missing`.

    Where it counts none every prompt needs an answer, and whoever scores says which has none.
    """
    rows = read_jsonl(prompts)
    manifest = Path(generations).with_suffix(".json")
    counts = read_json(manifest).get("counts", {}) if manifest.is_file() else {}
    if not counts.get("missing"):
        return rows
    there = {row["id"] for row in read_jsonl(generations)}
    return [row for row in rows if row["id"] in there]
