"""The kinds of benchmark, in one list; each says itself what it asks, and who scores it."""

from typing import Annotated, get_args

from pydantic import Field

from workflow_scripts.study.benchmarks.answered import Rewards, TextOverlap, Tutor
from workflow_scripts.study.benchmarks.harness import LmEval
from workflow_scripts.study.benchmarks.judged import AlpacaEval, JudgedPreference, JudgeScore, MtBench
from workflow_scripts.study.benchmarks.measured import PairPerplexity, ReplyLoss
from workflow_scripts.study.benchmarks.programs import HumanEval, Mbpp

Benchmark = Annotated[
    Tutor
    | PairPerplexity
    | HumanEval
    | Mbpp
    | LmEval
    | MtBench
    | AlpacaEval
    | JudgeScore
    | JudgedPreference
    | Rewards
    | TextOverlap
    | ReplyLoss,
    Field(discriminator="kind"),
]
BENCHMARKS = get_args(get_args(Benchmark)[0])
