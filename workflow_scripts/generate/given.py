"""Hand on ready answers to one prompt set, from a file that a person or a program made elsewhere.

A row names its prompt by `id`, or by its text: `prompt`, `instruction` or the last user turn of `messages` (or of a
`prompt` in messages), which is the last user turn of a prompt of ours, white space at its ends aside. The answer is
`answer`, `output`, `response` or `text`; without one the last message of `messages`, if it is the assistant's. Where a
prompt has further turns an answer is a list of texts, or each row says its `turn`, from 0; several answers to a prompt
say their `sample`. Rows with another `benchmark` are not read. AlpacaEval's outputs and our own answers fit as they
are.

Prompts without a whole answer are left out and counted as missing, never taken for empty. Not covered: fuzzy matches.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from workflow_scripts.common.diverged import hand_on
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_json, read_jsonl, sha256_of, write_jsonl, write_manifest

ANSWER = ("answer", "output", "response", "text")
PROMPT = ("prompt", "instruction", "messages")
NAMELESS = f"{{}}: names no prompt; give its id, or its text as {', '.join(PROMPT)}"

Key = tuple[str, int, int]  # a prompt's id, the sample and the turn


def last_user(messages: list[Any]) -> str | None:
    """Return what the last user turn of some messages says, None where there is none."""
    said = [each.get("content") for each in messages if isinstance(each, dict) and each.get("role") == "user"]
    return said[-1] if said and isinstance(said[-1], str) else None


def asked_text(row: dict) -> str | None:
    """Return the text of the prompt that a row of a file answers, None where it names none."""
    for key in PROMPT:
        value = row.get(key)
        text = last_user(value) if isinstance(value, list) else value
        if isinstance(text, str):
            return text.strip()
    return None


def asked_texts(row: dict) -> set[str]:
    """Return all that a row of a file says was asked, in whichever turn."""
    found: set[str] = set()
    for key in PROMPT:
        value = row.get(key)
        turns = value if isinstance(value, list) else [{"role": "user", "content": value}]
        found |= {text.strip() for each in turns if (text := last_user([each])) is not None}
    return found


def answer_in(row: dict, where: str) -> list[str] | None:
    """Return a row's answer, a text for each turn that it has; None where its answer is null.

    PlumblineError where it has none, two, or one that is no text.
    """
    keys = [key for key in ANSWER if key in row]
    if len({str(row[key]) for key in keys}) > 1:
        raise PlumblineError(
            f"{where}: has {' and '.join(keys)}, and which is its answer cannot be told: keep one"
        )
    if not keys:
        messages = row.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else None
        if (
            isinstance(last, dict)
            and last.get("role") == "assistant"
            and isinstance(last.get("content"), str)
        ):
            return [last["content"]]
        raise PlumblineError(f"{where}: has no answer; give it as {', '.join(ANSWER[:-1])} or {ANSWER[-1]}")
    value = row[keys[0]]
    texts = value if isinstance(value, list) else [value]
    if value is None:
        return None
    if not all(isinstance(text, str) for text in texts):
        raise PlumblineError(f"{where}: its {keys[0]} must be a text, or a list of texts, one for each turn")
    return texts


def number_in(row: dict, key: str, where: str) -> int:
    """Return a row's sample or turn, 0 where it says none; tables have numbers as text."""
    value = row.get(key)
    try:
        number = int(value) if value not in (None, "") else 0
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise PlumblineError(f"{where}: {key} must be a whole number from 0, not {value!r}")
    return number


def check_rows(rows: list[dict], file: Path | str) -> None:
    """Raise PlumblineError for the first row that no prompt set could read: without a prompt, without an answer."""
    for number, row in enumerate(rows, 1):
        where = f"{file}: row {number}"
        answer_in(row, where)
        for key in ("sample", "turn"):
            number_in(row, key, where)
        if row.get("id") is None and asked_text(row) is None:
            raise PlumblineError(NAMELESS.format(where))
    if not rows:
        raise PlumblineError(f"{file}: holds no answers")


def text_of(prompt: dict) -> str:
    """Return what a prompt asks last."""
    text = prompt["text"] if "text" in prompt else last_user(prompt["messages"])
    return (text or "").strip()


class Prompts:
    """A prompt set, looked up by id and by text; prompts that ask exactly the same take their rows in turn."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = {str(row["id"]): row for row in rows}
        self.by_text: dict[str, list[dict]] = {}
        for row in rows:
            self.by_text.setdefault(text_of(row), []).append(row)
        self.taken: Counter = Counter()

    def find(self, row: dict, sample: int, turn: int, where: str) -> str | None:
        """Return the id of the prompt that a row answers, None where it answers none of these.

        PlumblineError where it names none, prompts that differ before their last turn, or one by its id and none of
        these by its text: a file may number its rows as it likes.
        """
        own, text = row.get("id"), asked_text(row)
        if own is None and text is None:
            raise PlumblineError(NAMELESS.format(where))
        alike = self.by_text.get(text, []) if text is not None else []
        if own is not None and str(own) in self.rows:
            prompt = self.rows[str(own)]
            asked = {text_of(prompt), *(each.strip() for each in prompt.get("followups") or [])}
            if text is None or asked & asked_texts(row):
                return str(own)
            if not alike:
                raise PlumblineError(
                    f"{where}: the prompt called {own} asks something else than this row says; leave out the row's id, "
                    "if that is a number of its own, or its text"
                )
        if len({str(each.get("messages")) for each in alike}) > 1:
            ids = ", ".join(str(each["id"]) for each in alike[:3])
            raise PlumblineError(
                f"{where}: its text ends several prompts ({ids}); say by id which it answers"
            )
        if not alike:
            return None
        number = self.taken[text, sample, turn]
        self.taken[text, sample, turn] += 1
        return str(alike[min(number, len(alike) - 1)]["id"])


def given_answers(
    rows: list[dict], prompts: list[dict], benchmark: str, file: Path
) -> tuple[dict[Key, dict], int]:
    """Return {(prompt's id, sample, turn): answer row} of a file, and how many rows answer none of the prompts.

    PlumblineError for a row that cannot be read, and for two answers to one prompt.
    """
    known, found, others = Prompts(prompts), {}, 0
    places: dict[Key, int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{file}: row {number}"
        if row.get("benchmark") not in (None, "", benchmark):
            continue
        sample, first = number_in(row, "sample", where), number_in(row, "turn", where)
        name = known.find(row, sample, first, where)
        if name is None:
            others += 1
            continue
        texts = answer_in(row, where)
        for turn, text in enumerate(texts or (), first):
            key = (name, sample, turn)
            if key in places:
                raise PlumblineError(
                    f"{where}: a second answer to prompt {name!r}, after that of row {places[key]}; keep one, or "
                    "number them by sample"
                )
            places[key] = number
            reason = "length" if row.get("finish_reason") == "length" else "stop"
            ended = {"finish_reason": reason, "prompt_tokens": 0, "completion_tokens": 0}
            found[key] = {"sample": sample, "turn": turn, "text": text, **ended}
    return found, others


def whole_answers(found: dict[Key, dict], prompts: list[dict], samples: int) -> tuple[list[dict], int, int]:
    """Return (answers in order, how many prompts lack one of theirs, how many answers nobody asked for)."""
    kept, missing, used = [], 0, 0
    for prompt in prompts:
        name = str(prompt["id"])
        due = [
            (name, sample, turn) for sample in range(samples) for turn in range(1 + len(prompt["followups"]))
        ]
        used += sum(key in found for key in due)
        if all(key in found for key in due):
            kept += [{"id": prompt["id"], **found[key]} for key in due]
        else:
            missing += 1
    return kept, missing, len(found) - used


def main() -> None:
    """Write a prompt set's answers out of a file of ready ones."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--policy", required=True, help="the policy's name in the study, for messages")
    parser.add_argument(
        "--answers", type=Path, help="the file of ready answers; none: there are none to this set"
    )
    parser.add_argument("--prompts", type=Path, required=True, help="manifest of the prompt set")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    args = parser.parse_args()
    outputs, name = [args.output, args.manifest], args.prompts.stem
    if args.answers is None:
        return hand_on({"text": f"{args.policy} has no file of answers to it"}, outputs)
    prompts = read_jsonl(args.prompts.with_suffix(".jsonl"))
    samples = read_json(args.prompts)["sampling"]["samples"]
    found, others = given_answers(read_jsonl(args.answers), prompts, name, args.answers)
    answers, missing, unasked = whole_answers(found, prompts, samples)
    if others or unasked:
        print(
            f"{name}: {others} rows of {args.answers} answer none of its prompts, and {unasked} answers are to turns "
            "or samples that it does not ask for",
            file=sys.stderr,
        )
    if not answers:
        return hand_on(
            {"text": f"{args.answers} has no whole answer to any of its {len(prompts)} prompts"}, outputs
        )
    if missing:
        print(
            f"warning: {name}: {missing} of {len(prompts)} prompts have no answer in {args.answers}",
            file=sys.stderr,
        )
    write_jsonl(args.output, answers)
    counts = {"answers": len(answers), "prompts": len(prompts), "missing": missing}
    counts["finished"] = sum(row["finish_reason"] == "stop" for row in answers)
    write_manifest(args.manifest, [args.output], counts=counts, answers=sha256_of(args.answers))
    return None


if __name__ == "__main__":
    run(main)
