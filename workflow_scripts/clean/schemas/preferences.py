"""The schemas of preferences: a prompt with two replies, the preferred one first."""

import re
from typing import Any

from workflow_scripts.clean.fields import Fields, Unfit, shown
from workflow_scripts.clean.schemas.row import (
    Opened,
    Row,
    Schema,
    finite,
    joined,
    read_history,
    read_instruction,
    read_said,
    same_system,
    user,
)
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.tested import read_tests
from workflow_scripts.clean.turns import Message, split_system
from workflow_scripts.common.words import has_spaceless

IMPLIED = "prompts that are what chosen and rejected begin with"
TRANSCRIPT_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def preferences(row: Fields, settings: Settings) -> Opened:
    """Read {"chosen", "rejected"} of every published shape, which the columns tell.

    The prompt: a text or messages under `prompt`; Alpaca's instruction, input, history and system; messages under
    `messages` or `conversations`; or none of these, where chosen and rejected are whole dialogues, or texts that begin
    alike: then it is what they share, in whole words. A reply: a text, a message, a list of one message, or the whole
    dialogue, as messages or as a text "\n\nHuman: …\n\nAssistant: …". Two dialogues must differ in nothing but their
    last message. Their `score_chosen` and `score_rejected` are the reward "score"; `tests` are of either reply.
    """
    asked, meta = read_prompt(row, settings)
    said = [row.raw(name) for name in ("chosen", "rejected")]
    if len({type(side) for side in said}) > 1:
        raise Unfit(
            "chosen and rejected are written differently", " and ".join(type(side).__name__ for side in said)
        )
    said = [[side] if isinstance(side, dict) else side for side in said]
    told = [read_transcript(side) for side in said]
    if all(told):
        said = told
    system, notes = row.get("system"), ()
    if isinstance(said[0], str):
        replies = said
        if not asked and said[0] != said[1] and (shared := shared_beginning(*said)):
            asked, notes = [user(shared)], (IMPLIED,)
            replies = [text.removeprefix(shared) for text in said]
        if not asked:
            raise Unfit("no prompt", "nor dialogues in chosen and rejected, nor words that both begin with")
    elif isinstance(said[0], list):
        (own, *first), (other, *second) = (read_dialogue(side, row, settings["max_chars"]) for side in said)
        if not first or not second or (first[-1]["role"], second[-1]["role"]) != ("assistant", "assistant"):
            raise Unfit("chosen and rejected do not end on the assistant")
        if own != other or first[:-1] != second[:-1]:
            raise Unfit("chosen and rejected do not share one prompt")
        replies = [side[-1]["content"] for side in (first, second)]
        if first[:-1]:
            in_front, *beside = read_dialogue(asked, row, settings["max_chars"])
            check_prompt(beside, [*first, second[-1]])
            asked, system = first[:-1], same_system(system, in_front)
        elif not asked:
            raise Unfit("no prompt", "nor dialogues in chosen and rejected")
        system = same_system(system, own)
    else:
        raise Unfit("text is not a string", f"'chosen': {type(said[0]).__name__}")
    if replies[0] == replies[1]:
        raise Unfit("chosen equals rejected")
    candidates = [
        {"content": text, "rewards": rewards} for text, rewards in zip(replies, read_scores(row), strict=True)
    ]
    style = style_of(asked)
    meta = (meta or {}) | read_tests(row)
    return Opened(asked, system=system, style=style, candidates=candidates, meta=meta, notes=notes)


def shared_beginning(one: str, other: str) -> str:
    """Return what two texts begin with alike, without the white space behind it and without part of a word."""
    unlike = (place for place, (first, second) in enumerate(zip(one, other, strict=False)) if first != second)
    same = one[: next(unlike, min(len(one), len(other)))]
    rests = [text[len(same) :] for text in (one, other)]
    inside = bool(same) and is_spaced(same[-1]) and any(rest and is_spaced(rest[0]) for rest in rests)
    if (inside or not all(rest.strip() for rest in rests)) and (words := same.split()):
        same = same.removesuffix(words[-1])
    return same.rstrip()


def is_spaced(character: str) -> bool:
    """Tell whether a character is of a word that ends at a space, as those of Chinese, Japanese or Thai do not."""
    return character.isalnum() and not has_spaceless(character)


def read_prompt(row: Fields, settings: Settings) -> tuple[list[Any], Row | None]:
    """Return the raw turns of a preference row's prompt, none if it has none, and what the row says about it."""
    key = row.which("instruction", "conversations", "messages", "prompt")
    if key == "instruction":
        row.get("output")  # one of the two replies
        asked, meta = read_instruction(row, settings)
        return [*read_history(row), asked], meta
    if key in ("conversations", "messages"):
        return (row.list(key) if row.get(key) is not None else []), None
    prompt = row.get("prompt")
    if prompt is None or isinstance(prompt, list):
        return prompt or [], None
    turns = read_transcript(text := row.text("prompt"))
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns.pop()  # the mark behind which the reply begins
    return turns or [user(text)], None


def read_transcript(text: Any) -> list[Row] | None:
    """Return the turns of "\n\nHuman: text\n\nAssistant: text…", or None for anything else."""
    if not isinstance(text, str):
        return None
    before, *pieces = re.split(r"\n\n(Human|Assistant):", "\n\n" + text.lstrip("\n"))
    if before.strip() or not pieces or pieces[0] != "Human":
        return None
    return [
        {"role": TRANSCRIPT_SPEAKERS[speaker], "content": said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def read_dialogue(turns: list[Any], row: Fields, max_chars: int) -> list[Any]:
    """Return the system message of a dialogue, or None, and then its messages, whose every text is one."""
    style = style_of(turns)
    system, turns, missed = split_system([joined(turn, style) for turn in turns], style, max_chars)
    row.missed |= missed
    found = [read_said(turn, style, row) for turn in turns[:-1]]
    return [system, *found, *(read_said(turn, style, row, learned=True) for turn in turns[-1:])]


def check_prompt(asked: list[Message], said: list[Message]) -> None:
    """Raise Unfit if what stands beside two dialogues, a prompt or one of them once more, says what neither says."""
    known = {"", *(message["content"].strip() for message in said)}
    if any(message["content"].strip() not in known for message in asked):
        raise Unfit("prompt is not that of chosen and rejected")


def style_of(turns: list[Any]) -> str:
    """Return how turns name speaker and text."""
    return "sharegpt" if turns and isinstance(turns[0], dict) and "from" in turns[0] else "messages"


def read_scores(row: Fields) -> list[Row]:
    """Return the rewards that chosen and rejected came with: {"score": number}, or none."""
    for names in (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score")):
        scores = [row.get(name) for name in names]
        if scores != [None, None]:
            return [{"score": finite(score)} for score in scores]
    return [{}, {}]


def judged_pairs(row: Fields, settings: Settings) -> Opened:
    """Read {"instruction", "input"?, "output_1", "output_2", "preference": 1|2}, AlpacaEval's stored judgements."""
    replies = [row.text("output_1"), row.text("output_2")]
    preference = row.raw("preference")
    if isinstance(preference, bool) or preference not in (1, 2):
        raise Unfit("no preference for either answer", shown(preference))
    if replies[0] == replies[1]:
        raise Unfit("chosen equals rejected")
    if preference == 2:
        replies.reverse()
    asked, meta = read_instruction(row, settings)
    return Opened([asked], candidates=[{"content": text, "rewards": {}} for text in replies], meta=meta)


SCHEMAS = {
    "preferences": Schema(preferences, "ranked"),
    "alpaca_preferences": Schema(preferences, "ranked"),
    "sharegpt_preferences": Schema(preferences, "ranked"),
    "judged_pairs": Schema(judged_pairs, "ranked"),
}
