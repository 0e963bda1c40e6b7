"""What a parent policy says about a set of pairs: tokens and per-token log-probs, computed once.

DPO, IPO and KTO, every seed and every beta read the same file. Beside each pair's own completions it scores the
*mismatched* ones that KTO's estimate of the divergence needs (Ethayarajh et al. 2024, eq. 8): the prompt with the
completions of a pair of the next prompt. Several pairs may share a prompt (ranked answers, several samples), so the
next pair will not do: its completions may be the row's own.
"""

import sys
from collections import Counter
from typing import Any

from workflow_scripts.align.parent import Asking, by_length, completion_logps, load_parent
from workflow_scripts.align.token_rows import write_token_rows
from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.cuts import cut_counts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, read_jsonl
from workflow_scripts.common.fitting import fit_row
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import Template, refused

COMPLETIONS = ("chosen", "rejected", "mismatched_chosen", "mismatched_rejected")


class Settings(Asking):
    """What the step reads; `batch_size` pairs make a forward pass."""

    max_prompt_tokens: int
    max_tokens: int
    template: Template


def tokenise_pairs(pairs: list[dict], tokenizer: object, settings: Settings) -> tuple[list[dict], list[dict]]:
    """Return (token rows, rejections); a pair too long for max_tokens is cut as `fitting` says, and has one prompt."""
    kept, rejected = [], []
    limits = settings["max_tokens"], settings["max_prompt_tokens"]
    for pair in pairs:
        replies = [pair["chosen"], pair["rejected"]]
        if why := refused(pair["messages"], replies, settings["template"], tokenizer):
            rejected.append({"id": pair["id"], "reason": why[0], "detail": why[1]})
            continue
        row = fit_row(
            pair["messages"], replies, settings["template"], tokenizer, *limits, f"pair {pair['id']}"
        )
        (prompt, other_prompt), (chosen, losing) = row.prompts, row.completions
        if chosen == losing:
            rejected.append(
                {"id": pair["id"], "reason": "chosen equals rejected", "detail": f"in {len(chosen)} tokens"}
            )
        elif prompt != other_prompt:
            # A tokenizer that merges across the boundary: the pair's two prompts would not be one prompt.
            rejected.append({"id": pair["id"], "reason": "prompt tokenised in two ways", "detail": ""})
        else:
            named = {"id": pair["id"], "split": pair["split"], "asked": digest(pair["messages"])[:16]}
            kept.append(named | {"prompt": prompt, "chosen": chosen, "rejected": losing} | row.facts)
    return kept, rejected


def with_mismatched(rows: list[dict]) -> list[dict]:
    """Return rows with completions of the next prompt as mismatched ones (the last prompt takes the first's).

    A prompt's first pair takes those of the next prompt's first, its second those of the second, and so on. Prompts are
    one where all that is `asked` is, whether or not their pairs had to be cut. Where there is one prompt alone the
    completions are empty: nothing is mismatched.
    """
    own: dict[str, list[dict]] = {}
    for row in rows:
        own.setdefault(row["asked"], []).append(row)
    prompts = list(own)
    following = dict(zip(prompts, prompts[1:] + prompts[:1], strict=True))
    taken: Counter = Counter()
    paired = []
    for row in rows:
        prompt = row["asked"]
        others = own[following[prompt]] if len(prompts) > 1 else [{"chosen": [], "rejected": []}]
        other = others[taken[prompt] % len(others)]
        taken[prompt] += 1
        paired.append(row | {"mismatched_chosen": other["chosen"], "mismatched_rejected": other["rejected"]})
    return paired


def fit_mismatched(rows: list[dict], max_tokens: int) -> int:
    """Cut mismatched completions to what their prompts leave of `max_tokens`; return how many lost something."""
    cut = 0
    for row in rows:
        room = max_tokens - len(row["prompt"])
        for name in ("mismatched_chosen", "mismatched_rejected"):
            cut += len(row[name]) > room
            row[name] = row[name][:room]
    return cut


def add_reference(model: Any, rows: list[dict], settings: Settings) -> None:
    """Give each row `reference_<name>` for each of COMPLETIONS: the model's log-prob of each of its tokens, in nats."""
    for places in by_length([row["prompt"] for row in rows], settings["batch_size"]):
        batch = [rows[place] for place in places]
        completions = [[row[name] for name in COMPLETIONS if row[name]] for row in batch]
        logps = completion_logps(model, [row["prompt"] for row in batch], completions, settings["precision"])
        for row, found in zip(batch, logps, strict=True):
            said = iter(found)
            row |= {f"reference_{name}": next(said) if row[name] else [] for name in COMPLETIONS}


def main() -> None:
    files = {"parent": "model folder", "pairs": "JSON Lines of pairs", "rejected": "the pairs left out"}
    parser = step_parser(__doc__, Settings, **files)
    arguments = parser.parse_args()
    settings = arguments.settings
    tokenizer = load_tokenizer(arguments.parent)
    pairs = read_jsonl(arguments.pairs)
    rows, rejected = tokenise_pairs(pairs, tokenizer, settings)
    assert len(rows) + len(rejected) == len(pairs)
    learned = sum(row["split"] == "train" for row in rows)
    if learned < 2:
        raise PlumblineError(
            f"{arguments.pairs}: {learned} usable pairs are too few; rejected: {rejected[:3]}"
        )
    rows = [
        row
        for split in ("train", "validation")
        for row in with_mismatched([row for row in rows if row["split"] == split])
    ]
    mismatched_cut = fit_mismatched(rows, settings["max_tokens"])
    add_reference(load_parent(arguments.parent, settings), rows, settings)
    counts = {"read": len(pairs), "kept": len(rows), "rejected": len(rejected)}
    counts |= cut_counts(rows) | {"mismatched_cut": mismatched_cut}
    counts["without_mismatched"] = sum(not row["mismatched_chosen"] for row in rows)
    if counts["without_mismatched"]:
        print(
            f"{arguments.pairs}: {counts['without_mismatched']} pairs have the only prompt of their split: no "
            "completion is another prompt's, so KTO takes their divergence as 0",
            file=sys.stderr,
        )
    counts["tokens"] = sum(len(row["prompt"]) + len(row["chosen"]) + len(row["rejected"]) for row in rows)
    write_token_rows(arguments, rows, rejected, counts, str(arguments.pairs))


if __name__ == "__main__":
    run(main)
