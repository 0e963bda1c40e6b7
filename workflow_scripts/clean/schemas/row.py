"""What a raw row holds in our words, `Opened`, and the small helpers that the readers of all schemas share."""

import json
import math
import random
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from workflow_scripts.clean.fields import Fields, Unfit, holds, shown
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.turns import ROLES, Message, joined_text, read_turn

Row = dict[str, Any]


class Question(NamedTuple):
    """What an instruction row asks, in its parts: so that it can be asked in other words (see `instructions`)."""

    instruction: str
    input: str
    examples: list[Row] | None = (
        None  # worked ones, {"input", "output"}, that may stand before it; None: zero-shot
    )


class Opened(NamedTuple):
    """What a raw row holds; `turns` are the prompt alone where there are `candidates`."""

    turns: list[Any]
    system: str | None = None
    style: str = "messages"  # how a turn names its speaker and its text: a key of turns.ROLES
    candidates: list[Row] | None = None  # {"content", "rewards": {name: float}}
    meta: Row | None = None
    unread: frozenset[str] = frozenset()  # keys that say something and were not read
    notes: tuple[str, ...] = ()  # what was done to it beside, each to be counted
    question: Question | None = None
    asked: str | None = None  # what it opened on before a template or worked examples put it in other words


class Parts(NamedTuple):
    """The conversations of a raw row, and how much of it was left out for what."""

    rows: list[Row]
    left_out: dict[str, int]


class Schema(NamedTuple):
    """How the rows of one schema are read, and what they are.

    kind: a conversation of turns; a prompt with ranked candidate replies, the preferred one first, and the rewards they
    came with; a plain text; or a pair of replies that end one conversation, cleaned or raw.
    """

    read: Callable[[Fields, Settings], Opened]
    kind: Literal["conversation", "ranked", "text", "pair", "raw_pair"] = "conversation"
    # Cuts a row that holds several conversations apart.
    parts: Callable[[Fields, Settings, random.Random], Parts] | None = None
    rows_share_prompts: bool = False  # several rows may answer one prompt
    first_id: int | None = None  # rows without an id are called identity_N, N counted from here


def user(text: Any) -> Row:
    """Return a user's turn."""
    return {"role": "user", "content": text}


def assistant(text: Any) -> Row:
    """Return an assistant's turn."""
    return {"role": "assistant", "content": text}


def ask(instruction: str, extra: str, settings: Settings) -> str:
    """Return an instruction with its input, if any, after an empty line and the heading of the settings."""
    if not extra.strip():
        return instruction
    heading = f"{settings['input_heading']}\n" if settings["input_heading"] else ""
    return f"{instruction}\n\n{heading}{extra}"


def read_instruction(row: Fields, settings: Settings, extra_key: str = "input") -> tuple[Row, Row]:
    """Return the user's turn of an instruction row, and its two parts, which templates may set apart."""
    extra, instruction = row.optional_text(extra_key), row.text("instruction")
    return user(ask(instruction, extra, settings)), {"instruction": instruction, "input": extra}


def read_history(row: Fields) -> list[Row]:
    """Return the turns of {"history": [[asked, answered], …]}, the exchanges before an instruction."""
    if row.get("history") is None:
        return []
    turns = []
    for exchange in row.list("history"):
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise Unfit("'history' is not made of pairs", type(exchange).__name__)
        turns += [user(exchange[0]), assistant(exchange[1])]
    return turns


def read_said(turn: Any, style: str, row: Fields, learned: bool = False) -> Message:
    """Return a turn as a message; Unfit if its text is none, or if it is to be `learned` and says that it is not."""
    message, missed = read_turn(turn, style)
    if learned and message["role"] == "assistant" and not message.get("learn", True):
        raise Unfit("no turn to learn from")
    row.missed |= missed
    if not isinstance(message["content"], str):
        raise Unfit("text is not a string", type(message["content"]).__name__)
    return {"role": message["role"], "content": message["content"]}


NO_REWARD = "reward is not a finite number"


def finite(value: Any) -> float:
    """Return a raw reward as a float; Unfit if it is missing, not a number, or not finite."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unfit(NO_REWARD, shown(value))
    return number


def plain(value: Any) -> Any:
    """Return what a source says about a row as strict JSON: null for NaN, no text that UTF-8 cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)  # a table's dates
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unfit("lone surrogate", f"at character {error.start} of the row's metadata") from None
    except RecursionError:
        raise Unfit("metadata is nested too deeply") from None
    return json.loads(text, parse_constant=lambda _: None)


def joined(turn: Any, style: str) -> Any:
    """Return a turn whose text, if it came in parts, is one."""
    key = ROLES[style][1]
    return turn | {key: joined_text(turn[key])} if isinstance(turn, dict) and key in turn else turn


def same_system(one: str | None, other: str | None) -> str | None:
    """Return a row's system message, which may stand in a column or before the first turn; Unfit if in both, unlike."""
    if holds(one) and holds(other) and one != other:
        raise Unfit("two system messages")
    return one if holds(one) else other
