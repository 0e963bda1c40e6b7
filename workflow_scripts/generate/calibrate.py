"""Answers of two pseudo-policies: `gold` gives every reference, `empty` says nothing.

They go through the same scorers as any policy, so a reader of the table sees what a full and an empty mark look like.
`gold` goes through tokens, too: each of its answers is encoded behind its prompt with the tokenizer and the template of
every policy that is asked, and decoded as their answers are. Where that alters an answer, no policy could have given
it, and the altered one is scored. Not covered: stop strings, and how much room the context leaves.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow_scripts.common.chat_template import FILE
from workflow_scripts.common.decoding import reply_text, reply_tokens
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import (
    digest,
    read_json,
    read_jsonl,
    sha256_of,
    write_jsonl,
    write_manifest,
)
from workflow_scripts.common.templates import encode, render, tokenise_prompt, tokenise_text
from workflow_scripts.common.turns import with_answers

# (a prompt's row, the texts of all its turns, the turn) → the text of the turn as tokens give it back
Through = Callable[[dict, list[str], int], str]


def through_tokens(tokenizer: Any, template: dict) -> Through:
    """Return the function that has a reference said in the tokens of a policy, and read as its answers are."""

    def through(row: dict, texts: list[str], turn: int) -> str:
        text = texts[turn]
        if "text" in row:
            prompt = tokenise_text(row["text"], tokenizer)
            whole = tokenise_text(row["text"] + text, tokenizer)
            return reply_text(tokenizer, prompt, reply_tokens(tokenizer, prompt, whole, text))
        messages = with_answers(row["messages"], texts[:turn], row["followups"])
        prompt = tokenise_prompt(messages, template, tokenizer)
        rendered, spans = render([*messages, {"role": "assistant", "content": text}], template, tokenizer)
        start, (first, last) = spans[-1].start, spans[-1].said
        said = rendered[start:last]
        whole = encode(rendered[:last], tokenizer, spans)[0]
        found = reply_text(tokenizer, prompt, reply_tokens(tokenizer, prompt, whole, said))
        # What the template itself adds and strips is no loss.
        return text if found == said else found.removeprefix(rendered[start:first])

    return through


def distinct_models(models: list[dict]) -> dict[str, dict]:
    """Return the models by what is done with a text in them: those of one tokenizer and template are one.

    models: [{"name", "folder", "template"}]; what is returned has the names of all of a kind as its key.
    """
    found: dict[str, list[dict]] = {}
    for model in models:
        found_here = [*Path(model["folder"]).glob("*token*"), Path(model["folder"]) / FILE]
        files = sorted(path for path in found_here if path.is_file())
        kind = digest([model["template"], [(path.name, sha256_of(path)) for path in files]])
        found.setdefault(kind, []).append(model)
    return {", ".join(dict.fromkeys(each["name"] for each in alike)): alike[0] for alike in found.values()}


def gold_texts(row: dict, through: dict[str, Through], changed: dict[str, int]) -> list[str]:
    """Return a prompt's references as tokens give them back; `changed` counts, by model, those its tokens altered."""
    texts, said = row["reference"], []
    for turn, text in enumerate(texts):
        altered = []
        for name, way in through.items():
            found = way(row, texts, turn)
            if found != text:
                changed[name] += 1
                altered.append(found)
        said.append(altered[0] if altered else text)
    return said


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
    parser.add_argument(
        "--models",
        type=json.loads,
        default=[],
        help="gold: whose tokens it speaks in, as JSON: [{name, folder, template}]",
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    prompts = read_jsonl(arguments.prompts.with_suffix(".jsonl"))
    samples = read_json(arguments.prompts)["sampling"]["samples"]
    through: dict[str, Through] = {}
    if arguments.policy == "gold" and any(row["reference"] for row in prompts):
        from workflow_scripts.common.models import load_tokenizer  # here: `empty` needs no tokens

        for name, model in distinct_models(arguments.models).items():
            through[name] = through_tokens(load_tokenizer(model["folder"]), model["template"])
    changed = dict.fromkeys(through, 0)
    if through:
        prompts = [
            row | {"reference": gold_texts(row, through, changed)} if row["reference"] else row
            for row in prompts
        ]
    references = sum(len(row["reference"] or []) for row in prompts)
    for name, count in changed.items():
        if count:
            print(
                f"warning: {arguments.prompts.stem}: {count} of {references} gold answers are others in the tokens of "
                f"{name}: gold is scored on what a policy can say, not on the reference",
                file=sys.stderr,
            )
    answers = calibration_answers(prompts, samples, arguments.policy)
    write_jsonl(arguments.output, answers)
    counts = {"answers": len(answers), "changed_by_tokens": changed}
    bare = sum(not row["reference"] for row in prompts)
    if bare and arguments.policy == "gold":
        print(
            f"warning: {arguments.prompts.stem}: {bare} of {len(prompts)} prompts have no reference: gold's answers to "
            "them are empty",
            file=sys.stderr,
        )
        counts["without_reference"] = bare
    write_manifest(arguments.manifest, [arguments.output], counts=counts)


if __name__ == "__main__":
    run(main)
