"""`judges`: who says which answer is better."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from workflow_scripts.study.basics import VARIABLE, Count, Positive, RepositoryPath, Words
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import Part

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class JudgeKind(Part):
    """What every kind of judge says of itself beside its keys."""

    verdict_keys: ClassVar[tuple[str, ...]]
    """The keys that a verdict depends on; the others say how it is come by and paid."""
    reads_words: ClassVar[bool] = False
    """It can be asked in words: with a prompt, a file of prompts, an annotator."""

    def reward_model(self) -> str | None:
        """Return the reward model of the study that judges, if one does."""
        return None

    def key_variable(self) -> str | None:
        """Return the environment variable of the key that it is asked with, if it needs one."""
        return None

    def places(self) -> dict[str, str | None]:
        """Return, by key, what names something outside of the study."""
        return {}

    def recordings(self) -> str | None:
        """Return the file of recorded replies, if there is one."""
        return None


class RewardJudge(JudgeKind):
    """A reward model of this study."""

    verdict_keys = ("kind", "model")

    kind: Literal["reward_model"]
    model: str
    """Its name."""

    def names(self, path: str, need: Names) -> None:
        """Need the reward model."""
        need.need(f"{path}.model", self.model, need.study.reward_models, "reward model")

    def reward_model(self) -> str | None:
        """Return its name."""
        return self.model


def fault_of_address(url: str) -> str | None:
    """Return what keeps an endpoint from being asked, in its address; None where nothing does."""
    if not re.match(r"https?://[^/]", url):
        return f"must begin with http:// or https://, not {url!r}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # both raise where they cannot be read
    except ValueError as error:
        return f"is no address ({error}): {url!r}"
    if not host or re.search(r"\s", url):
        return f"is no address: {url!r}"
    return None


class OpenAIJudge(JudgeKind):
    """An OpenAI-compatible endpoint: hosted, vLLM, Ollama. Each reply is asked for once and kept under work/judge."""

    verdict_keys = (
        "kind",
        "model",
        "version",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "params",
        "seed",
    )
    reads_words = True

    kind: Literal["openai"]
    model: Words
    """The model's name there."""
    version: str | None = None
    """Which version of the model, where its name does not say: another version's verdicts are other verdicts."""
    base_url: str | None = None
    """The endpoint; null: the client's own default."""
    api_key_env: Annotated[str, Field(pattern=VARIABLE)] = "OPENAI_API_KEY"
    """The environment variable that holds the key; keys never stand in a study."""
    temperature: float | None = 0.0
    """0 is greedy; null: none is sent, for models that refuse it."""
    max_tokens: Count = 1024
    """Longest verdict, in tokens."""
    max_completion_tokens: Count | None = None
    """The limit under the name that models want which think before they answer; their thoughts count in it. It is sent
    in place of max_tokens."""
    params: dict[str, Any] = {}
    """What else each request holds, as it stands, say `reasoning_effort: low`; null takes out what would be sent."""
    seed: int | None = None
    """Sent with each request, where the endpoint takes one."""
    draws: Count = 1
    """How often it is asked about each answer to a benchmark: an item is the mean of its draws, and what these differ
    by is noise of its score. The first draw is what is asked without; further ones have a seed each, where one is
    sent. Needs a temperature."""
    concurrency: Count = 8
    """Requests under way at once."""
    requests_per_minute: Positive | None = None
    """At most so many requests begin in a minute."""
    retries: Count = 6
    """How often a request is tried that gets no reply (429, 5xx, time-out, a broken reply)."""
    timeout_seconds: Positive = 120.0
    """How long one try may take."""
    unanswered: Literal["stop", "count"] = "stop"
    """What never got a reply: stop, and ask for it alone the next time; or count it as a failed verdict."""
    recorded: RepositoryPath | None = None
    """A file of recorded replies: what stands in it is not asked for (docs/synthesis.md)."""
    budget_usd: Positive | None = None
    """Dollars this study may pay this judge; it stops before they are passed. Needs both prices."""
    usd_per_million_prompt_tokens: Annotated[float, Field(ge=0)] = 0.0
    """Price of what is read."""
    usd_per_million_completion_tokens: Annotated[float, Field(ge=0)] = 0.0
    """Price of what is written."""

    def names(self, path: str, need: Names) -> None:
        """Need the recorded replies: what else there is, the endpoint knows."""
        need.need_path(f"{path}.recorded", self.recorded)

    def key_variable(self) -> str:
        """Return the environment variable of its key."""
        return self.api_key_env

    def recordings(self) -> str | None:
        """Return the file of its replies that are not asked for again."""
        return self.recorded

    def places(self) -> dict[str, str | None]:
        """Return the model and the endpoint."""
        return {"model": self.model, "base_url": self.base_url}

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find an address that cannot be asked, and a model that may be another one tomorrow."""
        if self.base_url is not None and (fault := fault_of_address(self.base_url)):
            yield wrong(f"{path}.base_url", fault)
        if self.draws > 1 and self.temperature == 0:
            yield wrong(
                f"{path}.draws",
                f"{self.draws}, and a greedy judge (temperature: 0) gives one verdict each time: set a temperature",
            )
        if not self.version and re.search(r"\blatest$", self.model):
            yield doubt(f"{path}.model", f"{self.model!r} moves: name an exact model, or its version")

    @model_validator(mode="after")
    def priced(self) -> "OpenAIJudge":
        prices = {"usd_per_million_prompt_tokens", "usd_per_million_completion_tokens"}
        given = self.model_fields_set
        if self.budget_usd and (not prices <= given or not any(getattr(self, price) for price in prices)):
            raise ValueError("budget_usd needs usd_per_million_prompt_tokens and …_completion_tokens")
        return self

    @field_validator("params")
    @classmethod
    def further(cls, params: dict[str, Any]) -> dict[str, Any]:
        taken = {
            "model",
            "messages",
            "temperature",
            "max_tokens",
            "max_completion_tokens",
            "seed",
            "n",
            "stream",
        }
        for name in sorted(taken & params.keys()):
            keyed = name in cls.model_fields
            raise ValueError(
                f"{name} {'is a key of the judge' if keyed else 'cannot be chosen'}; take it out of params"
            )
        return params


class RuleJudge(JudgeKind):
    """A rule in place of a judge, for tests of the chain."""

    verdict_keys = ("kind", "rule")

    kind: Literal["rule"]
    rule: Literal["length"]
    """length: the longer answer is better."""

    def names(self, path: str, need: Names) -> None:
        """Need nothing: the rule is ours."""


Judge = Annotated[RewardJudge | OpenAIJudge | RuleJudge, Field(discriminator="kind")]
