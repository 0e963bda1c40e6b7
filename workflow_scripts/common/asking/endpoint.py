"""One request to an OpenAI-compatible endpoint: the judge's reply, or what kind of failure it was.

Covers what real servers do wrong: refusals in five shapes, broken, huge and endless bodies, errors under status 200,
words that are no text and counts that are no numbers. Not covered: trying again, paying and keeping, which are the
client's. The key is read from the environment and taken out of every text that leaves this module.
"""

import email.utils
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any
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
LARGEST = 8 << 20  # bytes of a body, unpacked: the longest verdict with twenty log-probs a token takes less
LONGEST = 200_000  # characters of a judge's words
MOST_TOKENS = 10**9  # more are no count of a reply's tokens
IMPOSSIBLE = -9999.0  # the log-prob that endpoints give where it is minus infinity
NEWER_LIMIT = "max_completion_tokens"  # what models that think before they answer call max_tokens


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


class UnusableError(Exception):
    """A whole reply that no verdict can be read from: asking again would buy the same once more."""


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
    except (ValueError, OverflowError):
        return 0.0


def in_short(value: Any) -> str:
    """Return a server's words, or whatever stands in their place, on one line of at most SHOWN characters."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except RecursionError:
        text = "(words nested too deep to be shown)"
    return " ".join(text[: 10 * SHOWN].split())[:SHOWN]


def read_completion(content: bytes, chat: bool = True) -> tuple[dict, dict | None]:
    """Return a chat completion's reply {"text", "finish_reason", "logprobs", "refusal"} and usage, or None.

    `chat` is False for a completion of raw text, which has no message and whose log-probs have another shape.
    Raises TryAgainError where the bytes are no whole chat completion, UnusableError where they are one of which no
    verdict can be made.
    """
    try:
        body = json.loads(content)
    except RecursionError:
        raise UnusableError("its JSON is nested too deep") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise TryAgainError("the reply is no whole JSON", billed=True) from None
    except ValueError:
        raise UnusableError("it holds a number of thousands of digits") from None
    if isinstance(body, dict) and body.get("error"):
        raise TryAgainError(f"an error in place of a reply: {in_short(body['error'])}")
    try:
        choice = body["choices"][0]
        message = choice["message"] if chat else {"content": choice["text"]}
        tokens = (choice.get("logprobs") or {}).get("content")
        reply = {
            "text": content_of(message.get("content")),
            "finish_reason": words_of(choice.get("finish_reason")),
            "logprobs": None if tokens is None else [token_of(token) for token in tokens],
            "refusal": words_of(message.get("refusal")),
        }
        usage = usage_of(body.get("usage"))
    except (AttributeError, IndexError, KeyError, TypeError):
        raise TryAgainError(f"the reply is no {'chat ' if chat else ''}completion", billed=True) from None
    return reply, usage


def content_of(content: str | list | None) -> str | None:
    """Return what a message says: its text, or its parts of type text, beside which some have thoughts."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    return words_of(content)


def words_of(text: str | None) -> str | None:
    """Return a part of a reply that is to be words; TypeError where it is none, UnusableError where it is no text."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError("no words")
    if len(text) > LONGEST:
        raise UnusableError(f"it has {len(text)} characters, more than {LONGEST}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableError("it holds half a surrogate pair, which is no character") from None
    return text


def usage_of(usage: dict | None) -> dict | None:
    """Return {"prompt_tokens", "completion_tokens"}, or None where the server does not count both."""
    counts = {name: (usage or {}).get(name) for name in FREE}
    if not all(type(count) is int for count in counts.values()):
        return None
    if not all(0 <= count <= MOST_TOKENS for count in counts.values()):
        raise UnusableError("its usage is no count of tokens")
    return counts


def logprob_of(value: float) -> float:
    """Return a log-prob; UnusableError where it is no number."""
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if value == -math.inf:
        return IMPOSSIBLE
    if not math.isfinite(value):
        raise UnusableError("a log-prob in it is no number")
    return value


def token_of(token: dict) -> dict:
    """Return {"token", "logprob", "top_logprobs": [{"token", "logprob"}]} of a token in a reply."""

    def read(part: dict) -> dict:
        return {"token": words_of(part["token"]) or "", "logprob": logprob_of(part["logprob"])}

    return read(token) | {"top_logprobs": [read(other) for other in token.get("top_logprobs") or []]}


class Endpoint:
    """A judge's endpoint, for several threads; PlumblineError at once where no key is set."""

    def __init__(self, judge: dict):
        import openai  # takes a second, and a study whose verdicts are all stored never asks

        self.judge = judge
        self.key = read_key(judge)
        seconds = judge["timeout_seconds"]
        timeout = openai.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        self.client = openai.OpenAI(
            api_key=self.key,
            base_url=judge["base_url"],
            max_retries=0,
            timeout=timeout,
            # A redirect is not followed: neither the key nor a policy's words go where the study does not say.
            http_client=openai.DefaultHttpxClient(
                timeout=timeout, follow_redirects=False, event_hooks={"response": [self._bound]}
            ),
        )
        self.newer_limit = False  # the endpoint wants max_tokens by its newer name
        address = without_credentials(str(self.client.base_url))
        self.name = f"judge {judge['name']!r} at {self.scrub(address)}"

    def call(self, messages: list[dict], params: dict, prompt: str | None = None) -> tuple[dict, dict | None]:
        """Return the reply and the usage of one request, as `read_completion` does, without the key.

        The model is to reply to the messages, or, where a prompt is given, to go on from its text.
        A refusal on grounds of policy is a reply too, and so is one that no verdict can be read from: `unusable` says
        why. Raises TryAgainError, RejectedError, and PlumblineError where every other request would fail as well.
        """
        import httpx2
        import openai

        sent = self._sent(params)
        try:
            reply, usage = read_completion(self._receive(messages, sent, prompt), prompt is None)
        except UnusableError as error:
            nothing = dict.fromkeys(("text", "finish_reason", "logprobs", "refusal"))
            return nothing | {"unusable": str(error)}, None
        except TryAgainError as error:
            raise TryAgainError(self.scrub(str(error)), error.pause, error.billed) from None
        except openai.APIStatusError as error:
            words = self._words(error)
            if self._wants_newer_limit(error.status_code, words, sent):
                return self.call(messages, params, prompt)
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

    def _sent(self, params: dict) -> dict:
        """Return the parameters as they are sent: the limit under the name that the endpoint takes."""
        if not self.newer_limit or "max_tokens" not in params:
            return params
        return {NEWER_LIMIT if name == "max_tokens" else name: value for name, value in params.items()}

    def _wants_newer_limit(self, status: int, words: str, sent: dict) -> bool:
        """Tell whether a refusal asks for max_tokens by its newer name; from then on it is sent so."""
        if status not in (400, 422) or NEWER_LIMIT not in words or "max_tokens" not in sent:
            return False
        if not self.newer_limit:
            self.newer_limit = True
            print(
                f"{self.name} takes no max_tokens: the limit is sent as {NEWER_LIMIT} (give the judge that key to "
                "spare the refused call)",
                file=sys.stderr,
                flush=True,
            )
        return True

    def _bound(self, response: Any) -> None:
        """Let a body end in time and at a size, whatever its status: a server may never stop sending."""
        import httpx2

        inner, late, seconds = response.stream, self._late(), self.judge["timeout_seconds"]

        class Bounded(httpx2.SyncByteStream):
            def __iter__(self) -> Iterator[bytes]:
                deadline, left = time.monotonic() + seconds, LARGEST
                for part in inner:
                    left -= len(part)
                    if left < 0:
                        raise UnusableError(f"its body is larger than {LARGEST >> 20} MiB")
                    if time.monotonic() > deadline:
                        raise TryAgainError(late, billed=True)
                    yield part

            def close(self) -> None:
                inner.close()

        response.stream = Bounded()

    def _receive(self, messages: list[dict], params: dict, prompt: str | None) -> bytes:
        """Return the body of a reply, unpacked."""
        if prompt is None:
            create, asked = self.client.chat.completions, {"messages": messages}
        else:
            create, asked = self.client.completions, {"prompt": prompt}
        with create.with_streaming_response.create(
            model=self.judge["model"], extra_body=params, **asked
        ) as response:
            content = b""
            for part in response.iter_bytes():  # unpacked, a small body may be a large one
                content += part
                if len(content) > LARGEST:
                    raise UnusableError(f"its body is larger than {LARGEST >> 20} MiB")
        return content

    def _late(self) -> str:
        return f"no whole reply within {self.judge['timeout_seconds']:g} s"

    def _words(self, error) -> str:
        """Return the status and what the server says to it."""
        body = error.body
        if isinstance(body, dict):
            parts = [in_short(body[name]) for name in ("code", "type", "message") if body.get(name)]
            body = ", ".join(parts) or body
        return f"{error.status_code}: {self.scrub(in_short(body or 'no words'))}"

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
        if 300 <= status < 400:
            target = without_credentials(in_short(error.response.headers.get("location", "")))
            return PlumblineError(
                f"{self.name} sends its callers on to {self.scrub(target)} (status {status}), and a key follows no "
                "redirect; if you trust that address, make it the base_url"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            return TryAgainError(words, pause_of(error.response.headers))
        hint = "; temperature: null sends none" if "temperature" in words else ""
        return RejectedError(words + hint, malformed=not TOO_LONG.search(words))
