"""What a rule hands over to a judging job: what a benchmark asks of its judge, by kind, and the judge itself.

Every key is there: the study's schema has the defaults. Not covered: a judge's key, which is read from the environment.
"""

import json
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from workflow_scripts.common.asking.settings import Endpoint
from workflow_scripts.common.settings import settings_of


class MtBench(TypedDict):
    mode: Literal["single", "pairwise"]


class AlpacaEval(TypedDict):
    annotator: str | None


class JudgeScore(TypedDict):
    prompt: str | None


class Preference(TypedDict):
    skip: list[str]
    prompt: str | None
    verdict: str | None


KINDS = {"mt_bench": MtBench, "alpaca_eval": AlpacaEval, "judge_score": JudgeScore, "preference": Preference}


class LengthRule(TypedDict):
    kind: Literal["rule"]
    name: str
    rule: Literal["length"]


class RewardModel(TypedDict):
    kind: Literal["reward_model"]
    name: str
    model: str


class DrawnEndpoint(Endpoint):
    draws: NotRequired[int]  # how often each request is made, where more than once


JUDGES = {"rule": LengthRule, "reward_model": RewardModel, "openai": DrawnEndpoint}


def judge_of(judge: str, access: str) -> dict:
    """Return a judge with how it is reached and paid, which `access` says by its name; both are JSON.

    PlumblineError, with the key, where one is missing, unknown or of another type.
    """
    asked = json.loads(judge)
    more = json.loads(access).get(asked["name"], {})
    return settings_of(JUDGES[asked["kind"]])(json.dumps(asked | more))
