"""Benchmarks whose answers go before a judge."""

from typing import Annotated, Literal

from pydantic import Field

from workflow_scripts.study.basics import Count, RepositoryPath
from workflow_scripts.study.benchmarks.kind import Kind
from workflow_scripts.study.report import Report
from workflow_scripts.study.sampling import Sampling


class MtBench(Kind, Sampling):
    """Two-turn questions, each answer rated 1 to 10 by a judge, or compared with another policy's."""

    scores = "answers"
    scorer = "mt_bench"
    scorer_keys = ("mode", "benchmark")
    prompt_kind = "mt_bench"
    prompt_file = "questions"
    files = ("questions", "references", "judge_prompts")
    asks = ("mode",)

    def opponent_in(self, report: Report) -> str | None:
        """Return the policy compared with; rated answers are compared with none."""
        return (self.opponent or report.baseline) if self.mode == "pairwise" else None

    kind: Literal["mt_bench"]
    questions: RepositoryPath
    """The file of questions: relative to the repository, or a file of `source`."""
    source: str | None = None
    """The source of questions, references and judge_prompts."""
    references: RepositoryPath | None = None
    """The source's file of reference answers."""
    judge_prompts: RepositoryPath | None = None
    """The source's file of FastChat's judge prompts; null: our own wording."""
    temperatures: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Category: the temperature its questions are answered at; others at `temperature`."""
    mode: Literal["single", "pairwise"] = "single"
    """single: a rating of each answer; pairwise: a comparison with `opponent`'s, in both orders."""
    opponent: str | None = None
    """pairwise: the policy compared with; null: the report's baseline."""
    judge: str
    """Who rates."""
    limit: Count | None = None
    """Only so many questions, taken from the categories in turn."""


class AlpacaEval(Kind, Sampling):
    """Single instructions; a judge compares each answer with a reference answer."""

    scores = "answers"
    scorer = "alpaca_eval"
    scorer_keys = ("length_controlled", "lc_draws", "evaluate", "gamed", "benchmark", "seed")
    packages = ("alpaca-eval", "scikit-learn", "pandas")
    prompt_kind = "alpaca_eval"
    prompt_file = "prompts"
    files = ("prompts", "references", "gamed")
    asks = ("annotator",)

    def is_judged(self) -> bool:
        """Tell whether its answers go before a judge, or only their lengths are measured."""
        return self.evaluate

    kind: Literal["alpaca_eval"]
    prompts: RepositoryPath
    """The file of instructions with reference answers: relative to the repository, or a file of `source`."""
    source: str | None = None
    """The source of prompts, references and gamed."""
    references: RepositoryPath | None = None
    """A file of AlpacaEval's stored judgements, whose most frequent first outputs are the references; null: the prompts'
    own outputs."""
    judge: str
    """Who compares."""
    annotator: str | None = None
    """How the alpaca_eval package asks and reads (alpaca_eval_gpt4, weighted_alpaca_eval_gpt4_turbo, …); null: our way."""
    length_controlled: bool = False
    """Also the length-controlled win rate."""
    gamed: RepositoryPath | None = None
    """The source's df_gamed.csv, which the full length-controlled model needs; null: its form without difficulty."""
    lc_draws: Count = 200
    """Refits on bootstrap samples behind the interval of the length-controlled rate."""
    evaluate: bool = True
    """false: answer and measure lengths only; no judge is asked."""
    limit: Count | None = None
    """Only the first so many instructions."""


class JudgeScore(Kind, Sampling):
    """A judge's score from 0 to 100 of each answer to a split, the reference beside it."""

    scores = "answers"
    scorer = "judge_score"
    scorer_keys = ("benchmark",)
    prompt_kind = "turns"
    asks = ("prompt",)

    kind: Literal["judge_score"]
    dataset: str
    """The dataset."""
    split: str
    """The split that is answered."""
    judge: str
    """Who scores."""
    prompt: str | None = None
    """The judge's prompt with {prompt}, {reference} and {answer}, for an endpoint; null: our wording."""
    limit: Count | None = None
    """Answer only so many turns."""


class JudgedPreference(Kind, Sampling):
    """Which of two answers to a split is more helpful and harmless, in both orders."""

    scores = "answers"
    scorer = "preference"
    scorer_keys = ("benchmark",)
    prompt_kind = "turns"
    asks = ("skip",)

    def opponent_in(self, report: Report) -> str | None:
        """Return the policy compared with; None: the split's own answers."""
        return self.opponent

    kind: Literal["preference"]
    dataset: str
    """The dataset."""
    split: str
    """The split that is answered."""
    judge: str
    """Who compares."""
    opponent: str | None = None
    """The policy compared with; null: the split's own answers."""
    skip: list[str] = []
    """Prompt ids left out."""
    limit: Count | None = None
    """Answer only so many prompts."""
