"""What is cut where rows meet a limit in tokens: the one rule of every step that tokenises.

What fits is never cut, and what is cut is counted by kind. A prompt together with its replies may take `max_tokens`;
only where they do not fit is the prompt cut, to `max_prompt_tokens`, and the replies have what is left. A prompt loses
whole exchanges, the oldest first: BOS, the template's first words and the system message stay. Where the last turn
alone is too long, its text loses its start; where the system message leaves no room even for that, it goes. A reply
loses its end, and with it the token that would teach a policy to stop. Not covered: what a dataset's `history_turns`
leaves out (see `turns`), texts for classifiers (see `reward_model`), and counting (see `cuts`).
"""

import bisect
import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.own_template import Unspeakable
from workflow_scripts.common.templates import (
    encode,
    is_learned,
    render,
    reply_end,
    tokenise_prompt,
    tokenise_reply,
)


class Prompt(NamedTuple):
    """A prompt that fits: its token ids, the messages they say, and what it lost on the way."""

    ids: list[int]
    messages: list[dict]
    tokens_cut: int = 0
    last_turn_cut: bool = False
    system_lost: bool = False

    def facts(self) -> dict:
        """Return what the prompt lost, as a row keeps it; see `cut_counts`."""
        return {
            "prompt_tokens_cut": self.tokens_cut,
            "last_turn_cut": self.last_turn_cut,
            "system_lost": self.system_lost,
        }


class Row(NamedTuple):
    """A prompt and its replies that fit together; `prompts` has one a reply: a tokenizer may merge across the border.

    `facts` is what the row lost, as it is kept: see `cut_counts`.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    facts: dict


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Say of a conversation that a model's own template does not write which one it is."""
    try:
        yield
    except Unspeakable as error:
        raise Unspeakable(f"{name}: {error}") from None


def cut_last_turn(
    head: list[dict], turn: list[dict], template: dict, tokenizer: Any, room: int
) -> list[dict] | None:
    """Return `head` and a turn whose first message has lost its start, so that they fit; None where no text is left."""
    message, behind = turn[0], turn[1:]
    while True:
        messages = [*head, message, *behind]
        text, spans = render(messages, template, tokenizer, prompt=True)
        identities, offsets = encode(text, tokenizer, spans)
        excess = len(identities) - room
        if excess <= 0:
            return messages
        start, end = spans[-1 - len(behind)].said
        ends = [stop for begin, stop in offsets if begin < end and stop > max(begin, start)]
        if excess >= len(ends):
            return None
        # As the template has written it: what is put into its instruction stands in it already.
        message = {key: message[key] for key in message if key != "input"}
        message["content"] = text[ends[excess - 1] : end]
        if not message["content"].strip():
            return None


def fit_prompt(messages: list[dict], template: dict, tokenizer: Any, room: int, name: str) -> Prompt:
    """Return a conversation's prompt in at most `room` tokens, whole where it fits; `name` is the row's, for messages.

    PlumblineError where the room does not hold the template's own words and something of the last turn.
    """
    with naming(name):
        whole = tokenise_prompt(messages, template, tokenizer)
    if len(whole) <= room:
        return Prompt(whole, messages)
    first = next((place for place, each in enumerate(messages) if each["role"] != "system"), len(messages))
    head, said = messages[:first], messages[first:]
    # A conversation goes on from a user's turn, so what the user said goes together with its reply.
    starts = [place for place, each in enumerate(said) if each["role"] == "user"]
    if not starts or starts[-1] < len(said) - 1:  # it ends on another's words
        starts.append(len(said) - 1)

    def fits(start: int) -> bool:
        return len(tokenise_prompt([*head, *said[start:]], template, tokenizer)) <= room

    kept = bisect.bisect_left(starts, True, key=fits)
    if kept < len(starts):
        left = [*head, *said[starts[kept] :]]
        ids = tokenise_prompt(left, template, tokenizer)
        return Prompt(ids, left, len(whole) - len(ids))
    for system in [head, []] if head else [head]:
        found = cut_last_turn(system, said[starts[-1] :], template, tokenizer, room) if said else None
        if found:
            ids = tokenise_prompt(found, template, tokenizer)
            return Prompt(ids, found, len(whole) - len(ids), True, len(system) < len(head))
    raise PlumblineError(
        f"{name}: a prompt of {len(whole)} tokens cannot be cut to {room}: the template's own words fill them; "
        "give prompts more room (max_prompt_tokens, max_tokens, or a smaller max_new_tokens)"
    )


def fit_text(identities: list[int], tokenizer: Any, room: int) -> list[int]:
    """Return the token ids of a plain text, cut on the left to `room` tokens where they do not fit; BOS stays."""
    if len(identities) <= room:
        return identities
    begins = identities[:1] if identities[0] == tokenizer.bos_token_id else []
    return begins + identities[len(identities) - room + len(begins) :]


def fit_row(
    messages: list[dict],
    replies: list[str],
    template: dict,
    tokenizer: Any,
    max_tokens: int,
    max_prompt_tokens: int,
    name: str,
) -> Row:
    """Return a prompt and its replies in at most `max_tokens`, each reply with the prompt; whole where all of them fit.

    The replies share one prompt, so it is the longest of them that says whether it is cut.
    """
    with naming(name):
        tokens = [tokenise_reply(messages, reply, template, tokenizer) for reply in replies]
    longest = max(len(prompt) for prompt, _ in tokens)
    facts = Prompt([], messages).facts()
    if longest > max_prompt_tokens and max(len(prompt) + len(reply) for prompt, reply in tokens) > max_tokens:
        fitted = fit_prompt(messages, template, tokenizer, max_prompt_tokens, name)
        tokens = [tokenise_reply(fitted.messages, reply, template, tokenizer) for reply in replies]
        facts = fitted.facts()
        facts["prompt_tokens_cut"] = longest - max(len(prompt) for prompt, _ in tokens)
    if longest - facts["prompt_tokens_cut"] >= max_tokens:
        raise PlumblineError(
            f"{name}: its prompt leaves no room for a reply in max_tokens {max_tokens}; raise it"
        )
    left = [reply[: max_tokens - len(prompt)] for prompt, reply in tokens]
    facts["completions_cut"] = sum(
        len(part) < len(reply) for part, (_, reply) in zip(left, tokens, strict=True)
    )
    facts["ends_lost"] = facts["completions_cut"] if reply_end(template, tokenizer) else 0
    return Row([prompt for prompt, _ in tokens], left, facts)


def lost_ends(messages: list[dict], template: dict, tokenizer: Any, limit: int) -> tuple[int, int]:
    """Return how many replies of a conversation lose their end at `limit` tokens, and how many are lost whole.

    Replies that are context alone ("learn": false) are left aside.
    """
    text, spans = render(messages, template, tokenizer)
    offsets = encode(text, tokenizer, spans)[1]
    there = offsets[:limit][-1][1]  # the last character that is read
    own = zip(
        spans[len(spans) - len(messages) :], messages, strict=True
    )  # a default system message comes first
    replies = [
        span for span, message in own if span.role == "assistant" and is_learned(message) and span.end > there
    ]
    begun = sum(span.start < there for span in replies)
    return begun, len(replies) - begun
