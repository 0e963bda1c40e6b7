"""One request to an OpenAI-compatible endpoint: the judge's reply, or what kind of failure it was.

Covers what real servers do wrong: refusals in five shapes, broken and endless bodies, errors under status 200.
Not covered: trying again, paying and keeping, which are the client's. The key is read from the environment and
taken out of every text that leaves this module.
"""

import email.utils
import json
import os
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from workflow_scripts.common.errors import PlumblineError

CONNECT_SECONDS = 15  # for a connection alone, which needs no thought
SHOWN = 300  # characters of a server's words that a message quotes
SECRET = (
    12  # characters from which a key is a secret; a local server takes any word, which may stand in a reply
)
POLICY = re.compile(r"content[ _-]?(policy|filter|management)|usage polic|moderation|flagged|safety", re.I)
TOO_LONG = re.compile(r"context[ _]?(length|window)|maximum context|too (long|large|many tokens)", re.I)
FREE = {"prompt_tokens": 0, "completion_tokens": 0}


class TryAgainError(Exception):
    """A failure that may pass: `pause` seconds the server asked for, `billed` if the call may have been paid."""

    def __init__(self, reason: str, pause: float = 0.0, billed: bool = False):
        super().__init__(reason)
        self.pause = pause
        self.billed = billed


class UnreachableError(TryAgainError):
    """No connection: the server is away for a moment, or the address is wrong."""


class RejectedError(Exception):
    """This request will never be answered; `malformed` unless the server says that it is too long."""

    def __init__(self, reason: str, malformed: bool):
        super().__init__(reason)
        self.malformed = malformed


def read_key(judge: dict) -> str:
    """Return the key from the environment variable that the judge names; PlumblineError where it holds none."""
    name = judge["api_key_env"]
    key = os.environ.get(name, "").strip()
    if not key:
        raise PlumblineError(
            f"judge {judge['name']!r}: the environment variable {name} holds no key; "
            "set it (a server that asks for none takes any word)"
        )
    if not key.isascii() or not key.isprintable():
        raise PlumblineError(f"judge {judge['name']!r}: {name} holds what cannot be a key; set it anew")
    return key


def without_credentials(url: str) -> str:
    """Return a URL without the user, password and query that it may carry."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def pause_of(headers: Mapping[str, str]) -> float:
    """Return the seconds a Retry-After header asks for: a number of them, or a date; 0 without one."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def read_completion(content: bytes) -> tuple[dict, dict | None]:
    """Return a chat completion's reply {"text", "finish_reason", "logprobs", "refusal"} and usage, or None.

    Raises TryAgainError where the bytes are no whole chat completion.
    """
    try:
        body = json.loads(content)
    except ValueError:
        raise TryAgainError("the reply is no whole JSON", billed=True) from None
    if isinstance(body, dict) and body.get("error"):
        raise TryAgainError(f"an error in place of a reply: {json.dumps(body['error'])[:SHOWN]}")
    try:
        choice = body["choices"][0]
        message = choice["message"]
        tokens = (choice.get("logprobs") or {}).get("content")
        reply = {
            "text": message.get("content"),
            "finish_reason": choice.get("finish_reason"),
            "logprobs": None if tokens is None else [token_of(token) for token in tokens],
            "refusal": message.get("refusal"),
        }
        usage = usage_of(body.get("usage"))
    except (AttributeError, IndexError, KeyError, TypeError):
        raise TryAgainError("the reply is no chat completion", billed=True) from None
    if not isinstance(reply["text"], str | None) or not isinstance(reply["refusal"], str | None):
        raise TryAgainError("the reply is no text", billed=True)
    return reply, usage


def usage_of(usage: dict | None) -> dict | None:
    """Return {"prompt_tokens", "completion_tokens"}, or None where the server does not count both."""
    counts = {name: (usage or {}).get(name) for name in FREE}
    return counts if all(isinstance(count, int) for count in counts.values()) else None


def token_of(token: dict) -> dict:
    """Return {"token", "logprob", "top_logprobs": [{"token", "logprob"}]} of a token in a reply."""
    likely = token.get("top_logprobs") or []
    return {
        "token": token["token"],
        "logprob": token["logprob"],
        "top_logprobs": [{"token": other["token"], "logprob": other["logprob"]} for other in likely],
    }


class Endpoint:
    """A judge's endpoint, for several threads; PlumblineError at once where no key is set."""

    def __init__(self, judge: dict):
        import openai  # takes a second, and a study whose verdicts are all stored never asks

        self.judge = judge
        self.key = read_key(judge)
        seconds = judge["timeout_seconds"]
        self.client = openai.OpenAI(
            api_key=self.key,
            base_url=judge["base_url"],
            max_retries=0,
            timeout=openai.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
        )
        address = without_credentials(str(self.client.base_url))
        self.name = f"judge {judge['name']!r} at {self.scrub(address)}"

    def call(self, messages: list[dict], params: dict) -> tuple[dict, dict | None]:
        """Return the reply and the usage of one request, as `read_completion` does, without the key.

        A refusal on grounds of policy is a reply too. Raises TryAgainError, RejectedError, and PlumblineError
        where every other request would fail as well.
        """
        import httpx2
        import openai

        try:
            reply, usage = read_completion(self._receive(messages, params))
        except TryAgainError as error:
            raise TryAgainError(self.scrub(str(error)), error.pause, error.billed) from None
        except openai.APIStatusError as error:
            words = self._words(error)
            if error.status_code not in (400, 403, 422, 451) or not POLICY.search(words):
                raise self._failure(error, words) from None
            return {"text": None, "finish_reason": None, "logprobs": None, "refusal": words}, FREE
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            if isinstance(error.__cause__, httpx2.ConnectTimeout):
                raise UnreachableError("no connection in time") from None
            raise TryAgainError(self._late(), billed=True) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            cause = error.__cause__ or error
            reason = self.scrub(f"{type(cause).__name__}: {cause}")
            if isinstance(cause, httpx2.ConnectError):
                raise UnreachableError(reason) from None
            if isinstance(cause, httpx2.UnsupportedProtocol):
                raise PlumblineError(f"{self.name}: {reason}; correct base_url") from None
            raise TryAgainError(f"the connection broke ({reason})", billed=True) from None
        if len(self.key) >= SECRET:
            reply = json.loads(json.dumps(reply).replace(json.dumps(self.key)[1:-1], "[key]"))
        return reply, usage

    def scrub(self, text: str) -> str:
        """Return a text on one line without the key."""
        return " ".join(text.replace(self.key, "[key]").split())

    def _receive(self, messages: list[dict], params: dict) -> bytes:
        """Return the body of a reply; a server that sends a byte now and then is late all the same."""
        create = self.client.chat.completions.with_streaming_response.create
        with create(model=self.judge["model"], messages=messages, extra_body=params) as response:
            deadline = time.monotonic() + self.judge["timeout_seconds"]
            content = b""
            for part in response.iter_bytes():
                content += part
                if time.monotonic() > deadline:
                    raise TryAgainError(self._late(), billed=True)
        return content

    def _late(self) -> str:
        return f"no whole reply within {self.judge['timeout_seconds']:g} s"

    def _words(self, error) -> str:
        """Return the status and what the server says to it."""
        body = error.body
        if isinstance(body, dict):
            parts = [str(body[name]) for name in ("code", "type", "message") if body.get(name)]
            body = ", ".join(parts) or json.dumps(body)
        return f"{error.status_code}: {self.scrub(str(body or 'no words'))[:SHOWN]}"

    def _failure(self, error, words: str) -> Exception:
        """Return the exception that a status of 4xx or 5xx stands for."""
        status = error.status_code
        if status in (401, 403):  # without its words: servers quote keys here, and parts of them
            variable = self.judge["api_key_env"]
            return PlumblineError(
                f"{self.name} refuses the key in {variable} (status {status}); set a valid one"
            )
        if status == 402 or "insufficient_quota" in words:
            return PlumblineError(f"{self.name}: no credit is left ({words}); top the account up")
        if status in (404, 405):
            return PlumblineError(
                f"{self.name}: {words}; check base_url and that it serves the model {self.judge['model']!r}"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            return TryAgainError(words, pause_of(error.response.headers))
        return RejectedError(words, malformed=not TOO_LONG.search(words))
