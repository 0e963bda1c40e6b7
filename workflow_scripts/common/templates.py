"""Write conversations as text and tokens, knowing to the character which part is whose.

Masks come from character offsets of one tokenisation of the whole text: tokenising pieces apart and comparing them is
how masks go wrong (a token may straddle a boundary). Templates are data (`templates.yaml`), passed in resolved; or one
is the model's own, {"own": true}, which its tokenizer brings along (`own_template`).

A template's own words may be special tokens; what a message says never is one, whatever it spells. What ends a reply is
one of the tokenizer's added tokens; a template that ends it with anything else is refused.

The last message of a conversation that ends on the assistant is the reply that a policy is asked for, and a template
may write it otherwise than the assistant's turns before it (`reply`). A prompt is the text up to that reply.
"""

import copy
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, NotRequired

from tokenizers import AddedToken
from typing_extensions import TypedDict

from workflow_scripts.common.decoding import opening, tokens_within
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.own_template import Unspeakable, end_of, spoken, strips, voice_of

IGNORED = -100  # the label every loss skips
REPLIES = ("replies", "header", "after", "next")  # how much of the template is learned with a reply
SPACES = (" ", "\n", "\t")  # white space between which no lead is needed


class TemplatePart(TypedDict):
    """How a template writes one message: before + lead + content + end + after; no content has no lead.

    With `lead_unless_space` there is no lead where white space stands already, before it or where the content begins.
    """

    before: str
    after: str
    lead: NotRequired[str]
    lead_unless_space: NotRequired[bool]
    end: NotRequired[str]
    strip: NotRequired[bool | None]


class OwnTemplate(TypedDict):
    """The chat template that the model's own tokenizer brings along."""

    own: Literal[True]


class WrittenTemplate(TypedDict):
    """A chat template as it is handed to scripts, just as it was written: what need not be there may be missing."""

    start: str
    strip: bool
    between: NotRequired[str]
    default_system: NotRequired[str | None]
    system_in_user: NotRequired[bool]
    input: NotRequired[str | None]
    system: TemplatePart
    user: TemplatePart
    assistant: TemplatePart
    reply: NotRequired[TemplatePart | None]


Template = WrittenTemplate | OwnTemplate


class Span(NamedTuple):
    """Characters [start, end) of one message's content; an assistant's span takes in its lead and its end token.

    `said` are those of the words alone; a default system message, which is the template's, says none of its own.
    `whole` are those of all that a template writes for the message.
    """

    role: str
    start: int
    end: int
    said: tuple[int, int]
    whole: tuple[int, int] = (0, 0)


class Rendered(NamedTuple):
    text: str
    spans: Sequence[Span]


class Tokens(NamedTuple):
    """A tokenised conversation: `input_ids` and `labels` (time,), labels IGNORED where nothing is learned."""

    input_ids: list[int]
    labels: list[int]


def reply_part(template: dict) -> dict:
    """Return how a template writes the reply that is asked for: its `reply`, else as the assistant's turns before."""
    return template.get("reply") or template["assistant"]


def is_own(template: dict) -> bool:
    """Tell whether a template is the one that the model's tokenizer brings along."""
    return bool(template.get("own"))


def reply_end(template: dict, tokenizer: Any) -> str:
    """Return what a template ends the reply with, "" where it has no end."""
    return end_of(voice_of(tokenizer)) if is_own(template) else reply_part(template).get("end", "")


def strips_replies(template: dict, tokenizer: Any) -> bool:
    """Tell whether a template strips a reply of white space."""
    if is_own(template):
        return strips(voice_of(tokenizer), "assistant")
    return strips_content(template, "assistant")


def strips_content(template: dict, role: str) -> bool:
    """Tell whether a template strips what a role says of white space."""
    own = template[role].get("strip")
    return template["strip"] if own is None else own


def content_of(message: dict, template: dict) -> str:
    """Return what a message says as a template writes it.

    A message with `input`, [the end of its instruction, the start of what is put in], has between the two what the
    dataset puts there, or the template's `input` where that is a text.
    """
    content, between = message["content"], template.get("input")
    if between is not None and "input" in message:
        end, start = message["input"]
        content = content[:end] + between + content[start:]
    return content.strip() if strips_content(template, message["role"]) else content


def render(messages: list[dict], template: dict, tokenizer: Any, prompt: bool = False) -> Rendered:
    """Return a conversation's text and the span of each message; with `prompt`, the text ends where a reply begins."""

    if is_own(template):
        text, said = spoken(messages, voice_of(tokenizer), prompt)
        return Rendered(
            text,
            [
                Span(message["role"], *found.own, found.words, found.whole)
                for message, found in zip(messages, said, strict=True)
            ],
        )
    default_system = template.get("default_system")
    added = bool(default_system) and messages[0]["role"] != "system"
    if added:
        messages = [{"role": "system", "content": default_system}, *messages]
    # A system message that is the beginning of the user's turn has the header of that turn before it.
    within = template.get("system_in_user") and [each["role"] for each in messages[:2]] == ["system", "user"]

    def header(place: int, before: str) -> str:
        if within and place == 1:
            return ""
        between = template.get("between", "") if place else ""
        return filled(
            between + (template["user"]["before"] if within and not place else "") + before, tokenizer
        )

    text, spans = filled(template["start"], tokenizer), []
    for place, message in enumerate(messages):
        asked_for = message["role"] == "assistant" and place == len(messages) - 1 and not prompt
        part = reply_part(template) if asked_for else template[message["role"]]
        content = content_of(message, template)
        first = len(text)
        text += header(place, part["before"])
        start = len(text)
        text += lead_of(part, text, content)
        said = (len(text), len(text) + (0 if added and not spans else len(content)))
        text += content + filled(part.get("end", ""), tokenizer)
        end = len(text)
        text += filled(part["after"], tokenizer)
        spans.append(Span(message["role"], start, end, said, (first, len(text))))
    if prompt:
        text += header(len(messages), reply_part(template)["before"])
    return Rendered(text, spans)


def lead_of(part: dict, text: str, content: str) -> str:
    """Return a template's lead to a content behind a text, which may not be needed where white space parts the two."""
    spaced = part.get("lead_unless_space") and (text.endswith(SPACES) or content.startswith(SPACES))
    return "" if spaced or not content else part.get("lead", "")


def joined(parts: Iterable[tuple[str, str]]) -> Rendered:
    """Return (role, words), one after another, as one text; words without a role are nobody's: special tokens, too."""
    text, spans = "", []
    for role, words in parts:
        start, text = len(text), text + words
        if role:
            spans.append(Span(role, start, len(text), (start, len(text))))
    return Rendered(text, tuple(spans))


def filled(text: str, tokenizer: Any) -> str:
    """Return a template's words with the tokenizer's own tokens in place of {bos} and {eos}."""
    return text.replace("{bos}", tokenizer.bos_token or "").replace("{eos}", tokenizer.eos_token or "")


def special_texts(tokenizer: Any) -> list[str]:
    """Return how a tokenizer's special tokens are spelled."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def encode(text: str, tokenizer: Any, spans: Sequence[Span] = ()) -> tuple[list[int], list[tuple[int, int]]]:
    """Return (token ids, character offsets) of a text that already carries its special tokens.

    What the messages of `spans` say is plain text, whatever it spells.
    """
    if says_special(text, tokenizer, spans):
        said = [(max(0, first), min(last, len(text))) for first, last in (span.said for span in spans)]
        return encode_around(text, said, special_texts(tokenizer), tokenizer)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], encoding["offset_mapping"]


def says_special(text: str, tokenizer: Any, spans: Sequence[Span]) -> bool:
    """Tell whether what the messages of `spans` say of a text spells a special token."""
    said = [text[max(0, first) : last] for first, last in (span.said for span in spans)]
    return any(token in words for token in special_texts(tokenizer) for words in said)


def encode_around(
    text: str, said: list[tuple[int, int]], special: list[str], tokenizer: Any
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return what `encode` does for a text whose stretches `said` spell special tokens.

    The real ones are put into the text as runs of a character that it has not, each as long as what it stands for, and
    a copy of the tokenizer knows these runs in place of them: so it is one tokenisation of the whole here, too.
    """
    blocks = range(0x100000, 0x10FFFE - len(special), len(special))  # a plane of characters for private use
    block = next(at for at in blocks if not any(chr(at + each) in text for each in range(len(special))))
    signs = {token: chr(block + place) * len(token) for place, token in enumerate(special)}
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    borders = [0, *itertools.chain.from_iterable(said), len(text)]
    stretches = [text[start:end] for start, end in itertools.pairwise(borders)]
    stretches[::2] = [pattern.sub(lambda found: signs[found[0]], own) for own in stretches[::2]]
    copied, real = knowing(tokenizer, len(tokenizer), tuple(signs.items()))
    marked = "".join(stretches)
    encoding = copied(
        marked, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    identities, offsets = respelled(marked, encoding["input_ids"], encoding["offset_mapping"], tokenizer)
    return [real.get(identity, identity) for identity in identities], offsets


@functools.lru_cache(maxsize=4)
def knowing(tokenizer: Any, size: int, signs: tuple[tuple[str, str], ...]) -> tuple[Any, dict[int, int]]:
    """Return a copy of a tokenizer that knows signs for its special tokens, and the real id of each sign's."""
    copied, known = copy.deepcopy(tokenizer), tokenizer.added_tokens_decoder
    own = {token.content: (identity, token) for identity, token in known.items()}
    for content, sign in signs:
        token = own[content][1]
        copied.add_tokens(
            AddedToken(
                sign,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
            )
        )
    return copied, {copied.convert_tokens_to_ids(sign): own[content][0] for content, sign in signs}


def tokenise_text(text: str, tokenizer: Any) -> list[int]:
    """Return the token ids of a text to be gone on from: behind BOS where the tokenizer puts it, and never closed.

    What the text spells of special tokens is plain text.
    """
    encoding = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    return (
        opening(tokenizer) + respelled(text, encoding["input_ids"], encoding["offset_mapping"], tokenizer)[0]
    )


def respelled(
    text: str, identities: list[int], offsets: list[tuple[int, int]], tokenizer: Any
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return (token ids, offsets) of a plain text, its special tokens spelled letter by letter.

    Some vocabularies have special tokens among their pieces, and take the text for them even where it is split.
    """
    known, found = tokenizer.added_tokens_decoder, []
    for identity, (start, end) in zip(identities, offsets, strict=True):
        token = known.get(identity)
        if token is not None and token.special and text[start:end].strip() == token.content:
            letters = ((at, tokens_within(text[at], tokenizer)) for at in range(start, end))
            found += [(each, (at, at + 1)) for at, ids in letters for each in ids]
        else:
            found.append((identity, (start, end)))
    return [identity for identity, _ in found], [places for _, places in found]


def ends_of(end: str, tokenizer: Any, more: Sequence[int] = ()) -> list[int]:
    """Return the ids that end a reply: the template's `end`, the tokenizer's end token, and `more`, the model's own.

    PlumblineError where the template's end is none of the tokenizer's added tokens, or where nothing ends a reply.
    """
    if "{eos}" in end and not tokenizer.eos_token:
        raise PlumblineError(
            "the template ends a reply with {eos}, and the tokenizer has no end token; give it one, or choose a "
            "template with an end of its own"
        )
    text = filled(end, tokenizer)
    known = {token.content: identity for identity, token in tokenizer.added_tokens_decoder.items()}
    places = sorted((text.find(each), -len(each), each) for each in special_texts(tokenizer) if each in text)
    own = [known[each] for each in [text.strip(), *(place[2] for place in places)] if each in known][:1]
    if text and not own:
        raise PlumblineError(
            f"the template ends a reply with {text!r}, which is no token of this model, so no answer could end: "
            "choose a template whose end the model has, as {eos} is, or one without an end and give `stop` strings "
            "where answers are drawn"
        )
    ids = {*own, *more, tokenizer.eos_token_id} - {None}
    if not ids:
        raise PlumblineError(
            "neither the template nor the tokenizer has an end token, so no answer could end"
        )
    return sorted(ids)


def forbidden_text(messages: list[dict], tokenizer: Any) -> str | None:
    """Return a special token spelled out in some content, which would be read as the real one, or None."""
    special = special_texts(tokenizer)
    return next((token for token in special for message in messages if token in message["content"]), None)


def refused(
    messages: list[dict], replies: Sequence[str], template: dict | None, tokenizer: Any
) -> tuple[str, str] | None:
    """Return why a prompt and the replies to it cannot be told as tokens: (reason, detail), or None where they can.

    Some content spells a special token, or the model's own template does not write the conversation as it is. Without
    replies the prompt alone is written; `template` None is none at all.
    """
    answers = [{"role": "assistant", "content": reply} for reply in replies]
    special = forbidden_text([*messages, *answers], tokenizer)
    if special is not None:
        return "special token in content", special
    if template is None or not is_own(template):
        return None
    voice = voice_of(tokenizer)
    try:
        for answer in answers:
            spoken([*messages, answer], voice, False)
        if not answers:
            spoken(messages, voice, messages[-1]["role"] != "assistant")
    except Unspeakable as error:
        return "not in the model's own chat template", str(error)
    return None


def learned_stretches(spans: list[Span], messages: list[dict], learn: str) -> list[tuple[int, int]]:
    """Return the stretches of text [start, end) that are learned from (see `tokenise_conversation`)."""
    own = spans[
        len(spans) - len(messages) :
    ]  # a default system message comes first and is no message of the row
    said = list(zip(own, messages, strict=True))
    if learn == "text":
        ends = [
            spans[0].start,
            *(at for span, message in said if not is_learned(message) for at in (span.start, span.end)),
        ]
        return list(zip(ends[::2], [*ends[1::2], spans[-1].end], strict=True))
    if learn == "contents":
        return [(span.start, span.end) for span, message in said if is_learned(message)]
    if learn not in REPLIES:
        raise PlumblineError(f"learn: {learn!r}; give {', '.join(REPLIES)}, contents or text")
    following = [*own[1:], None]
    return [
        reply_stretch(span, after, learn)
        for (span, message), after in zip(said, following, strict=True)
        if is_learned(message) and span.role == "assistant"
    ]


def reply_stretch(span: Span, following: Span | None, learn: str) -> tuple[int, int]:
    """Return the stretch [start, end) of a reply that is learned, before a message or at the conversation's end."""
    if learn == "header":
        return span.whole[0], span.end
    if following is None or learn == "replies":
        return span.start, span.end
    return span.start, span.whole[1] if learn == "after" else following.said[0]


def is_learned(message: dict) -> bool:
    """Tell whether a message may be learned from; one that is marked "learn": false is context alone."""
    return message.get("learn", True)


def tokenise_conversation(
    messages: list[dict], template: dict, tokenizer: Any, learn: str = "replies"
) -> Tokens:
    """Tokenise a conversation and label what is learned; all else is IGNORED.

    `replies`: the assistant's contents and end tokens; `header`: with what the template writes before them; `after`:
    with what it writes behind them, where a message follows; `next`: with all up to that message's words. `contents`:
    those of every message, which leaves out the template's own words (headers, separators, what it starts with, a
    default system message). `text`: all from the end of the first header to the end of the last message. In `after`,
    `next` and `text`, which follow published programs, the text ends without the template's last white space. Of a
    message marked "learn": false nothing is learned, whatever `learn` says. A token that overlaps a learned character
    is learned; BOS never is.
    """
    ends_of(reply_end(template, tokenizer), tokenizer)  # or what is learned could not be asked for
    text, spans = render(messages, template, tokenizer)
    if learn in ("after", "next", "text"):
        text = text[: max(spans[-1].end, len(text.rstrip()))]
    identities, offsets = encode(text, tokenizer, spans)
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
        said = message["content"] if place == 0 else "\n" + message["content"]
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
    text, spans = render(messages, template, tokenizer, prompt=True)
    return encode(text, tokenizer, spans)[0]


def tokenise_reply(
    messages: list[dict], reply: str, template: dict, tokenizer: Any
) -> tuple[list[int], list[int]]:
    """Return (prompt ids, completion ids) of a reply to a conversation; the completion ends with the end token.

    Both come from one tokenisation of the whole; a token straddling the boundary belongs to the completion.
    """
    ends_of(reply_end(template, tokenizer), tokenizer)
    text, spans = render([*messages, {"role": "assistant", "content": reply}], template, tokenizer)
    identities, offsets = encode(text, tokenizer, spans)
    start, end = spans[-1].start, spans[-1].end
    # A reply that says nothing, in a template without an end, is no token at all.
    first = next((index for index, (_, stop) in enumerate(offsets) if stop > start), len(offsets))
    last = max(
        (index for index, (begin, stop) in enumerate(offsets) if begin < end and stop > begin), default=-1
    )
    return identities[:first], identities[first : last + 1]
