"""Verdicts of a judge that is asked in words: what each benchmark asks it, and what its replies come to.

All of a benchmark's questions are asked at once: `ask` takes the requests and gives as many replies, in their order.
Covers ratings, scores from 0 to 100, and preferences asked in both orders. Not covered: the sending (client), the
wording and its grammar (forms).
"""

from collections.abc import Callable
from functools import partial
from statistics import fmean

from workflow_scripts.common.asking.requests import Reply, Request, params_of
from workflow_scripts.score.judging import forms
from workflow_scripts.score.judging.forms import Form
from workflow_scripts.score.judging.questions import Question, Verdict, compares

CUT = "the reply was cut at its limit, before its verdict: raise max_tokens (or max_completion_tokens)"
Ask = Callable[[list[Request]], list[Reply]]


def heard(form: Form, reply: Reply) -> dict:
    """Return {"value", "text"} of a reply to a form; "failed" where the value is None, no "text" where none came."""
    if reply.text is None:
        return {"value": None, "failed": reply.failed}
    if form.last and reply.cut:
        return {"value": None, "text": reply.text, "failed": CUT}
    value = form.read(reply.text)
    return {"value": value, "text": reply.text} | ({"failed": form.lacks} if value is None else {})


def rate(
    questions: list[Question], form_of: Callable[[Question], Form], params: dict, ask: Ask
) -> list[Verdict]:
    """Return a judge's rating of each answer, with its words as `text`."""
    forms = [form_of(question) for question in questions]
    replies = ask([Request(form.messages, params) for form in forms])
    said = [heard(form, reply) for form, reply in zip(forms, replies, strict=True)]
    return [{"rating": one.pop("value")} | one for one in said]


def score(questions: list[Question], template: str | None, params: dict, ask: Ask) -> list[Verdict]:
    """Return a judge's score of each answer, 0 to 100; an empty answer is 0 and not asked about."""
    answered = [question for question in questions if question.answer.strip()]
    verdicts = iter(rate(answered, lambda question: forms.score_form(question, template), params, ask))
    return [next(verdicts) if question.answer.strip() else {"rating": 0} for question in questions]


def agreed(order: list[float]) -> float:
    """Return a win (1) or loss (0) where both orders agree on it, else a tie (0.5): FastChat's rule."""
    return order[0] if order[0] == order[1] else 0.5


def compare(
    questions: list[Question],
    form_of: Callable[[Question, bool], Form],
    settle: Callable[[list[float]], float],
    params: dict,
    ask: Ask,
) -> list[Verdict]:
    """Return a judge's preference for each answer over its rival, 0 to 1, asked in both orders.

    `order` holds both: [the policy's answer first, the policy's answer second], 1 where it is preferred, 0.5 for a tie.
    Both are needed for a verdict: one alone would carry the judge's liking for a place. Where the answers are the same
    to the letter nothing is asked: whichever place a judge may like, the two orders cancel out.
    """
    forms = [[form_of(question, swapped) for swapped in (False, True)] for question in questions]
    due = [form for pair in forms if pair[0].messages != pair[1].messages for form in pair]
    replies = iter(ask([Request(form.messages, params) for form in due]))
    verdicts = []
    for pair in forms:
        if pair[0].messages == pair[1].messages:
            verdicts.append({"preference": 0.5, "order": [0.5, 0.5]})
            continue
        said = [heard(form, next(replies)) for form in pair]
        texts = {"text": [one.get("text", "") for one in said]}
        failed = next((one["failed"] for one in said if "failed" in one), None)
        if failed is not None:
            verdicts.append({"preference": None, "order": None, **texts, "failed": failed})
            continue
        order = [
            0.5 if one["value"] == "C" else float((one["value"] == "A") != swapped)
            for one, swapped in zip(said, (False, True), strict=True)
        ]
        verdicts.append({"preference": settle(order), "order": order, **texts})
    return verdicts


def by_endpoint(
    questions: list[Question], kind: str, settings: dict, judge: dict, templates: dict | None, ask: Ask
) -> list[Verdict]:
    """Return an endpoint's verdicts on the questions of a benchmark."""
    params = params_of(judge)
    if kind == "judge_score":
        return score(questions, settings["prompt"], params, ask)
    if kind == "preference":
        own = {"template": settings["prompt"], "verdict": settings["verdict"]}
        return compare(questions, partial(forms.preference_form, **own), agreed, params, ask)
    if kind == "alpaca_eval":
        if settings["annotator"] is None:
            return compare(questions, forms.comparison_form, fmean, params, ask)
        from workflow_scripts.score.judging import (
            alpaca_annotator,  # takes seconds: needed by annotators alone
        )

        return alpaca_annotator.compare(questions, settings["annotator"], judge, ask)
    if compares(kind, settings):
        form_of = forms.comparison_form
        if templates is not None:
            form_of = partial(forms.fastchat_comparison_form, templates=templates)
        return compare(questions, form_of, agreed, params, ask)
    if templates is not None:
        return rate(questions, partial(forms.fastchat_rating_form, templates=templates), params, ask)
    return rate(questions, forms.rating_form, params, ask)
