"""What every policy in the harness says beside its answers: how far it is, and what was cut to its context."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from workflow_scripts.common import processes
from workflow_scripts.common.progress import Progress

# isort: split
from lm_eval.api.instance import Instance


class Counting:
    """A policy as the harness sees it, which counts by task what is asked and what the harness cuts to the context.

    The first base of an engine's own class, which puts into `long` what it has to cut. The harness cuts on the left,
    few-shot examples and BOS with them, and says so nowhere that lasts.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.asked: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.long: set[Any] = set()  # (context, continuation) or prompts that had to be cut
        self.progress: Progress | None = None

    def count(self, requests: list[Instance], known_by: Callable[[Instance], Any]) -> None:
        for request in requests:
            self.asked[request.task_name] += 1
            self.cut[request.task_name] += known_by(request) in self.long

    def told(self, asked: int) -> None:
        """Tell who looks on of a forward pass; the harness asks for some requests together that differ in their end."""
        if self.progress:
            self.progress.add(min(asked * processes.count(), self.progress.total - self.progress.done))

    def loglikelihood(self, requests: list[Instance], *more: Any, **named: Any) -> list[tuple[float, bool]]:
        self.progress = Progress("asking for likelihoods", "requests", len(requests))
        answers = super().loglikelihood(requests, *more, **named)
        self.progress.at(len(requests))
        self.count(requests, lambda request: request.args)
        return answers

    def generate_until(self, requests: list[Instance], *more: Any, **named: Any) -> list[str]:
        self.progress = Progress("asking for answers", "requests", len(requests))
        answers = super().generate_until(requests, *more, **named)
        self.long = set().union(*processes.gathered(self.long))
        self.progress.at(len(requests))
        self.count(requests, lambda request: request.args[0])
        return answers
