"""`report`: the tables and figures."""

from typing import Annotated

from pydantic import Field

from workflow_scripts.study.basics import Strict
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.names import Names


class Bar(Strict):
    """One group of bars: a cell of results.csv for every policy."""

    benchmark: str
    """The benchmark."""
    subset: str
    """As in results.csv."""
    metric: str
    """As in results.csv."""


class Published(Strict):
    """A number that a paper, a model card or a leaderboard gives for one cell of results.csv."""

    policy: str
    """The policy it is about."""
    benchmark: str
    """The benchmark."""
    subset: str = ""
    """As in results.csv."""
    metric: str
    """As in results.csv."""
    value: float
    """In the unit of results.csv."""
    source: str
    """Where it stands."""


class Report(Strict):
    """The tables and figures."""

    baseline: str | None = None
    """The policy that the others are compared with, by its lineage; null: no comparison."""
    draws: Annotated[int, Field(ge=20, le=1_000_000)] = 2000
    """Draws of the bootstrap, at least: more where so many comparisons need them to pass Holm's correction."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals."""
    bars: list[Bar] = []
    """The bar chart and the first columns of the headline table."""
    published: list[Published] = []
    """Published numbers, set beside ours."""
    samples: Annotated[int, Field(ge=0)] = 4
    """Prompts of each answered benchmark shown with every policy's answer."""
    decontaminate: bool = True
    """Look for each benchmark's items in the training sets, and score again without those found."""
    agreement: list[list[str]] = []
    """Pairs of benchmarks, alike but for their judge, whose verdicts are correlated."""

    def names(self, path: str, need: Names) -> None:
        """Need the policies and benchmarks that tables and figures are about."""
        benchmarks = need.study.benchmarks
        for index, entry in enumerate(self.published):
            need.need_policy(f"{path}.published[{index}].policy", entry.policy, CALIBRATION)
            need.need(f"{path}.published[{index}].benchmark", entry.benchmark, benchmarks, "benchmark")
        for index, pair in enumerate(self.agreement):
            if len(pair) != 2:
                need.refuse(f"{path}.agreement[{index}]", f"two benchmarks, not {len(pair)}")
            for name in pair:
                need.need(f"{path}.agreement[{index}]", name, benchmarks, "benchmark")
        need.need_policy(f"{path}.baseline", self.baseline)
        for index, bar in enumerate(self.bars):
            need.need(f"{path}.bars[{index}].benchmark", bar.benchmark, benchmarks, "benchmark")
