"""Have a model write: a request for each row that is written about, or so many from a prompt alone, and its replies.

The model is behind an OpenAI-compatible endpoint and is asked by the client of the judges (common.asking): each request
is paid for once, within the study's budget, and a run that was killed asks for the rest alone. Every request gets a row
of the output: {"number", "sample", "variant", "row": the fields of the row that is written about, "reply"}, or "failed"
with the reason in place of a reply. A cleaned row is written about turn by turn, with the fields id, group, system,
prompt (a longer dialogue in labelled blocks) and response.

With --plan nothing is asked: what is missing is counted, and its price at most. Where the rows come of another writing
that has not been done, a reply as long as its limit stands for each.

Not covered: how a reply is read and which rows are kept (clean.written).
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from workflow_scripts.common.asking import client
from workflow_scripts.common.asking.requests import Reply, Request, params_of
from workflow_scripts.common.asking.settings import endpoint_of
from workflow_scripts.common.asking.spending import cost_of
from workflow_scripts.common.dialogues import prompt_text
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_json, write_jsonl, write_manifest
from workflow_scripts.common.placeholders import filled, filled_text, look_up, names_in
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.turns import turns_of

CUT = "cut at its limit"
ROLES, RAW = ("user", "assistant"), "completion"  # how a prompt is sent: as whose message, or as it stands


class Wording(TypedDict):
    """What a model is asked, with the placeholders of the row's fields."""

    prompt: str
    system: str | None


class Settings(TypedDict):
    """What is asked, and how often; `needs` are the fields of the row that replies are put together with."""

    wordings: dict[str, Wording]
    prompt_as: Literal["user", "assistant", "completion"]
    cleaned: bool
    count: int | None
    samples: int
    limit: int | None
    seed: int
    needs: list[str]


class Before(TypedDict):
    """A writing that another one is about: what it asks, of whom, what its rows are made of, and where they will be."""

    settings: Settings
    max_tokens: int
    into: dict[str, Any]
    written: str


class Writings(TypedDict):
    """The writings that rows come of, the first of them first."""

    writings: list[Before]


class Task(TypedDict):
    """One request to be made: its number from 1, the fields of the row, the number of the sample, and the wording."""

    number: int
    sample: int
    variant: str
    row: dict[str, Any]


def fields_of(rows: Iterable[dict], cleaned: bool) -> list[dict[str, Any]]:
    """Return the fields of each row that is written about: its own, or of a cleaned row those of each turn."""
    if not cleaned:
        return list(rows)
    return [
        {
            "id": turn["id"],
            "group": turn["group"],
            "system": "\n".join(part["content"] for part in turn["messages"] if part["role"] == "system"),
            "prompt": prompt_text([part for part in turn["messages"] if part["role"] != "system"]),
            "response": turn["reference"],
        }
        for row in rows
        for turn in turns_of(row)
    ]


def tasks_of(rows: list[dict[str, Any]] | None, settings: Settings) -> list[Task]:
    """Return the requests to be made, in order; each has one of the wordings by a draw of its own."""
    if rows is None:
        whole = [({}, sample) for sample in range(settings["count"] or 0)]
    else:
        whole = [(row, sample) for row in rows for sample in range(settings["samples"])]
    names = sorted(settings["wordings"])
    return [
        {
            "number": number,
            "sample": sample,
            "variant": random.Random(f"{settings['seed']}/{number}").choice(names),
            "row": row,
        }
        for number, (row, sample) in enumerate(whole[: settings["limit"]], 1)
    ]


def lacking(task: Task, settings: Settings) -> str | None:
    """Return a field that a request needs and its row has not, or None."""
    wording = settings["wordings"][task["variant"]]
    texts = [text for text in (wording["prompt"], wording["system"]) if text is not None]
    for name in [*(name for text in texts for name in names_in(text)), *settings["needs"]]:
        try:
            look_up(name, task["row"])
        except KeyError:
            return name
    return None


def check_fields(tasks: list[Task], settings: Settings, where: str) -> None:
    """Raise PlumblineError where not one row has what is asked about."""
    found = [lacking(task, settings) for task in tasks]
    if not tasks:
        raise PlumblineError(f"{where}: holds no rows to write about")
    if all(found):
        known = ", ".join(f"{{{name}}}" for name in tasks[0]["row"]) or "none"
        raise PlumblineError(f"{where}: no row has a field {{{found[0]}}}; the first has {known}")


def request_for(task: Task, settings: Settings, params: dict) -> Request:
    """Return what is sent for a task; where the endpoint takes a seed, each sample has its own."""
    wording, sample = settings["wordings"][task["variant"]], task["sample"]
    if params.get("seed") is not None:
        params = params | {"seed": params["seed"] + sample}
    prompt = filled_text(wording["prompt"], lambda name: look_up(name, task["row"]))
    if settings["prompt_as"] == RAW:
        return Request([], params, prompt, sample)
    messages = [{"role": settings["prompt_as"], "content": prompt}]
    if wording["system"] is not None:
        system = filled_text(wording["system"], lambda name: look_up(name, task["row"]))
        messages.insert(0, {"role": "system", "content": system})
    return Request(messages, params, sample=sample)


def requests_for(tasks: list[Task], settings: Settings, judge: dict) -> dict[int, Request]:
    """Return the request of each task, by its number, whose row has what it needs."""
    params = params_of(judge)
    return {
        task["number"]: request_for(task, settings, params) for task in tasks if not lacking(task, settings)
    }


def replied(task: Task, reply: Reply | None, missing: str | None) -> dict[str, Any]:
    """Return the row of the output for a task: the reply, or why there is none."""
    if reply is None:
        return dict(task) | {"failed": f"the row has no {missing}"}
    if reply.text is None:
        return dict(task) | {"failed": reply.failed}
    if reply.cut:
        return dict(task) | {"failed": f"{CUT}: raise max_tokens (or max_completion_tokens)"}
    return dict(task) | {"reply": reply.text}


def write(
    tasks: list[Task], settings: Settings, judge: dict, store: Path, cell: str, study: str
) -> tuple[list[dict], dict]:
    """Return a row per task, and what the requests cost (see `client.ask`)."""
    due = requests_for(tasks, settings, judge)
    replies, facts = client.ask(list(due.values()), judge, store, cell, study) if due else ([], {})
    given = dict(zip(due, replies, strict=True))
    return [replied(task, given.get(task["number"]), lacking(task, settings)) for task in tasks], facts


def stand_ins(tasks: list[Task], before: Before) -> list[dict[str, Any]]:
    """Return a row as long as can be for each request of a writing that has not been done.

    A token is counted for each byte of a prompt, so a reply of so many tokens stands as a text of so many bytes, which
    begins with its number: no two are one.
    """

    def value_of(name: str, task: Task) -> Any:
        if name.partition(".")[0] == "reply":
            return f"{task['number']:x<{before['max_tokens']}}"
        return task["number"] if name == "number" else look_up(name, task["row"])

    def made(task: Task) -> dict[str, Any]:
        return filled(before["into"][task["variant"]], lambda name: value_of(name, task))

    return [made(task) for task in tasks if not lacking(task, before["settings"])]


def rows_of(paths: list[Path], befores: list[Before]) -> list[dict[str, Any]] | None:
    """Return the rows that are written about: of writings before this one their own, or stand-ins if there are none."""
    rows = [row for path in paths for row in read_jsonl(path)] if paths else None
    for before in befores:
        written = Path(os.path.expandvars(before["written"]))
        if written.is_file():
            rows = read_jsonl(written)
        else:
            first = None if rows is None else fields_of(rows, before["settings"]["cleaned"])
            rows = stand_ins(tasks_of(first, before["settings"]), before)
    return rows


def parse_flags(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--name", required=True, help="the source's name in the study, for messages and the ledger"
    )
    parser.add_argument(
        "--rows", nargs="*", default=[], type=Path, help="files of the rows that are written about"
    )
    parser.add_argument(
        "--settings", required=True, type=settings_of(Settings), help="what is asked, as JSON"
    )
    parser.add_argument("--judge", required=True, help="the model that writes, as JSON")
    parser.add_argument("--access", default="{}", help="how models are reached and paid, by name, as JSON")
    parser.add_argument(
        "--before",
        type=settings_of(Writings),
        default={"writings": []},
        help="with --plan, as JSON: the writings that this one's rows come of",
    )
    parser.add_argument(
        "--store", type=Path, default=Path("work/judge"), help="folder of the replies paid for"
    )
    parser.add_argument("--study", default="", help="whose budget pays")
    parser.add_argument("--output", required=True, type=Path, help="replies to write")
    parser.add_argument("--manifest", type=Path, help="their manifest, to write")
    parser.add_argument("--cost", type=Path, help="what writing took, to write")
    parser.add_argument("--plan", action="store_true", help="ask nothing; write the calls and the price")
    return parser.parse_args()


def main() -> None:
    """Write a model's replies, or with --plan what they would take."""
    args = parse_flags(main.__doc__)
    started, settings = time.monotonic(), args.settings
    judge = endpoint_of(args.judge, args.access)
    try:
        rows = rows_of(args.rows, args.before["writings"])
        tasks = tasks_of(None if rows is None else fields_of(rows, settings["cleaned"]), settings)
        check_fields(tasks, settings, ", ".join(map(str, args.rows)) or "its rows")
        if args.plan:
            due = list(requests_for(tasks, settings, judge).values())
            write_json(args.output, client.plan(due, judge, args.store))
            return
        replies, facts = write(tasks, settings, judge, args.store, f"source {args.name}", args.study)
    except PlumblineError as error:
        raise PlumblineError(f"source {args.name!r}: {error}") from None
    failed = sum("failed" in reply for reply in replies)
    if failed:
        print(f"warning: {args.name}: {failed} of {len(replies)} requests have no reply", file=sys.stderr)
    write_jsonl(args.output, replies)
    if args.manifest:
        write_manifest(args.manifest, [args.output], counts={"requests": len(replies), "failed": failed})
    if args.cost:
        write_json(args.cost, cost_of(time.monotonic() - started, facts))


if __name__ == "__main__":
    run(main)
