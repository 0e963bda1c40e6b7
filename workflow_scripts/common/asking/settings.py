"""What a rule hands over of an endpoint that a job asks. Not covered: its key, which is read from the environment."""

import json
from typing import Literal

from typing_extensions import TypedDict

from workflow_scripts.common.settings import settings_of


class Endpoint(TypedDict):
    kind: Literal["openai"]
    name: str
    model: str
    version: str | None
    temperature: float | None
    max_tokens: int
    max_completion_tokens: int | None
    params: dict
    seed: int | None
    # How it is reached and paid, which alters no verdict.
    base_url: str | None
    api_key_env: str
    concurrency: int
    requests_per_minute: float | None
    retries: int
    timeout_seconds: float
    recorded: str | None
    unanswered: Literal["stop", "count"]
    budget_usd: float | None
    usd_per_million_prompt_tokens: float
    usd_per_million_completion_tokens: float


def endpoint_of(judge: str, access: str) -> dict:
    """Return an endpoint with how it is reached and paid, which `access` says by its name; both are JSON.

    PlumblineError, with the key, where one is missing, unknown or of another type.
    """
    asked = json.loads(judge)
    return settings_of(Endpoint)(json.dumps(asked | json.loads(access).get(asked["name"], {})))
