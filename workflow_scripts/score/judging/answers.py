"""Ask a judge about a policy's answers: a rating (MT-Bench), a score from 0 to 100, or a preference over a rival.

A judge is a reward model, a rule, or an OpenAI-compatible endpoint, which is asked about all questions at once and
never twice the same (see `client`). Covers, by --kind: mt_bench, single and pairwise, in FastChat's own wording
where its judge prompts are given; judge_score; preference, which of two answers is safer and more helpful;
alpaca_eval, in our wording or by an annotator of the alpaca_eval package. Every answer gets a row: a verdict, a
verdict that failed with its reason, or one that the study skips; of a judge that is drawn several times a row per draw,
those after the first with its number as `draw`. Not covered: what the verdicts amount to (the
scorers).
"""

import argparse
import math
import sys
import time
from pathlib import Path

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.asking import client
from workflow_scripts.common.asking.requests import Reply, Request
from workflow_scripts.common.asking.spending import cost_of
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_json, write_jsonl
from workflow_scripts.common.settings import settings_of
from workflow_scripts.score.judging import forms
from workflow_scripts.score.judging.forms import HIGHEST, LOWEST
from workflow_scripts.score.judging.numbers import PREFERENCES, SHARES
from workflow_scripts.score.judging.questions import (
    Question,
    Verdict,
    against_opponent,
    against_references,
    compares,
    questions_of,
)
from workflow_scripts.score.judging.settings import KINDS, judge_of
from workflow_scripts.score.judging.skipping import skipped_by
from workflow_scripts.score.judging.words import Ask, by_endpoint

NOTHING = dict.fromkeys(("requests", "stored", "missing", "prompt_tokens", "completion_tokens", "usd"), 0)
SCALES = {"mt_bench": (LOWEST, HIGHEST), "judge_score": (0, 100)}


def by_numbers(questions: list[Question], kind: str, settings: dict, judge: dict) -> list[Verdict]:
    """Return the verdicts of a rule or a reward model; an empty answer's score from 0 to 100 is 0, as elsewhere."""
    if kind == "alpaca_eval" and settings["annotator"] is not None:
        raise PlumblineError(
            f"annotator {settings['annotator']!r} needs a judge of kind openai; this one is of kind {judge['kind']}"
        )
    verdicts: list[Verdict]
    if compares(kind, settings):
        preferences, cut = PREFERENCES[judge["kind"]](questions, judge)
        verdicts = [{"preference": value, "order": None} for value in preferences]
    else:
        low, high = SCALES[kind]
        shares, cut = SHARES[judge["kind"]](questions, judge)
        ratings = [low + (high - low) * share for share in shares]
        if kind == "judge_score":
            ratings = [
                rating if question.answer.strip() else 0.0
                for question, rating in zip(questions, ratings, strict=True)
            ]
        verdicts = [{"rating": rating} for rating in ratings]
    return [verdict | ({"cut": True} if short else {}) for verdict, short in zip(verdicts, cut, strict=True)]


def verdicts_of(
    questions: list[Question], kind: str, settings: dict, judge: dict, templates: dict | None, ask: Ask
) -> list[Verdict]:
    """Return a verdict per question; one whose value is no number is failed."""
    if judge["kind"] == "openai":
        verdicts = by_endpoint(questions, kind, settings, judge, templates, ask)
    else:
        verdicts = by_numbers(questions, kind, settings, judge)
    value = "preference" if compares(kind, settings) else "rating"
    for verdict in verdicts:
        if verdict[value] is not None and not math.isfinite(verdict[value]):
            verdict |= {value: None, "failed": "the score is not a number"}
    return verdicts


def judged_of(questions: list[Question], kind: str, settings: dict) -> list[Question]:
    """Return the questions that a study does not skip."""
    if kind != "preference":
        return questions
    return [question for question in questions if question.id not in settings["skip"]]


def judge_all(
    questions: list[Question],
    kind: str,
    settings: dict,
    judge: dict,
    templates: dict | None,
    ask: Ask,
) -> list[dict]:
    """Return the verdict rows of a judge on a benchmark's questions; failed ones are kept with their reason.

    A question that the study skips is not judged: its row says so. Raises PlumblineError when an answer has nothing to
    be compared with, or when not one verdict came.
    """
    due = judged_of(questions, kind, settings)
    verdicts = verdicts_of(due, kind, settings, judge, templates, ask) if due else []
    if all("failed" in verdict for verdict in verdicts):
        reason = f"; the first reason: {verdicts[0]['failed']}" if verdicts else ": every question is skipped"
        raise PlumblineError(f"the judge gave not one verdict{reason}")
    value = "preference" if compares(kind, settings) else "rating"
    given, judged = iter(verdicts), {question.id for question in due}
    return [
        {"id": question.id, "turn": question.turn, "sample": question.sample}
        | (next(given) if question.id in judged else {value: None, "skipped": True})
        for question in questions
    ]


def requests_of(
    questions: list[Question], kind: str, settings: dict, judge: dict, templates: dict | None
) -> list[Request]:
    """Return what an endpoint would be asked; a reward model and a rule are asked nothing."""
    wanted: list[Request] = []

    def note(requests: list[Request]) -> list[Reply]:
        wanted.extend(requests)
        return [Reply(None, "not asked", None)] * len(requests)

    due = judged_of(questions, kind, settings)
    if judge["kind"] == "openai" and due:
        for draw in draws_of(judge):
            verdicts_of(due, kind, settings, judge, templates, drawn(note, draw))
    return wanted


def rivals_of(rows: list[dict], prompts: Path, opponent: Path) -> list[Question]:
    """Return an opponent's answers to the prompts that a policy has answered; PlumblineError where one is missing."""
    wanted = {row["id"] for row in rows}
    lacking = sorted(wanted - {row["id"] for row in answered_prompts(prompts, opponent)})
    if lacking:
        raise PlumblineError(
            f"{opponent}: the opponent has no answer to {len(lacking)} prompts, {lacking[0]!r} for one; complete its "
            "answers, or name another opponent"
        )
    answers = [row for row in read_jsonl(opponent) if row["id"] in wanted]
    return questions_of(rows, answers, str(opponent))


def load_questions(
    prompts: Path, generations: Path, opponent: Path | None, kind: str, settings: dict
) -> list[Question]:
    """Return a benchmark's questions with their rivals: the opponent's answers, else the references.

    Raises PlumblineError where a pairwise MT-Bench has no opponent, or an opponent is given that nothing compares.
    """
    rows = answered_prompts(prompts, generations)
    questions = questions_of(rows, read_jsonl(generations), str(generations))
    if not compares(kind, settings):
        if opponent is not None:
            raise PlumblineError("an opponent is given, and answers are rated one by one; leave it out")
        return questions
    if opponent is not None:
        others = rivals_of(rows, prompts, opponent)
        return against_opponent(questions, others, str(opponent))
    if kind == "mt_bench":
        raise PlumblineError("pairwise MT-Bench compares with another policy's answers; name an opponent")
    return against_references(questions)


def asking(judge: dict, store: Path, cell: str, study: str, facts: dict) -> Ask:
    """Return a function from requests to replies that adds what it cost to `facts`."""

    def ask(requests: list[Request]) -> list[Reply]:
        if not requests:
            return []
        replies, cost = client.ask(requests, judge, store, cell, study)
        for key, value in cost.items():
            facts[key] = facts.get(key, 0) + value
        return replies

    return ask


def drawn(ask: Ask, draw: int) -> Ask:
    """Return what asks for a further draw (0: the first): another verdict on the same words, by another seed if any."""

    def anew(request: Request) -> Request:
        seeded = {"seed": request.params["seed"] + draw} if "seed" in request.params else {}
        return request._replace(params=request.params | seeded, sample=draw)

    return ask if draw == 0 else lambda requests: ask([anew(request) for request in requests])


def draws_of(judge: dict) -> range:
    """Return the numbers of a judge's draws, from 0."""
    return range(judge.get("draws", 1))


def warn_of_silent(questions: list[Question], kind: str, settings: dict, judge: dict, name: str) -> None:
    """Say of how many answers our own wording shows the judge no reference, as theirs says nothing."""
    if kind != "judge_score" or judge["kind"] != "openai" or settings["prompt"] is not None:
        return
    silent = sum(question.reference is not None and not question.reference.strip() for question in questions)
    if silent:
        print(
            f"warning: {name}: {silent} of {len(questions)} answers have an empty reference and are scored without one",
            file=sys.stderr,
        )


def gpus_of(judge: dict) -> int:
    """Return how many GPUs a judge judges with: a reward model with those of the job, any other with none."""
    if judge["kind"] != "reward_model":
        return 0
    import torch

    return torch.cuda.device_count()


def parse_flags(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--benchmark", required=True, help="the name of the prompt set, for messages")
    parser.add_argument("--kind", required=True, choices=KINDS)
    parser.add_argument("--prompts", required=True, type=Path, help="the benchmark's prompt set")
    parser.add_argument("--generations", required=True, type=Path, help="the policy's answers")
    parser.add_argument("--opponent", type=Path, help="another policy's answers, to compare with")
    parser.add_argument("--templates", type=Path, help="mt_bench: FastChat's judge prompts; else our wording")
    parser.add_argument("--skip-file", type=Path, help="preference: JSON that names prompts not to be judged")
    parser.add_argument("--judge", required=True, help="the judge's settings, as JSON")
    parser.add_argument(
        "--access",
        default="{}",
        help="how judges are reached and paid, by name, as JSON: more of the judge's settings, which alter no verdict",
    )
    parser.add_argument(
        "--settings",
        required=True,
        help="as JSON, by its kind: mode; annotator; prompt; or skip, prompt, verdict",
    )
    parser.add_argument(
        "--store", type=Path, default=Path("work/judge"), help="folder of the verdicts paid for"
    )
    parser.add_argument("--study", default="", help="whose budget pays")
    parser.add_argument("--cell", default="", help="policy, seed and benchmark, for the ledger")
    parser.add_argument("--output", required=True, type=Path, help="verdicts to write")
    parser.add_argument("--cost", type=Path, help="what judging took, to write")
    parser.add_argument(
        "--shards", type=int, default=1, help="processes that share what a reward model reads"
    )
    parser.add_argument("--plan", action="store_true", help="ask nothing; write the calls and the price")
    return parser.parse_args()


def main() -> None:
    """Write a judge's verdicts on a policy's answers, or with --plan what they would take."""
    args = parse_flags(main.__doc__)
    started, kind, facts = time.monotonic(), args.kind, {}
    try:
        settings, judge = settings_of(KINDS[kind])(args.settings), judge_of(args.judge, args.access)
        if judge["kind"] == "reward_model":
            judge["shards"] = args.shards  # no setting: it alters no verdict
        if args.skip_file:
            settings["skip"] += skipped_by(args.skip_file, read_jsonl(args.prompts))
        questions = load_questions(args.prompts, args.generations, args.opponent, kind, settings)
        templates = forms.read_templates(args.templates) if args.templates else None
        if args.plan:
            wanted = requests_of(questions, kind, settings, judge, templates)
            write_json(args.output, client.plan(wanted, judge, args.store) if wanted else NOTHING)
            return
        warn_of_silent(questions, kind, settings, judge, args.benchmark)
        ask = asking(judge, args.store, args.cell, args.study, facts)
        rows = [
            row | ({"draw": draw} if draw else {})
            for draw in draws_of(judge)
            for row in judge_all(questions, kind, settings, judge, templates, drawn(ask, draw))
        ]
    except PlumblineError as error:
        raise PlumblineError(f"judging {args.benchmark!r}: {error}") from None
    failed = sum("failed" in row for row in rows)
    if failed:
        print(f"warning: {args.benchmark}: {failed} of {len(rows)} verdicts failed", file=sys.stderr)
    write_jsonl(args.output, rows)
    if args.cost:
        write_json(args.cost, cost_of(time.monotonic() - started, facts, gpus_of(judge)))


if __name__ == "__main__":
    run(main)
