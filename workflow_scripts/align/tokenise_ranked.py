"""Tokens of ranked answers: one row per prompt with all its answers, the best first. No reference model is asked."""

from typing_extensions import TypedDict

from workflow_scripts.align.token_rows import write_token_rows
from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.cuts import cut_counts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.fitting import fit_row
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import Template, refused


class Settings(TypedDict):
    """What the step reads."""

    max_prompt_tokens: int
    max_tokens: int
    template: Template


def tokenise_ranked(rows: list[dict], tokenizer: object, settings: Settings) -> tuple[list[dict], list[dict]]:
    """Return (token rows, rejections); a row too long for max_tokens is cut as `fitting` says, and has one prompt."""
    kept, rejected = [], []
    limits = settings["max_tokens"], settings["max_prompt_tokens"]
    for row in rows:
        if why := refused(row["messages"], row["answers"], settings["template"], tokenizer):
            rejected.append({"id": row["id"], "reason": why[0], "detail": why[1]})
            continue
        name = f"row {row['id']}"
        found = fit_row(row["messages"], row["answers"], settings["template"], tokenizer, *limits, name)
        prompt = found.prompts[0]
        answers = {
            tuple(answer): reward for answer, reward in zip(found.completions, row["rewards"], strict=True)
        }
        if any(other != prompt for other in found.prompts):
            # A tokenizer that merges across the boundary: the answers would not share one prompt.
            rejected.append({"id": row["id"], "reason": "prompt tokenised in two ways", "detail": ""})
        elif len(answers) < len(found.completions):
            detail = f"in {limits[0] - len(prompt)} tokens"
            rejected.append({"id": row["id"], "reason": "answers equal", "detail": detail})
        else:
            kept.append(
                {
                    "id": row["id"],
                    "split": row["split"],
                    "prompt": prompt,
                    "answers": [list(answer) for answer in answers],
                    "rewards": list(answers.values()),
                    **found.facts,
                }
            )
    return kept, rejected


def main() -> None:
    files = {"ranked": "JSON Lines of ranked answers", "rejected": "the rows left out"}
    parser = step_parser(__doc__, Settings, parent="model folder with the tokenizer", **files)
    arguments = parser.parse_args()
    read = read_jsonl(arguments.ranked)
    rows, rejected = tokenise_ranked(read, load_tokenizer(arguments.parent), arguments.settings)
    assert len(rows) + len(rejected) == len(read)
    if not any(row["split"] == "train" for row in rows):
        raise PlumblineError(f"{arguments.ranked}: no row to learn from; rejected: {rejected[:3]}")
    counts = {
        "read": len(read),
        "kept": len(rows),
        "rejected": len(rejected),
        **cut_counts(rows),
        "tokens": sum(len(row["prompt"]) + sum(map(len, row["answers"])) for row in rows),
    }
    write_token_rows(arguments, rows, rejected, counts, str(arguments.ranked))


if __name__ == "__main__":
    run(main)
