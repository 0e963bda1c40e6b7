"""Benchmarks that measure a policy's likelihoods; nothing is answered."""

from typing import Literal

from workflow_scripts.study.basics import Count, Fidelity, FileName
from workflow_scripts.study.benchmarks.kind import Kind


class PairPerplexity(Kind):
    """The six perplexities of hints and solutions, on a file whose conversations end with two tutor turns."""

    scores = "likelihoods"
    scorer = "pair_perplexity"
    scorer_keys = ("fidelity",)
    measured_by = "pair_likelihoods"
    measured_keys = ("max_tokens",)
    files = ("file",)

    kind: Literal["pair_perplexity"]
    source: str
    """The source of its file."""
    file: FileName
    """Which of the source's files."""
    system_prompt: str | None = None
    """The system message; null: the rows keep their own instructions."""
    reply_format: Literal["json", "python", "raw"] = "json"
    """How replies are written; raw: as they stand in the file."""
    drop_fields: list[str] = []
    """Fields taken out of every reply."""
    replace_na: dict[str, str] = {}
    """Field: the label that stands for N/A."""
    max_tokens: Count = 1024
    """Longest prompt with reply, in tokens; a longer one is an error."""
    fidelity: Fidelity | None = None
    """Null: the study's."""


class ReplyLoss(Kind):
    """Negative log-likelihood per token of a split's own replies: training against test shows overfitting."""

    scores = "likelihoods"
    scorer = "reply_loss"
    scorer_keys = ("benchmark",)
    measured_by = "reply_likelihoods"
    measured_keys = ("max_tokens", "batch_size", "limit")

    kind: Literal["loss"]
    dataset: str
    """The dataset."""
    split: str
    """The split."""
    limit: Count | None = None
    """Only the first so many replies."""
    max_tokens: Count = 1024
    """Longest prompt with reply, in tokens; longer ones lose the prompt's oldest turns, and the system message stays."""
    batch_size: Count = 16
    """Replies at once."""
