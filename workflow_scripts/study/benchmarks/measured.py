"""Benchmarks that measure a policy's likelihoods; nothing is answered."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from workflow_scripts.study.basics import Count, Fidelity, FileName
from workflow_scripts.study.benchmarks.cells import Cells, across
from workflow_scripts.study.benchmarks.kind import Measured, OnFile, OnSplit
from workflow_scripts.study.datasets import unknown_labels
from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.names import Names, name_in

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class PairPerplexity(Measured, OnFile):
    """The six perplexities of hints and solutions, on a file whose conversations end with two tutor turns."""

    scores = "likelihoods"
    scorer = "pair_perplexity"
    scorer_keys = ("fidelity",)
    measured_by = "pair_likelihoods"
    measured_keys = ("max_tokens",)
    files = ("file",)
    fidelity_alters = ("perplexity",)

    kind: Literal["pair_perplexity"]
    source: str
    """The source of its file."""
    file: FileName
    """Which of the source's files."""
    system_prompt: str | None = None
    """The system message; null: the rows keep their own instructions."""
    raw_rows: bool = False
    """Prompts and replies as they stand in the file, as the published evaluation reads them: the first turn,
    instructions and question, is the system message, and no label is held to the table."""
    template: str | None = None
    """The template that every policy's pairs are written in, say tutor_perplexity; null: each policy's own."""
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

    def names(self, path: str, need: Names) -> None:
        """Need its file and template, and a name that no dataset has: its rows are cleaned as theirs are."""
        super().names(path, need)
        need.need_template(f"{path}.template", self.template)
        if name_in(path) in need.study.datasets:
            need.refuse(path, "a dataset has this name already, and both are cleaned")

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find fields and labels that there are none of, and what is read of cleaned rows alone."""
        yield from unknown_labels(path, self.drop_fields, self.replace_na)
        for key in ("system_prompt", "reply_format", "drop_fields", "replace_na"):
            if self.raw_rows and getattr(self, key) != type(self).model_fields[key].default:
                yield doubt(f"{path}.{key}", "is not read: raw rows stay as they stand in the file")
        published = self.raw_rows and self.template == "tutor_perplexity"
        if (self.fidelity or study.fidelity) == "code" and not published:
            yield doubt(
                f"{path}.fidelity",
                "code pools as the published evaluation does, which also has texts of its own: its numbers need "
                "raw_rows: true and template: tutor_perplexity",
            )

    def item_file(self) -> tuple[str, str]:
        """Return its file: its pairs are what is measured."""
        return self.source, self.file

    def cells(self, study: "Study") -> Cells:
        """Return a perplexity for each action, and for two pairs of them."""
        subsets = [f"action{actions}" for actions in ("1", "2", "4", "5", "1+4", "2+5")]
        return Cells(across(subsets, ["perplexity"]))


class ReplyLoss(Measured, OnSplit):
    """Negative log-likelihood of a split's own replies, by token and by conversation: it shows overfitting."""

    scores = "likelihoods"
    scorer = "reply_loss"
    scorer_keys = ("benchmark",)
    measured_by = "reply_likelihoods"
    measured_keys = ("max_tokens", "batch_size", "limit")
    shows_training = True

    kind: Literal["loss"]
    dataset: str
    """The dataset."""
    split: str
    """The split."""
    limit: Count | None = None
    """Only the first so many replies."""
    max_tokens: Count = 1024
    """Longest prompt with reply, in tokens; longer ones lose the prompt's oldest turns, but not the system message."""
    batch_size: Count = 16
    """Replies at once."""

    def cells(self, study: "Study") -> Cells:
        """Return the loss by token, what it is as a perplexity, and the loss by conversation."""
        return Cells(across(["reply"], ["nll_per_token", "perplexity", "nll_per_example"]))


MeasuredKind = PairPerplexity | ReplyLoss
