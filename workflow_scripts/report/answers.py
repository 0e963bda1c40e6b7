"""A policy's answers in the files that the sources of our studies keep theirs in, for their own tools.

    python -m workflow_scripts.report.answers results/STUDY --policy P --benchmark B --shape alpaca --output FILE

alpaca      a JSON list of {"instruction", "input", "output", "model_response"} (Raschka's chapter 7:
            instruction-data-with-response.json); "output" is the reference
rewarded    JSON Lines of {"prefix", "suffix", "reward"} (Leftover Lunch: *_eval_results.jsonl); the prefix marks who
            speaks as the source's data does, the reward is final_reward
responses   CSV of prompt, response, gpt (Tutorbot-Spock: responses.csv), "gpt" being the reference; a structured reply
            is written as Python writes a dict, and any other as it is

Reads what a finished study leaves, and writes nothing there. Not covered: later turns of a dialogue, raw text prompts.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, read_jsonl
from workflow_scripts.common.tutor_reply import parse_reply
from workflow_scripts.report.spreadsheets import write_csv

SPEAKERS = {"system": "", "user": "<|prompter|>", "assistant": "<|assistant|>"}
ROLES = {"system": "System: ", "user": "Student: ", "assistant": "Tutorbot: "}

Said = tuple[dict, dict]  # (row of a prompt set, row of the answer to it)


def pairs_of(prompts: list[dict], answers: list[dict], where: str) -> Iterator[Said]:
    """Yield each prompt with each answer to it, in the order of the prompts; PlumblineError where one has none."""
    said: dict[str, list[dict]] = {}
    for answer in sorted(answers, key=lambda row: row["sample"]):
        said.setdefault(answer["id"], []).append(answer)
    for prompt in prompts:
        if prompt["followups"] or "messages" not in prompt:
            raise PlumblineError(
                f"prompt {prompt['id']}: only answers to one turn of a conversation are exported"
            )
        if prompt["id"] not in said:
            raise PlumblineError(f"{where}: no answer to {prompt['id']!r}; run the study to its end")
        yield from ((prompt, answer) for answer in said[prompt["id"]])


def reference_of(prompt: dict) -> str:
    """Return a prompt's reference, "" where it has none."""
    return (prompt["reference"] or [""])[0] or ""


def instruction_row(prompt: dict, answer: dict) -> dict[str, str]:
    """Return an answer beside its instruction; a prompt that came without its parts is an instruction as a whole."""
    whole = {"instruction": prompt["messages"][-1]["content"], "input": ""}
    parts = {name: prompt["meta"].get(name, text) for name, text in whole.items()}
    return parts | {"output": reference_of(prompt), "model_response": answer["text"].strip()}


def prefix_of(messages: list[dict]) -> str:
    """Return what was said before an answer, with marks of who spoke."""
    said = "".join(SPEAKERS[message["role"]] + message["content"] for message in messages)
    return said + SPEAKERS["assistant"]


def as_dict(text: str) -> str:
    """Return a structured reply as Python writes its dict, any other text as it is."""
    reply = parse_reply(text)
    return text if reply is None else str(reply)


def tutor_prompt(messages: list[dict]) -> str:
    """Return a conversation as Tutorbot-Spock asks it."""
    lines = [f"{ROLES[message['role']]}{message['content']}\n" for message in messages]
    return f"{''.join(lines)}\nTutorbot:"


def write_instructions(said: list[Said], rewards: dict[str, float], path: Path) -> None:
    """Write Raschka's file."""
    rows = [instruction_row(*each) for each in said]
    with finished_file(path) as temporary:
        temporary.write_text(json.dumps(rows, ensure_ascii=False, indent=4) + "\n", encoding="utf-8")


def write_rewarded(said: list[Said], rewards: dict[str, float], path: Path) -> None:
    """Write Leftover Lunch's file."""
    rows = [
        {
            "prefix": prefix_of(prompt["messages"]),
            "suffix": answer["text"],
            "reward": rewards[f"{prompt['id']}/{answer['sample']}"],
        }
        for prompt, answer in said
    ]
    with finished_file(path) as temporary:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text(lines, encoding="utf-8")


def write_responses(said: list[Said], rewards: dict[str, float], path: Path) -> None:
    """Write Tutorbot-Spock's file."""
    rows = (
        [tutor_prompt(prompt["messages"]), as_dict(answer["text"]), as_dict(reference_of(prompt))]
        for prompt, answer in said
    )
    write_csv(path, ["prompt", "response", "gpt"], rows)


SHAPES: dict[str, Callable[[list[Said], dict[str, float], Path], None]] = {
    "alpaca": write_instructions,
    "rewarded": write_rewarded,
    "responses": write_responses,
}


def rows_in(path: Path, what: str) -> list[dict[str, Any]]:
    """Return the rows of a file of the study; PlumblineError, which says `what` it holds, where there is none."""
    if not path.is_file():
        raise PlumblineError(f"{path}: no such file: the study has no {what} of this name, or not yet")
    return read_jsonl(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the study's folder, results/STUDY")
    parser.add_argument("--policy", required=True, help="by its lineage, tiny.sft.dpo")
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--seed", type=int, default=1, help="of the policy's training")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    cell = arguments.results / "policies" / arguments.policy / f"seed-{arguments.seed}"
    file = f"{arguments.benchmark}.jsonl"
    prompts = rows_in(arguments.results / "prompts" / file, "prompts")
    answers = rows_in(cell / "generations" / file, "answers")
    rewards = {}
    if arguments.shape == "rewarded":
        rows = rows_in(cell / "rewards" / file, "rewards (a benchmark of kind rewards)")
        rewards = {row["id"]: row["rewards"]["final_reward"] for row in rows}
    said = list(pairs_of(prompts, answers, str(cell / "generations" / file)))
    SHAPES[arguments.shape](said, rewards, arguments.output)


if __name__ == "__main__":
    run(main)
