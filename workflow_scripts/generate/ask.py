"""Have an endpoint answer one prompt set, as a policy from elsewhere: its messages as they are, no template of ours.

The benchmark's sampling is sent (temperature, longest answer, top_p, the first stop strings); an answer ends before the
first of all stop strings whatever the endpoint makes of them. The client is that of the judges (common.asking): each
request is paid for once, within the study's budget, and a run that was killed asks for the rest alone. A later turn of
a dialogue is asked after the endpoint's own answers. A prompt to which no usable answer came (refused, empty) is left
out whole and counted as missing. With --plan nothing is asked: the calls are counted, and their price at most; an
answer as long as its limit stands for each that a later turn would be asked after.

Not covered: raw text to go on from (no cell); beams, repetition_penalty and min_new_tokens, which endpoints do not
take.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from workflow_scripts.common.asking import client
from workflow_scripts.common.asking.requests import Reply, Request, params_of, reply_of, request_of
from workflow_scripts.common.asking.settings import endpoint_of
from workflow_scripts.common.asking.spending import cost_of
from workflow_scripts.common.diverged import hand_on
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import (
    digest,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_manifest,
)
from workflow_scripts.common.turns import with_answers

MOST_STOPS = 4  # that endpoints take
RAW = "its prompts are raw text to go on from, which is put to no endpoint"
NOTHING = dict.fromkeys(("requests", "stored", "missing", "prompt_tokens", "completion_tokens", "usd"), 0)

Ask = Callable[[list[Request]], list[Reply]]
Place = tuple[str, int]  # a prompt's id, and the number of the sample


def params_for(row: dict, sample: int, sampling: dict, judge: dict) -> dict:
    """Return what is sent beside the messages; a row's own temperature goes before the set's."""
    usual = {
        "temperature": row.get("temperature", sampling["temperature"]),
        "max_tokens": sampling["max_new_tokens"],
    }
    if sampling["top_p"] < 1:
        usual["top_p"] = sampling["top_p"]
    if sampling["stop"]:
        usual["stop"] = sampling["stop"][:MOST_STOPS]
    params = params_of(judge, usual)
    if params.get("seed") is not None:  # each sample is drawn by itself
        params["seed"] += sample
    return params


def cut_at(text: str, stops: list[str]) -> tuple[str, bool]:
    """Return a text up to the first of some stop strings, and whether there was one."""
    places = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(places)], True) if places else (text, False)


def answer_row(place: Place, turn: int, reply: Reply, sampling: dict) -> dict:
    """Return a reply as a row of answers; how many tokens of ours it would be is not known."""
    text, stopped = cut_at(reply.text or "", sampling["stop"])
    finished = stopped or not reply.cut
    ended = {"finish_reason": "stop" if finished else "length", "prompt_tokens": 0, "completion_tokens": 0}
    return {"id": place[0], "sample": place[1], "turn": turn, "text": text, **ended}


def answers_of(
    prompts: list[dict], sampling: dict, judge: dict, ask: Ask
) -> tuple[list[dict], dict[str, str]]:
    """Return the answers by prompt, sample and turn, and {prompt's id: why} of those that lack one of theirs."""
    found: dict[Place, list[dict]] = {
        (row["id"], sample): [] for row in prompts for sample in range(sampling["samples"])
    }
    missing: dict[str, str] = {}
    by_id = {row["id"]: row for row in prompts}
    for turn in range(max(1 + len(row["followups"]) for row in prompts)):
        due = [
            place for place in found if turn <= len(by_id[place[0]]["followups"]) and place[0] not in missing
        ]
        requests = []
        for name, sample in due:
            row, said = by_id[name], [answer["text"] for answer in found[name, sample]]
            messages = with_answers(row["messages"], said, row["followups"])
            requests.append(Request(messages, params_for(row, sample, sampling, judge), sample=sample))
        for place, reply in zip(due, ask(requests) if requests else [], strict=True):
            if reply.text is None:
                missing.setdefault(place[0], reply.failed or "no words")
            else:
                found[place].append(answer_row(place, turn, reply, sampling))
    kept = [row for (name, _), rows in found.items() if name not in missing for row in rows]
    return kept, missing


def standing_in(judge: dict, store: Path, limit: int, wanted: list[Request]) -> Ask:
    """Return what notes requests instead of asking: a reply that is stored, else one as long as can be, in bytes."""

    def ask(requests: list[Request]) -> list[Reply]:
        wanted.extend(requests)
        keys = [digest(request_of(request, judge)) for request in requests]
        known = client.known_entries(keys, judge, store)
        return [reply_of(known[key]) if key in known else Reply("x" * limit, None, None) for key in keys]

    return ask


def asking(judge: dict, store: Path, cell: str, study: str, facts: dict) -> Ask:
    """Return what asks, and adds what it cost to `facts`."""

    def ask(requests: list[Request]) -> list[Reply]:
        replies, cost = client.ask(requests, judge, store, cell, study)
        for key, value in cost.items():
            facts[key] = facts.get(key, 0) + value
        return replies

    return ask


def parse_flags(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--policy", required=True, help="the policy's name in the study, for messages")
    parser.add_argument("--prompts", type=Path, required=True, help="manifest of the prompt set")
    parser.add_argument("--judge", required=True, help="the endpoint that answers, as JSON")
    parser.add_argument("--access", default="{}", help="how endpoints are reached and paid, by name, as JSON")
    parser.add_argument(
        "--store", type=Path, default=Path("work/judge"), help="folder of the replies paid for"
    )
    parser.add_argument("--study", default="", help="whose budget pays")
    parser.add_argument("--cell", default="", help="policy, seed and prompt set, for the ledger")
    parser.add_argument(
        "--output", type=Path, required=True, help="answers to write; with --plan, the counts"
    )
    parser.add_argument("--manifest", type=Path, help="their manifest, to write")
    parser.add_argument("--cost", type=Path, help="what answering took, to write")
    parser.add_argument("--plan", action="store_true", help="ask nothing; write the calls and the price")
    return parser.parse_args()


def main() -> None:
    """Write an endpoint's answers to a prompt set, or with --plan what they would take."""
    args = parse_flags(main.__doc__)
    started, name, facts = time.monotonic(), args.prompts.stem, {}
    prompts, sampling = read_jsonl(args.prompts.with_suffix(".jsonl")), read_json(args.prompts)["sampling"]
    judge = endpoint_of(args.judge, args.access)
    raw = any("text" in row for row in prompts)
    try:
        if args.plan:
            wanted: list[Request] = []
            limit = sampling["max_new_tokens"]
            if not raw:
                answers_of(prompts, sampling, judge, standing_in(judge, args.store, limit, wanted))
            write_json(args.output, client.plan(wanted, judge, args.store) if wanted else NOTHING)
            return
        if raw:
            return hand_on({"text": RAW}, [args.output, args.manifest])
        ask = asking(judge, args.store, args.cell, args.study, facts)
        answers, missing = answers_of(prompts, sampling, judge, ask)
    except PlumblineError as error:
        raise PlumblineError(f"policy {args.policy!r}, {name}: {error}") from None
    if missing:
        first, reason = next(iter(missing.items()))
        told = f"{args.policy} answered {len(prompts) - len(missing)} of {len(prompts)} prompts"
        print(f"warning: {name}: {told}; {first}: {reason}", file=sys.stderr)
    if args.cost:
        write_json(args.cost, cost_of(time.monotonic() - started, facts))
    if not answers:
        return hand_on(
            {"text": f"{args.policy} answered none of its prompts: {reason}"}, [args.output, args.manifest]
        )
    write_jsonl(args.output, answers)
    counts = {
        "answers": len(answers),
        "finished": sum(row["finish_reason"] == "stop" for row in answers),
        "prompts": len(prompts),
        "missing": len(missing),
    }
    write_manifest(args.manifest, [args.output], counts=counts)
    return None


if __name__ == "__main__":
    run(main)
