"""Judges that need no words: a reward model, and a rule of length to test with.

Both say how good an answer is as a share from 0 to 1, which a benchmark spreads over its own scale, or how much
better it is than its rival. Covers reward models of one output. Not covered: judges that are asked in words.
"""

import math
import sys
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.score.judging.questions import Question

LONG_ANSWER = 1000  # characters from which the length rule gives its best mark
BATCH_SIZE = 16


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    return 0.5 * (1 + math.tanh(value / 2))


class Marks(NamedTuple):
    """What a judge of numbers says of questions: a share or a preference each, and of which it read not all."""

    values: list[float]
    cut: list[bool]


def length_shares(questions: list[Question], judge: dict) -> Marks:
    """Return min(1, characters / 1000): a judge to test with, and a warning of what length alone would earn."""
    shares = [min(1.0, len(question.answer) / LONG_ANSWER) for question in questions]
    return Marks(shares, [False] * len(shares))


def length_preferences(questions: list[Question], judge: dict) -> Marks:
    """Prefer the longer answer: 1, or 0.5 where both are as long, or 0."""
    gaps = [len(question.answer) - len(question.rival.answer) for question in questions]
    return Marks([0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in gaps], [False] * len(gaps))


def rewards_of(pairs: list[tuple[list[dict], str]], judge: dict) -> Marks:
    """Return the reward model's raw score of each (messages, reply), and which of them it read without their start."""
    from workflow_scripts.common import classifiers, models, reward_model  # torch: needed by this judge alone

    folder = judge["model"]
    config, tokenizer = reward_model.config_of(folder), models.load_tokenizer(folder)
    if config.num_labels != 1:
        raise PlumblineError(f"{folder}: a judge needs a reward model of one output, not of classes")
    end = tokenizer.eos_token or ""
    texts = [reward_model.render_pair(messages, reply, end) for messages, reply in pairs]
    context = models.context_of(config, tokenizer)
    cut = reward_model.are_cut(tokenizer, texts, context)
    if any(cut):
        print(
            f"warning: {folder}: {sum(cut)} of {len(texts)} dialogues are longer than the judge's context of "
            f"{context} tokens; it read them without their start",
            file=sys.stderr,
        )
    scores: dict = {}
    asked = (texts, BATCH_SIZE, None, None)
    for batch in classifiers.shared_scores(folder, "sequence", judge.get("shards", 1), *asked):
        scores |= batch
    return Marks([scores[text] for text in texts], cut)


def reward_shares(questions: list[Question], judge: dict) -> Marks:
    """Return sigmoid(r), r the reward of the answer: comparable between policies, not with a language model's."""
    rewards, cut = rewards_of([(question.messages, question.answer) for question in questions], judge)
    return Marks([sigmoid(reward) for reward in rewards], cut)


def reward_preferences(questions: list[Question], judge: dict) -> Marks:
    """Return sigmoid(r - r of the rival): the reward model's own probability (Bradley and Terry 1952)."""
    pairs = [
        pair
        for question in questions
        for pair in ((question.messages, question.answer), (question.rival.messages, question.rival.answer))
    ]
    rewards, cut = rewards_of(pairs, judge)
    preferences = [sigmoid(own - other) for own, other in zip(rewards[::2], rewards[1::2], strict=True)]
    return Marks(preferences, [one or other for one, other in zip(cut[::2], cut[1::2], strict=True)])


SHARES = {"rule": length_shares, "reward_model": reward_shares}
PREFERENCES = {"rule": length_preferences, "reward_model": reward_preferences}
