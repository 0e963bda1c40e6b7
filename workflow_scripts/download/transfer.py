"""One HTTP download: streamed to a `.part` file, resumed after a cut, retried only where patience helps.

Covers GET over http and https with a known or unknown digest. Not covered: choosing where to download
from (places.py).
"""

import contextlib
import email.utils
import hashlib
import itertools
import os
import re
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import tenacity
from tqdm import tqdm

from workflow_scripts.common.files import git_object_of

TIMEOUT = httpx.Timeout(20.0, connect=4.0)  # seconds
TRIES = 5
UNREACHABLE_TRIES = 2
LONGEST_PAUSE = 60.0  # seconds, whatever a server's Retry-After asks for
BLOCK = 1 << 20  # bytes
LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")

Digest = tuple[str, str]  # (hashlib's name of the algorithm, hex digest)


class Unavailable(Exception):
    """A place cannot give a file; the message is the reason a person reads."""


class Interrupted(Unavailable):
    """A failure that may pass: `retry_after` is the server's own wish in seconds, or None."""

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class Unreachable(Interrupted):
    """No connection came about at all."""


def shown(url: str) -> str:
    """Return a URL as it may be printed: without user, password and query, where secrets travel."""
    try:
        return str(parse_url(url).copy_with(userinfo=b"", query=None, fragment=None))
    except Unavailable:
        return "(not a valid URL)"


def parse_url(url: str) -> httpx.URL:
    """Return a parsed URL; Unavailable when it is none (unprinted: it may hold a secret)."""
    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        raise Unavailable("a URL of this place is not valid") from None


def is_loopback(url: httpx.URL) -> bool:
    """Tell whether a URL's host is this machine."""
    return LOOPBACK.fullmatch(url.host) is not None


def matches(path: Path, expected: Digest) -> bool:
    """Tell whether a file has the expected digest."""
    return hex_digest(path, expected[0]) == expected[1].lower()


def as_pinned(path: Path, pin: str | None) -> bool:
    """Tell whether a file is what a study pins; all are where it pins nothing."""
    expected = pinned(pin)
    return expected is None or matches(path, expected)


def pinned(pin: str | None) -> Digest | None:
    """Return the digest that a study pins a file by: "<sha256>", or "git:<object id>"."""
    kind, _, told = (pin or "").rpartition(":")
    return (kind or "sha256", told) if pin else None


def hex_digest(path: Path, algorithm: str) -> str:
    """Return a file's digest in hex."""
    if algorithm == "git":
        return git_object_of(path)
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def open_client(url: str, cert: str | None = None) -> httpx.Client:
    """Return a client that follows redirects but never from https down to http, save on this machine.

    `cert` is a certificate bundle or folder; without it httpx's rule holds (SSL_CERT_FILE, else its own
    bundle). httpx drops the Authorization header when a redirect leaves the host.
    """
    # A mirror that the user configured with http may stay on http; nothing else falls back to it.
    plain = url.startswith("http://") and not is_loopback(parse_url(url))

    def refuse_downgrade(request: httpx.Request) -> None:
        if request.url.scheme != "https" and not (plain or is_loopback(request.url)):
            raise Unavailable(f"{shown(url)}: led to {shown(str(request.url))}, which is not https")

    verify: ssl.SSLContext | bool = True
    if cert:
        if not Path(cert).exists():
            raise Unavailable(f"{cert}: no such certificate bundle (pip's cert setting)")
        verify = ssl.create_default_context(**{"capath" if Path(cert).is_dir() else "cafile": cert})
    return httpx.Client(
        timeout=TIMEOUT, follow_redirects=True, verify=verify, event_hooks={"request": [refuse_downgrade]}
    )


def fetch_page(url: str, *, accept: str, cert: str | None = None, pause: float = 1.0) -> httpx.Response:
    """Return a small page with its body read; raises Unavailable."""
    with open_client(url, cert) as http:
        for attempt in patient(pause):
            with attempt, answer(http, url, {"Accept": accept}) as response:
                response.read()
    return response


def download(
    url: str,
    target: Path,
    *,
    expected: Digest | None = None,
    headers: dict[str, str] | None = None,
    cert: str | None = None,
    pause: float = 1.0,
) -> Path:
    """Download `url` to `target`, going on from what an earlier run left in `<target>.<url key>.part`.

    A file already there with the expected digest is taken as it is. `pause` (seconds) is the first wait
    between tries; it doubles. Raises Unavailable with the reason; a wrong digest deletes the file first.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:8]
    part = target.with_name(f"{target.name}.{key}.part")
    for whole in (target, part):
        if expected and whole.is_file() and matches(whole, expected):
            os.replace(whole, target)
            _note(part).unlink(missing_ok=True)
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = False
    with open_client(url, cert) as http, _progress(target.name) as bar:
        for attempt in patient(pause):
            with attempt:
                resumed = _receive(http, url, part, headers or {}, bar, blindly=expected is not None)
    _note(part).unlink(missing_ok=True)
    if expected and not matches(part, expected):
        found = hex_digest(part, expected[0])
        part.unlink()
        if resumed:  # the first half may have been of another version: once more, from the start
            return download(url, target, expected=expected, headers=headers, cert=cert, pause=pause)
        raise Unavailable(f"{shown(url)}: its {expected[0]} is {found}, wanted {expected[1]}")
    os.replace(part, target)
    return target


def patient(pause: float) -> tenacity.Retrying:
    """Return the retry rule: five tries with doubling waits, only two at a host that cannot be reached."""
    unreachable = itertools.count(1)

    def spent(state: tenacity.RetryCallState) -> bool:
        if isinstance(state.outcome.exception(), Unreachable) and next(unreachable) >= UNREACHABLE_TRIES:
            return True
        return state.attempt_number >= TRIES

    def seconds(state: tenacity.RetryCallState) -> float:
        asked = state.outcome.exception().retry_after
        waited = pause * 2 ** (state.attempt_number - 1) if asked is None else asked
        return min(waited, LONGEST_PAUSE)

    def say(state: tenacity.RetryCallState) -> None:
        tqdm.write(f"{state.outcome.exception()}; again in {state.upcoming_sleep:.1f} s", file=sys.stderr)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Interrupted),
        stop=spent,
        wait=seconds,
        before_sleep=say,
        reraise=True,
    )


@contextlib.contextmanager
def answer(http: httpx.Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """Give a streamed 200, 206 or (when a Range was asked) 416; every failure leaves as Unavailable."""
    with reasons_for(shown(url)), http.stream("GET", url, headers=headers) as response:
        welcome = (200, 206, 416) if "Range" in headers else (200, 206)
        if response.status_code not in welcome:
            raise refusal(shown(url), response)
        yield response


def refusal(what: str, response: httpx.Response) -> Unavailable:
    """Return the error that an unwelcome HTTP status stands for: Interrupted when it may pass."""
    status = response.status_code
    if status in (408, 429) or status >= 500:
        return Interrupted(f"{what}: HTTP {status}", _retry_after(response))
    hint = " (private or gated; a hub needs HF_TOKEN)" if status in (401, 403) else ""
    return Unavailable(f"{what}: HTTP {status}{hint}")


@contextlib.contextmanager
def reasons_for(what: str) -> Iterator[None]:
    """Turn httpx's errors into Unavailable, and those worth another try into Interrupted."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise Unreachable(f"{what}: cannot connect ({error or 'timed out'})") from error
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise Interrupted(f"{what}: connection lost ({error or 'timed out'})") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{what}: {type(error).__name__}") from error


def _receive(
    http: httpx.Client, url: str, part: Path, headers: dict[str, str], bar: tqdm, *, blindly: bool
) -> bool:
    """Fill `part` to the end; tell whether its beginning was kept.

    A part whose server named no version (ETag, Last-Modified) is continued only `blindly`: when a digest
    decides later.
    """
    note = _note(part)
    version = note.read_text(encoding="ascii") if note.is_file() else ""
    start = part.stat().st_size if part.is_file() and (version or blindly) else 0
    asked = {**headers, "Accept-Encoding": "identity"}
    if start:
        asked["Range"] = f"bytes={start}-"
        if version:
            asked["If-Range"] = version
    with answer(http, url, asked) as response:
        kept = start > 0 and response.status_code == 206
        if response.status_code == 416 or (response.status_code == 206 and _first_byte(response) != start):
            part.unlink(missing_ok=True)
            raise Interrupted(
                f"{shown(url)}: cannot continue at byte {start}, starting over", retry_after=0.0
            )
        start = start if kept else 0
        length = response.headers.get("Content-Length", "")
        bar.reset(total=start + int(length) if length.isdigit() else None)
        bar.initial = start
        bar.update(start)
        with open(part, "ab" if kept else "wb") as stream:
            note.write_text(_version(response), encoding="ascii")
            # No chunk size: httpx would hold back a partial chunk and lose it when the connection is cut.
            for block in response.iter_raw():
                stream.write(block)
                bar.update(len(block))
    return kept


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _version(response: httpx.Response) -> str:
    """Return what If-Range may name: a strong ETag, else the date; weak ETags do not vouch for bytes."""
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    return version if version.isascii() else ""


def _first_byte(response: httpx.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _retry_after(response: httpx.Response) -> float | None:
    """Return Retry-After in seconds (it may be a number or a date), None when absent or senseless."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _progress(name: str) -> tqdm:
    """Return a byte counter on stderr: lively on a terminal, a line every 15 s in a log."""
    interval = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(
        desc=name, unit="B", unit_scale=True, mininterval=interval, maxinterval=interval, file=sys.stderr
    )
