"""Requests in OpenAI's words, and answers to them: `/v1/chat/completions` and `/v1/completions`.

What a request may say follows OpenAI's reference of these, with its defaults (temperature 1, top_p 1, n 1; 16 tokens of
a text, all that the context holds of a chat). What is not done here (tools, logprobs, penalties of frequency …) is
refused by name and never left out in silence. Messages are asked in the policy's own template, texts as they are, and
neither is ever cut: a prompt that does not fit is an error, as it is there.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from workflow_scripts.chat.speaker import GREEDY, Speaker
from workflow_scripts.common.answering import Answer
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.local_server import Refused
from workflow_scripts.common.templates import tokenise_prompt, tokenise_text

MOST_CHOICES = 128
SAMPLED = (
    "model",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "max_tokens",
    "user",
)
CHAT_KEYS = {*SAMPLED, "messages", "max_completion_tokens", "metadata", "store", "repetition_penalty"}
TEXT_KEYS = {*SAMPLED, "prompt", "repetition_penalty"}
# What may be said where it says what is done anyway.
IDLE: dict[str, tuple] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "logprobs": (False, 0, None),
    "top_logprobs": (0, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "parallel_tool_calls": (True, False, None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "echo": (False, None),
    "best_of": (1, None),
    "suffix": ("", None),
}
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Asked(NamedTuple):
    """A request that can be answered: `count` choices of each prompt (token ids)."""

    prompts: list[list[int]]
    sampling: dict
    count: int
    seed: int
    stream: bool
    usage: bool  # is told at the end of a stream
    chat: bool


def read(body: dict, speaker: Speaker, chat: bool) -> Asked:
    """Return what a request asks of a policy; Refused says what is wrong with it."""
    if body.get("model") != speaker.name:
        raise Refused(404, f"the model {body.get('model')!r} does not exist: here is {speaker.name!r} alone")
    known = CHAT_KEYS if chat else TEXT_KEYS
    for name, value in body.items():
        if name not in known and not (name in IDLE and any(value == idle for idle in IDLE[name])):
            raise Refused(400, f"{name}: {json.dumps(value)[:80]} cannot be done here; leave it out")
    prompts = [chat_prompt(body, speaker)] if chat else text_prompts(body, speaker)
    longest = max(map(len, prompts))
    most = limit_of(body, speaker.context - longest, chat)
    if longest + most > speaker.context or most < 1:
        raise Refused(
            400,
            f"the prompt has {longest} tokens and the reply at most {most}, and the context holds {speaker.context}: "
            "shorten the prompt, or lower max_tokens",
        )
    sampling = GREEDY | {
        "temperature": number(body, "temperature", 1.0, 0, 2),
        "top_p": number(body, "top_p", 1.0, 0, 1) or 1e-6,  # 0 is the likeliest alone
        "repetition_penalty": number(body, "repetition_penalty", 1.0, 0.01, 10),
        "max_new_tokens": most,
        "stop": stops_of(body),
    }
    options = body.get("stream_options") or {}
    seed = whole(body, "seed", None, -(2**63), 2**63 - 1)
    return Asked(
        prompts,
        sampling,
        whole(body, "n", 1, 1, MOST_CHOICES),
        secrets.randbits(31) if seed is None else seed % 2**63,
        body.get("stream") is True,
        isinstance(options, dict) and options.get("include_usage") is True,
        chat,
    )


def limit_of(body: dict, room: int, chat: bool) -> int:
    """Return the most tokens of a reply."""
    given = whole(body, "max_completion_tokens", None, 1, 2**31) if chat else None
    return given or whole(body, "max_tokens", None, 1, 2**31) or (room if chat else min(16, room))


def number(body: dict, name: str, usual: float, least: float, most: float) -> float:
    """Return a number of a request, or the usual one; Refused where it is none within its limits."""
    value = body.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Refused(400, f"{name}: {json.dumps(value)[:80]}; a number from {least:g} to {most:g} is needed")
    return value


def whole(body: dict, name: str, usual: int | None, least: int, most: int) -> Any:
    """Return a whole number of a request, or the usual one; Refused where it is none within its limits."""
    value = body.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(
            400, f"{name}: {json.dumps(value)[:80]}; a whole number from {least} to {most} is needed"
        )
    return value


def stops_of(body: dict) -> list[str]:
    """Return the strings that end a reply."""
    given = body.get("stop")
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        raise Refused(400, "stop: a text or a list of texts is needed, none of them empty")
    return stops


def chat_prompt(body: dict, speaker: Speaker) -> list[int]:
    """Return the messages of a request as the policy's own template writes them, up to the reply."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise Refused(400, "messages: a list of them is needed")
    messages = [message_of(each, place) for place, each in enumerate(given)]
    if messages[-1]["role"] == "assistant":
        raise Refused(400, "messages: the last is the assistant's, and nothing is left to reply to")
    try:
        return tokenise_prompt(messages, speaker.template, speaker.tokenizer)
    except PlumblineError as error:
        raise Refused(400, f"messages: {error}") from None


def message_of(given: Any, place: int) -> dict:
    """Return a message of a request; Refused where it is none that a template writes."""
    role = ROLES.get(given.get("role")) if isinstance(given, dict) else None
    if role is None:
        raise Refused(400, f"messages[{place}]: its role is none of {', '.join(ROLES)}")
    content = given.get("content")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            for part in content
        ]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str):
        raise Refused(400, f"messages[{place}]: its content is no text")
    return {"role": role, "content": content}


def text_prompts(body: dict, speaker: Speaker) -> list[list[int]]:
    """Return the prompts of a request as token ids: texts, or ids as they are."""
    given = body.get("prompt")
    many = given if isinstance(given, list) and not is_ids(given) else [given]
    if not many or not all(isinstance(each, str) or is_ids(each) for each in many):
        raise Refused(
            400, "prompt: a text, a list of texts, token ids, or a list of lists of these is needed"
        )
    found = [tokenise_text(each, speaker.tokenizer) if isinstance(each, str) else each for each in many]
    known = speaker.model.get_input_embeddings().num_embeddings
    if any(not 0 <= identity < known for prompt in found for identity in prompt):
        raise Refused(400, f"prompt: token ids are from 0 to {known - 1}")
    if not all(found):
        raise Refused(400, "prompt: is empty, and this policy's texts begin with no token of their own")
    return found


def is_ids(given: Any) -> bool:
    return (
        isinstance(given, list)
        and bool(given)
        and all(isinstance(each, int) and not isinstance(each, bool) for each in given)
    )


# --- answers ----------------------------------------------------------------------------------------------------------


def answers_to(asked: Asked, speaker: Speaker, tell: Callable[[int, str], None] | None) -> Iterator[Answer]:
    """Yield the answers to a request, choice by choice; `tell` is handed a choice and its text as far as it goes.

    Each choice is drawn with a seed of its own; of what is not drawn, one is made.
    """
    for place, prompt in enumerate(asked.prompts):
        answer = None
        for sample in range(asked.count):
            choice = place * asked.count + sample
            word = (lambda text, choice=choice: tell(choice, text)) if tell else None
            if answer is None or asked.sampling["temperature"]:
                answer = speaker.answer(prompt, asked.sampling, (asked.seed + sample) % 2**63, word)
            yield answer


def usage_of(asked: Asked, answers: list[Answer]) -> dict:
    """Return what answers took: a prompt counts once, however many choices it has."""
    prompts, made = sum(map(len, asked.prompts)), sum(each.completion_tokens for each in answers)
    return {"prompt_tokens": prompts, "completion_tokens": made, "total_tokens": prompts + made}


def head_of(asked: Asked, model: str, stream: bool) -> dict:
    """Return what an answer, or every part of one, begins with."""
    kind = "chat.completion" + ".chunk" * stream if asked.chat else "text_completion"
    name = f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}


def whole_answer(asked: Asked, speaker: Speaker) -> dict:
    """Return the answer to a request that wants it at once."""
    answers = list(answers_to(asked, speaker, None))
    choices = []
    for index, answer in enumerate(answers):
        said = (
            {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
            if asked.chat
            else {"text": answer.text}
        )
        choices.append({"index": index, **said, "logprobs": None, "finish_reason": answer.finish_reason})
    return head_of(asked, speaker.name, False) | {"choices": choices, "usage": usage_of(asked, answers)}


def streamed(asked: Asked, speaker: Speaker, send: Callable[[str], None]) -> None:
    """Send the answer to a request part by part, as server-sent events."""
    head, sent = head_of(asked, speaker.name, True), {}

    def event(choice: int, said: dict | str, finish: str | None = None) -> None:
        part = {"delta": said} if asked.chat else {"text": said}
        choices = [{"index": choice, **part, "logprobs": None, "finish_reason": finish}]
        send(f"data: {json.dumps(head | {'choices': choices})}\n\n")

    def tell(choice: int, text: str) -> None:
        before = sent.setdefault(choice, "")
        if len(text) > len(before) and text.startswith(before):
            more = text[len(before) :]
            event(choice, {"content": more} if asked.chat else more)
            sent[choice] = text

    answers: list[Answer] = []
    if asked.chat:
        for choice in range(asked.count):
            event(choice, {"role": "assistant", "content": ""})
    for choice, answer in enumerate(answers_to(asked, speaker, tell)):
        answers.append(answer)
        tell(choice, answer.text)
        event(choice, {} if asked.chat else "", answer.finish_reason)
    if asked.usage:
        send(f"data: {json.dumps(head | {'choices': [], 'usage': usage_of(asked, answers)})}\n\n")
    send("data: [DONE]\n\n")
