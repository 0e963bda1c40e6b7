"""Requests to the judge of judge_server.py, the settings of that judge and the most that a request can cost."""

from workflow_scripts.common.asking.requests import Request

KEY = "sk-never-to-be-seen-0123456789"
PROMPT_PRICE, COMPLETION_PRICE = 10.0, 100.0  # dollars a million tokens
MAX_TOKENS = 100
# What an endpoint's verdicts depend on.
ENDPOINT = {
    "kind": "openai",
    "name": "j",
    "model": "judge-1",
    "version": None,
    "temperature": 0,
    "max_tokens": 50,
    "max_completion_tokens": None,
    "params": {},
    "seed": None,
}


def judge_at(url: str, **changes: object) -> dict:
    """Return the settings of the judge at a URL, with some of them changed."""
    return {
        "name": "strict",
        "kind": "openai",
        "model": "judge-1",
        "version": None,
        "base_url": url,
        "api_key_env": "TEST_JUDGE_KEY",
        "temperature": 0.0,
        "max_tokens": MAX_TOKENS,
        "max_completion_tokens": None,
        "params": {},
        "seed": None,
        "concurrency": 4,
        "requests_per_minute": None,
        "retries": 2,
        "timeout_seconds": 60,
        "budget_usd": None,
        "usd_per_million_prompt_tokens": PROMPT_PRICE,
        "usd_per_million_completion_tokens": COMPLETION_PRICE,
        "unanswered": "stop",
        "recorded": None,
    } | changes


def request(text: str, **params: object) -> Request:
    messages = [{"role": "system", "content": "Grade."}, {"role": "user", "content": text}]
    return Request(messages, {"temperature": 0.0, "max_tokens": MAX_TOKENS} | params)


def requests(count: int, word: str = "question") -> list[Request]:
    return [request(f"{word} {number}") for number in range(count)]


def worst_price(text: str) -> float:
    """Return the dollars that a request of this text can cost at most."""
    prompt_tokens = len(b"Grade.") + len(text.encode()) + 2 * 16 + 256
    return (prompt_tokens * PROMPT_PRICE + MAX_TOKENS * COMPLETION_PRICE) / 1e6
