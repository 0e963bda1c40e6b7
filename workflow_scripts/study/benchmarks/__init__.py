"""The kinds of benchmark in one list, made of each family's own; each kind says what it asks and who scores it."""

from typing import Annotated, get_args

from pydantic import Field

from workflow_scripts.study.benchmarks.answered import AnsweredKind
from workflow_scripts.study.benchmarks.harness import LmEval
from workflow_scripts.study.benchmarks.judged import JudgedKind
from workflow_scripts.study.benchmarks.measured import MeasuredKind
from workflow_scripts.study.benchmarks.programs import ProgramsKind

Benchmark = Annotated[
    AnsweredKind | MeasuredKind | ProgramsKind | JudgedKind | LmEval, Field(discriminator="kind")
]
BENCHMARKS = get_args(get_args(Benchmark)[0])
