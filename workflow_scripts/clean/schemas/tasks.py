"""The schemas of published files that Leftover Lunch learns from: one reply to a prompt, not yet rewarded.

They are those of Baheti et al. (2024), and of the tasks that their code knows beside. Each reader makes of a raw row
what `rewarded` makes of a prepared one; the rewards come of an annotation. Filters (words, tokens, which rows go where)
are keys of the dataset.
"""

import random
from typing import Any

from workflow_scripts.clean.fields import Fields, Unfit
from workflow_scripts.clean.schemas.row import Opened, Parts, Row, Schema, assistant, finite, user
from workflow_scripts.clean.settings import Settings

NO_PASSAGE = "no_passages_used"  # what ParlAI writes where the wizard looked nothing up
WIZARD, APPRENTICE = "Wizard", "Apprentice"  # a speaker's name holds one of these
DAILY_CONTEXT = 5  # utterances before a reply


def answered(
    prompt: str, reply: Any, meta: Row | None = None, rewards: dict[str, float] | None = None
) -> Opened:
    """Return a prompt of one message with its only reply."""
    return Opened([user(prompt)], candidates=[{"content": reply, "rewards": rewards or {}}], meta=meta)


def reddit_comments(row: Fields, settings: Settings) -> Opened:
    """Read {"parent_text", "text", "score"?, "parent_score"?, …}: a comment, and what was said to it."""
    meta = {key: row.raw(key) for key in ("score", "parent_score") if key in row}
    return answered(row.text("parent_text"), row.text("text"), meta)


def atomic(row: Fields, settings: Settings) -> Opened:
    """Read {"head", "relation", "tail", "split"?, "p_valid_model"?}: an event and what follows, of ATOMIC-10X or 2020.

    The prompt is that of COMET-distill (West et al. 2022). What the critic thought of the tail is the given reward
    "p_valid".
    """
    head, relation, tail = (row.text(name).strip() for name in ("head", "relation", "tail"))
    valid = row.get("p_valid_model")
    return answered(
        f"<head> {head} </head> <relation> {relation} </relation> [GEN] ",
        tail,
        {"head": head, "relation": relation},
        {} if valid is None else {"p_valid": finite(valid)},
    )


def wizard_of_wikipedia(row: Fields, settings: Settings) -> Opened:
    """Read {"knowledge", "history": [text, …], "response"}: a reply that is to keep to a fact; see `wizard_parts`.

    The fact is the system message, "Knowledge: …", and meta["knowledge"].
    """
    knowledge, history, reply = (
        row.text("knowledge").strip(),
        row.list("history"),
        row.text("response").strip(),
    )
    if knowledge == NO_PASSAGE:
        raise Unfit("no passage used")
    if not knowledge:
        raise Unfit("no knowledge")
    if not history:
        raise Unfit("nothing was said before")
    # Counted from the end: a talk that the wizard opened still ends on the apprentice.
    turns = [(user, assistant)[(len(history) - place) % 2 == 0](text) for place, text in enumerate(history)]
    return Opened(
        turns,
        system=f"Knowledge: {knowledge}",
        candidates=[{"content": reply, "rewards": {}}],
        meta={"knowledge": knowledge},
    )


def wizard_parts(row: Fields, settings: Settings, draws: random.Random) -> Parts:
    """Return each reply of the wizard's in a dialogue as {"knowledge", "history", "response"}.

    Dialogues are ParlAI's ("dialog": [{"speaker", "text", "checked_sentence": {key: sentence}}]) or FaithDial's
    ("utterances": [{"history", "knowledge", "response"}]); a row that is such a reply already is its own only part.
    Leftover Lunch's code leaves a reply without a checked sentence out of the history of the next; here it stays.
    """
    shape = row.which("dialog", "utterances")
    if shape is None:
        return Parts([row.value], {})
    said, history, parts = row.list(shape), [], []
    for turn in said:
        if not isinstance(turn, dict):
            raise Unfit("turn is not an object", type(turn).__name__)
        if shape == "utterances":
            keys = ("knowledge", "history", "response")
            parts.append({key: turn[key] for key in keys if key in turn})
            continue
        speaker, text = turn.get("speaker"), turn.get("text")
        if not isinstance(speaker, str) or not (WIZARD in speaker or APPRENTICE in speaker):
            raise Unfit("unknown role", str(speaker))
        if not isinstance(text, str):
            raise Unfit("text is not a string", type(text).__name__)
        if WIZARD in speaker:
            checked = turn.get("checked_sentence")
            known = next(iter(checked.values()), "") if isinstance(checked, dict) else ""
            parts.append({"knowledge": known, "history": list(history), "response": text})
        history.append(text)
    return Parts(parts, {})


def xsum(row: Fields, settings: Settings) -> Opened:
    """Read {"document", "target"} (GEM) or {"document", "summary"}."""
    summary = row.raw(row.which("target", "summary") or "target")
    return answered(f"{row.text('document')}TL;DR:", summary)


def cnn_dailymail(row: Fields, settings: Settings) -> Opened:
    """Read {"article", "highlights"}."""
    return answered(f"Summarize: {row.text('article')}", row.raw("highlights"))


def imdb(row: Fields, settings: Settings) -> Opened:
    """Read {"text", "label"}: the first half of a review's words asks for the second; cut at single spaces."""
    words = row.text("text").split(" ")
    half = len(words) // 2
    meta = {"label": row.raw("label")} if "label" in row else {}
    return answered(" ".join(words[:half]), " ".join(words[half:]), meta)


def iwslt2017(row: Fields, settings: Settings) -> Opened:
    """Read {"translation": {"en", "de"}}, or {"en", "de"}."""
    pair = row.object("translation") if "translation" in row else row
    return answered(f"translate English to German: {pair.text('en')}", pair.raw("de"))


def daily_dialog(row: Fields, settings: Settings) -> Opened:
    """Read {"history": [text, …], "response"}, a reply and the five utterances before it; see `daily_parts`."""
    history, reply = row.list("history"), row.text("response").strip()
    turns = [(user, assistant)[(len(history) - place) % 2 == 0](text) for place, text in enumerate(history)]
    return Opened(turns, candidates=[{"content": reply, "rewards": {}}])


def daily_parts(row: Fields, settings: Settings, draws: random.Random) -> Parts:
    """Return each utterance of {"dialog": [text, …]} (or "utterances") that has five before it, with these five."""
    shape = row.which("dialog", "utterances")
    if shape is None:
        return Parts([row.value], {})
    said = row.list(shape)
    if not all(isinstance(text, str) for text in said):
        raise Unfit("text is not a string", shape)
    row.asked.update({"emotion", "act"})  # a label of each utterance
    said = [text.strip() for text in said]
    parts = [
        {"history": said[place - DAILY_CONTEXT : place], "response": said[place]}
        for place in range(DAILY_CONTEXT, len(said))
    ]
    return Parts(parts, {})


def common_gen(row: Fields, settings: Settings) -> Opened:
    """Read {"concepts": [word, …], "target"}: a sentence that has these words in it."""
    concepts = row.list("concepts")
    if not all(isinstance(word, str) for word in concepts):
        raise Unfit("text is not a string", "concepts")
    row.asked.update({"gem_id", "gem_parent_id", "concept_set_id", "references"})
    return answered(f"generate a sentence with: {' '.join(concepts)}.", row.raw("target"))


SCHEMAS = {
    "reddit_comments": Schema(reddit_comments, "ranked"),
    "atomic": Schema(atomic, "ranked"),
    "wizard_of_wikipedia": Schema(wizard_of_wikipedia, "ranked", parts=wizard_parts),
    "faithdial": Schema(wizard_of_wikipedia, "ranked", parts=wizard_parts),
    "xsum": Schema(xsum, "ranked"),
    "cnn_dailymail": Schema(cnn_dailymail, "ranked"),
    "imdb": Schema(imdb, "ranked"),
    "iwslt2017": Schema(iwslt2017, "ranked"),
    "daily_dialog": Schema(daily_dialog, "ranked", parts=daily_parts),
    "common_gen": Schema(common_gen, "ranked"),
}
