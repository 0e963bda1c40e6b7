"""Benchmarks whose answers go before a judge."""

import string
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, RepositoryPath, Words
from workflow_scripts.study.benchmarks.cells import Cells, across
from workflow_scripts.study.benchmarks.kind import Judged, OnFile, OnSplit
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.names import Names
from workflow_scripts.study.report import Report
from workflow_scripts.study.sampling import Sampling

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class MtBench(Judged, OnFile, Sampling):
    """Two-turn questions, each answer rated 1 to 10 by a judge, or compared with another policy's."""

    scores = "answers"
    scorer = "mt_bench"
    scorer_keys = ("mode", "benchmark")
    prompt_kind = "mt_bench"
    prompt_file = "questions"
    files = ("questions", "references", "judge_prompts")
    asks = ("mode",)
    asks_in_words = ("judge_prompts",)

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

    def names(self, path: str, need: Names) -> None:
        """Need its judge, its files, and somebody to compare with where it compares."""
        super().names(path, need)
        need.need_policy(f"{path}.opponent", self.opponent)
        if self.mode == "pairwise" and not self.opponent_in(need.study.report):
            need.refuse(
                f"{path}.opponent",
                "mode pairwise compares with a policy: name one here or as report.baseline",
            )

    def cells(self, study: "Study") -> Cells:
        """Return the ratings, or how often it wins; both of the questions' own categories, too."""
        if self.mode == "single":
            return Cells(across(["overall"], ["rating", "failed", "off_scale"]), ("rating",))
        rates = ["win_rate_adjusted", "win_rate", "loss_rate", "failed"]
        return Cells(across(["overall"], rates), ("win_rate_adjusted",))


class AlpacaEval(Judged, OnFile, Sampling):
    """Single instructions; a judge compares each answer with a reference answer."""

    scores = "answers"
    scorer = "alpaca_eval"
    scorer_keys = ("length_controlled", "lc_draws", "evaluate", "gamed", "benchmark", "seed")
    packages = ("alpaca-eval", "scikit-learn", "pandas")
    prompt_kind = "alpaca_eval"
    prompt_file = "prompts"
    files = ("prompts", "references", "gamed")
    asks = ("annotator",)
    asks_in_words = ("annotator",)

    def is_judged(self) -> bool:
        """Tell whether its answers go before a judge, or only their lengths are measured."""
        return self.evaluate

    kind: Literal["alpaca_eval"]
    prompts: RepositoryPath
    """The file of instructions with reference answers: relative to the repository, or a file of `source`."""
    source: str | None = None
    """The source of prompts, references and gamed."""
    references: RepositoryPath | None = None
    """A file of AlpacaEval's stored judgements, whose most frequent first outputs are the references; null: the
    prompts' own outputs."""
    judge: str
    """Who compares."""
    annotator: str | None = None
    """How package alpaca_eval asks and reads (alpaca_eval_gpt4, weighted_alpaca_eval_gpt4_turbo, …); null: our way."""
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

    def cells(self, study: "Study") -> Cells:
        """Return the answers' length, and how often they win where a judge is asked."""
        controlled = "lc_win_rate" if self.gamed else "lc_win_rate_minimal"
        metrics = ["length"]
        if self.evaluate:
            metrics += ["win_rate", "discrete_win_rate"]
            metrics += [controlled] if self.length_controlled else []
            metrics += ["failed"]
        return Cells(across(["overall"], metrics))


class JudgeScore(Judged, OnSplit, Sampling):
    """A judge's score from 0 to 100 of each answer to a split, the reference beside it."""

    scores = "answers"
    scorer = "judge_score"
    scorer_keys = ("benchmark",)
    prompt_kind = "turns"
    asks = ("prompt",)
    asks_in_words = ("prompt",)

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

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find a prompt for the judge that cannot be filled in."""
        yield from super().faults(path, study)
        yield from faults_of_prompt(
            f"{path}.prompt", self.prompt, ["prompt", "reference", "answer"], ["answer"]
        )

    def cells(self, study: "Study") -> Cells:
        """Return the score, and how often the judge gave none."""
        return Cells(across(["overall"], ["score", "failed"]))


def faults_of_prompt(
    path: str, prompt: str | None, fields: list[str], needed: list[str]
) -> Iterator[Finding]:
    """Find what keeps a judge's prompt from being filled in, and what the judge would have to see and would not."""
    if prompt is None:
        return
    try:
        asked = {field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None}
    except ValueError as error:
        yield wrong(path, f"{error}; write {{{{ and }}}} for braces")
        return
    *most, last = (f"{{{field}}}" for field in fields)
    for field in sorted(asked - set(fields)):
        yield wrong(path, f"has {{{field}}}; there are {', '.join(most)} and {last}")
    for field in needed:
        if field not in asked:
            yield wrong(path, f"has no {{{field}}}, so the judge would not see what it judges")


class JudgedPreference(Judged, OnSplit, Sampling):
    """Which of two answers to a split is more helpful and harmless, in both orders."""

    scores = "answers"
    scorer = "preference"
    scorer_keys = ("benchmark",)
    prompt_kind = "turns"
    files = ("skip_file",)
    asks = ("skip", "prompt", "verdict")
    asks_in_words = ("prompt", "verdict")

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
    prompt: str | None = None
    """The judge's prompt with {prompt}, {answer_a} and {answer_b}, for an endpoint; null: our wording, which asks for
    both helpful and harmless. Its reply is to end with [[A]], [[B]] or [[C]], a tie, or to hold `verdict`."""
    verdict: Words | None = None
    """What stands before the verdict in the replies to `prompt`, say More safe, before A, B, equal or neither. Two
    benchmarks that ask alike and read another verdict each pay for the replies once."""
    skip: list[str] = []
    """Prompt ids left out."""
    source: str | None = None
    """The source of skip_file; null: the repository."""
    skip_file: RepositoryPath | None = None
    """A JSON file of more to leave out: a list of prompt ids, or by raw file the places of rows, counted from 0."""
    limit: Count | None = None
    """Answer only so many prompts."""

    def names(self, path: str, need: Names) -> None:
        """Need its judge, its split, the policy compared with, and the file of prompts to leave out."""
        super().names(path, need)
        need.need_policy(f"{path}.opponent", self.opponent)
        need.need_files(path, self)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find a prompt for the judge that cannot be filled in."""
        yield from super().faults(path, study)
        answers = ["answer_a", "answer_b"]
        yield from faults_of_prompt(f"{path}.prompt", self.prompt, ["prompt", *answers], answers)

    def cells(self, study: "Study") -> Cells:
        """Return how often it wins, ties and loses, and how a judge that reads words holds to itself."""
        judge = study.judges.get(self.judge)
        orders = ["agreement", "first_preferred"] if judge is None or judge.reads_words else []
        return Cells(across(["overall"], ["win_rate", "wins", "ties", "losses", *orders, "failed"]))

    @model_validator(mode="after")
    def read_together(self) -> "JudgedPreference":
        if self.verdict is not None and self.prompt is None:
            raise ValueError("verdict is what a prompt of your own asks for: give prompt, too")
        if self.source and not self.skip_file:
            raise ValueError("source is that of skip_file, and there is none")
        return self


JudgedKind = MtBench | AlpacaEval | JudgeScore | JudgedPreference
