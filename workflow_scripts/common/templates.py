"""Write conversations as text and tokens, knowing to the character which part is whose.

Masks come from character offsets of one tokenisation of the whole text: tokenising pieces apart and comparing them is
how masks go wrong (a token may straddle a boundary). Templates are data (`templates.yaml`), passed in resolved.
"""

from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError

IGNORED = -100  # the label every loss skips


class Span(NamedTuple):
    """Characters [start, end) of one message's content; an assistant's span takes in its lead and its end token."""

    role: str
    start: int
    end: int


class Rendered(NamedTuple):
    text: str
    spans: list[Span]


class Tokens(NamedTuple):
    """A tokenised conversation: `input_ids` and `labels` (time,), labels IGNORED where nothing is learned."""

    input_ids: list[int]
    labels: list[int]


def render(messages: list[dict], template: dict, tokenizer: Any, prompt: bool = False) -> Rendered:
    """Return a conversation's text and the span of each message; with `prompt`, the text ends where a reply begins."""

    def filled(text: str) -> str:
        return text.replace("{bos}", tokenizer.bos_token or "").replace("{eos}", tokenizer.eos_token or "")

    default_system = template.get("default_system")
    if default_system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default_system}, *messages]
    text, spans = filled(template["start"]), []
    for message in messages:
        part = template[message["role"]]
        content = message["content"].strip() if template["strip"] else message["content"]
        text += filled(part["before"])
        start = len(text)
        text += part.get("lead", "") + content + filled(part.get("end", ""))
        spans.append(Span(message["role"], start, len(text)))
        text += filled(part["after"])
    if prompt:
        text += filled(template["assistant"]["before"])
    return Rendered(text, spans)


def encode(text: str, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Return (token ids, character offsets) of a text that already carries its special tokens."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], encoding["offset_mapping"]


def forbidden_text(messages: list[dict], tokenizer: Any) -> str | None:
    """Return a special token spelled out in some content, which would be read as the real one, or None."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return next((token for token in special for message in messages if token in message["content"]), None)


def learned_stretches(spans: list[Span], messages: list[dict], learn: str) -> list[tuple[int, int]]:
    """Return the stretches of text [start, end) that are learned from (see `tokenise_conversation`)."""
    own = spans[
        len(spans) - len(messages) :
    ]  # a default system message comes first and is no message of the row
    said = list(zip(own, messages, strict=True))
    if learn == "text":
        ends = [spans[0].start, *(at for span, message in said if not is_learned(message) for at in span[1:])]
        return list(zip(ends[::2], [*ends[1::2], spans[-1].end], strict=True))
    if learn not in ("replies", "contents"):
        raise PlumblineError(f"learn: {learn!r}; give replies, contents or text")
    return [
        (span.start, span.end)
        for span, message in said
        if is_learned(message) and (learn == "contents" or span.role == "assistant")
    ]


def is_learned(message: dict) -> bool:
    """Tell whether a message may be learned from; one that is marked "learn": false is context alone."""
    return message.get("learn", True)


def tokenise_conversation(
    messages: list[dict], template: dict, tokenizer: Any, learn: str = "replies"
) -> Tokens:
    """Tokenise a conversation and label what is learned; all else is IGNORED.

    `replies`: the assistant's contents and end tokens. `contents`: those of every message, which leaves out the
    template's own words (headers, separators, what it starts with, a default system message). `text`: all from the end
    of the first header to the end of the last message. Of a message marked "learn": false nothing is learned, whatever
    `learn` says. A token that overlaps a learned character is learned; BOS never is.
    """
    text, spans = render(messages, template, tokenizer)
    identities, offsets = encode(text, tokenizer)
    learned = learned_stretches(spans, messages, learn)
    # Only in `text` can BOS stand within a stretch. Where it is also the end token, it is taken for an end.
    apart = learn == "text" and tokenizer.bos_token_id != tokenizer.eos_token_id
    bos = tokenizer.bos_token_id if apart else None
    labels = [
        identity
        if end > start and identity != bos and any(start < last and end > first for first, last in learned)
        else IGNORED
        for identity, (start, end) in zip(identities, offsets, strict=True)
    ]
    return Tokens(identities, labels)


def tokenise_plain(messages: list[dict], tokenizer: Any) -> Tokens:
    """Tokenise contents alone, a new line between them: no template, no special tokens, every token learned.

    But for those within a message marked "learn": false, or the new line before it.
    """
    text, unlearned = "", []
    for place, message in enumerate(messages):
        said = "\n" * bool(place) + message["content"]
        if not is_learned(message):
            unlearned.append((len(text), len(text) + len(said)))
        text += said
    identities, offsets = encode(text, tokenizer)
    labels = [
        IGNORED if any(start <= first and last <= end for start, end in unlearned) else identity
        for identity, (first, last) in zip(identities, offsets, strict=True)
    ]
    return Tokens(identities, labels)


def tokenise_prompt(messages: list[dict], template: dict, tokenizer: Any) -> list[int]:
    """Return the token ids of a conversation up to where the assistant's next reply begins."""
    return encode(render(messages, template, tokenizer, prompt=True).text, tokenizer)[0]


def tokenise_reply(
    messages: list[dict], reply: str, template: dict, tokenizer: Any
) -> tuple[list[int], list[int]]:
    """Return (prompt ids, completion ids) of a reply to a conversation; the completion ends with the end token.

    Both come from one tokenisation of the whole; a token straddling the boundary belongs to the completion.
    """
    text, spans = render([*messages, {"role": "assistant", "content": reply}], template, tokenizer)
    identities, offsets = encode(text, tokenizer)
    start, end = spans[-1].start, spans[-1].end
    first = next(index for index, (_, stop) in enumerate(offsets) if stop > start)
    last = max(index for index, (begin, stop) in enumerate(offsets) if begin < end and stop > begin)
    return identities[:first], identities[first : last + 1]
