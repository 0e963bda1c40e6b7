"""What an endpoint is asked and what it replied: one request, its name in the store, its price, and its reply in words.

Everything here is pure. Not covered: sending and trying again (client, endpoint), and what a reply means.
"""

import math
from typing import NamedTuple

# Beyond a token per UTF-8 byte of the text: what chat templates put around a message and before the first.
MESSAGE_TOKENS = 16
REQUEST_TOKENS = 256
THOUGHTS, END_OF_THOUGHTS = "<think>", "</think>"
BYTES_PER_TOKEN = 4  # an estimate, for a server that does not count


class Request(NamedTuple):
    """What a model is asked: rendered messages [{"role", "content"}] and parameters, sent as they are.

    `prompt`, where it is given, stands in place of messages: raw text that the model goes on from. `sample` tells apart
    requests of the same words that are each to have a reply of their own; it is not sent.
    """

    messages: list[dict]
    params: dict
    prompt: str | None = None
    sample: int = 0


class Reply(NamedTuple):
    """A judge's words, or None and the reason; `logprobs` is [{"token", "logprob", "top_logprobs"}] if asked for.

    `cut` where the limit in tokens ended them.
    """

    text: str | None
    failed: str | None
    logprobs: list | None
    cut: bool = False


def request_of(request: Request, judge: dict) -> dict:
    """Return what names a verdict: the judge's model and version (no address, no key), prompt and parameters."""
    named = {
        "model": judge["model"],
        "version": judge["version"],
        "messages": request.messages,
        "params": request.params,
    }
    if request.prompt is not None:
        named["prompt"] = request.prompt
    return named | ({"sample": request.sample} if request.sample else {})


def params_of(judge: dict, usual: dict | None = None) -> dict:
    """Return what a judge is told beside the messages: its keys' values, and its `params` as they stand.

    `usual` are an annotator's own parameters, which a judge's temperature and limit give way to: but where the judge
    takes no temperature none is sent, and where it wants the limit by its newer name it has the judge's, as thinking
    counts in it. What is null is not sent.
    """
    usual = usual or {key: judge[key] for key in ("temperature", "max_tokens")}
    told = usual | {"seed": judge["seed"]}
    if judge["temperature"] is None:
        told |= {"temperature": None, "top_p": None}
    if judge["max_completion_tokens"] is not None:
        told |= {"max_tokens": None, "max_completion_tokens": judge["max_completion_tokens"]}
    return {key: value for key, value in (told | judge["params"]).items() if value is not None}


def price(judge: dict, prompt_tokens: int, completion_tokens: int) -> float:
    """Return dollars."""
    per_million = (
        prompt_tokens * judge["usd_per_million_prompt_tokens"]
        + completion_tokens * judge["usd_per_million_completion_tokens"]
    )
    return per_million / 1e6


def prompt_bytes(request: Request) -> int:
    """Return the UTF-8 bytes of a prompt's contents."""
    texts = [str(message["content"]) for message in request.messages]
    return sum(len(text.encode()) for text in [*texts, request.prompt or ""])


def worst_case(request: Request, judge: dict) -> tuple[int, int]:
    """Return the most (prompt, completion) tokens a request can take: no tokenizer makes two of one byte."""
    params = request.params
    limit = params.get("max_tokens", params.get("max_completion_tokens", judge["max_tokens"]))
    return prompt_bytes(request) + MESSAGE_TOKENS * len(request.messages) + REQUEST_TOKENS, limit


def paid_for(request: Request, reply: dict, usage: dict | None, judge: dict) -> tuple[dict, float]:
    """Return the usage and price of a reply in dollars.

    Where the server does not count, tokens are estimated at four bytes each and marked so, and the price is the
    worst case, so that a budget still holds.
    """
    if usage:
        return usage, price(judge, usage["prompt_tokens"], usage["completion_tokens"])
    written = len((reply["text"] or "").encode())
    estimated = {
        "prompt_tokens": math.ceil(prompt_bytes(request) / BYTES_PER_TOKEN),
        "completion_tokens": math.ceil(written / BYTES_PER_TOKEN),
        "estimated": True,
    }
    return estimated, price(judge, *worst_case(request, judge))


def reply_of(entry: dict) -> Reply:
    """Return a stored verdict as a reply: failed where the judge refused, said nothing, or sent what is no verdict."""
    reply = entry["reply"]
    if "unusable" in reply:
        return Reply(None, f"the judge's reply is of no use: {reply['unusable']}", None)
    if reply["refusal"]:
        return Reply(None, f"refused by the judge: {reply['refusal']}", None)
    if reply["finish_reason"] == "content_filter":
        return Reply(None, "refused by the judge: its content filter ended the reply", None)
    said = reply["text"] or ""
    text = without_thoughts(said)
    logprobs = reply["logprobs"] if text == said else None  # the first of them are those of thoughts
    # A choice read from log-probs may begin with a token of white space alone.
    if not text.strip() and not logprobs:
        spent = ": max_tokens were spent before a word" if reply["finish_reason"] == "length" else ""
        return Reply(None, f"the judge's reply is empty{spent}", None)
    return Reply(text, None, logprobs, reply["finish_reason"] == "length")


def without_thoughts(text: str) -> str:
    """Return a judge's words without the thoughts before them, "" where it came to nothing else.

    Servers that do not set thoughts apart leave them in the reply, up to </think>; the <think> they begin with may
    stand in the prompt. In them a judge tries out verdicts that it does not give.
    """
    thoughts, end, words = text.partition(END_OF_THOUGHTS)
    begun = thoughts.lstrip().startswith(THOUGHTS)
    if not end:
        return "" if begun else text
    return words.lstrip() if begun or THOUGHTS not in thoughts else text
