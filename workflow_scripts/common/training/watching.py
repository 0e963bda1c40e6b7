"""Looking at a policy while it is trained: its answers to prompts that it never learns from, and what they are worth.

At every validation it answers a prompt set (`generate.prompts` wrote it, with how answers are drawn), and each answer
is rewarded as annotation rewards, or measured as the scorers measure. The mean is a point of the run's curve, and
`keep: best` goes by it. Looking alters nothing: the numbers that the training draws are the same with and without.
Several processes share the prompts; each rewards what it answered. Prompts are answered once, in a dialogue's first
turn; a prompt longer than the context leaves room for is cut as `fitting` says.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from typing_extensions import TypedDict

from workflow_scripts.common.answer_measures import MEASURES, has_labels
from workflow_scripts.common.answering import Answer, answer_batch, refuse_unknown_tokens
from workflow_scripts.common.cuts import cut_counts, say_cuts
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, sha256_of
from workflow_scripts.common.fitting import fit_prompt
from workflow_scripts.common.models import model_ends
from workflow_scripts.common.reward_columns import FINAL, Reward, answer_turn, provenance, reward_function
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.templates import Template, ends_of, reply_end
from workflow_scripts.common.training.batches import ProcessShare
from workflow_scripts.common.turns import turns_of


class Watching(TypedDict):
    """What is watched: `metric`, a column of `rewards` or, where these are None, one of MEASURES.

    best: which way is better; shown: of how many prompts the answers are kept; template, context: how it is asked.
    """

    metric: str
    best: Literal["max", "min"]
    shown: int
    template: Template
    context: int
    rewards: dict[str, Reward] | None
    wordnet: str | None


class Scored(NamedTuple):
    """One answer of one prompt, and what it is worth; `cut`: a reward read less than the whole of it."""

    place: int
    sample: int
    answer: Answer
    worth: float
    cut: bool


Computing = Callable[[], AbstractContextManager]  # → the context that a policy computes in
# (prompts, the text answered to each) → [(worth, whether a reward read less than the whole of it)]
Worth = Callable[[list[dict], list[str]], list[tuple[float, bool]]]


def read_watching(text: str) -> Watching | None:
    """Return what --watch says, as JSON; null where nothing is watched."""
    return None if text == "null" else settings_of(Watching)(text)


def add_watch_flags(parser: argparse.ArgumentParser) -> None:
    """Add what a training that is watched is told: how, and on which prompts."""
    parser.add_argument("--watch", type=read_watching, help="what to watch while it trains, as JSON; or null")
    parser.add_argument("--watch-prompts", type=Path, help="manifest of the prompts it is watched on")
    parser.add_argument("--watch-fit-rows", type=Path, help="rows whose replies tf-idf is fitted on")


def watched_state(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what watching makes a training's resumable state depend on, {} where nothing is watched."""
    watching = arguments.watch
    if watching is None:
        return {}
    rewards = watching["rewards"]
    return {
        "watch": watching | {"rewards": None if rewards is None else provenance(rewards)},
        "watched_on": [
            sha256_of(path) for path in (arguments.watch_prompts, arguments.watch_fit_rows) if path
        ],
    }


def worth_by(watching: Watching, fit_rows: Path | None) -> Worth:
    """Return the function that says what answers are worth; tf-idf weights are fitted, classifiers loaded, once."""
    metric, rewards = watching["metric"], watching["rewards"]
    if rewards is None:
        measure = MEASURES[metric].of(watching["wordnet"])
        return lambda prompts, texts: [(measure(*each), False) for each in zip(prompts, texts, strict=True)]
    fit_on = [turn["reference"] for row in read_jsonl(fit_rows) for turn in turns_of(row)] if fit_rows else []
    wanted = rewards if metric == FINAL else {metric: rewards[metric]}
    rewarded = reward_function(fit_on, wanted)

    def worth(prompts: list[dict], texts: list[str]) -> list[tuple[float, bool]]:
        turns = [answer_turn(*each) for each in zip(prompts, texts, strict=True)]
        return [(turn["rewards"][metric], "texts_cut" in turn) for turn in rewarded(turns)]

    return worth


def measurable(rows: list[dict], watching: Watching) -> list[dict]:
    """Return the prompts whose reference can be compared with, as the scorer does; the log says how many cannot."""
    if watching["rewards"] is not None or not MEASURES[watching["metric"]].labels:
        return rows
    kept = [row for row in rows if has_labels(row)]
    if not kept:
        raise PlumblineError(f"watch.metric {watching['metric']}: no prompt has gold labels to compare with")
    if len(kept) < len(rows):
        left = f"{len(rows) - len(kept)} of {len(rows)} watched prompts are left out"
        print(f"warning: {left}: no gold labels to compare with", file=sys.stderr, flush=True)
    return kept


def mean_and_error(values: list[float], groups: list[str]) -> tuple[float, float | None]:
    """Return the mean of values and its standard error, None of one group: values of a group stand or fall together.

    s² = G / (G − 1) Σ_g (Σ_{i∈g} (v_i − mean))² / n², which for groups of one is the usual s / √n (Liang & Zeger 1986).
    """
    found = np.asarray(values, dtype=np.float64)
    mean, numbers = found.mean(), {group: number for number, group in enumerate(dict.fromkeys(groups))}
    count = len(numbers)
    if count < 2:
        return float(mean), None
    sums = np.zeros(count)
    np.add.at(sums, [numbers[group] for group in groups], found - mean)
    return float(mean), float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(found))


class Watch:
    """What a training looks at; `rows` are its prompts with `prompt`, their tokens."""

    def __init__(self, arguments: argparse.Namespace, tokenizer: Any) -> None:
        watching: Watching = arguments.watch
        self.watching, self.tokenizer, self.seed = watching, tokenizer, arguments.seed
        self.sampling = read_json(arguments.watch_prompts)["sampling"]
        room = watching["context"] - self.sampling["max_new_tokens"]
        if room < 1:
            raise PlumblineError(
                f"watch.max_new_tokens {self.sampling['max_new_tokens']} fills the context of {watching['context']}"
            )
        self.rows = []
        for row in measurable(read_jsonl(arguments.watch_prompts.with_suffix(".jsonl")), watching):
            fitted = fit_prompt(row["messages"], watching["template"], tokenizer, room, f"prompt {row['id']}")
            self.rows.append(row | {"prompt": fitted.ids} | fitted.facts())
        counts = {"kept": len(self.rows)} | cut_counts(self.rows)
        say_cuts("watched prompts", counts, "raise the model's context, or lower watch.max_new_tokens")
        self.ends = ends_of(
            reply_end(watching["template"], tokenizer), tokenizer, model_ends(arguments.parent)
        )
        self.worth = worth_by(watching, arguments.watch_fit_rows)

    def batches(self, processes: int, process: int) -> Iterator[list[int]]:
        """Yield the places of this process's prompts, batch by batch, those of like length together.

        Every process gets as many batches, and empty ones where there are no more prompts: all have to pass.
        """
        order = sorted(range(len(self.rows)), key=lambda place: (-len(self.rows[place]["prompt"]), place))
        size = self.sampling["batch_size"]
        for batch in ProcessShare(range(len(order)), size * processes, size, processes, process):
            yield [order[place] for place in batch]

    def scored(
        self, model: Any, step: int, computing: Computing, processes: int, process: int, synced: bool
    ) -> list[Scored]:
        """Return this process's answers and what they are worth; every draw has a seed of its own."""
        refuse_unknown_tokens(model, [row["prompt"] for row in self.rows])
        found: list[Scored] = []
        for sample in range(self.sampling["samples"]):
            for number, batch in enumerate(self.batches(processes, process)):
                torch.manual_seed(
                    ((self.seed * 1_000_003 + step) * 1009 + sample) * 10_007 + number * processes + process
                )
                rows = [self.rows[place] for place in batch]
                asked = [row["prompt"] for row in rows or self.rows[:1]]
                with computing():
                    answers = answer_batch(model, self.tokenizer, asked, self.sampling, self.ends, synced)
                if rows:
                    worths = self.worth(rows, [answer.text for answer in answers])
                    found += [
                        Scored(place, sample, answer, *worth)
                        for place, answer, worth in zip(batch, answers, worths, strict=True)
                    ]
        return found

    def look(
        self,
        model: Any,
        step: int,
        computing: Computing = nullcontext,
        processes: int = 1,
        process: int = 0,
        synced: bool = False,
    ) -> tuple[dict[str, float], list[dict]]:
        """Return (numbers for the curve, the first prompts' answers) of a model as it stands; every process has them.

        model: what answers, its weights whole or shared out (`synced`). The numbers are "watch", the mean; its standard
        error, where there is one, "watch_error"; the prompts, "watch_n"; the shares of answers that did not end, and of
        those that a reward read less than the whole of. The model's mode and what the training draws stay as they were.
        """
        training = model.training
        devices = [model.device] if model.device.type == "cuda" else []
        model.eval()
        with torch.random.fork_rng(devices):
            found = self.scored(model, step, computing, processes, process, synced)
        model.train(training)
        found = sorted(gather_object(found))  # by prompt, then by sample
        by_prompt = itertools.groupby(found, key=lambda each: each.place)
        values = [float(np.mean([each.worth for each in answers])) for _, answers in by_prompt]
        mean, error = mean_and_error(values, [row["group"] for row in self.rows])
        unfinished = sum(each.answer.finish_reason == "length" for each in found) / len(found)
        numbers = {"watch": mean, "watch_n": len(values), "watch_unfinished": unfinished}
        if error is not None:
            numbers["watch_error"] = error
        if self.watching["rewards"] is not None:
            numbers["watch_cut"] = sum(each.cut for each in found) / len(found)
        shown = [
            {
                "id": self.rows[each.place]["id"],
                "asked": self.rows[each.place]["messages"][-1]["content"],
                "text": each.answer.text,
                "worth": each.worth,
            }
            for each in found
            if each.place < self.watching["shown"] and each.sample == 0
        ]
        return numbers, shown


def since_best(values: list[float], way: str) -> int:
    """Return how many values have followed the first of the best ones; way: max or min."""
    best = max(values) if way == "max" else min(values)
    return len(values) - 1 - values.index(best)


def watched_facts(watch: Watch | None, curve: list[dict], kept_step: int | None) -> dict[str, Any]:
    """Return what a manifest says of the watching: the metric, and the point of the policy that is kept.

    That is the one of `kept_step`, or the last; {} where nothing was watched, or training ended before the first look.
    """
    points = [row for row in curve if "watch" in row and kept_step in (None, row["step"])]
    if watch is None or not points:
        return {}
    point = points[-1]
    return {
        "watched": {
            "metric": watch.watching["metric"],
            "best": watch.watching["best"],
            "step": point["step"],
            "value": point["watch"],
            "error": point.get("watch_error"),
            "prompts": point["watch_n"],
        }
    }


def watch_of(arguments: argparse.Namespace, tokenizer: Any) -> Watch | None:
    """Return what a training is watched by, or None."""
    return None if arguments.watch is None else Watch(arguments, tokenizer)
