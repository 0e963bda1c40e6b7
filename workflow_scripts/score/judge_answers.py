"""Ask a judge about a policy's answers: a rating (MT-Bench) or a preference over a reference (AlpacaEval).

A judge is a function from a list of questions to as many verdicts, in the same order. There are three kinds:
a reward model, a rule, and an OpenAI-compatible endpoint. Not covered: verdicts kept across runs, a budget,
many requests at once, and the original benchmarks' own judge prompts: ours are worded anew and only the
grammar of the verdict is theirs.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl

LONG_ANSWER = 1000  # characters from which the length rule gives its best rating
BATCH_SIZE = 16
RETRIES = 4
TIMEOUT = 120  # seconds a single request may take

# [[7]] or [[7.5]], or with one pair of brackets where a judge forgets the other: FastChat's grammar for the
# verdicts of MT-Bench (Zheng et al. 2023).
RATINGS = [re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]")]
CHOICE = re.compile(r"\[\[([ABC])\]\]")

RATE = (
    "You grade the reply of an AI assistant to a user. Weigh whether the reply is right, to the point, "
    "helpful, deep enough and clear. Do not reward length for its own sake. First write a short "
    "explanation of your grade. Then end with the grade, a number from 1 (useless) to 10 (excellent), in "
    "double square brackets, for example: Rating: [[5]]"
)
COMPARE = (
    "You compare two replies, A and B, of AI assistants to the same user. Weigh which of them is more "
    "right, to the point, helpful and clear. Neither the order of the replies nor their length should "
    "sway you. First write a short explanation. Then end with your choice in double square brackets: "
    "[[A]] if reply A is better, [[B]] if reply B is better, [[C]] if they are equally good."
)

# {"rating"} or {"preference", "order"}, plus "failed": the reason where the value is None
Verdict = dict[str, Any]


class Question(NamedTuple):
    """An answer to be judged: `messages` come before it, `reference` is another to the same, or None."""

    id: str
    turn: int
    sample: int
    messages: list[dict]
    answer: str
    reference: str | None


def questions_of(prompts: list[dict], generations: list[dict], where: str) -> list[Question]:
    """Return a question per answer of a prompt set, by prompt, sample and turn; `where` names the
    generations.

    The messages of a later turn hold the policy's own earlier answers. Raises PlumblineError when an answer
    is missing, stands twice, or belongs to no prompt.
    """
    texts: dict[tuple[str, int, int], str] = {}
    for row in generations:
        key = (row["id"], row["sample"], row["turn"])
        if key in texts:
            raise PlumblineError(
                f"{where}: turn {key[2]}, sample {key[1]} of {key[0]!r} stands twice; generate again"
            )
        texts[key] = row["text"]
    samples = sorted({sample for _, sample, _ in texts})
    questions = []
    for prompt in prompts:
        asked = [prompt["messages"], *([{"role": "user", "content": text}] for text in prompt["followups"])]
        references = prompt.get("reference") or [None] * len(asked)
        for sample in samples:
            messages: list[dict] = []
            for turn, (new, reference) in enumerate(zip(asked, references, strict=True)):
                answer = texts.pop((prompt["id"], sample, turn), None)
                if answer is None:
                    raise PlumblineError(
                        f"{where}: no answer to turn {turn}, sample {sample} of {prompt['id']!r}; "
                        "generate again"
                    )
                messages = [*messages, *new]
                questions.append(Question(prompt["id"], turn, sample, messages, answer, reference))
                messages = [*messages, {"role": "assistant", "content": answer}]
    if texts:
        raise PlumblineError(
            f"{where}: answer to {next(iter(texts))[0]!r}, which is not asked; generate again"
        )
    if not questions:
        raise PlumblineError(f"{where}: holds no answers; generate again")
    return questions


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    return 0.5 * (1 + math.tanh(value / 2))


def rate_by_length(questions: list[Question], settings: dict) -> list[Verdict]:
    """Rate 1 + 9 min(1, characters / 1000): a judge to test with, and a warning of what length alone would
    earn.
    """
    return [{"rating": 1 + 9 * min(1.0, len(question.answer) / LONG_ANSWER)} for question in questions]


def compare_by_length(questions: list[Question], settings: dict) -> list[Verdict]:
    """Prefer the longer answer: 1, or 0.5 where both are as long, or 0."""
    differences = [len(question.answer) - len(question.reference) for question in questions]
    return [{"preference": 0.5 + 0.5 * ((gap > 0) - (gap < 0)), "order": None} for gap in differences]


def rewards_of(pairs: list[tuple[list[dict], str]], settings: dict) -> list[float]:
    """Return the reward model's raw score of each (messages, reply)."""
    from workflow_scripts.common import reward  # torch: needed by this judge alone

    model, tokenizer = reward.load_reward_model(settings["model"])
    texts = [reward.render_pair(messages, reply, tokenizer.eos_token or "") for messages, reply in pairs]
    if model.config.num_labels != 1:
        raise PlumblineError(
            f"{settings['model']}: a judge needs a reward model of one output, not of classes"
        )
    return reward.score_texts(model, tokenizer, texts, BATCH_SIZE, reward.context_of(model, tokenizer))


def rate_by_reward(questions: list[Question], settings: dict) -> list[Verdict]:
    """Rate 1 + 9 sigmoid(r), r the reward of the answer: comparable between policies, not with a language
    model's.
    """
    rewards = rewards_of([(question.messages, question.answer) for question in questions], settings)
    return [{"rating": 1 + 9 * sigmoid(reward)} for reward in rewards]


def compare_by_reward(questions: list[Question], settings: dict) -> list[Verdict]:
    """Return sigmoid(r - r of the reference): the reward model's own probability (Bradley and Terry 1952)."""
    pairs = [
        (question.messages, text) for question in questions for text in (question.answer, question.reference)
    ]
    rewards = rewards_of(pairs, settings)
    gaps = [own - other for own, other in zip(rewards[::2], rewards[1::2], strict=True)]
    return [{"preference": sigmoid(gap), "order": None} for gap in gaps]


def read_rating(text: str) -> float | None:
    """Return the first rating in a judge's words, if it lies in 1 to 10."""
    for pattern in RATINGS:
        found = pattern.search(text)
        if found:
            rating = float(found[1])
            return rating if 1 <= rating <= 10 else None
    return None


def read_choice(text: str) -> str | None:
    """Return the last of [[A]], [[B]] and [[C]] in a judge's words: the explanation comes first."""
    found = CHOICE.findall(text)
    return found[-1] if found else None


def transcript(messages: list[dict]) -> str:
    """Return a dialogue as labelled blocks for a judge to read."""
    return "\n\n".join(
        f"<{message['role']}>\n{message['content']}\n</{message['role']}>" for message in messages
    )


def rating_request(question: Question) -> list[dict]:
    """Return the messages that ask for a rating of an answer in its dialogue."""
    parts = [f"The dialogue so far:\n\n{transcript(question.messages)}"]
    if question.reference:
        parts.append(f"A good reply, to compare with:\n\n<reference>\n{question.reference}\n</reference>")
    parts.append(f"The reply to grade:\n\n<reply>\n{question.answer}\n</reply>")
    return [{"role": "system", "content": RATE}, {"role": "user", "content": "\n\n".join(parts)}]


def comparison_request(question: Question, swapped: bool) -> list[dict]:
    """Return the messages that ask for a choice; the policy's answer is A, or B if `swapped`."""
    first, second = question.answer, question.reference
    if swapped:
        first, second = second, first
    shown = (
        f"The dialogue so far:\n\n{transcript(question.messages)}\n\n"
        f"<reply A>\n{first}\n</reply A>\n\n<reply B>\n{second}\n</reply B>"
    )
    return [{"role": "system", "content": COMPARE}, {"role": "user", "content": shown}]


class NoVerdictError(Exception):
    """The judge could not be brought to say anything about one question."""


def endpoint_of(settings: dict) -> Callable[[list[dict]], str]:
    """Return a function from messages to the words of an OpenAI-compatible endpoint.

    The key is read from the environment variable the study names. The client tries again by itself. The
    function raises NoVerdictError where one request fails, PlumblineError where every request would.
    """
    import openai  # takes half a second: needed by this judge alone

    key = os.environ.get(settings["api_key_env"])
    if not key:
        raise PlumblineError(
            f"judge {settings['model']!r}: the environment variable {settings['api_key_env']} holds no key; "
            "set it (a server that asks for none takes any word)"
        )
    client = openai.OpenAI(
        api_key=key, base_url=settings.get("base_url"), max_retries=RETRIES, timeout=TIMEOUT
    )
    hopeless = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)

    def ask(messages: list[dict]) -> str:
        try:
            reply = client.chat.completions.create(
                model=settings["model"],
                messages=messages,
                temperature=settings["temperature"],
                max_tokens=settings["max_tokens"],
            )
        except hopeless as error:
            raise PlumblineError(
                f"judge {settings['model']!r} at {client.base_url} refused: {error}"
            ) from None
        except openai.APITimeoutError:
            raise NoVerdictError("no reply in time") from None
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            raise PlumblineError(f"judge at {client.base_url} cannot be reached: {reason}") from None
        except openai.APIError as error:
            raise NoVerdictError(f"{type(error).__name__}: {error}") from None
        text = reply.choices[0].message.content if reply.choices else None
        if not text:
            raise NoVerdictError("the reply is empty")
        return text

    return ask


def rate_by_endpoint(questions: list[Question], settings: dict) -> list[Verdict]:
    """Ask the endpoint for a rating from 1 to 10 of each answer; its words are kept as `text`."""
    ask = endpoint_of(settings)
    verdicts = []
    for question in questions:
        try:
            text = ask(rating_request(question))
        except NoVerdictError as error:
            verdicts.append({"rating": None, "failed": str(error)})
            continue
        rating = read_rating(text)
        failed = {} if rating is not None else {"failed": "the reply holds no [[rating]] from 1 to 10"}
        verdicts.append({"rating": rating, "text": text} | failed)
    return verdicts


def compare_by_endpoint(questions: list[Question], settings: dict) -> list[Verdict]:
    """Ask the endpoint which answer is better, in both orders; the preference is the mean of the two.

    `order` holds both: [the policy's answer first, the policy's answer second]. Both are needed for a
    verdict: one alone would carry the judge's liking for a place.
    """
    ask = endpoint_of(settings)
    verdicts = []
    for question in questions:
        texts, order, failed = [], [], {}
        for swapped in (False, True):
            try:
                texts.append(ask(comparison_request(question, swapped)))
            except NoVerdictError as error:
                failed = {"failed": str(error)}
                break
            choice = read_choice(texts[-1])
            if choice is None:
                failed = {"failed": "the reply holds none of [[A]], [[B]], [[C]]"}
                break
            order.append(0.5 if choice == "C" else float((choice == "A") != swapped))
        preference = None if failed else sum(order) / 2
        verdicts.append(
            {"preference": preference, "order": None if failed else order, "text": texts} | failed
        )
    return verdicts


JUDGES = {
    ("rule", "mt_bench"): rate_by_length,
    ("rule", "alpaca_eval"): compare_by_length,
    ("reward_model", "mt_bench"): rate_by_reward,
    ("reward_model", "alpaca_eval"): compare_by_reward,
    ("openai", "mt_bench"): rate_by_endpoint,
    ("openai", "alpaca_eval"): compare_by_endpoint,
}


def judge(questions: list[Question], kind: str, settings: dict) -> list[dict]:
    """Return the verdict rows of a judge on a benchmark's questions; failed ones are kept with their reason.

    Raises PlumblineError when an answer has nothing to be compared with, or when not one verdict came.
    """
    if kind == "alpaca_eval":
        lacking = next((question.id for question in questions if question.reference is None), None)
        if lacking is not None:
            raise PlumblineError(
                f"alpaca_eval prompt {lacking!r} has no reference answer to be compared with"
            )
    verdicts = JUDGES[settings["kind"], kind](questions, settings)
    value = "rating" if kind == "mt_bench" else "preference"
    for verdict in verdicts:
        if verdict[value] is not None and not math.isfinite(verdict[value]):
            verdict |= {value: None, "failed": "the score is not a number"}
    if all("failed" in verdict for verdict in verdicts):
        raise PlumblineError(f"the judge gave not one verdict; the first reason: {verdicts[0]['failed']}")
    return [
        {"id": question.id, "turn": question.turn, "sample": question.sample} | verdict
        for question, verdict in zip(questions, verdicts, strict=True)
    ]


def main() -> None:
    """Write a judge's verdicts on a policy's answers."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--benchmark", required=True, help="the benchmark's name in the study, for messages")
    parser.add_argument("--kind", required=True, choices=["mt_bench", "alpaca_eval"])
    parser.add_argument("--prompts", required=True, type=Path, help="the benchmark's prompt set")
    parser.add_argument("--generations", required=True, type=Path, help="the policy's answers")
    parser.add_argument("--judge", required=True, type=json.loads, help="the judge's settings, as JSON")
    parser.add_argument("--output", required=True, type=Path, help="verdicts to write")
    args = parser.parse_args()
    questions = questions_of(read_jsonl(args.prompts), read_jsonl(args.generations), str(args.generations))
    try:
        rows = judge(questions, args.kind, args.judge)
    except PlumblineError as error:
        raise PlumblineError(f"benchmark {args.benchmark!r}: {error}") from None
    failed = sum("failed" in row for row in rows)
    if failed:
        print(f"warning: {args.benchmark}: {failed} of {len(rows)} verdicts failed", file=sys.stderr)
    write_jsonl(args.output, rows)


if __name__ == "__main__":
    run(main)
