"""Add reward columns to a dataset: one per reward source, and `final_reward`, their weighted sum.

Rows are tutor turns (or single answers): each gold reply is rewarded in its context. Rule sources: JSON validity,
length, and tf-idf diversity fitted on one split; classifier sources: any sequence-classification model.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.turns import reward_context, turns_of


def json_validity(replies: list[str]) -> np.ndarray:
    """Return 1 where a reply parses as JSON, else 0, (replies,)."""

    def parses(text: str) -> float:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return 0.0
        return 1.0

    return np.array([parses(reply) for reply in replies])


def length_reward(replies: list[str], words: int) -> np.ndarray:
    """Return min(1, words in the reply / wanted words), (replies,): short replies earn less."""
    return np.minimum(1.0, np.array([len(reply.split()) for reply in replies]) / words)


def tfidf_diversity(replies: list[str], fit_on: list[str]) -> np.ndarray:
    """Return the mean of a reply's non-zero tf-idf values, times n/10 where it has n < 5 of them, (replies,).

    The diversity reward of A-LoL (Baheti et al. 2024, section 4.2), fitted on the training replies.
    """
    vectorizer = TfidfVectorizer(norm="l2").fit(fit_on)
    rewards = []
    for row in vectorizer.transform(replies):
        factor = row.nnz / 10 if row.nnz < 5 else 1.0
        rewards.append(row.data.mean() * factor if row.nnz else 0.0)
    return np.array(rewards)


def classifier_reward(turns: list[dict], settings: dict) -> np.ndarray:
    """Return a classifier's score of each turn's reply, through a sigmoid if `squash` says so, (turns,)."""
    from workflow_scripts.common.reward import load_reward_model, render_pair, score_texts

    model, tokenizer = load_reward_model(settings["folder"])
    eos = tokenizer.eos_token or ""
    texts = [render_pair(reward_context(turn["messages"]), turn["reference"], eos) for turn in turns]
    scores = np.array(score_texts(model, tokenizer, texts, settings["batch_size"], settings["max_tokens"]))
    return 1 / (1 + np.exp(-scores)) if settings["squash"] == "sigmoid" else scores


def reward_column(turns: list[dict], fit_on: list[str], settings: dict) -> np.ndarray:
    """Return one reward source's values for turns, (turns,)."""
    replies = [turn["reference"] for turn in turns]
    rule = settings.get("rule")
    if rule == "json_validity":
        return json_validity(replies)
    if rule == "length":
        return length_reward(replies, settings["words"])
    if rule == "tfidf_diversity":
        return tfidf_diversity(replies, fit_on)
    return classifier_reward(turns, settings)


def annotate(turns: list[dict], fit_on: list[str], rewards: dict[str, dict]) -> list[dict]:
    """Return turns with `rewards`: {name: value, …, final_reward}; a value that is no number is an error."""
    columns = {name: reward_column(turns, fit_on, settings) for name, settings in rewards.items()}
    rows = []
    for index, turn in enumerate(turns):
        values = {name: round(float(column[index]), 6) for name, column in columns.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise PlumblineError(f"row {turn['id']}: reward {bad[0]} is {values[bad[0]]}; mend its source")
        final = sum(rewards[name]["weight"] * value for name, value in values.items())
        rows.append(turn | {"rewards": values | {"final_reward": round(final, 6)}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="folder with <split>.jsonl")
    parser.add_argument("--splits", nargs="+", required=True)
    parser.add_argument("--fit-split", required=True, help="split the tf-idf weights are fitted on")
    parser.add_argument("--settings", type=json.loads, required=True, help='{"rewards": {name: settings}}')
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()

    def turns(split: str) -> list[dict]:
        rows = read_jsonl(arguments.rows / f"{split}.jsonl")
        return [turn for conversation in rows for turn in turns_of(conversation)]

    fit_on = [turn["reference"] for turn in turns(arguments.fit_split)]
    files, counts = [], {}
    for split in arguments.splits:
        rows = turns(split)
        files.append(arguments.output / f"{split}.jsonl")
        counts[split] = write_jsonl(files[-1], annotate(rows, fit_on, arguments.settings["rewards"]))
        if counts[split] != len(rows):
            raise AssertionError(f"{split}: {len(rows)} turns read, {counts[split]} annotated")
    write_manifest(arguments.manifest, files, counts=counts)


if __name__ == "__main__":
    run(main)
