"""A model's own chat template, as its files bring it along (Jinja): a conversation's text in it, and its parts.

A template is a program; what it does to a conversation is found by having it write one. Contents are put in as marks
that no text has: between these stand the template's words, which depend on nothing but who speaks in what order. The
conversation itself has to come out as these words and the contents between them, as they are or stripped of white
space, or it is refused: a template that changes what is said, moves it or leaves it out cannot be learned from. What
stands before a reply is what the template writes to ask for it, and has to be how the whole begins: else a policy would
learn behind one text and be asked behind another. Nothing here loads a tokenizer or torch.

Not covered: tools, documents, contents that are no text, and a date that changes from day to day (it is refused).
"""

import datetime
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workflow_scripts.common.errors import PlumblineError

MARKS = 0xF0000  # the first of a plane of characters for private use: a mark for each message
TODAY = "\U000ffffd"  # what a template gets for today's date
ADVICE = (
    "name another template for it, `template: chatml` say; those that come with Plumbline are in "
    "workflow_scripts/common/templates.yaml"
)
# What a program of anyone's may raise; memory and interrupts are the machine's and the user's.
FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class Unspeakable(PlumblineError):
    """A conversation that a model's own chat template does not write, or writes so that it cannot be learned from."""


class Voice(NamedTuple):
    """A chat template's Jinja source, the special tokens it may name, and the texts of the tokenizer's added tokens."""

    source: str
    tokens: tuple[tuple[str, str], ...]
    added: frozenset[str]


def voice_of(tokenizer: Any) -> Voice:
    """Return the chat template that a tokenizer brings along; Unspeakable where it has none."""
    try:
        source = tokenizer.get_chat_template()
    except ValueError:
        raise Unspeakable(
            "the tokenizer has no chat template of its own; name one, `template: chatml` say"
        ) from None
    return _voice(tokenizer, len(tokenizer), source)


@functools.lru_cache(maxsize=8)
def _voice(tokenizer: Any, size: int, source: str) -> Voice:
    tokens = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    added = frozenset(token.content for token in tokenizer.added_tokens_decoder.values())
    return Voice(source, tuple(sorted(tokens.items())), added)


class Shape(NamedTuple):
    """What a template writes for speakers in some order: `words` before each content, and behind the last.

    Places within the words: `opens[i]`, in those before content i, where what a policy itself says begins; and in those
    behind content i `closes[i]`, where the token ends that ends it, and `wholes[i]`, where all that is written for it
    does.
    """

    words: tuple[str, ...]
    opens: tuple[int, ...]
    closes: tuple[int, ...]
    wholes: tuple[int, ...]


class Said(NamedTuple):
    """Where a message is in a text, [start, end) each: with what a policy says beside its words, these, all of it."""

    own: tuple[int, int]
    words: tuple[int, int]
    whole: tuple[int, int]


class Generation(Extension):
    """Reads `{% generation %}`, by which some templates mark what others are to learn, as what stands within."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def refuse(message: str) -> None:
    """Raise what a template refuses a conversation with."""
    raise jinja2.TemplateError(message)


def as_json(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
    """Return JSON as templates expect it, without HTML's escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **more)


def today(form: str) -> str:
    """Return a mark for the date, having read the form."""
    datetime.date(2024, 1, 1).strftime(form)
    return TODAY


@functools.lru_cache(maxsize=16)
def compiled(source: str) -> jinja2.Template:
    """Return a chat template ready to write, in the sandbox; PlumblineError where it is no Jinja."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = as_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": today}
    try:
        return environment.from_string(source)
    except FAILURES as error:
        raise Unspeakable(f"the model's own chat template cannot be read ({error}); {ADVICE}") from error


def written(messages: Sequence[dict], voice: Voice, asking: bool) -> str:
    """Return a conversation as the template writes it; `asking`: with what it asks for a reply by."""
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        text = compiled(voice.source).render(
            messages=plain, tools=None, documents=None, add_generation_prompt=asking, **dict(voice.tokens)
        )
    except FAILURES as error:
        roles = ", ".join(message["role"] for message in messages)
        raise Unspeakable(
            f"the model's own chat template refuses a conversation of {roles or 'no messages'} ({error}); leave "
            f"such rows out, or {ADVICE}"
        ) from error
    if TODAY in text:
        raise Unspeakable(
            f"the model's own chat template writes today's date, so what is learned would be another text every day; "
            f"{ADVICE}"
        )
    return text


@functools.lru_cache(maxsize=4096)
def shape_of(voice: Voice, roles: tuple[str, ...], asking: bool) -> Shape:
    """Return what a template writes for speakers in this order; Unspeakable where that cannot be learned from."""
    marks = [chr(MARKS + place) for place in range(len(roles))]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    text = written(messages, voice, asking)
    places = [text.find(mark) for mark in marks]
    for place, role in enumerate(roles):
        if text.count(marks[place]) != 1 or places != sorted(places):
            raise Unspeakable(
                f"the model's own chat template does not write what message {place + 1} of {len(roles)} says (of the "
                f"{role}) once, in its place; leave such rows out, or {ADVICE}"
            )
    borders = [-1, *places, len(text)]
    words = tuple(text[before + 1 : after] for before, after in itertools.pairwise(borders))
    opens, closes, wholes = [len(each) for each in words[:-1]], [], []
    for place, role in enumerate(roles):
        if role == "assistant":
            asked = begins(messages[:place], voice, text)
            opens[place] = asked - (borders[place] + 1)
        whole = whole_of(messages[: place + 1], voice, text, places[place] + 1)
        wholes.append(min(whole, borders[place + 2]) - (places[place] + 1))
        behind = words[place + 1][: wholes[-1]]
        closes.append(end_within(behind, voice.added) if role == "assistant" else 0)
    if asking:
        begins(messages, voice, text)
    return Shape(words, tuple(opens), tuple(closes), tuple(wholes))


def whole_of(messages: list[dict], voice: Voice, text: str, said: int) -> int:
    """Return where in a text what is written for the last of its first messages ends; what it says ends at `said`.

    A template may close what is over, by a token behind the whole. A reply has to be the same up to its end all the
    same, whether or not the conversation goes on.
    """
    if len(messages) == 1 and messages[0]["role"] == "system" and text[said:]:
        return said  # some have it within the user's turn, and write none without that turn
    start = written(messages, voice, False)
    if text.startswith(start):
        return len(start)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(start, text, strict=False))
    common = sum(1 for _ in same)
    end = end_within(text[said:common], voice.added)
    if messages[-1]["role"] == "assistant" and not end:
        raise otherwise(len(messages))
    return said + end


def begins(messages: list[dict], voice: Voice, text: str) -> int:
    """Return the length of what a template asks for a reply to messages by, which has to begin the whole."""
    start = written(messages, voice, True)
    if not text.startswith(start):
        raise otherwise(len(messages))
    return len(start)


def otherwise(count: int) -> Unspeakable:
    """Return the refusal of a conversation whose first messages are written otherwise once it goes on."""
    return Unspeakable(
        f"the model's own chat template writes the first {count} messages of a conversation otherwise once it goes on, "
        f"so what is learned would not be what is asked; leave such rows out, or {ADVICE}"
    )


def end_within(words: str, added: frozenset[str]) -> int:
    """Return where the first added token among a template's words ends; 0 where they have none."""
    found = [(words.find(token), -len(token)) for token in added if token.strip() and token in words]
    place, length = min(found, default=(0, 0))
    return place - length


def spoken(messages: Sequence[dict], voice: Voice, asking: bool) -> tuple[str, list[Said]]:
    """Return a conversation as the template writes it, and where each message is; Unspeakable where it changes one."""
    shape = shape_of(voice, tuple(message["role"] for message in messages), asking)
    text, said, at = written(messages, voice, asking), [], 0
    within = text.startswith(shape.words[0])
    for place, message in enumerate(messages):
        first, at = at, at + len(shape.words[place])
        content, behind = message["content"], shape.words[place + 1]
        kinds = [kind for kind in (content, content.strip()) if text.startswith(kind + behind, at)]
        if not within or not kinds:
            raise Unspeakable(
                f"the model's own chat template changes what message {place + 1} of {len(messages)} says (of the "
                f"{message['role']}): it drops or rewrites a part; leave such rows out, or {ADVICE}"
            )
        last = at + len(kinds[0])
        own = first + shape.opens[place], last + shape.closes[place]
        before = first + (shape.wholes[place - 1] if place else 0)
        said.append(Said(own, (at, last), (before, last + shape.wholes[place])))
        at = last
    if at + len(shape.words[-1]) != len(text):
        raise Unspeakable(f"the model's own chat template adds to what is said; {ADVICE}")
    return text, said


def end_of(voice: Voice) -> str:
    """Return what the template ends a reply with, its end token last; Unspeakable where it writes none."""
    shape = shape_of(voice, ("user", "assistant"), False)
    end = shape.words[-1][: shape.closes[-1]]
    if not end:
        raise Unspeakable(
            f"the model's own chat template writes no token behind a reply, so no answer would end; {ADVICE}"
        )
    return end


def strips(voice: Voice, role: str) -> bool:
    """Tell whether a template strips what a role says of white space."""
    messages = [{"role": each, "content": f" {each} "} for each in ("user", "assistant")]
    text = written(messages, voice, False)
    return f" {role} " not in text


TALKS = {  # what not every template writes
    "a system message": ("system", "user", "assistant"),
    "several exchanges": ("user", "assistant", "user", "assistant"),
}


def shortcomings(voice: Voice) -> list[str]:
    """Return a sentence for each kind of conversation that a template does not write; Unspeakable where it writes none.

    One exchange, and a prompt for it, is the least.
    """
    end_of(voice)
    shape_of(voice, ("user",), True)
    found = []
    for kind, roles in TALKS.items():
        try:
            shape_of(voice, roles, False)
            shape_of(voice, roles[:-1], True)
        except Unspeakable as error:
            found.append(f"conversations with {kind} are refused: {error}")
    return found
