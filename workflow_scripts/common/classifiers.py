"""Classifiers that score texts, loaded: by one process, or by several that each read some of its batches.

The batches of several are those of one, and so are the scores. Not covered: what a classifier is told (`reward_texts`),
and what becomes of a score (`reward_columns`).
"""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.common.reward_texts import Text
from workflow_scripts.common.shards import Shards, shares_for, visible_devices


def load_classifier(folder: Path | str, head: str) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a classifier's folder; head: sequence, critic, offensive or oasst."""
    if head == "sequence":
        from workflow_scripts.common.reward_model import load_reward_model

        return load_reward_model(folder)
    from workflow_scripts.common.classifier_heads import load_head_classifier

    return load_head_classifier(folder, head)


class Classifier:
    """A classifier that this process has loaded."""

    def __init__(self, folder: Path | str, head: str) -> None:
        self.model, self.tokenizer = load_classifier(folder, head)

    def scores(
        self,
        texts: Sequence[Text],
        batch_size: int,
        max_tokens: int | None,
        label: int | None,
        known: Container[Text] = (),
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[dict[Text, float]]:
        """Yield {text: score} batch by batch, as `reward_model.score_batches`; max_tokens: None, its whole context."""
        from workflow_scripts.common.models import context_of
        from workflow_scripts.common.reward_model import score_batches

        context = context_of(self.model.config, self.tokenizer)
        limit = context if max_tokens is None else min(max_tokens, context)
        yield from score_batches(self.model, self.tokenizer, texts, batch_size, limit, label, known, share)


def shared_scores(folder: Path | str, head: str, shards: int, *asked: Any) -> Iterator[dict[Text, float]]:
    """Yield what `Classifier.scores` would, by as many processes as there are GPUs for; they end with the last batch.

    shards: how many processes at most; on the CPU, so many.
    """
    devices = visible_devices()
    count = shares_for(shards, len(devices))
    if count == 1:
        yield from Classifier(folder, head).scores(*asked)
        return
    processes = Shards(Classifier, (folder, head), count, devices)
    try:
        yield from processes.ask("scores", *asked)
    finally:
        processes.close()
