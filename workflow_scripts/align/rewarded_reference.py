"""What a parent policy says about annotated answers: tokens and per-token log-probs, computed once.

The eight offline methods and every seed read the same file; the value function's advantages are kept beside it. An
answer's rank (0 is the preferred one) is the annotation's, 0 where it has none. Not covered: rewards, see `annotate`.
"""

import math
from collections import defaultdict
from typing import Any

from workflow_scripts.align.parent import Asking, completion_logps, load_parent
from workflow_scripts.align.token_rows import write_token_rows
from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.cuts import cut_counts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.fitting import fit_row
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import Template, refused
from workflow_scripts.common.turns import window


class Settings(Asking):
    """What the step reads; at most `batch_size` answers make a forward pass."""

    max_prompt_tokens: int
    max_tokens: int
    template: Template
    history_turns: int | None


def final_reward(row: dict) -> float | None:
    """Return an annotated row's final reward, None where it is missing or not finite."""
    value = row.get("rewards", {}).get("final_reward")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def tokenise_answers(
    rows: list[dict], split: str, tokenizer: Any, settings: Settings
) -> tuple[list[dict], list[dict]]:
    """Return (token rows, rejections), in the rows' order; a row too long for max_tokens is cut as `fitting` says."""
    kept, rejected = [], []
    limits = settings["max_tokens"], settings["max_prompt_tokens"]
    for row in rows:
        messages, reply = window(row["messages"], settings["history_turns"]), row["reference"]
        why = refused(messages, [reply], settings["template"], tokenizer)
        reward = final_reward(row)
        if why:
            reason, detail = why
        elif not reply.strip():
            reason, detail = "empty completion", ""
        elif reward is None:
            reason, detail = "no finite final_reward", str(row.get("rewards", {}).get("final_reward"))
        else:
            found = fit_row(messages, [reply], settings["template"], tokenizer, *limits, f"row {row['id']}")
            tokens = {"prompt": found.prompts[0], "completion": found.completions[0]}
            rank = row.get("meta", {}).get("rank", 0)
            facts = {"id": row["id"], "group": row["group"], "reward": reward, "rank": rank, "split": split}
            shortened = {"history_cut": len(messages) < len(row["messages"])}
            kept.append(facts | tokens | found.facts | shortened)
            continue
        rejected.append({"id": row["id"], "reason": reason, "detail": detail})
    return kept, rejected


def batches_of(rows: list[dict], size: int) -> list[list[list[dict]]]:
    """Return batches of prompts, each prompt the list of its rows; prompts of like length go together.

    A batch holds at most `size` answers, or one prompt that has more.
    """
    prompts: dict[tuple[int, ...], list[dict]] = defaultdict(list)
    for row in rows:
        prompts[tuple(row["prompt"])].append(row)
    batches: list[list[list[dict]]] = []
    room = 0
    for group in sorted(prompts.values(), key=lambda group: len(group[0]["prompt"])):
        if len(group) > room:
            batches.append([])
            room = size
        batches[-1].append(group)
        room -= len(group)
    return batches


def add_reference(model: Any, rows: list[dict], settings: Settings) -> None:
    """Give each row `reference`: the model's log-prob of each completion token, in nats; one encoding a prompt."""
    for batch in batches_of(rows, settings["batch_size"]):
        prompts = [group[0]["prompt"] for group in batch]
        completions = [[row["completion"] for row in group] for group in batch]
        logps = completion_logps(model, prompts, completions, settings["precision"])
        for group, found in zip(batch, logps, strict=True):
            for row, each in zip(group, found, strict=True):
                row["reference"] = each


def read_annotated(named: list[str]) -> list[tuple[str, list[dict]]]:
    """Return [(split, rows)] of name=FILE flags: the one named `validation` is held out, the others are learned from.

    PlumblineError if an id comes twice: rewards, advantages and answers find each other by it.
    """
    files, seen = [], set()
    for flag in named:
        name, _, path = flag.partition("=")
        rows = read_jsonl(path)
        for row in rows:
            if row["id"] in seen:
                raise PlumblineError(f"{path}: row {row['id']}: this id comes twice; ids must be unique")
            seen.add(row["id"])
        files.append(("validation" if name == "validation" else "train", rows))
    return files


def main() -> None:
    parser = step_parser(__doc__, Settings, parent="model folder", rejected="the answers left out")
    parser.add_argument("--annotated", nargs="+", required=True, help="name=FILE.jsonl; validation=FILE")
    arguments = parser.parse_args()
    settings = arguments.settings
    tokenizer = load_tokenizer(arguments.parent)
    rows, rejected, counts = [], [], {"read": 0}
    for split, annotated in read_annotated(arguments.annotated):
        kept, refused = tokenise_answers(annotated, split, tokenizer, settings)
        rows += kept
        rejected += refused
        counts["read"] += len(annotated)
    assert counts["read"] == len(rows) + len(rejected)
    if not any(row["split"] == "train" for row in rows):
        raise PlumblineError(
            f"{' '.join(arguments.annotated)}: no usable training row; rejected: {rejected[:3]}"
        )
    add_reference(load_parent(arguments.parent, settings), rows, settings)
    counts |= {"kept": len(rows), "rejected": len(rejected)}
    counts |= cut_counts(rows) | {"histories_cut": sum(row["history_cut"] for row in rows)}
    counts["validation"] = sum(row["split"] == "validation" for row in rows)
    counts["tokens"] = sum(len(row["prompt"]) + len(row["completion"]) for row in rows)
    write_token_rows(arguments, rows, rejected, counts, " ".join(arguments.annotated))


if __name__ == "__main__":
    run(main)
