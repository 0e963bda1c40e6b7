"""Reward columns of answers: by rule, by a function of the user's, as the raw row brought them, or by a classifier;
`final_reward` is their sum.

Rows are turns (`common.turns`): an answer, `reference`, in its context, `messages`; what it is compared with is `gold`.
Annotation, online reinforcement learning and the reward benchmark all take their rewards from here. Torch is imported
when a classifier is first asked. Not covered: training a reward model, and rewards of single tokens.
"""

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Literal, NotRequired

import numpy as np
from scipy.special import expit
from typing_extensions import TypedDict

from workflow_scripts.common.classifiers import Classifier, shared_scores
from workflow_scripts.common.code import code_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest, finished_file, read_json, sha256_of
from workflow_scripts.common.progress import counted
from workflow_scripts.common.reward_rules import RULES
from workflow_scripts.common.reward_texts import TEXTS, Text
from workflow_scripts.common.templates import Rendered
from workflow_scripts.common.user_functions import caller_of

FINAL = "final_reward"
DECIMALS = 6
Column = Callable[[list[dict]], np.ndarray]  # turns → their rewards, (turns,)

# --- what a reward is told --------------------------------------------------------------------------------------


class RuleReward(TypedDict):
    """A reward that a rule gives; `words` is the length rule's, what follows it is told to passes_tests alone."""

    rule: Literal[tuple(RULES)]
    weight: float
    words: int
    timeout_seconds: NotRequired[float]
    memory_mb: NotRequired[int]
    workers: NotRequired[int]
    allow_unsandboxed: NotRequired[bool]


class FunctionReward(TypedDict):
    """A reward that a function of the user's own file gives, FILE.py:NAME; `code` are the digests of its files."""

    function: str
    weight: float
    code: dict[str, str]


class GivenReward(TypedDict):
    """A reward that the rows came with, by its name there."""

    given: str
    weight: float
    squash: Literal["sigmoid", "none"]


class Origin(TypedDict):
    """The source of a classifier from elsewhere, and the hub's repository and revision that it is pinned to, if any."""

    name: str
    repo: NotRequired[str]
    revision: NotRequired[str]


class ClassifierReward(TypedDict):
    """A classifier, in `folder`: a reward model of the study, `model`, or one from elsewhere, `source`."""

    model: str | None
    source: Origin | None
    folder: str
    weight: float
    head: Literal["sequence", "critic", "offensive", "oasst"]
    label: int | None
    squash: Literal["sigmoid", "none"]
    text: Literal["dialogue", "reply", "context", "oasst", "knowledge", "event"]
    max_tokens: int
    batch_size: int


Reward = RuleReward | FunctionReward | GivenReward | ClassifierReward


class Rewards(TypedDict):
    """The reward columns of an annotation, by name."""

    rewards: dict[str, Reward]


# --- answers to be rewarded -------------------------------------------------------------------------------------


def answer_turn(prompt: dict, text: str) -> dict:
    """Return a policy's answer to a prompt as a turn to reward: it is the `reference`, the prompt's own is `gold`.

    `gold` is None where the prompt has no reference.
    """
    known = {name: prompt[name] for name in ("id", "group", "messages", "meta")}
    return known | {"reference": text, "gold": (prompt.get("reference") or [None])[0]}


def function_column(function: str) -> Column:
    """Return the column of a user's function, which is loaded when the first turn comes."""
    caller = functools.cache(lambda: caller_of(function))
    return lambda turns: np.array([caller()(turn) for turn in turns], dtype=float)


# --- rewards that a row brings ----------------------------------------------------------------------------------


def given_reward(turns: list[dict], name: str, squash: str) -> np.ndarray:
    """Return row["given"][name] of each turn, through a sigmoid if `squash` says so, (turns,).

    Raises PlumblineError, with the row, for a turn that brings no such number.
    """
    values = []
    for turn in turns:
        given = turn.get("given") or {}
        value = given.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            has = f"given {name!r} is {value!r}" if name in given else f"no given {name!r}"
            raise PlumblineError(
                f"row {turn['id']}: {has} (it brings {', '.join(given) or 'no rewards'}); mend the raw file or "
                "name a reward that every row has"
            )
        values.append(value)
    values = np.array(values, dtype=float)
    return expit(values) if squash == "sigmoid" else values


# --- classifiers ------------------------------------------------------------------------------------------------


def weights_of(folder: Path | str) -> str:
    """Return the sha256 of what a classifier's folder holds, as {file: sha256}.

    Digests are taken from the manifest beside the folder; those of files that it does not list are computed.
    """
    folder = Path(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not files:
        raise PlumblineError(
            f"{folder}: no classifier here; delete its manifest and run again to make it anew"
        )
    manifest = folder.parent / "manifest.json"
    listed = read_json(manifest).get("files", {}) if manifest.is_file() else {}
    relative = {path.relative_to(folder).as_posix(): path for path in files}
    known = {name: listed.get(f"{folder.name}/{name}") for name in relative}
    return digest({name: known[name] or sha256_of(path) for name, path in relative.items()})


def folder_of(settings: ClassifierReward) -> str:
    """Return a classifier's folder; variables in it, such as the study's $RESULTS, are those of the environment."""
    return os.path.expandvars(settings["folder"])


def store_of(work: Path | str, settings: ClassifierReward) -> Path:
    """Return the file of a work folder that keeps a classifier's raw scores.

    It goes by what a score depends on: weights, head, label, cut and code, but not how a score is squashed or weighed.
    """
    head = settings["head"]
    code = code_of(
        "workflow_scripts.common.reward_model",
        *(["workflow_scripts.common.classifier_heads"] if head != "sequence" else []),
    )
    kept = {name: settings[name] for name in ("label", "max_tokens")}
    kept |= {"weights": weights_of(folder_of(settings)), "head": head, "code": code}
    return Path(work) / f"{digest(kept)[:16]}.jsonl"


def key_of(text: Text) -> str:
    """Return the name a text's score is kept under."""
    return digest(text)[:32]


def read_store(path: Path) -> dict[str, float]:
    """Return a store's scores by `key_of`; a line is a batch, and one cut short by a kill is dropped."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")
    if lines[-1]:  # what follows the last newline is unfinished
        with finished_file(path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
    return {key: score for line in lines[:-1] for key, score in json.loads(line).items()}


def keep_batches(batches: Iterator[dict[Text, float]], store: Path | None, count: int) -> dict[Text, float]:
    """Return the scores of all batches, `count` texts, appending each to the store as it comes.

    It is told how far they are only where they are kept: else a training asks, which tells of itself. A score that is
    no number is not kept: it is to be asked for again once its source is mended.
    """
    scores: dict[Text, float] = {}
    if store is None:
        for batch in batches:
            scores |= batch
        return scores
    store.parent.mkdir(parents=True, exist_ok=True)
    with open(store, "a", encoding="utf-8") as stream:
        for batch in counted(batches, "rewarding", "texts", count):
            scores |= batch
            kept = {key_of(text): score for text, score in batch.items() if math.isfinite(score)}
            stream.write(json.dumps(kept) + "\n")
            stream.flush()
    return scores


def classifier_texts(turns: list[dict], settings: ClassifierReward) -> list[Text]:
    """Return the text a classifier reads of each turn."""
    from workflow_scripts.common.models import load_tokenizer

    write_text = TEXTS[settings["text"]]
    end = load_tokenizer(folder_of(settings)).eos_token or ""
    texts = [write_text(turn, end) for turn in turns]
    if settings["head"] != "offensive":
        return texts
    from workflow_scripts.common.reward_model import is_pair, text_of

    if any(map(is_pair, texts)):
        raise PlumblineError("the offensive head reads one text, not a pair; set text: context or reply")
    return [with_end(text_of(text), end) for text in texts]


def with_end(text: Rendered, end: str) -> Rendered:
    """Return a text with the end token behind its last words, where it has none yet."""
    closed = len(text.text) > text.spans[-1].end
    return text if closed else text._replace(text=text.text + end)


def classifier_column(settings: ClassifierReward, work: Path | None, shards: int) -> Column:
    """Return the column of a classifier; it is loaded when the first text needs it, and kept where one process reads.

    Raw scores are a one-output model's logit, which `squash` may send through a sigmoid, or the probability of class
    `label`. A critic's logit always goes through one: that is its last layer.
    """
    head, label = settings["head"], settings["label"]
    squashed = head == "critic" or (label is None and settings["squash"] == "sigmoid")
    classifier = functools.cache(lambda: Classifier(folder_of(settings), head))
    store = None if work is None else store_of(work, settings)

    def missing(texts: list[Text], known: Container[Text]) -> Iterator[dict[Text, float]]:
        asked = (texts, settings["batch_size"], settings["max_tokens"], label, known)
        if shards > 1:
            return shared_scores(folder_of(settings), head, shards, *asked)
        return classifier().scores(*asked)

    def column(turns: list[dict]) -> np.ndarray:
        texts = classifier_texts(turns, settings)
        kept = {} if store is None else read_store(store)
        scores = {text: kept[key] for text in texts if (key := key_of(text)) in kept} if kept else {}
        if any(text not in scores for text in texts):
            count = len({text for text in texts if text not in scores})
            scores |= keep_batches(missing(texts, scores), store, count)
        values = np.array([scores[text] for text in texts], dtype=float)
        return expit(values) if squashed else values

    return column


# --- all columns ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def named(column: str) -> Iterator[None]:
    """Open the message of a PlumblineError with the column it happened in."""
    try:
        yield
    except PlumblineError as error:
        raise PlumblineError(f"reward {column}: {error}") from None


def column_of(settings: Reward, fit_on: list[str], work: Path | None = None, shards: int = 1) -> Column:
    """Return the function from turns to one reward source's values; tf-idf weights are fitted on `fit_on` here."""
    if "folder" in settings:
        return classifier_column(settings, work, shards)
    if "given" in settings:
        return lambda turns: given_reward(turns, settings["given"], settings["squash"])
    if "function" in settings:
        return function_column(settings["function"])
    if settings["rule"] not in RULES:
        raise PlumblineError(f"no rule {settings['rule']!r}; there are {', '.join(RULES)}")
    rule = RULES[settings["rule"]]
    measure = rule.of(settings, fit_on)
    return measure if rule.compares else lambda turns: measure([turn["reference"] for turn in turns])


def with_rewards(turns: list[dict], columns: dict[str, np.ndarray], weights: dict[str, float]) -> list[dict]:
    """Return turns with `rewards`: {column: value, …, final_reward}; a value that is no number is an error."""
    rows = []
    for index, turn in enumerate(turns):
        values = {name: round(float(column[index]), DECIMALS) for name, column in columns.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise PlumblineError(f"row {turn['id']}: reward {bad[0]} is {values[bad[0]]}; mend its source")
        final = sum(weights[name] * value for name, value in values.items())
        rows.append(turn | {"rewards": values | {FINAL: round(final, DECIMALS)}})
    return rows


def cut_for(turns: list[dict], settings: Reward) -> list[bool]:
    """Return of which turns a reward's classifier reads less than the whole text; what a rule reads is never cut."""
    if "folder" not in settings or not turns:
        return [False] * len(turns)
    from workflow_scripts.common.models import context_of, load_tokenizer
    from workflow_scripts.common.reward_model import are_cut, config_of

    folder = folder_of(settings)
    tokenizer = load_tokenizer(folder)
    limit = min(settings["max_tokens"], context_of(config_of(folder), tokenizer))
    return are_cut(tokenizer, classifier_texts(turns, settings), limit)


def with_cuts(rows: list[dict], cut: dict[str, list[bool]]) -> list[dict]:
    """Return rows with `texts_cut`, the columns that read less than the whole of their text, where there are any."""
    lost = [[name for name in cut if cut[name][place]] for place in range(len(rows))]
    return [row | ({"texts_cut": names} if names else {}) for row, names in zip(rows, lost, strict=True)]


def cut_texts(rows: list[dict], rewards: dict[str, Reward], what: str) -> dict[str, int]:
    """Return by reward column how many rows of `what` it read less than the whole text of, and warn of them."""
    counts = {name: sum(name in row.get("texts_cut", ()) for row in rows) for name in rewards}
    for name, count in counts.items():
        if count:
            print(
                f"warning: {what}: reward {name} read {count} of {len(rows)} texts without their start; raise its "
                "max_tokens",
                file=sys.stderr,
            )
    return counts


def weights_in(rewards: dict[str, Reward]) -> dict[str, float]:
    """Return each column's weight in final_reward; the plain sum of A-LoL (section 4.2) has 1 for each."""
    return {name: settings["weight"] for name, settings in rewards.items()}


def reward_rows(
    turns: list[dict],
    fit_on: list[str],
    rewards: dict[str, Reward],
    store: Path | None = None,
    shards: int = 1,
) -> list[dict]:
    """Return turns with `rewards`: {column: value, …, final_reward}, values rounded to six decimals.

    A turn whose text was too long for a classifier names it in `texts_cut`. `rewards` maps columns to their settings,
    `fit_on` holds the replies that tf-idf weights are fitted on, `store` is a folder where classifiers' scores are
    kept, for one process at a time (None: nowhere), `shards` how many processes share what a classifier reads. One
    classifier is in memory at a time. Raises PlumblineError, with
    row and column, where a row lacks what a reward needs or a value is no number.
    """
    columns = {}
    for name, settings in rewards.items():
        with named(name):
            columns[name] = column_of(settings, fit_on, store, shards)(turns) if turns else np.array([])
    rows = with_rewards(turns, columns, weights_in(rewards))
    return with_cuts(rows, {name: cut_for(turns, settings) for name, settings in rewards.items()})


def reward_function(
    fit_on: list[str], rewards: dict[str, Reward], store: Path | None = None
) -> Callable[[list[dict]], list[dict]]:
    """Return `reward_rows` as a function of turns alone, for many calls: weights are fitted, classifiers loaded, once.

    The first call in which a classifier reads less than a whole text warns of it; the rows of each say so.
    """
    columns = {}
    for name, settings in rewards.items():
        with named(name):
            columns[name] = column_of(settings, fit_on, store)
    warned: set[str] = set()

    def rewarded(turns: list[dict]) -> list[dict]:
        values, cut = {}, {}
        for name, column in columns.items():
            with named(name):
                values[name] = column(turns) if turns else np.array([])
            cut[name] = cut_for(turns, rewards[name])
            if name not in warned and (count := sum(cut[name])):
                warned.add(name)
                print(
                    f"warning: reward {name} read {count} of {len(turns)} answers without the start of their text, and "
                    "may go on so; raise its max_tokens",
                    file=sys.stderr,
                )
        return with_cuts(with_rewards(turns, values, weights_in(rewards)), cut)

    return rewarded


def provenance(rewards: dict[str, Reward]) -> dict[str, dict]:
    """Return what each column came from: its settings and, for a classifier, the sha256 of its weights and its source.

    Folders are left out: equal rewards have equal provenance wherever they lie.
    """
    columns = {}
    for name, settings in rewards.items():
        facts = {"settings": {key: settings[key] for key in settings if key not in ("folder", "source")}}
        if "folder" in settings:
            facts["weights"] = weights_of(folder_of(settings))
            if settings["source"]:
                facts["source"] = settings["source"]
        columns[name] = facts
    return columns
